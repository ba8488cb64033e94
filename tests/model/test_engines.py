"""What vLLM and SGLang do with an artifact, by the rules of their own sources, applied to the configuration we write.

The rules are restated here, with where they stand, because neither runs on the machines that these tests run on:

vLLM (main, 2026)
    config/model.py, _SUFFIX_TO_DEFAULTS: a class name that ends in ForSequenceClassification runs as pooling, classify
    models/registry.py, _normalize_arch: a class it does not have is looked for as <Arch>ForCausalLM and converted
    models/adapters.py, as_seq_cls_model: the head is `score`, one linear layer without a bias, of num_labels outputs,
        read at the last token
    layers/pooler/activations.py: problem_type "regression" leaves the output as it is; the score task of some versions
        looks at sentence_transformers.activation_fn only, and takes a sigmoid where it is missing
SGLang (main, 2026)
    configs/model_config.py, is_generation_model: which classes pool without --is-embedding
    models/{llama_reward,qwen2_classification,qwen3_classification,gemma2_reward}.py: the classes there are; the head is
        `score`, read at the last token; Qwen 3 normalises unless there are labels; Qwen 2 has a bias that no checkpoint
        fills
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from rewardsmith.model.artifact import save_reward_model
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.text.render import Renderer
from tests.tiny import DECODERS, tiny_tokenizer, tiny_trunk

VLLM_CAUSAL = {
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "opt": "OPTForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
VLLM_OWN = {"gpt2": "GPT2ForSequenceClassification"}  # classes that vLLM has under our name
SGLANG = {"gemma2", "llama", "qwen2", "qwen3"}
SUFFIX = "ForSequenceClassification"


def vllm_class(architecture: str) -> str:
    """The class of vLLM's registry that serves this one."""
    if architecture in VLLM_OWN.values():
        return architecture
    base = architecture.removesuffix(SUFFIX)
    # Gemma 3's text-only classifier is named after its configuration.
    return f"{base.removesuffix('Text')}ForCausalLM"


def vllm_activation(config: dict[str, Any], task: str) -> str:
    """What is put on the one output; `task` is that of versions that tell the two apart."""
    named = (config.get("sentence_transformers") or {}).get("activation_fn", "")
    if task == "classify" and config.get("problem_type") == "regression":
        return "identity"
    if named:
        assert named.startswith("torch.nn.modules."), "vLLM loads no other"
        return "identity" if named.endswith(".Identity") else named
    return "sigmoid" if len(config["id2label"]) < 2 else "softmax"


@pytest.fixture(params=sorted(DECODERS), scope="module")
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict, list[str]]:
    """(family, config.json, names of the weights) of an artifact."""
    folder: Path = tmp_path_factory.mktemp("engines") / request.param
    save_reward_model(RewardModel(tiny_trunk(request.param)).eval(), Renderer(tiny_tokenizer()), folder)
    with safe_open(folder / "model.safetensors", "np") as weights:
        names = list(weights.keys())
    return request.param, json.loads((folder / "config.json").read_text()), names


def test_vllm_finds_a_class_and_returns_the_raw_reward(written: tuple[str, dict, list[str]]) -> None:
    family, config, names = written
    (architecture,) = config["architectures"]
    assert architecture.endswith(SUFFIX), "runs as pooling, classify"
    assert vllm_class(architecture) == VLLM_OWN.get(family, VLLM_CAUSAL.get(family))
    assert {vllm_activation(config, task) for task in ("classify", "score")} == {"identity"}
    assert config["id2label"] == {"0": "reward"}, "num_labels 1"
    assert [name for name in names if name.startswith("score.")] == ["score.weight"], "one layer, no bias"
    assert "auto_map" not in config, "no code of ours is needed"
    assert not {"method", "classifier_from_token"} & set(config), "the head is read, not made of the vocabulary"


def test_sglang_finds_a_class_and_the_head(written: tuple[str, dict, list[str]]) -> None:
    family, config, names = written
    if family not in SGLANG:
        pytest.skip(f"SGLang has no sequence classifier for {family}")
    assert config["architectures"] == [
        {
            "gemma2": "Gemma2ForSequenceClassification",
            "llama": "LlamaForSequenceClassification",
            "qwen2": "Qwen2ForSequenceClassification",
            "qwen3": "Qwen3ForSequenceClassification",
        }[family]
    ]
    assert {name.split(".")[0] for name in names} == {"model", "score"}
    assert config["id2label"], "without labels, Qwen 3 would be normalised to length 1"
    assert config["eos_token_id"] is not None


def test_without_the_fields_there_would_be_a_sigmoid() -> None:
    bare = {"id2label": {"0": "reward"}}
    assert vllm_activation(bare, "classify") == vllm_activation(bare, "score") == "sigmoid"
    assert vllm_activation({**bare, "problem_type": "regression"}, "score") == "sigmoid", "why both are written"
