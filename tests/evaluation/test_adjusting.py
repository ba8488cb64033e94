"""What taking length out does, measured on prompts that it was not fitted on."""

from __future__ import annotations

import numpy as np
import pytest

from rewardsmith.data.schema import Group, Message, Preference
from rewardsmith.errors import DataError
from rewardsmith.evaluation.adjusting import length_effect


def groups_and_rewards(n, bias, seed=0):
    """Labels that follow a hidden quality; rewards that are quality plus `bias` times log length plus noise."""
    rng = np.random.default_rng(seed)
    groups, rewards = [], []
    for i in range(n):
        sizes, quality = rng.integers(20, 400, 2), rng.normal(size=2)
        better = int(quality[1] > quality[0])
        groups.append(
            Group(
                prompt=(Message("user", f"question {i}"),),
                responses=tuple((Message("assistant", "x" * int(size)),) for size in sizes),
                preferences=(Preference(chosen=better, rejected=1 - better),),
            )
        )
        rewards.append(quality + bias * np.log1p(sizes) + rng.normal(0, 0.2, 2))
    return groups, rewards


def test_a_length_bias_goes_and_accuracy_comes_back():
    effect = length_effect(*groups_and_rewards(400, bias=2.0))
    before, after = effect["before"], effect["after"]
    assert before["length_correlation"]["value"] > 0.5
    assert abs(after["length_correlation"]["value"]) < 0.15
    assert after["accuracy"]["value"] > before["accuracy"]["value"] + 0.15
    assert after["length_matched_accuracy"]["value"] is not None


def test_half_of_it_leaves_some():
    found = [
        length_effect(*groups_and_rewards(400, bias=2.0), share)["after"]["length_correlation"]["value"]
        for share in (0.0, 0.5, 1.0)
    ]
    assert found[0] > found[1] + 0.1 > found[2] + 0.2


def test_a_sound_reward_is_left_as_it_is():
    effect = length_effect(*groups_and_rewards(400, bias=0.0))
    assert effect["after"]["accuracy"]["value"] == pytest.approx(effect["before"]["accuracy"]["value"], abs=0.02)


def test_halves_that_are_too_small_are_said():
    with pytest.raises(DataError, match="one half of the prompts has 16, at least 20"):
        length_effect(*groups_and_rewards(30, bias=1.0))
