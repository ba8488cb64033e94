"""The linear Bradley-Terry fit against scikit-learn, finite differences and repeated rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from rewardsmith.refresh.bradley_terry import fit_bradley_terry, loss


def made(n=60, f=4, seed=0):
    rng = np.random.default_rng(seed)
    x_PF = rng.standard_normal((n, f))
    return x_PF, (x_PF @ np.arange(1, f + 1) + rng.logistic(size=n) > 0).astype(float), rng.random(n) + 0.2


def test_it_is_the_logistic_regression_of_scikit_learn():
    x_PF, label_P, weight_P = made()
    theta_F = fit_bradley_terry(x_PF, label_P, 2.5, weight_P)
    other = LogisticRegression(C=1 / 2.5, fit_intercept=False, tol=1e-10, max_iter=1000)
    assert theta_F == pytest.approx(other.fit(x_PF, label_P, sample_weight=weight_P).coef_[0], abs=1e-5)


def test_the_gradient_is_zero_by_finite_differences():
    x_PF, label_P, weight_P = made(seed=1)
    label_P[:9] = 0.5
    theta_F = fit_bradley_terry(x_PF, label_P, 0.3, weight_P)
    for step_F in 1e-5 * np.eye(4):
        up, down = (loss(theta_F + s * step_F, x_PF, label_P, 0.3, weight_P) for s in (1, -1))
        assert (up - down) / 2e-5 == pytest.approx(0, abs=1e-5)


def test_a_tie_is_half_a_win_for_each_side_and_a_weight_of_two_a_row_twice():
    x_PF, label_P, _ = made(seed=2)
    tied = fit_bradley_terry(x_PF, np.where(np.arange(60) < 20, 0.5, label_P), 1.0)
    both = np.concatenate([x_PF, x_PF[:20]])
    halves = np.concatenate([np.where(np.arange(60) < 20, 1.0, label_P), np.zeros(20)])
    weight = np.where(np.arange(80) % 60 < 20, 0.5, 1.0)
    assert fit_bradley_terry(both, halves, 1.0, weight) == pytest.approx(tied, abs=1e-7)
    assert fit_bradley_terry(np.tile(x_PF, (2, 1)), np.tile(label_P, 2), 1.0) == pytest.approx(
        fit_bradley_terry(x_PF, label_P, 1.0, np.full(60, 2.0)), abs=1e-7
    )


def test_separable_labels_huge_features_and_no_pair_at_all():
    theta_F = fit_bradley_terry(np.array([[1e4], [2e4]]), np.ones(2), 1e-6)
    assert np.isfinite(theta_F).all()
    assert theta_F[0] > 0
    assert fit_bradley_terry(np.empty((0, 3)), np.empty(0), 1.0).tolist() == [0, 0, 0]
