"""Numbers over rows: accuracy, calibration, length, and intervals clustered by prompt. numpy only.

    P  pairs: margin_P is the reward of one side minus the other's, probability_P the label for that side
    R  responses
    C  clusters (prompts)
    D  bootstrap draws

A pair may be written from either side: turning it round (margin -> -margin, probability -> 1 -
probability) changes no number here. A probability of 0.5 is a label tie, a margin of zero a score tie.
Functions ending in one value per pair leave the averaging to the caller, who can put an interval on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from rewardsmith.data.schema import TIE

# Named again here, so that whoever reports numbers finds intervals beside them.
from rewardsmith.statistics import DRAWS as DRAWS
from rewardsmith.statistics import Floats as Floats
from rewardsmith.statistics import Interval as Interval
from rewardsmith.statistics import Ints as Ints
from rewardsmith.statistics import clustered_bootstrap as clustered_bootstrap
from rewardsmith.statistics import clustered_mean as clustered_mean
from rewardsmith.statistics import number_or_none

# Accuracy ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Accuracy:
    """Strict accuracy over `n` pairs that are no label tie.

    score_ties  of those n, pairs scored equal: wrong, so that a constant scorer gets 0 (RewardBench)
    label_ties  pairs labelled as ties: left out of `interval` and of `n`
    """

    interval: Interval
    n: int
    score_ties: int
    label_ties: int


def accuracy(
    margin_P: ArrayLike,
    probability_P: ArrayLike,
    cluster_P: ArrayLike,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Accuracy:
    """Share of pairs whose better side has the strictly higher reward. A score tie counts as wrong."""
    margin_P, probability_P = np.asarray(margin_P), np.asarray(probability_P)
    decided_P = probability_P != TIE
    correct_P = is_correct(margin_P, probability_P)[decided_P]
    return Accuracy(
        interval=clustered_mean(correct_P, np.asarray(cluster_P)[decided_P], draws=draws, seed=seed),
        n=int(decided_P.sum()),
        score_ties=int((margin_P[decided_P] == 0).sum()),
        label_ties=int((~decided_P).sum()),
    )


def is_correct(margin_P: ArrayLike, probability_P: ArrayLike) -> NDArray[np.bool_]:
    """Whether margin and label lean strictly the same way: False for ties of either kind."""
    return np.sign(margin_P) * np.sign(np.asarray(probability_P) - TIE) > 0


# Calibration ---------------------------------------------------------------------------------------


def log_loss(margin_P: ArrayLike, probability_P: ArrayLike) -> Floats:
    """Cross-entropy of the label under P = sigmoid(margin), per pair, in nats. log 2 is a guess.

    Soft labels and label ties count as what they are: p log(1 + e^-m) + (1 - p) log(1 + e^m), which is
    least at the label's own entropy.
    """
    margin_P, probability_P = np.asarray(margin_P, np.float64), np.asarray(probability_P, np.float64)
    return probability_P * np.logaddexp(0, -margin_P) + (1 - probability_P) * np.logaddexp(0, margin_P)


def brier(margin_P: ArrayLike, probability_P: ArrayLike) -> Floats:
    """(sigmoid(margin) - probability)^2 per pair: 0.25 is a guess on certain labels. Source: Brier (1950)."""
    return (expit(np.asarray(margin_P, np.float64)) - np.asarray(probability_P, np.float64)) ** 2


def expected_calibration_error(margin_P: ArrayLike, probability_P: ArrayLike, n_bins: int = 10) -> float | None:
    """Mean gap between confidence and correctness over bins of equal mass; None without pairs.

    Which side of a pair is written first means nothing, so a pair is seen from the side the model
    prefers: confidence sigmoid(|margin|) >= 0.5, correctness the label's probability of that side (one
    half at a score tie). Equal confidences share a bin, so that the order of rows plays no part; bins
    are then uneven. Biased upwards by the noise of each bin: compare only at like sample sizes.
    Source: Naeini et al. (2015); equal mass: Nguyen and O'Connor (1508.05154).
    """
    margin_P, probability_P = np.asarray(margin_P, np.float64), np.asarray(probability_P, np.float64)
    n = len(margin_P)
    if n == 0:
        return None
    confidence_P = expit(np.abs(margin_P))
    correctness_P = TIE + np.sign(margin_P) * (probability_P - TIE)
    bin_P = np.searchsorted(np.sort(confidence_P), confidence_P, side="left") * n_bins // n
    gap_B = np.bincount(bin_P, weights=confidence_P - correctness_P, minlength=n_bins)
    return float(np.abs(gap_B).sum() / n)


def calibration_error_by_chance(
    margin_P: ArrayLike, n_bins: int = 10, *, level: float = 0.95, draws: int = 400, seed: int = 0
) -> float | None:
    """What `expected_calibration_error` stays below in `level` of the cases where the probabilities are right.

    Labels are drawn from the probabilities themselves: what is left is the noise of the bins. None without pairs.
    """
    margin_P = np.abs(np.asarray(margin_P, np.float64))
    if len(margin_P) == 0:
        return None
    right_DP = np.random.default_rng(seed).random((draws, len(margin_P))) < expit(margin_P)
    found = [expected_calibration_error(margin_P, right_P.astype(np.float64), n_bins) for right_P in right_DP]
    return float(np.quantile(np.array(found, np.float64), level))


# Length --------------------------------------------------------------------------------------------


def length_matched(
    chosen_length_P: ArrayLike, rejected_length_P: ArrayLike, tolerance: float = 0.1
) -> NDArray[np.bool_]:
    """Pairs whose lengths differ by at most `tolerance` of the longer one."""
    a_P, b_P = np.asarray(chosen_length_P, np.float64), np.asarray(rejected_length_P, np.float64)
    # One part in 1e12 of slack: 90 against 100 is within 10%, though 0.1 is not quite a tenth.
    return np.abs(a_P - b_P) <= tolerance * np.maximum(a_P, b_P) * (1 + 1e-12)


def longer_wins(chosen_length_P: ArrayLike, rejected_length_P: ArrayLike, probability_P: ArrayLike) -> Floats:
    """Score per pair of "prefer the longer response": 1 right, 0 wrong, one half where lengths are equal."""
    difference_P = np.asarray(chosen_length_P, np.float64) - np.asarray(rejected_length_P, np.float64)
    return (1 + np.sign(difference_P) * np.sign(np.asarray(probability_P) - TIE)) / 2


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rho of two columns over responses.

    within     mean over prompts of rho among a prompt's responses, each prompt counting once
    n_prompts  prompts in that mean: at least two responses, and neither column constant
    pooled     rho over all responses, prompts mixed; None where undefined
    """

    within: Interval
    n_prompts: int
    pooled: float | None


