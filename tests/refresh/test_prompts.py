"""Policies at a KL and pairs drawn from them, by enumeration of small pools."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rewardsmith.errors import ConfigError, DataError
from rewardsmith.overoptimization.policies import kl_from_base, tilt
from rewardsmith.refresh.prompts import agreement, draw_pairs, lay_out, pair_chances, policy_at, tilted
from tests.overoptimization.pools import pool


def made(sizes=(3, 4), seed=0, **more):
    rng = np.random.default_rng(seed)
    pools, features = [], []
    for number, k in enumerate(sizes):
        base = rng.random(k) + 0.1
        pools.append(pool(rng.integers(0, 3, k), number=number, base=base / base.sum(), **more))
        features.append(rng.standard_normal((k, 2)))
    return lay_out(pools, features), pools


def test_the_tilted_policy_is_that_of_the_exact_bench():
    prompts, pools = made()
    reward_R = prompts.features_RF[:, 0]
    ends = np.cumsum([3, 4])
    policy_R = tilted(prompts, reward_R, prompts.base_R, 1.7)
    for pool_, p_K, r_K, kl in zip(
        pools, np.split(policy_R, ends[:-1]), np.split(reward_R, ends[:-1]), prompts.kl_of(policy_R), strict=True
    ):
        want_SK = tilt(r_K, pool_.base_K, [1 / 1.7])
        assert p_K == pytest.approx(want_SK[0])
        assert kl == pytest.approx(kl_from_base(want_SK, pool_.base_K)[0])
    for gold, pool_, p_K in zip(prompts.gold_of(policy_R), pools, np.split(policy_R, ends[:-1]), strict=True):
        assert gold == pytest.approx(sum(p * g for p, g in zip(p_K, pool_.gold_JK[0], strict=True)))


@pytest.mark.parametrize("kl", [0.01, 0.3, 0.7])
def test_the_policy_has_the_kl_that_was_asked_for(kl):
    prompts, _ = made()
    policy_R = policy_at(prompts, prompts.features_RF[:, 0], kl)
    assert prompts.kl_of(policy_R).mean() == pytest.approx(kl, abs=1e-9)
    assert prompts.by_prompt(policy_R) == pytest.approx([1, 1])
    shifted = policy_at(prompts, 100 + 7 * prompts.features_RF[:, 0], kl)  # neither unit nor offset plays a part
    assert shifted == pytest.approx(policy_R, abs=1e-7)


def test_a_policy_goes_on_from_another():
    prompts, _ = made((5, 6, 4))
    first_R = policy_at(prompts, prompts.features_RF[:, 0], 0.1)
    then_R = policy_at(prompts, prompts.features_RF[:, 1], 0.4, first_R)
    assert prompts.kl_of(then_R).mean() == pytest.approx(0.4, abs=1e-9)
    ratio_R = np.log(then_R / first_R) / prompts.features_RF[:, 1]  # one beta, and a constant of each prompt
    gap = np.diff(np.log(then_R / first_R)[:5]) / np.diff(prompts.features_RF[:5, 1])
    assert np.ptp(gap) < 1e-6 * abs(gap[0])
    assert np.isfinite(ratio_R).all()


def test_a_kl_out_of_reach_and_an_equal_reward_are_said():
    prompts, _ = made()
    with pytest.raises(ConfigError, match="best answers alone has a KL of"):
        policy_at(prompts, prompts.features_RF[:, 0], 9.0)
    with pytest.raises(DataError, match="nothing was learnt"):
        policy_at(prompts, np.full(7, 0.3), 0.1)


def test_pair_chances_are_those_of_two_draws_that_differ():
    prompts, _ = made()
    policy_R = policy_at(prompts, prompts.features_RF[:, 0], 0.2)
    chance_U = pair_chances(prompts, policy_R, 0.3)
    pairs = prompts.pairs
    for p, (start, k) in enumerate(((0, 3), (3, 4))):
        p_K, q_K = policy_R[start : start + k], prompts.base_R[start : start + k]
        own, other = np.zeros((k, k)), np.zeros((k, k))
        for a, b in itertools.permutations(range(k), 2):  # two draws, those of one answer twice thrown away
            own[min(a, b), max(a, b)] += p_K[a] * p_K[b]
            other[min(a, b), max(a, b)] += p_K[a] * q_K[b]
        want = 0.7 * own / own.sum() + 0.3 * other / other.sum()
        of_U = pairs.prompt_U == p
        found = chance_U[of_U]
        assert found == pytest.approx([
            want[i - start, j - start] for i, j in zip(pairs.first_U[of_U], pairs.second_U[of_U], strict=True)
        ])  # fmt: skip
        assert found.sum() == pytest.approx(1)


def test_the_first_pair_of_a_prompt_is_drawn_by_its_chance():
    prompts, _ = made((4,))
    chance_U = pair_chances(prompts, policy_at(prompts, prompts.features_RF[:, 0], 0.3), 0.0)
    none_U = np.zeros(len(chance_U))
    drawn = [draw_pairs(prompts, chance_U, none_U, 1, np.random.default_rng(seed))[0] for seed in range(4000)]
    share_U = np.bincount(drawn, minlength=len(chance_U)) / 4000
    assert np.abs(share_U - chance_U).max() < 4 * np.sqrt(0.25 / 4000)


def test_labels_are_spread_over_prompts_and_no_pair_is_drawn_twice():
    prompts, _ = made((3, 4, 4))  # 3 + 6 + 6 pairs
    chance_U = pair_chances(prompts, prompts.base_R, 0.5)
    taken_U = np.zeros(15)
    first = draw_pairs(prompts, chance_U, taken_U, 9, np.random.default_rng(0))
    assert np.bincount(prompts.pairs.prompt_U[first]).tolist() == [3, 3, 3]
    taken_U[first] = 1
    rest = draw_pairs(prompts, chance_U, taken_U, 99, np.random.default_rng(1))
    assert sorted([*first, *rest]) == list(range(15))


def test_equal_texts_are_no_pair():
    prompts = lay_out([pool([0, 1, 2], texts=["same", "same", "other"])], [np.zeros((3, 1))])
    assert prompts.pairs.first_U.tolist() == [0, 1]
    assert prompts.pairs.second_U.tolist() == [2, 2]
    assert prompts.pairs.label_U.tolist() == [0, 0]


def test_agreement_by_hand():
    prompts = lay_out([pool([0, 1, 1])], [np.array([[0.0], [5.0], [0.0]])])
    chance_U = np.array([0.5, 0.3, 0.2])  # pairs 01, 02, 12
    sums_P2 = agreement(prompts, prompts.features_RF[:, 0], chance_U)
    assert sums_P2[0] == pytest.approx([0.5, 0.8])  # 01 right; 02 tied by the reward: wrong; 12 a tie of gold
