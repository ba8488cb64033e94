"""The simulated loop: a planted world where refreshing must help, one where it must not, and bad plans."""

from __future__ import annotations

import numpy as np
import pytest

from rewardsmith.errors import ConfigError, DataError
from rewardsmith.refresh.bradley_terry import fit_bradley_terry
from rewardsmith.refresh.prompts import draw_pairs, pair_chances, policy_at
from rewardsmith.refresh.simulate import (
    CrossedDraws,
    Plan,
    check_plan,
    noisy_labels,
    run_strategy,
    simulate,
    split_pools,
    training_set,
    within_scale,
)
from tests.overoptimization.pools import pool


def world(n=60, k=12, seed=0, humped=False):
    """Pools with two features. Gold is linear in them, or, `humped`, follows the first only up to a point: a linear
    model of the base policy's answers is wrong where the policy goes."""
    rng = np.random.default_rng(seed)
    pools, features = [], []
    for number in range(n):
        x_KF = rng.standard_normal((k, 2))
        gold_K = x_KF @ [1.0, 0.4] if not humped else np.minimum(x_KF[:, 0], 1.6 - x_KF[:, 0]) + 0.3 * x_KF[:, 1]
        pools.append(pool(gold_K, number=number))
        features.append(x_KF)
    return pools, features


def test_the_loop_is_what_its_description_says():
    """The second and last round of `all_data`, done step by step."""
    pools, features = world()
    sides = split_pools(pools, features)
    plan = Plan(budget=40, rounds=2, kl=0.8)
    run = run_strategy("all_data", sides, plan, 3.0, seed=7)
    label, pairs = sides.label, sides.label.pairs
    taken_U, policy_R, chosen = np.zeros(len(pairs.label_U)), label.base_R, np.empty(0, int)
    for r in range(2):
        chance_U = pair_chances(label, policy_R, 0.5)
        found = draw_pairs(label, chance_U, taken_U, 20, np.random.default_rng([7, r]))
        taken_U[found] = 1
        chosen = np.concatenate([chosen, found])
        x_NF = label.features_RF[pairs.first_U[chosen]] - label.features_RF[pairs.second_U[chosen]]
        theta_F = fit_bradley_terry(x_NF, pairs.label_U[chosen], 3.0)
        policy_R = policy_at(label, label.features_RF @ theta_F, [0.2, 0.8][r])
        assert run.theta_RF[r] == pytest.approx(theta_F)
        on_test_R = policy_at(sides.test, sides.test.features_RF @ theta_F, [0.2, 0.8][r])
        assert run.gold_RP[r] == pytest.approx(sides.test.gold_of(on_test_R))
    assert run.labels_R == [20, 40]


def test_strategies_of_a_seed_share_their_first_round_and_fixed_spends_all_at_once():
    pools, features = world()
    sides, plan = split_pools(pools, features), Plan(budget=41, rounds=4)
    runs = {
        name: run_strategy(name, sides, plan, 3.0, 0)
        for name in ("fixed", "last_only", "all_data", "importance", "replay")
    }
    assert plan.labels_R == [11, 10, 10, 10]
    for name in ("last_only", "importance", "replay"):
        assert runs[name].theta_RF[0] == pytest.approx(runs["all_data"].theta_RF[0])
    assert runs["fixed"].labels_R == [41] * 4
    assert np.ptp(runs["fixed"].theta_RF, axis=0) == pytest.approx([0, 0])
    for run in runs.values():
        assert run.kl_RP.mean(axis=1) == pytest.approx(plan.kl_R)


def test_refreshing_is_found_to_help_where_it_must_and_not_where_it_cannot():
    plan = Plan(budget=240, kl=1.2, seeds=3, penalties=(1.0, 10.0))
    humped = simulate(*world(200, 24, humped=True), plan, strategies=("all_data",), draws=300)
    over = humped["strategies"][1]["rounds"][-1]["over_fixed"]
    assert over["low"] > 0
    assert "refreshing helps here" in humped["text"]
    straight = simulate(*world(200, 24), plan, strategies=("all_data",), draws=300)
    over = straight["strategies"][1]["rounds"][-1]["over_fixed"]
    assert abs(over["value"]) < 0.02


