"""A tiny language model and preferences it can learn: the chosen answer says the word that the prompt asks for."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from rewardsmith.data.schema import Group, Message, Preference
from rewardsmith.text.render import RenderConfig
from rewardsmith.training.config import TrainConfig
from tests.tiny import tiny_tokenizer, tiny_trunk

WORDS = ["red", "blue", "green", "one", "two", "three", "cat", "dog", "sun", "rain"]


def asked(i: int) -> Group:
    word, other = WORDS[i % 10], WORDS[(i + 1 + i // 10 % 8) % 10]
    return Group(
        prompt=(Message("user", f"say {word} {i}"),),
        responses=((Message("assistant", word),), (Message("assistant", other),)),
        preferences=(Preference(chosen=0, rejected=1),),
    )


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("lm")
    trunk = tiny_trunk("llama")
    model = AutoModelForCausalLM.from_config(trunk.config)
    model.model.load_state_dict(trunk.state_dict())
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def template(policy: str, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        data=("unused",), model=policy, output=str(tmp_path / "unused"), batch_size=8, learning_rate=3e-3,
        train_layers=1, device="cpu", precision="float32", render=RenderConfig(max_length=96),
    )  # fmt: skip
