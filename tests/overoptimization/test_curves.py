"""Curves and their intervals against loops over prompts and draws; the guard against data whose peak is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rewardsmith.overoptimization.curves import METHODS, Draws, curve_rows, methods_for, path_of
from rewardsmith.overoptimization.guard import halves, optimum, recommend
from rewardsmith.overoptimization.run import bench
from tests.overoptimization.pools import humped, pool


def test_a_path_is_a_sum_over_answers():
    """By n = 2 out of three answers: three pairs, each worth the gold of its better-rewarded one."""
    pools = [pool([[5.0, 1.0, 3.0], [0.0, 1.0, 0.0]])]
    path = path_of("best_of_n", pools, [np.array([2.0, 3.0, 1.0])], sizes=[1, 2, 3])
    assert path.gold_JPS[0, 0] == pytest.approx([3, (1 + 1 + 5) / 3, 1])
    assert path.gold_JPS[1, 0] == pytest.approx([1 / 3, 2 / 3, 1])
    assert path.proxy_PS[0] == pytest.approx([2, (3 + 3 + 2) / 3, 3])
    assert path.win_PS[0] == pytest.approx([0.5, (2 / 6 + 5 / 6) / 3, 1 / 6])
    assert path.kl_PS[0, [0, 2]] == pytest.approx([0, np.log(3)])


@pytest.mark.parametrize("method", METHODS)
def test_pressure_raises_kl_and_the_reward(method):
    pools, rewards = humped(8)
    path = path_of(method, pools, rewards)
    assert (np.diff(path.kl_PS.mean(axis=0)) > 0).all()
    assert (np.diff(path.proxy_PS.mean(axis=0)) > 0).all()
    assert path.kl_PS.min() > -1e-12
    for weights in path.weights:
        assert weights.sum(axis=1) == pytest.approx(np.ones(len(weights)))


def test_the_tilt_buys_most_reward_for_its_kl():
    """No other policy has more reward at the same KL, prompt by prompt."""
    pools, rewards = humped(1, k=9)
    frontier = path_of("tilt", pools, rewards)
    for method in METHODS:
        path = path_of(method, pools, rewards)
        for kl, proxy in zip(path.kl_PS[0], path.proxy_PS[0], strict=True):
            beta = frontier.beta_S
            assert beta is not None
            # Duality: E[r] - beta KL is largest for the tilt, at every beta.
            best = frontier.proxy_PS[0] - beta * frontier.kl_PS[0]
            assert (proxy - beta * kl <= best + 1e-9).all()


def test_intervals_are_those_of_a_plain_bootstrap():
    pools, rewards = humped(30)
    path = path_of("best_of_n", pools, rewards, sizes=[1, 4])
    draws = Draws(pools, 4000, seed=1)
    found = draws.intervals(path.gold_JPS[0])
    rng = np.random.default_rng(9)
    plain = np.array([path.gold_JPS[0, rng.integers(0, 30, 30)].mean(axis=0) for _ in range(4000)])
    for s, row in enumerate(found):
        low, high = np.quantile(plain[:, s], [0.025, 0.975])
        assert row["value"] == pytest.approx(path.gold_JPS[0, :, s].mean())
        assert (row["low"], row["high"]) == (pytest.approx(low, abs=0.03), pytest.approx(high, abs=0.03))


def test_pools_of_one_prompt_are_drawn_together():
    once, _ = humped(10)
    twice = [p for p in once for _ in range(3)]
    values = np.arange(10.0)[:, None]
    alone = Draws(once, 500).intervals(values)[0]
    together = Draws(twice, 500).intervals(np.repeat(values, 3, axis=0))[0]
    assert together == pytest.approx(alone)


def test_one_prompt_has_no_interval():
    pools, rewards = humped(1)
    row = curve_rows(path_of("tilt", pools, rewards), ["judge"], Draws(pools, 100))[0]
    assert row["low"] is None
    assert row["high"] is None


def advice(path, pools, draws):
    return recommend(path, optimum(path, halves(pools), draws), draws)


def test_the_guard_finds_the_peak_and_the_loss_behind_it():
    pools, rewards = humped(200)
    path = path_of("best_of_n_iid", pools, rewards)
    found = advice(path, pools, Draws(pools, 500))
    assert found["n"] == 4
    assert found["range"][0] <= 4 <= found["range"][1]
    assert found["loss_at_end"]["high"] < 0
    assert not found["rises_to_end"]
    assert found["text"].startswith("Stop at best of 4 (KL ")
    assert "changes gold by -" in found["text"]


def test_the_guard_says_so_where_gold_only_rises():
    pools, _ = humped(100)
    path = path_of("best_of_n", pools, [p.gold_JK[0] for p in pools])
    found = advice(path, pools, Draws(pools, 200))
    assert found["rises_to_end"]
    assert found["loss_at_end"]["value"] == 0
    assert "still rises" in found["text"]


def test_the_guard_warns_of_a_reward_that_knows_nothing():
    pools, _ = humped(100)
    rng = np.random.default_rng(3)
    path = path_of("best_of_n", pools, [rng.standard_normal(16) for _ in pools])
    assert advice(path, pools, Draws(pools, 300))["text"].startswith("Do not optimise")


def test_the_optimum_is_read_on_prompts_that_did_not_choose_it():
    """On pure noise the best of many strengths looks better than it is, unless other prompts judge it."""
    pools, rewards = [], []
    rng = np.random.default_rng(0)
    for number in range(40):
        pools.append(pool(rng.standard_normal(16), number=number))
        rewards.append(rng.standard_normal(16))
    half = halves(pools)
    assert 10 < half.sum() < 30
    path = path_of("best_of_n", pools, rewards)
    found = optimum(path, half, Draws(pools, 300))
    by_hand = np.where(
        half,
        path.gold_JPS[0, :, path.gold_JPS[0, ~half].mean(axis=0).argmax()],
        path.gold_JPS[0, :, path.gold_JPS[0, half].mean(axis=0).argmax()],
    )
    assert found["gold"]["value"] == pytest.approx(by_hand.mean())
    assert found["gold"]["value"] < path.gold_JPS[0].mean(axis=0).max()


def test_best_of_n_is_left_out_where_base_probabilities_differ():
    even, uneven = pool([1, 2, 3]), pool([1, 2, 3], base=[0.5, 0.25, 0.25])
    assert "best_of_n" in methods_for([even])
    assert "best_of_n" not in methods_for([even, uneven])


def test_advice_is_by_n_and_by_penalty():
    pools, rewards = humped(6)
    for methods, advised in (
        ([], ["best_of_n_iid", "tilt"]),
        (["best_of_n", "tilt"], ["best_of_n", "tilt"]),
        (["threshold", "rejection"], ["threshold"]),
    ):
        found = bench(pools, rewards, ["judge"], methods=methods, draws=20)
        assert [row["method"] for row in found["recommendation"]] == advised


def test_the_result_is_json_with_the_promised_keys():
    pools, rewards = humped(12)
    found = json.loads(json.dumps(bench(pools, rewards, ["judge"], draws=50), allow_nan=False))
    assert {"method", "n", "kl", "proxy", "gold", "low", "high", "win_rate"} <= set(found["curves"][0])
    assert found["length_only"] == []  # all answers are of one length
    oracle = {(row["method"], row["strength"]): row["gold"] for row in found["oracle"]}
    ours = {(row["method"], row["strength"]): row["gold"] for row in found["curves"] if row["method"] != "tilt"}
    for key, value in ours.items():
        if key[0].startswith("best"):
            assert value <= oracle[key] + 1e-12
    assert len(found["optimum"]) == len(METHODS)
