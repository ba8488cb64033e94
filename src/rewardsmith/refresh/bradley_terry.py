"""A linear Bradley-Terry model on fixed features, fitted exactly. numpy only.

    P  labelled pairs       F  features

    minimise  sum_p w_p [ log(1 + exp(z_p)) - t_p z_p ] + penalty / 2 |theta|^2,   z_p = theta . (f(first) - f(second))

t_p is the label: the probability that the first answer is better, one half for a tie. The loss is strictly convex for
a penalty above 0, so there is one optimum, and Newton's method with halved steps finds it to rounding.
Source: Bradley and Terry (1952), as logistic regression without an intercept.
"""

from __future__ import annotations

import numpy as np

from rewardsmith.statistics import Floats

STEPS = 100
CLOSE = 1e-9  # largest gradient, over the weights' sum, that counts as zero


def fit_bradley_terry(difference_PF: Floats, label_P: Floats, penalty: float, weight_P: Floats | None = None) -> Floats:
    """[F] theta at the optimum. `penalty` must be above 0; without a pair theta is 0."""
    assert penalty > 0, "without a penalty the optimum may lie at infinity"
    weight_P = np.ones(len(label_P)) if weight_P is None else weight_P
    theta_F = np.zeros(difference_PF.shape[1])
    scale = max(float(weight_P.sum()), 1.0)
    value = loss(theta_F, difference_PF, label_P, penalty, weight_P)
    for _ in range(STEPS):
        chance_P = sigmoid(difference_PF @ theta_F)
        gradient_F = difference_PF.T @ (weight_P * (chance_P - label_P)) + penalty * theta_F
        if np.abs(gradient_F).max(initial=0.0) <= CLOSE * scale:
            break
        curvature_P = weight_P * chance_P * (1 - chance_P)
        hessian_FF = (difference_PF * curvature_P[:, None]).T @ difference_PF
        hessian_FF[np.diag_indices_from(hessian_FF)] += penalty
        step_F = np.linalg.solve(hessian_FF, gradient_F)
        share, slope = 1.0, float(gradient_F @ step_F)
        while share > 1e-6:
            tried_F = theta_F - share * step_F
            new = loss(tried_F, difference_PF, label_P, penalty, weight_P)
            if new <= value - 1e-4 * share * slope:
                break
            share /= 2
        else:
            break  # nothing lower to be found in double precision
        theta_F, value = tried_F, new
    return theta_F


def loss(theta_F: Floats, difference_PF: Floats, label_P: Floats, penalty: float, weight_P: Floats) -> float:
    """What `fit_bradley_terry` minimises."""
    z_P = difference_PF @ theta_F
    return float(weight_P @ (np.logaddexp(0.0, z_P) - label_P * z_P) + penalty / 2 * theta_F @ theta_F)


def sigmoid(z: Floats) -> Floats:
    """1 / (1 + exp(-z)) without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(z / 2)))
