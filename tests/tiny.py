"""Tiny random models and a tiny tokenizer for unit tests: every architecture family that is served."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerFast

VOCAB = 120
SMALL = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT2_SHAPE = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
OPT_SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}

# Sliding windows of 6 tokens, so that short test rows cross them.
DECODERS: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, **HEADS},
    "qwen2": {**SMALL, **HEADS, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    "qwen3": {**SMALL, **HEADS},
    "gemma2": {
        **SMALL,
        **HEADS,
        "sliding_window": 6,
        "query_pre_attn_scalar": 8,
        "final_logit_softcapping": 30.0,
    },
    "gemma3_text": {**SMALL, **HEADS, "sliding_window": 6, "query_pre_attn_scalar": 8},
    "mistral": {**SMALL, **HEADS, "sliding_window": 6},
    "gpt2": GPT2_SHAPE,
    "opt": {**OPT_SHAPE, "word_embed_proj_dim": 32, "max_position_embeddings": 256},
}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {**SMALL, "num_attention_heads": 4, "max_position_embeddings": 256},
}
OTHERS: dict[str, dict[str, Any]] = {
    "mamba": {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}


def tiny_trunk(family: str = "llama", seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random trunk of the family, large enough in its weights that rewards differ clearly."""
    shape = {**DECODERS, **ENCODERS, **OTHERS}[family]
    config = AutoConfig.for_model(family, **{**shape, **IDS, **changes})
    torch.manual_seed(seed)
    model = AutoModel.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.15)
    return model.eval()


@cache
def _tokenizer_json() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = ["<pad>", "<s>", "</s>", "<unk>", "<|user|>", "<|assistant|>", "<|system|>", "\u0120", "\u010a"]
    words += [chr(c) for c in range(33, 127)] + [
        "\u0120the",
        "\u0120a",
        "th",
        "he",
        "in",
        "er",
        "re",
        "on",
        "es",
    ]
    vocab = {word: i for i, word in enumerate(words)}
    assert len(vocab) <= VOCAB
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("t", "h"), ("h", "e"), ("i", "n")], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(words[:4] + words[4:7])
    return tokenizer.to_str()


CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_tokenizer(template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of about 110 tokens with a three-role chat template (or none)."""
    from tokenizers import Tokenizer

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_tokenizer_json()),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    )
    tokenizer.chat_template = template
    return tokenizer
