"""The shared-error diagnostic: silent where members err on their own, loud where a planted bias is everybody's."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from rewardsmith.errors import ConfigError, DataError
from rewardsmith.overoptimization.shared_error import shared_error

SIZES = (1, 4, 16, 64)


def members_of(kind: str, prompts: int = 300, k: int = 64, m: int = 4, seed: int = 0):
    """Members that see gold through noise of their own, and, where shared, one hack that all overrate."""
    rng = np.random.default_rng(seed)
    rewards, gold = [], []
    for _ in range(prompts):
        true_K, hack_K = rng.normal(size=k), rng.random(k) < 0.05
        noise_MK = rng.normal(size=(m, k)) * 0.7
        bias_K = 6.0 * hack_K if kind == "shared" else 0.0
        offsets = rng.normal(size=(m, 1)) * 20  # what Bradley-Terry leaves free
        rewards.append(true_K + noise_MK + bias_K + offsets)
        gold.append(true_K * 3 + 5)
    return rewards, gold


def test_independent_errors_stay_uncorrelated_at_every_n():
    found = shared_error(*members_of("own"), SIZES, draws=300)
    for point in found["curve"]:
        assert abs(point["correlation"]["value"]) < 0.05
        assert abs(point["error"]["value"]) < 0.05
        assert point["correlation"]["low"] <= point["correlation"]["value"] <= point["correlation"]["high"]
    assert found["curve"][-1]["removable"] == pytest.approx(0.75, abs=0.05)
    assert not found["cannot_help"]
    assert found["gold_correlation"] == pytest.approx([1 / math.sqrt(1.49)] * 4, abs=0.02)
    assert json.loads(json.dumps(found)) == found


def test_a_shared_bias_comes_to_be_all_of_the_error():
    found = shared_error(*members_of("shared"), SIZES, draws=300)
    values = [point["correlation"]["value"] for point in found["curve"]]
    assert values == sorted(values)
    assert values[-1] > 0.9
    assert found["cannot_help"]
    assert "no aggregation of these members can help" in found["sentence"]
    assert found["curve"][-1]["error"]["low"] > 1


def test_the_figures_are_those_of_a_loop():
    rewards, gold = members_of("shared", prompts=6, k=5, m=3)
    found = shared_error(rewards, gold, (2,), draws=0)["curve"][0]

    def standardised(rows):
        inner = [row - row.mean() for row in rows]
        return [row / np.sqrt(np.mean(np.concatenate(inner) ** 2)) for row in inner]

    z = [standardised([r[m] for r in rewards]) for m in range(3)]
    g = standardised(gold)
    slopes = [np.mean(np.concatenate(z[m]) * np.concatenate(g)) for m in range(3)]
    total = []
    for a in range(3):
        for b in range(3):
            if a == b:
                continue
            product = first = second = 0.0
            for p in range(6):
                others = [rewards[p][m] - rewards[p][m].mean() for m in range(3) if m != b]
                order = np.argsort(np.mean(others, axis=0))
                for rank, k in enumerate(order, 1):
                    weight = math.comb(rank - 1, 1) / math.comb(5, 2)
                    e_a, e_b = (z[m][p][k] - slopes[m] * g[p][k] for m in (a, b))
                    product, first, second = (
                        product + weight * e_a * e_b,
                        first + weight * e_a**2,
                        second + weight * e_b**2,
                    )
            total.append(product / math.sqrt(first * second))
    assert found["correlation"]["value"] == pytest.approx(np.mean(total), abs=1e-9)


def test_prompts_that_say_nothing_are_counted_and_small_ones_leave_large_n():
    rewards, gold = members_of("own", prompts=20, k=8)
    rewards[0], gold[0] = rewards[0][:, :1], gold[0][:1]
    gold[1] = gold[1] * np.nan
    rewards[2], gold[2] = rewards[2][:, :3], gold[2][:3]
    found = shared_error(rewards, gold, (1, 8), draws=20)
    assert found["excluded"] == {"fewer than two candidates": 1, "a reward or gold is missing": 1}
    assert [point["n_prompts"] for point in found["curve"]] == [18, 17]


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (lambda r, g: (r[:3], g), ConfigError, "3 prompts of members' rewards and 4 of gold"),
        (lambda r, g: ([x[:1] for x in r], g), ConfigError, "1 members: give two or more"),
        (lambda r, g: ([r[0][:2], *r[1:]], g), ConfigError, "2 and 4 members"),
        (lambda r, g: ([x[:, :4] for x in r], g), ConfigError, "prompt 0: rewards"),
        (lambda r, g: (r, [x * np.nan for x in g]), DataError, "no prompt has two candidates"),
        (lambda r, g: ([x * 0 + 5 for x in r], g), DataError, "member 0 gives all candidates"),
        (lambda r, g: (r, [x * 0 + 5 for x in g]), DataError, "gold gives all candidates"),
    ],
)
def test_mistakes_are_one_line(change, error, reason):
    with pytest.raises(error, match=reason):
        shared_error(*change(*members_of("own", prompts=4, k=8)), (1, 2), draws=0)
    with pytest.raises(ConfigError, match="values of n from 1"):
        shared_error(*members_of("own", prompts=4, k=8), (0, 2), draws=0)
    with pytest.raises(DataError, match="no prompt has 9 candidates"):
        shared_error(*members_of("own", prompts=4, k=8), (9,), draws=0)
