"""Reward functions for verl and OpenRLHF, called as those tools call them."""

from __future__ import annotations

import importlib.util
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rewardsmith.data.schema import Message, text_of
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.model.artifact import save_reward_model
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.overoptimization.reward_functions import (
    openrlhf_reward,
    split_queries,
    turns_in,
    verl_batch_reward,
    verl_reward,
)
from rewardsmith.scorers import load_scorer
from rewardsmith.scoring import FunctionScorer, Scores
from rewardsmith.text.render import Renderer
from tests.tiny import tiny_tokenizer, tiny_trunk

SCORER = FunctionScorer(lambda prompt, response: 100 * len(prompt) + len(response))
TURNS = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
CHATML = "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
LLAMA3 = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nbe kind<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)


def test_verl_calls_by_keyword_with_one_response() -> None:
    # verl's naive manager: score = compute_score(data_source=..., solution_str=..., ground_truth=..., extra_info=...)
    score = verl_reward(SCORER)
    reward = score(data_source="d", solution_str="yes", ground_truth="", extra_info={"prompt": TURNS, "index": 3})
    assert reward == 100 * len("be kind\n\nhi") + 3
    assert isinstance(reward, float)
    assert score("d", "yes", None, {"question": "hi"}) == 203.0
    assert score("d", "yes", None, {"prompt": np.array(TURNS, dtype=object)}) == reward, "parquet gives arrays"
    assert list(inspect.signature(score).parameters)[:4] == [
        "data_source",
        "solution_str",
        "ground_truth",
        "extra_info",
    ]


def test_verl_batch_manager_calls_with_lists_and_its_own_options() -> None:
    score = verl_batch_reward(SCORER)
    rewards = score(
        data_sources=["d", "d"], solution_strs=["a", "bb"], ground_truths=[None, None],
        extra_infos=[{"prompt": "hi"}, {"prompt": "hi"}], reward_router_address=None,
    )  # fmt: skip
    assert rewards == [201.0, 202.0]


def test_verl_without_a_prompt_is_an_error() -> None:
    for info in (None, {}, {"prompt": None}):
        with pytest.raises(DataError, match="extra_info"):
            verl_reward(SCORER)("d", "yes", None, info)


@pytest.mark.parametrize(("prompt", "end"), [(CHATML, "<|im_end|>"), (LLAMA3, "<|eot_id|>"), ("hi", "</s>")])
def test_openrlhf_calls_with_rendered_texts(prompt: str, end: str) -> None:
    said = openrlhf_reward(SCORER)(queries=[prompt + "yes" + end, prompt + "no"], prompts=[prompt] * 2, labels=["", ""])
    turns = text_of(turns_in(prompt))
    assert set(said) == {"rewards", "scores", "extra_logs"}
    assert torch.equal(said["rewards"], torch.tensor([100.0 * len(turns) + 3, 100.0 * len(turns) + 2]))
    assert said["rewards"].dtype is torch.float32
    assert said["extra_logs"]["response_characters"].tolist() == [3, 2]


def test_turns_of_templates() -> None:
    expected = (Message("system", "be kind"), Message("user", "hi"))
    assert turns_in(CHATML) == turns_in(LLAMA3) == expected
    assert turns_in("what is 1 < 2 | 3?") == (Message("user", "what is 1 < 2 | 3?"),)
    with pytest.raises(DataError, match="labels"):
        turns_in("<start_of_turn>user\nhi<end_of_turn>")


def test_labels_may_say_the_prompt() -> None:
    prompt = "[INST] hi [/INST]"
    label = json.dumps({"prompt": TURNS})
    turns, texts = split_queries(["<pad><pad>" + prompt + " yes </s><pad>"], [prompt], [label])
    assert turns == [(Message("system", "be kind"), Message("user", "hi"))]
    assert texts == ["yes"]


def test_a_query_that_does_not_hold_its_prompt() -> None:
    for queries, prompts in ([["hello"], ["hi"]], [["Say: hi yes"], ["hi"]], [["hi yes"], []]):
        with pytest.raises(DataError):
            split_queries(queries, prompts, None)


def test_pessimism_and_what_cannot_be_scored() -> None:
    class Ensemble:
        def score(self, groups: Any) -> list[Scores]:
            return [Scores(np.array([1.0]), std=np.array([0.5])) for _ in groups]

    assert verl_reward(Ensemble(), pessimism=2.0)("d", "x", None, {"prompt": "p"}) == 0.0
    with pytest.raises(ConfigError, match="ensemble"):
        verl_reward(SCORER, pessimism=1.0)("d", "x", None, {"prompt": "p"})
    with pytest.raises(DataError, match="1 of 1"):
        verl_reward(FunctionScorer(lambda p, r: float("nan")))("d", "x", None, {"prompt": "p"})


def test_a_file_of_two_lines_with_a_real_model(tmp_path: Path) -> None:
    # As both tools do it: import the file by its path, take the function by its name.
    save_reward_model(RewardModel(tiny_trunk()), Renderer(tiny_tokenizer()), tmp_path / "rm")
    file = tmp_path / "my_reward.py"
    file.write_text(
        "from rewardsmith.overoptimization.reward_functions import verl_reward\n"
        f"compute_score = verl_reward({str(tmp_path / 'rm')!r})\n"
    )
    spec = importlib.util.spec_from_file_location("custom_module", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from rewardsmith.data.schema import Group

    group = Group(prompt=(Message("user", "hi"),), responses=((Message("assistant", "yes"),),))
    expected = load_scorer(str(tmp_path / "rm")).score([group])[0].rewards[0]
    assert module.compute_score("d", "yes", "", {"prompt": "hi"}) == pytest.approx(float(expected), abs=1e-5)
