"""Before and after: paired numbers against what can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from rewardsmith.best_of_n import best_of_n
from rewardsmith.data.schema import Group, Message
from rewardsmith.errors import DataError
from rewardsmith.mitigation.measure import (
    HeldOut,
    both_scored,
    candidate_rows,
    held_out_rows,
    paired,
    probe_rows,
)
from rewardsmith.overoptimization.candidates import Pool
from tests.mitigation.test_plan import groups, probe


def test_fell_by_is_one_less_the_ratio_of_means():
    rng = np.random.default_rng(0)
    before = {s: float(x) for s, x in enumerate(rng.normal(1.0, 0.3, 40))}
    after = {s: 0.1 * x for s, x in before.items()}
    found = paired(before, after | {99: 5.0})  # a seed that only one of them has plays no part
    assert found["fell_by"]["value"] == pytest.approx(0.9)
    assert found["fell_by"]["low"] == pytest.approx(0.9), "the same ratio in every seed: no width"
    assert found["change"]["value"] == pytest.approx(-0.9 * np.mean(list(before.values())))


def test_what_was_not_above_zero_cannot_fall():
    before = dict(enumerate([-1.0, 1.0] * 10))
    assert paired(before, before)["fell_by"] is None
    assert paired({}, {})["change"] is None


def test_probes_that_both_asked_are_shown_the_worst_first():
    before = {"probes": [probe("emoji", 0.1, fault=False), probe("padding", 1.0), probe("list", 2.0), probe("link", 1)]}
    after = {"probes": [probe("padding", 0.1, fault=False), probe("list", 0.2), probe("emoji", 0.1)]}
    rows = probe_rows(before, after, ["list", "padding"], {"list": {0: 2.0, 1: 2.0}}, {"list": {0: 0.2, 1: 0.2}})
    assert [row["name"] for row in rows] == ["list", "padding", "emoji"]
    assert rows[0]["fell_by"]["value"] == pytest.approx(0.9)
    assert rows[1]["fell_by"] is None
    assert not rows[1]["after"]["fault"]


def test_held_out_differences_are_paired():
    held_out = groups(60, longer_wins=0.8)
    rng = np.random.default_rng(1)
    lengths = [np.array([float(len(r[0].content)) for r in g.responses]) for g in held_out]
    before = [row + rng.normal(0, 0.1, 2) for row in lengths]
    after = [np.array([1.0, 0.0]) for _ in held_out]  # always right
    found = held_out_rows(HeldOut(held_out, before, after))
    right = np.mean([row[0] > row[1] for row in before])
    assert found["before"]["accuracy"]["value"] == pytest.approx(right)
    assert found["difference"]["accuracy"]["value"] == pytest.approx(1 - right)
    rho = [spearmanr(a, length).statistic - spearmanr(b, length).statistic
           for a, b, length in zip(after, before, lengths, strict=True)]  # fmt: skip
    assert found["difference"]["length_correlation"]["value"] == pytest.approx(np.mean(rho))
    assert found["worse_slices"] == []
    turned = held_out_rows(HeldOut(held_out, after, before))
    assert {row["slice"] for row in turned["worse_slices"]} >= {"longer=rejected"}


def pool(gold: list[float]) -> Pool:
    k = len(gold)
    group = Group(
        prompt=(Message("user", f"q{gold}"),), responses=tuple((Message("assistant", "x" * (i + 1)),) for i in range(k))
    )
    return Pool(group, np.array([gold]), np.full(k, 1 / k))


def test_gold_of_the_best_of_n_on_both_sides():
    pools = [pool([0.0, 1.0, 0.3, 0.2]), pool([1.0, 0.1, 0.4, 0.0])]
    before = [np.array([4.0, 3.0, 2.0, 1.0]), np.array([1.0, 2.0, 3.0, 4.0])]
    after = [gold.gold_JK[0] for gold in pools]
    found = candidate_rows(pools, before, after, "judge")
    sizes = [row["n"] for row in found["rows"]]
    assert sizes == [1, 2, 4]
    for side, rewards in (("before", before), ("after", after)):
        expected = np.mean([best_of_n(r, p.gold_JK[0], sizes) for r, p in zip(rewards, pools, strict=True)], axis=0)
        assert [row[side]["value"] for row in found["rows"]] == pytest.approx(expected.tolist())
    assert found["rows"][-1]["difference"]["value"] == pytest.approx(1.0)
    with pytest.raises(DataError, match="of before"):
        candidate_rows(pools, [np.zeros(4), np.zeros(4)], after, "judge")


def test_answers_that_one_model_cannot_score_are_left_out_for_both():
    pools = [pool([0.0, 1.0, 0.5]), pool([1.0, 0.0])]
    before = [np.array([1.0, np.nan, 2.0]), np.array([np.nan, 1.0])]
    kept, a, b, left_out = both_scored(pools, before, [np.arange(3.0), np.arange(2.0)])
    assert [len(p.group.responses) for p in kept] == [2]
    assert kept[0].gold_JK.tolist() == [[0.0, 0.5]]
    assert (a[0].tolist(), b[0].tolist(), left_out) == ([1.0, 2.0], [0.0, 2.0], 3)
    with pytest.raises(DataError, match="no prompt has two"):
        both_scored(pools, [np.full(3, np.nan), np.full(2, np.nan)], before)
