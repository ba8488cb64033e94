"""Accuracy with length held fixed, by regression. numpy and scipy.

    P  pairs that are no label tie: margin_P is the reward of chosen minus rejected, gap_P the same of their lengths
    F  features
    D  bootstrap draws

Both fits are logistic regressions with tanh(length gap / its standard deviation), read at a length gap of 0, as
AlpacaEval's length-controlled win rate is. Source: Dubois et al. (2404.04475).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from rewardsmith.data.schema import TIE
from rewardsmith.evaluation.metrics import DRAWS, Floats, Interval
from rewardsmith.evaluation.pairs import PairRows
from rewardsmith.statistics import clustered_bootstrap

PRIOR_SD = 10.0  # of every coefficient, in log-odds: nothing beside data, and finite where pairs are separable
STEPS = 50


def length_controlled(rows: PairRows, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Any]:
    """Accuracy and preference at equal lengths, ready for JSON; label ties are left out, score ties one half.

    length_controlled_accuracy    the share of right decisions at a length gap of 0: the scorer's verdict (right or
                                  wrong) regressed on a constant and tanh(length gap). A scorer that only sees length
                                  gets about 0.5; one that does not, with labels that do not either, its accuracy
    length_controlled_preference  the label's side regressed on the reward gap, in standard deviations, and tanh(length
                                  gap): the probability that the answer with a reward higher by one standard deviation
                                  is preferred, at equal lengths. 0.5: the reward says nothing beyond length. A reward
                                  that is another curve of length than this one can pass for more than length
    """
    rows = rows.where(rows.probability_P != TIE)
    if len(rows) == 0:
        nothing = {**Interval(None).to_json(), "n": 0}
        return {"length_controlled_accuracy": nothing, "length_controlled_preference": nothing}
    length_P = squashed(rows.chosen_length_P - rows.rejected_length_P)
    right_P = (1 + np.sign(rows.margin_P) * np.sign(rows.probability_P - TIE)) / 2
    reward_P = rows.margin_P / (np.sqrt(np.mean(rows.margin_P**2)) or 1.0)
    more: dict[str, Any] = {"draws": draws, "seed": seed}
    constant_P2 = np.stack([np.ones_like(length_P), length_P], axis=1)
    verdict = first_probability(constant_P2, right_P, rows.prompt_P, **more)
    # No constant: which side of a pair is written first says nothing.
    reward_P2 = np.stack([reward_P, length_P], axis=1)
    preference = first_probability(reward_P2, rows.probability_P, rows.prompt_P, **more)
    return {
        "length_controlled_accuracy": {**verdict.to_json(), "n": len(rows)},
        "length_controlled_preference": {**preference.to_json(), "n": len(rows)},
    }


def squashed(gap_P: Floats) -> Floats:
    """tanh(gap / s), s the root mean square gap: which side is written first says nothing, so the mean is 0."""
    scale = np.sqrt(np.mean(gap_P**2))
    return np.tanh(gap_P / scale) if scale > 0 else np.zeros_like(gap_P)


def logistic(features_PF: Floats, outcome_P: Floats) -> Floats:
    """[F] coefficients of a logistic regression; outcomes from 0 to 1. Newton's method, halved where it overshoots.

    A normal prior of standard deviation 10 on every coefficient keeps separable data finite.
    """
    coefficient_F = np.zeros(features_PF.shape[1])
    loss = _loss(features_PF, outcome_P, coefficient_F)
    for _ in range(STEPS):
        slope_F, curvature_FF = _slope(features_PF, outcome_P, coefficient_F)
        step_F = np.linalg.solve(curvature_FF, slope_F)
        while (new := _loss(features_PF, outcome_P, coefficient_F - step_F)) > loss and np.abs(step_F).max() > 1e-12:
            step_F /= 2
        coefficient_F, gain, loss = coefficient_F - step_F, loss - new, new
        if gain < 1e-12 * len(outcome_P):
            break
    return coefficient_F


def first_probability(
    features_PF: Floats,
    outcome_P: Floats,
    cluster_P: ArrayLike,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """sigmoid(first coefficient) of `logistic`, a probability, with its 95% interval by cluster.

    A draw takes one Newton step from the whole fit, whose slope and curvature are sums over clusters: the one-step
    bootstrap, which agrees with fitting each draw anew to first order. Source: Davison and Hinkley (1997), section 7.2;
    Shao and Tu (1995), section 3.1.
    """
    fitted_F = logistic(features_PF, outcome_P)
    n_features = len(fitted_F)
    chance_P = expit(features_PF @ fitted_F)
    slope_PF = (chance_P - outcome_P)[:, None] * features_PF
    outer_PS = np.einsum("pf,pg->pfg", features_PF, features_PF).reshape(len(features_PF), -1)
    curvature_PS = (chance_P * (1 - chance_P))[:, None] * outer_PS

    def statistic(sums_DS: Floats) -> Floats:
        slope_DF = sums_DS[:, :n_features] + fitted_F / PRIOR_SD**2
        curvature_DFF = sums_DS[:, n_features:].reshape(-1, n_features, n_features) + np.eye(n_features) / PRIOR_SD**2
        step_DF = np.linalg.solve(curvature_DFF, slope_DF[:, :, None])[:, :, 0]
        return np.asarray(expit(fitted_F[0] - step_DF[:, 0]))

    rows_PS = np.concatenate([slope_PF, curvature_PS], axis=1)
    return clustered_bootstrap(rows_PS, cluster_P, statistic, draws=draws, seed=seed)


def _loss(features_PF: Floats, outcome_P: Floats, coefficient_F: Floats) -> float:
    logit_P = features_PF @ coefficient_F
    prior = coefficient_F @ coefficient_F / (2 * PRIOR_SD**2)
    return float(np.sum(np.logaddexp(0, logit_P) - outcome_P * logit_P) + prior)


def _slope(features_PF: Floats, outcome_P: Floats, coefficient_F: Floats) -> tuple[Floats, Floats]:
    """First and second derivatives of the loss."""
    chance_P = expit(features_PF @ coefficient_F)
    slope_F = features_PF.T @ (chance_P - outcome_P) + coefficient_F / PRIOR_SD**2
    weighted_PF = (chance_P * (1 - chance_P))[:, None] * features_PF
    return slope_F, features_PF.T @ weighted_PF + np.eye(len(coefficient_F)) / PRIOR_SD**2
