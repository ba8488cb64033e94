"""Aggregates of members: against loops, in their limits, and blind to the constants that Bradley-Terry leaves free."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rewardsmith.aggregation import HOWS, STRENGTH, aggregate, centre, check_aggregate
from rewardsmith.errors import ConfigError

REWARDS_MK = np.random.default_rng(0).normal(size=(4, 6)) + np.array([[3.0], [-50.0], [0.0], [7.0]])


def by_hand(how: str, strength: float) -> list[float]:
    """The same in loops, from the definition."""
    n, k = REWARDS_MK.shape
    means = [math.fsum(row) / k for row in REWARDS_MK]
    level = math.fsum(means) / n
    found = []
    for j in range(k):
        values = [REWARDS_MK[m, j] - means[m] + level for m in range(n)]
        mean = math.fsum(values) / n
        squares = math.fsum((v - mean) ** 2 for v in values)
        found.append(
            {
                "mean": mean,
                "min": min(values),
                "mean-var": mean - strength * squares / n,
                "soft-min": -strength * math.log(math.fsum(math.exp(-v / strength) for v in values) / n),
                "lower-bound": mean - strength * math.sqrt(squares / (n - 1)),
            }[how]
        )
    return found


@pytest.mark.parametrize("how", HOWS)
def test_every_aggregate_is_what_a_loop_gives(how):
    strength = 0.7 if how in STRENGTH else None
    assert aggregate(REWARDS_MK, how, strength=strength) == pytest.approx(by_hand(how, 0.7), abs=1e-9)
    assert aggregate(REWARDS_MK, how) == pytest.approx(by_hand(how, STRENGTH.get(how, 1.0)), abs=1e-9)


@pytest.mark.parametrize("how", HOWS)
def test_a_members_constant_moves_all_answers_alike(how):
    offsets = np.array([[100.0], [-3.0], [0.5], [20.0]])
    moved = aggregate(REWARDS_MK + offsets, how) - aggregate(REWARDS_MK, how)
    assert moved == pytest.approx(np.full(6, offsets.mean()), abs=1e-9)


def test_without_centring_the_lowest_member_would_decide_alone():
    assert np.array_equal(REWARDS_MK.min(axis=0), REWARDS_MK[1])
    assert len(set(centre(REWARDS_MK).argmin(axis=0))) > 1


def test_soft_min_goes_from_the_minimum_to_the_mean():
    lowest, mean = aggregate(REWARDS_MK, "min"), aggregate(REWARDS_MK, "mean")
    assert aggregate(REWARDS_MK, "soft-min", strength=1e-6) == pytest.approx(lowest, abs=1e-5)
    assert aggregate(REWARDS_MK, "soft-min", strength=1e7) == pytest.approx(mean, abs=1e-5)
    assert (aggregate(REWARDS_MK, "soft-min") > lowest).all()
    assert (aggregate(REWARDS_MK, "soft-min") < mean).all()
    assert np.isfinite(aggregate(REWARDS_MK * 1e6, "soft-min", strength=1e-3)).all()


@pytest.mark.parametrize("how", HOWS)
def test_members_that_agree_and_single_answers_are_their_mean(how):
    agree = np.tile(REWARDS_MK[:1], (3, 1)) + np.array([[1.0], [2.0], [3.0]])
    assert aggregate(agree, how) == pytest.approx(agree.mean(axis=0), abs=1e-9)
    assert aggregate(REWARDS_MK[:, :1], how) == pytest.approx(REWARDS_MK[:, :1].mean(axis=0), abs=1e-9)
    assert aggregate(REWARDS_MK[:1], how) == pytest.approx(REWARDS_MK[0], abs=1e-9)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("median",), "--aggregate median: there are mean, min,"),
        (("min", 0.5), "min has no strength"),
        (("soft-min", 0.0), "give a number above 0"),
        (("mean-var", math.nan), "give a number above 0"),
        (("min", None, 1), "a single reward model"),
    ],
)
def test_mistakes_are_one_line(words, reason):
    with pytest.raises(ConfigError, match=reason):
        check_aggregate(*words)
    check_aggregate("mean", None, 1)
    check_aggregate("soft-min", 2.0, 3)
