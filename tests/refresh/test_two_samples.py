"""Permutation tests: statistics by brute force, p-values by enumeration, levels and power by simulation."""

from __future__ import annotations

from itertools import combinations
from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from rewardsmith.refresh import two_samples as two


def test_ks_distances_are_those_of_scipy_with_ties():
    rng = np.random.default_rng(0)
    value_N = rng.integers(0, 8, 40).astype(float)
    flags_BN = two.deal(12, 40, 20, seed=1)
    want = [stats.ks_2samp(value_N[flags], value_N[~flags]).statistic for flags in flags_BN]
    assert two.ks_distances(value_N, flags_BN) == pytest.approx(want)
    upward = [stats.ks_2samp(value_N[flags], value_N[~flags], alternative="less").statistic for flags in flags_BN]
    assert two.ks_distances(value_N, flags_BN, upward=True) == pytest.approx(upward)


def test_p_values_come_near_those_of_all_deals():
    value_N = np.array([0.1, 0.4, 0.5, 0.9, 1.1, 1.6, 2.0, 2.2])
    every = np.zeros((56, 8), dtype=bool)
    for row, index in enumerate(combinations(range(8), 3)):
        every[row, list(index)] = True
    first = np.isin(np.arange(8), [5, 6, 7])
    distance = two.ks_distances(value_N, np.vstack([first, every]))
    exact = (distance[1:] >= distance[0] - 1e-12).mean()
    assert exact == pytest.approx(2 / 56)
    found = two.p_value(two.ks_distances(value_N, two.deal(3, 8, 9999, seed=0)))
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact / 9999))


def test_two_statistics_as_one_keep_the_level_and_count_the_smaller_p():
    rng = np.random.default_rng(0)
    found = []
    for trial in range(300):
        value_N, flags_BN = rng.exponential(size=40), two.deal(15, 40, 99, seed=trial)
        both_SB = np.stack([two.ks_distances(value_N, flags_BN), two.mean_shifts(value_N, flags_BN)])
        found.append(two.joint_p_value(both_SB))
        assert found[-1] >= min(map(two.p_value, both_SB)) - 1e-12
    assert (np.array(found) <= 0.05).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
    one_SB = rng.random((1, 200))
    assert two.joint_p_value(one_SB) == pytest.approx(two.p_value(one_SB[0]))
    assert two.mean_shifts(value_N, flags_BN)[3] == pytest.approx(
        abs(value_N[flags_BN[3]].mean() - value_N[~flags_BN[3]].mean())
    )


def test_scores_are_those_of_a_ridge_regression_fitted_to_the_other_folds():
    rng = np.random.default_rng(0)
    x_NF = rng.standard_normal((30, 3))
    flags_BN, fold_N = two.deal(10, 30, 2, seed=0), np.arange(30) % 5
    scores_BN = two.out_of_fold_scores(x_NF, flags_BN, fold_N, 0.1)
    for b, fold in ((0, 0), (2, 4)):
        out = fold_N == fold
        model = Ridge(alpha=0.1 * (~out).sum()).fit(x_NF[~out], flags_BN[b, ~out])
        want = model.predict(x_NF[out]) - model.intercept_ - model.coef_ @ x_NF[~out].mean(axis=0)
        assert scores_BN[b, out] == pytest.approx(want)


def test_auc_is_the_mean_over_pairs_of_a_fold():
    rng = np.random.default_rng(1)
    score_N, new_N, fold_N = rng.integers(0, 5, 40).astype(float), rng.random(40) < 0.4, np.arange(40) % 4
    won = total = 0.0
    for a in np.flatnonzero(new_N):
        for b in np.flatnonzero(~new_N & (fold_N == fold_N[a])):
            won += (score_N[a] > score_N[b]) + 0.5 * (score_N[a] == score_N[b])
            total += 1
    assert two.auc(score_N, new_N, fold_N) == pytest.approx(won / total)
    assert two.auc(score_N, new_N, np.zeros(40, int)) == pytest.approx(roc_auc_score(new_N, score_N))
    assert two.auc(score_N, np.zeros(40, bool), fold_N) == 0.5


def test_holm_by_hand():
    assert two.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert two.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_effects_in_sd_are_those_of_a_moved_normal_distribution():
    normal = NormalDist()
    for s in (0.0, 0.3, 1.5):
        assert two.ks_in_sd(2 * normal.cdf(s / 2) - 1) == pytest.approx(s)
        assert two.auc_in_sd(normal.cdf(s / np.sqrt(2))) == pytest.approx(s)
    assert np.isfinite([two.ks_in_sd(1.0), two.auc_in_sd(0.0), two.auc_in_sd(1.0)]).all()


def test_the_shift_that_can_be_seen_is_seen_in_four_of_five():
    shift = two.detectable_sd(40, 60, 0.05)
    rng = np.random.default_rng(0)
    p = stats.ttest_ind(rng.normal(shift, 1, (4000, 40)), rng.normal(0, 1, (4000, 60)), axis=1).pvalue
    assert (p < 0.05).mean() == pytest.approx(0.8, abs=0.03)


def test_a_level_is_kept_where_nothing_has_changed():
    """Heavy-tailed values with ties, 400 times: a p-value below 0.05 at most as often as chance has it."""
    rng = np.random.default_rng(0)
    below = 0
    for trial in range(400):
        value_N = np.round(rng.standard_cauchy(45), 0)
        below += two.p_value(two.ks_distances(value_N, two.deal(15, 45, 99, seed=trial))) <= 0.05
    assert below / 400 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