def test_weights_of_importance_make_the_mixture_the_newest_policy():
    """Expected weight of each pair, over what it was drawn from, is its chance under the newest policy."""
    rng = np.random.default_rng(0)
    chances = [c / c.sum() for c in rng.random((2, 6)) + 0.2]
    drawn = [rng.choice(6, 4000, p=c) for c in chances]
    chosen, weight_N = training_set("importance", drawn, chances, Plan(budget=1, weight_cap=1e9))
    assert np.bincount(chosen, weights=weight_N) / len(chosen) == pytest.approx(chances[1], abs=0.02)
    assert weight_N.mean() == pytest.approx(1)


def test_replay_leaves_its_share_to_the_old_and_last_only_nothing():
    drawn, chances = [np.arange(6), np.arange(6, 8)], [np.full(8, 1 / 8)] * 2
    chosen, weight_N = training_set("replay", drawn, chances, Plan(budget=8, replay_share=0.25))
    assert weight_N[chosen < 6].sum() / weight_N.sum() == pytest.approx(0.25)
    assert training_set("last_only", drawn, chances, Plan(budget=8))[0].tolist() == [6, 7]
    alone, weight_N = training_set("replay", [np.arange(3), np.empty(0, int)], chances, Plan(budget=8))
    assert weight_N == pytest.approx(np.ones(3))  # the pool is used up: no new label
    assert alone.tolist() == [0, 1, 2]


def test_wrong_labels_are_the_stated_share_and_the_same_for_all_strategies():
    label_U = np.ones(4000)
    turned_U = noisy_labels(label_U, 0.2, 3)
    assert (turned_U == 0).mean() == pytest.approx(0.2, abs=0.03)
    assert (noisy_labels(label_U, 0.2, 3) == turned_U).all()
    assert (noisy_labels(np.full(9, 0.5), 0.4, 0) == 0.5).all()


def test_test_prompts_share_no_opening_with_those_labelled():
    pools, features = world(90)
    sides = split_pools(pools, features)
    names = [set(side.name_P) for side in (sides.label, sides.dev, sides.test)]
    assert sum(map(len, names)) == len(set().union(*names)) == 90


def test_features_are_seen_within_prompts_alone():
    features = [np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[100.0, 9.0], [104.0, 9.0]])]
    scaled = within_scale(features)
    assert np.concatenate(scaled)[:, 0] == pytest.approx(np.array([-1, 1, -2, 2]) / np.sqrt(2.5))
    assert np.concatenate(scaled)[:, 1].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budget": 10**6}, r"the \d+ prompts to label have \d+ pairs; give less"),
        ({"budget": 3}, "less than a label for each of 4 rounds"),
        ({"kl": 2.6}, "no policy over the label prompts' answers has a KL above 2.48"),
    ],
)
def test_plans_that_the_prompts_cannot_hold(change, words):
    with pytest.raises(ConfigError, match=words):
        check_plan(Plan(**{"budget": 40, **change}), split_pools(*world()))


def test_too_few_prompts_and_gold_that_never_differs():
    with pytest.raises(DataError, match="at least 5 each are needed"):
        split_pools(*world(8))
    _, features = world()
    flat = [pool([1.0] * 12, number=number) for number in range(60)]
    with pytest.raises(DataError, match="nothing to learn"):
        check_plan(Plan(budget=40), split_pools(flat, features))


def test_intervals_over_prompts_and_seeds_hold_what_they_promise():
    """Two-way tables with effects of prompts and of five seeds: the mean is covered in about 95 of 100."""
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        value_SP = rng.normal(0, 1, 40) + rng.normal(0, 0.15, 5)[:, None] + rng.normal(0, 0.5, (5, 40))
        found = CrossedDraws([str(p) for p in range(40)], 5, 300, seed=trial).mean(value_SP)
        covered += found.low <= 0 <= found.high
    assert 0.9 <= covered / 200 <= 0.99