def rank_correlation_within_prompt(
    rewards_R: ArrayLike, lengths_R: ArrayLike, prompt_R: ArrayLike, *, draws: int = DRAWS, seed: int = 0
) -> RankCorrelation:
    """How far rewards follow lengths among answers to one prompt, and pooled over prompts."""
    rewards_R, lengths_R = np.asarray(rewards_R, np.float64), np.asarray(lengths_R, np.float64)
    _, prompt_R = np.unique(np.asarray(prompt_R), return_inverse=True)
    if len(rewards_R) == 0:
        return RankCorrelation(Interval(None), 0, None)
    rho_C = spearman_by_group(rewards_R, lengths_R, prompt_R)
    rho_C = rho_C[~np.isnan(rho_C)]
    within = clustered_mean(rho_C, np.arange(len(rho_C)), draws=draws, seed=seed)
    pooled = spearman_by_group(rewards_R, lengths_R, np.zeros_like(prompt_R))[0]
    return RankCorrelation(within, len(rho_C), number_or_none(pooled))


def spearman_by_group(x_R: Floats, y_R: Floats, group_R: Ints) -> Floats:
    """Pearson's r of the ranks within each group 0 .. G-1; NaN where a column is constant."""
    x_R, y_R = _centred_ranks(x_R, group_R), _centred_ranks(y_R, group_R)
    xy_G, xx_G, yy_G = (np.bincount(group_R, weights=w) for w in (x_R * y_R, x_R * x_R, y_R * y_R))
    scale_G = np.sqrt(xx_G * yy_G)
    return np.divide(xy_G, scale_G, out=np.full_like(scale_G, np.nan), where=scale_G > 0)


def _centred_ranks(values_R: Floats, group_R: Ints) -> Floats:
    """Rank of each value within its group (ties share their mean rank), less the group's mean rank."""
    order_R = np.lexsort((values_R, group_R))
    value_R, sorted_R = values_R[order_R], group_R[order_R]
    new_R = np.ones(len(order_R), dtype=bool)  # starts a run of equal values in one group
    new_R[1:] = (value_R[1:] != value_R[:-1]) | (sorted_R[1:] != sorted_R[:-1])
    start = np.flatnonzero(new_R)
    length = np.diff(np.append(start, len(order_R)))
    rank_R = np.empty(len(order_R))
    rank_R[order_R] = np.repeat(start + (length - 1) / 2, length)  # offset by the rows of earlier groups
    mean_G = np.bincount(group_R, weights=rank_R) / np.bincount(group_R)
    return rank_R - mean_G[group_R]
