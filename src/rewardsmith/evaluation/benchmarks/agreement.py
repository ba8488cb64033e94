"""How far labellers agree beyond chance: Cohen's and Fleiss' kappa, Krippendorff's alpha. Nominal labels.

    P  items (pairs)
    A  labellers
    L  labels

Each is a function of column sums over items, so the bootstrap over whole prompts gives its interval. All are 1
for perfect agreement and 0 for chance, and None where every label is the same (chance explains all of it).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rewardsmith.evaluation.benchmarks.outcomes import interval_of
from rewardsmith.statistics import DRAWS, Floats, Interval

Labels = NDArray[np.int64]


def cohen_kappa(
    first_P: ArrayLike, second_P: ArrayLike, cluster_P: ArrayLike, *, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Two labellers. Source: Cohen (1960)."""
    both_P2 = np.stack([np.asarray(first_P), np.asarray(second_P)], axis=1)
    one_hot_P2L = _one_hot(both_P2)
    n = one_hot_P2L.shape[2]
    confusion_PS = np.einsum("pl,pm->plm", one_hot_P2L[:, 0], one_hot_P2L[:, 1]).reshape(len(both_P2), n * n)

    def statistic(sums_DS: Floats) -> Floats:
        share_DLL = _share(sums_DS).reshape(-1, n, n)
        observed_D = np.trace(share_DLL, axis1=1, axis2=2)
        expected_D = (share_DLL.sum(1) * share_DLL.sum(2)).sum(1)
        return _beyond_chance(observed_D, expected_D)

    return interval_of(confusion_PS, cluster_P, statistic, draws=draws, seed=seed)


def fleiss_kappa(labels_PA: ArrayLike, cluster_P: ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Two or more labellers, each of whom labelled every item. Source: Fleiss (1971)."""
    counts_PL = _one_hot(np.asarray(labels_PA)).sum(1)
    n_labellers = np.asarray(labels_PA).shape[1]
    agreeing_P = (counts_PL * (counts_PL - 1)).sum(1) / (n_labellers * (n_labellers - 1))
    rows_PS = np.column_stack([agreeing_P, np.ones(len(counts_PL)), counts_PL])

    def statistic(sums_DS: Floats) -> Floats:
        observed_D = sums_DS[:, 0] / sums_DS[:, 1]
        return _beyond_chance(observed_D, (_share(sums_DS[:, 2:]) ** 2).sum(1))

    return interval_of(rows_PS, cluster_P, statistic, draws=draws, seed=seed)


def krippendorff_alpha(labels_PA: ArrayLike, cluster_P: ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Any number of labellers; NaN where one did not label an item. Source: Krippendorff (2011), nominal."""
    labels_PA = np.asarray(labels_PA, dtype=np.float64)
    counts_PL = _one_hot(labels_PA).sum(1)
    m_P = counts_PL.sum(1)
    counts_PL, m_P = counts_PL[m_P > 1], m_P[m_P > 1]
    n = counts_PL.shape[1]
    # Ordered pairs of labels of one item, each item weighing as many values as it has.
    pairs_PLL = np.einsum("pl,pm->plm", counts_PL, counts_PL) - np.einsum("pl,lm->plm", counts_PL, np.eye(n))
    rows_PS = (pairs_PLL / (m_P - 1)[:, None, None]).reshape(len(m_P), n * n)

    def statistic(sums_DS: Floats) -> Floats:
        sums_DLL = sums_DS.reshape(-1, n, n)
        values_DL = sums_DLL.sum(2)
        total_D = values_DL.sum(1)
        disagreeing_D = total_D - np.trace(sums_DLL, axis1=1, axis2=2)
        by_chance_D = (total_D**2 - (values_DL**2).sum(1)) / (total_D - 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(by_chance_D > 0, 1 - disagreeing_D / by_chance_D, np.nan)

    kept = np.asarray(cluster_P)[(~np.isnan(labels_PA)).sum(1) > 1]
    return interval_of(rows_PS, kept, statistic, draws=draws, seed=seed)


def full_agreement(labels_PA: ArrayLike) -> Sequence[float]:
    """1.0 for the items on which all labellers say the same, else 0.0."""
    labels_PA = np.asarray(labels_PA)
    return (labels_PA == labels_PA[:, :1]).all(1).astype(np.float64).tolist()


def _one_hot(labels_PA: NDArray[np.generic]) -> Floats:
    """[P, A, L] indicators over the labels that occur; all 0 where a label is NaN."""
    labels_PA = labels_PA.astype(np.float64)
    values_L = np.unique(labels_PA[~np.isnan(labels_PA)])
    return (labels_PA[:, :, None] == values_L).astype(np.float64)


def _share(sums_DS: Floats) -> Floats:
    return sums_DS / sums_DS.sum(1, keepdims=True)


def _beyond_chance(observed_D: Floats, expected_D: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected_D < 1, (observed_D - expected_D) / (1 - expected_D), np.nan)
