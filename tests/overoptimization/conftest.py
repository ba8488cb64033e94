"""A tiny policy on disk, and scorers that need no weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.tiny import DECODERS, IDS, tiny_tokenizer


def tiny_policy(family: str = "llama", seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random language model, large enough in its weights that its distributions are far from flat."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**DECODERS[family], **IDS, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.15)
    return model.eval()


@pytest.fixture
def policy_folder(tmp_path: Path) -> str:
    folder = tmp_path / "policy"
    tiny_policy().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)
