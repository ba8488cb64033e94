"""How far labellers agree beyond chance: Cohen's and Fleiss' kappa, Krippendorff's alpha. Nominal labels.

    P  items (pairs)
    A  labellers
    L  labels

Each is a function of column sums over items, so the bootstrap over whole prompts gives its interval. All are 1
for perfect agreement and 0 for chance, and None where every label is the same (chance explains all of it).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rewardsmith.data.schema import TIE, Group, Preference
from rewardsmith.statistics import DRAWS, Floats, Interval, clustered_bootstrap, clustered_mean

TIED, FIRST, SECOND = 0, 1, 2  # labels of a pair of answers, in the order of the file

# Reports -------------------------------------------------------------------------------------------


def agreement_report(
    groups: Sequence[Group], rewards: Sequence[Floats], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Any] | None:
    """A scorer's agreement with annotators beside theirs with each other, ready for JSON; None where no pair has two.

    scorer_with_annotator    share of votes that name the answer with the higher reward; equal rewards agree with none
    annotator_with_annotator the same between two votes on one pair. In both, votes for a tie are left out
    all_agree                share of pairs whose annotators all say the same, ties included
    kappa_with_annotator     Cohen's kappa of scorer and each annotator over three labels, by column of the file
    among                    Cohen's kappa by two annotators, Fleiss' kappa, Krippendorff's alpha

    Where pairs have different numbers of votes, nobody knows whose is whose: then only alpha is there of the kappas.
    """
    voted = [(g, p) for g, group in enumerate(groups) for p in group.preferences if len(p.votes) > 1]
    if not voted:
        return None
    n_annotators = max(len(p.votes) for _, p in voted)
    labels_PA = np.full((len(voted), n_annotators), np.nan)
    for row_A, (_, preference) in zip(labels_PA, voted, strict=True):
        row_A[: len(preference.votes)] = labels_of(preference)
    said_P = np.array([verdict(rewards[g], p) for g, p in voted], dtype=np.int64)
    cluster_P = np.array([groups[g].prompt_id for g, _ in voted])
    more: dict[str, Any] = {"draws": draws, "seed": seed}
    names = [f"annotator{a + 1}" for a in range(n_annotators)]
    known = not np.isnan(labels_PA).any()
    return {
        "n_pairs": len(voted),
        "n_annotators": n_annotators,
        "scorer_with_annotator": _same_votes(said_P[:, None], labels_PA, cluster_P, **more).to_json(),
        "annotator_with_annotator": _same_votes(labels_PA, labels_PA, cluster_P, **more).to_json(),
        "all_agree": clustered_mean(full_agreement(labels_PA), cluster_P, **more).to_json(),
        "kappa_with_annotator": {
            name: cohen_kappa(said_P, labels_P, cluster_P, **more).to_json()
            for name, labels_P in zip(names, labels_PA.T, strict=True)
            if known
        },
        "among": {n: i.to_json() for n, i in among_annotators(labels_PA, names, cluster_P, **more).items()},
    }


def labels_of(preference: Preference) -> list[int]:
    """Each annotator's label: which answer of the two, in the order of the file, or 0 for a tie."""
    first = preference.chosen < preference.rejected
    chosen, rejected = (FIRST, SECOND) if first else (SECOND, FIRST)
    return [TIED if vote == TIE else chosen if vote > TIE else rejected for vote in preference.votes]


def verdict(reward_K: Floats, preference: Preference) -> int:
    """The scorer's label of the pair; 0 at equal rewards."""
    first, second = sorted((preference.chosen, preference.rejected))
    return FIRST if reward_K[first] > reward_K[second] else SECOND if reward_K[second] > reward_K[first] else TIED


def among_annotators(
    labels_PA: ArrayLike, names: Sequence[str], cluster_P: ArrayLike, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Interval]:
    """Cohen's kappa of each pair of annotators and Fleiss' kappa where all labelled all, and Krippendorff's alpha."""
    labels_PA = np.asarray(labels_PA, dtype=np.float64)
    more: dict[str, Any] = {"draws": draws, "seed": seed}
    found: dict[str, Interval] = {}
    if not np.isnan(labels_PA).any():
        for a, b in combinations(range(len(names)), 2):
            kappa = cohen_kappa(labels_PA[:, a], labels_PA[:, b], cluster_P, **more)
            found[f"kappa, {names[a]} and {names[b]}"] = kappa
        found["Fleiss' kappa"] = fleiss_kappa(labels_PA, cluster_P, **more)
    found["Krippendorff's alpha"] = krippendorff_alpha(labels_PA, cluster_P, **more)
    return found


def _same_votes(first_PA: NDArray[Any], second_PB: Floats, cluster_P: ArrayLike, *, draws: int, seed: int) -> Interval:
    """Share of equal labels over two votes on one pair, the second no tie; of one matrix, of two different annotators.

    Where the first is an annotator too, it is no tie either.
    """
    own = first_PA is second_PB
    rows_P2 = np.zeros((len(first_PA), 2))
    for a in range(first_PA.shape[1]):
        for b in range(second_PB.shape[1]):
            if own and a == b:
                continue
            counts_P = (second_PB[:, b] > TIED) & ~(own & ~(first_PA[:, a] > TIED))  # NaN is greater than nothing
            rows_P2 += np.stack([counts_P & (first_PA[:, a] == second_PB[:, b]), counts_P], axis=1)
    return clustered_bootstrap(rows_P2, cluster_P, draws=draws, seed=seed)


# Measures ------------------------------------------------------------------------------------------


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

    return clustered_bootstrap(confusion_PS, cluster_P, statistic, draws=draws, seed=seed)


def fleiss_kappa(labels_PA: ArrayLike, cluster_P: ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Two or more labellers, each of whom labelled every item. Source: Fleiss (1971)."""
    counts_PL = _one_hot(np.asarray(labels_PA)).sum(1)
    n_labellers = np.asarray(labels_PA).shape[1]
    agreeing_P = (counts_PL * (counts_PL - 1)).sum(1) / (n_labellers * (n_labellers - 1))
    rows_PS = np.column_stack([agreeing_P, np.ones(len(counts_PL)), counts_PL])

    def statistic(sums_DS: Floats) -> Floats:
        observed_D = sums_DS[:, 0] / sums_DS[:, 1]
        return _beyond_chance(observed_D, (_share(sums_DS[:, 2:]) ** 2).sum(1))

    return clustered_bootstrap(rows_PS, cluster_P, statistic, draws=draws, seed=seed)


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
    return clustered_bootstrap(rows_PS, kept, statistic, draws=draws, seed=seed)


def full_agreement(labels_PA: ArrayLike) -> Sequence[float]:
    """1.0 for the items on which all labellers say the same, else 0.0; NaN where one did not label an item."""
    labels_PA = np.asarray(labels_PA, dtype=np.float64)
    return ((labels_PA == labels_PA[:, :1]) | np.isnan(labels_PA)).all(1).astype(np.float64).tolist()


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
