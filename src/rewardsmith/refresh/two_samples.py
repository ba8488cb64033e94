"""Two samples, one answer a prompt: do they differ, by how much, and could a difference be seen? numpy only.

    N  answers of both samples, the new ones flagged    B  deals of the flags, the one at hand first    F  features

Every p-value is that of a permutation test: flags are dealt out anew, and the share of deals (the one at hand among
them) whose statistic is at least as large is the p-value. Where the two samples are alike, it is at most x with a
chance of at most x, whatever the distribution and however few the answers. Source: Phipson and Smyth (2010).

Every effect is also said in standard deviations of a normal distribution that is moved by s, so that one threshold
serves all: a KS distance of 2 Phi(s / 2) - 1, an AUC of Phi(s / sqrt 2).
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from rewardsmith.statistics import Floats, Ints

NORMAL = NormalDist()
FOLDS = 5


def deal(n_new: int, n: int, permutations: int, seed: int) -> np.ndarray:
    """[1 + B, N] flags with `n_new` of them set: the last ones first, then at random."""
    rng = np.random.default_rng(seed)
    flags_BN = np.zeros((permutations + 1, n), dtype=bool)
    flags_BN[0, n - n_new :] = True
    for b in range(1, permutations + 1):
        flags_BN[b, rng.permutation(n)[:n_new]] = True
    return flags_BN


def p_value(statistic_B: Floats) -> float:
    """Share of deals at least as large as the first; ties count, whatever their rounding."""
    close = 1e-9 * max(1.0, abs(float(statistic_B[0])))
    return float((statistic_B >= statistic_B[0] - close).mean())


def joint_p_value(statistics_SB: Floats) -> float:
    """The p-value of several statistics of the same deals taken together: that of the smallest of their p-values, which
    is itself a statistic of each deal. Source: Westfall and Young (1993), min-p."""
    close_S1 = 1e-9 * np.maximum(1.0, np.abs(statistics_SB[:, :1]))
    rounded_SB = np.round(statistics_SB / close_S1)
    n = rounded_SB.shape[1]
    p_SB = np.stack([(n - np.searchsorted(np.sort(row_B), row_B, side="left")) / n for row_B in rounded_SB])
    return p_value(-p_SB.min(axis=0))


def mean_shifts(value_N: Floats, flags_BN: np.ndarray, upward: bool = False) -> Floats:
    """[B] size of the difference of the means; `upward`, the new mean less the old one."""
    n_new = int(flags_BN[0].sum())
    sum_B = flags_BN @ value_N
    gap_B = sum_B / n_new - (value_N.sum() - sum_B) / (len(value_N) - n_new)
    return np.asarray(gap_B if upward else np.abs(gap_B))


def ks_distances(value_N: Floats, flags_BN: np.ndarray, upward: bool = False) -> Floats:
    """[B] largest distance between the two distribution functions; `upward`, by how much the new one lies below."""
    order_N = np.argsort(value_N, kind="stable")
    last_N = np.append(np.diff(value_N[order_N]) != 0, True)  # of equal values, where the functions have both stepped
    flags_BN = flags_BN[:, order_N]
    n_new = int(flags_BN[0].sum())
    new_BN = np.cumsum(flags_BN, axis=1, dtype=np.int32)[:, last_N]
    place_N = np.flatnonzero(last_N) + 1
    n_old = flags_BN.shape[1] - n_new
    gap_BN = (place_N - new_BN) / n_old - new_BN / n_new
    return np.asarray((gap_BN if upward else np.abs(gap_BN)).max(axis=1))


def out_of_fold_scores(features_NF: Floats, flags_BN: np.ndarray, fold_N: Ints, penalty: float) -> Floats:
    """[B, N] how new each answer looks to a linear classifier that was fitted to the other folds.

    Ridge regression of the flag on standardised features: its direction is that of a regularised linear discriminant,
    and it is linear in the flags, so that all deals cost little more than one.
    """
    scores_BN = np.zeros(flags_BN.shape)
    for fold in range(int(fold_N.max()) + 1):
        out_N = fold_N == fold
        x_TF, y_BT = features_NF[~out_N], flags_BN[:, ~out_N].astype(float)
        mean_F = x_TF.mean(axis=0)
        centred_TF = x_TF - mean_F
        gram_FF = centred_TF.T @ centred_TF
        gram_FF[np.diag_indices_from(gram_FF)] += penalty * len(x_TF)
        weights_FB = np.linalg.solve(gram_FF, centred_TF.T @ (y_BT - y_BT.mean(axis=1, keepdims=True)).T)
        scores_BN[:, out_N] = ((features_NF[out_N] - mean_F) @ weights_FB).T
    return scores_BN


def auc(score_N: Floats, new_N: np.ndarray, fold_N: Ints) -> float:
    """Chance that a new answer scores above an old one of the same fold, ties one half; 0.5 without such a pair.

    Within folds: each has a classifier of its own, and their scores are not on one scale.
    """
    won = total = 0.0
    for fold in range(int(fold_N.max()) + 1):
        in_N = fold_N == fold
        score, new = score_N[in_N], new_N[in_N]
        n_new, n_old = int(new.sum()), int((~new).sum())
        if n_new and n_old:
            won += float(mid_ranks(score)[new].sum()) - n_new * (n_new + 1) / 2
            total += n_new * n_old
    return won / total if total else 0.5


def mid_ranks(value_N: Floats) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    _, level_N, count_V = np.unique(value_N, return_inverse=True, return_counts=True)
    end_V = np.cumsum(count_V)
    return np.asarray((end_V - (count_V - 1) / 2)[level_N], np.float64)


def holm(p: list[float]) -> list[float]:
    """Adjusted p-values: the chance that any of true null hypotheses falls below a level is at most that level."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate([(len(p) - i) * p[k] for i, k in enumerate(order)])
    found = np.empty(len(p))
    found[order] = np.minimum(stepped, 1.0)
    return found.tolist()


def ks_in_sd(distance: float) -> float:
    """How far a normal distribution is moved, in its SD, at this KS distance."""
    return 2 * NORMAL.inv_cdf(min((1 + distance) / 2, 1 - 1e-12))


def auc_in_sd(value: float) -> float:
    """The same at this AUC; below 0 where the classifier is worse than chance."""
    return float(np.sqrt(2) * NORMAL.inv_cdf(min(max(value, 1e-12), 1 - 1e-12)))


def detectable_sd(n_new: int, n_old: int, level: float, power: float = 0.8) -> float:
    """The shift of a normal mean, in SD, that a two-sided test of this level sees with this power."""
    z = NORMAL.inv_cdf(1 - level / 2) + NORMAL.inv_cdf(power)
    return float(z * np.sqrt(1 / n_new + 1 / n_old))
