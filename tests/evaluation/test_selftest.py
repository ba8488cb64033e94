"""The self-test stays silent on a sound model and speaks on a broken one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rewardsmith.data.schema import Group, Message
from rewardsmith.errors import DataError
from rewardsmith.evaluation.selftest import _flips, selftest
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scorers import ModelScorer
from rewardsmith.text.render import RenderConfig, Renderer
from tests.tiny import tiny_tokenizer, tiny_trunk

GROUPS = [
    Group(
        prompt=(Message("user", f"question {i} " * (1 + i % 3)),),
        responses=tuple((Message("assistant", f"answer {k} " * (1 + 2 * k)),) for k in range(3)),
    )
    for i in range(6)
]


def scorer(family: str = "llama") -> ModelScorer:
    torch.manual_seed(0)
    model = RewardModel(tiny_trunk(family))
    return ModelScorer(model, Renderer(tiny_tokenizer(), RenderConfig(max_length=200)), tokens_per_batch=200)


def by_name(result: dict) -> dict[str, dict]:
    return {way["name"]: way for way in result["ways"]}


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "mamba"])
def test_a_sound_model_passes_and_habits_of_others_show(family):
    result = selftest(scorer(family), GROUPS)
    ways = by_name(result)
    assert result["ok"]
    assert result["n_responses"] == 18
    assert result["n_pairs"] == 18
    for way in ways.values():
        assert (way["same"] is None) == way["matters"]
        if not way["matters"]:
            assert way["same"], way
            assert way["flipped"] == 0
    assert ways["last token missing"]["in_spreads"] > 0.01
    assert ways["bos doubled"]["in_spreads"] > 0.0001
    assert 0 < ways["weights rounded to bfloat16"]["in_spreads"] < 0.5


def test_learnt_positions_shift_under_left_padding_and_rotary_ones_do_not():
    shift = {family: by_name(selftest(scorer(family), GROUPS))["padded on the left"] for family in ("gpt2", "llama")}
    assert shift["llama"]["in_spreads"] < 1e-3 < shift["gpt2"]["in_spreads"]


def test_a_model_whose_rewards_depend_on_the_batch_is_caught():
    broken = scorer()
    forward = RewardModel.forward

    def leaking(self, *args, batch=None, **kwargs):
        rewards = forward(self, *args, batch=batch, **kwargs)
        return rewards + 0.01 * rewards.mean() * (len(rewards) > 3)

    broken.models[0].forward = leaking.__get__(broken.models[0])
    result = selftest(broken, GROUPS)
    assert not result["ok"]
    assert not by_name(result)["one response at a time"]["same"]


def test_flips_count_pairs_whose_order_changed():
    assert _flips(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.5])) == 0
    assert _flips(np.array([1.0, 2.0, 3.0]), np.array([2.0, 1.0, 3.0])) == 1
    assert _flips(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 1.0])) == 3


def test_nothing_to_test_on_is_said():
    with pytest.raises(DataError, match="nothing to test on"):
        selftest(scorer(), [])
