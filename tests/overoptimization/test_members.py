"""An ensemble under pressure: noise of their own is averaged away, a bias in common is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rewardsmith.aggregation import HOWS
from rewardsmith.overoptimization.curves import Draws, path_of
from rewardsmith.overoptimization.members import ensemble_report
from rewardsmith.overoptimization.run import bench
from tests.overoptimization.pools import pool


def ensemble(shared: float, own: float, n_prompts: int = 150, k: int = 16, m: int = 5):
    """Pools whose members see gold with an error that all share and one of their own."""
    rng = np.random.default_rng(0)
    pools = []
    for number in range(n_prompts):
        gold_K, bias_K = rng.standard_normal(k), shared * rng.standard_normal(k)
        members_MK = gold_K + bias_K + own * rng.standard_normal((m, k)) + rng.standard_normal((m, 1))
        pools.append(replace(pool(gold_K, number=number), members_MK=members_MK))
    return pools


def report(pools):
    return ensemble_report(pools, "best_of_n", Draws(pools, 300), more={"draws": 100, "seed": 0})


def test_own_errors_are_averaged_away():
    found = report(ensemble(shared=0, own=2))
    mean = next(row for row in found["aggregates"] if row["aggregate"] == "mean")
    assert mean["curves"][-1]["over_single"]["low"] > 0.3
    assert "takes away" in found["shared_error"]["sentence"]


def test_a_shared_error_is_not():
    found = report(ensemble(shared=2, own=0.2))
    assert found["shared_error"]["cannot_help"]
    for row in found["aggregates"]:
        assert abs(row["curves"][-1]["over_single"]["value"]) < 0.1


def test_one_member_is_the_mean_over_members():
    pools = ensemble(shared=1, own=1, n_prompts=20)
    found = report(pools)
    alone = [path_of("best_of_n", pools, [p.members_MK[m] for p in pools]).gold_JPS[0].mean(axis=0) for m in range(5)]
    assert [row["value"] for row in found["single"]] == pytest.approx(np.mean(alone, axis=0))
    assert [row["aggregate"] for row in found["aggregates"]] == list(HOWS)


def test_the_bench_has_a_section_on_members_and_only_for_them():
    pools = ensemble(shared=1, own=1, n_prompts=10)
    rewards = [p.members_MK.mean(axis=0) for p in pools]
    assert bench(pools, rewards, ["judge"], draws=20)["n_members"] == 5
    alone = [replace(p, members_MK=None) for p in pools]
    assert "aggregates" not in bench(alone, rewards, ["judge"], draws=20)
    assert "aggregates" not in bench(pools, rewards, ["judge"], methods=["tilt"], draws=20)


def test_members_follow_the_answers_that_stay():
    one = replace(pool([1.0, 2.0, 3.0]), members_MK=np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    assert one.keep([0, 2]).members_MK.tolist() == [[1, 3], [4, 6]]
