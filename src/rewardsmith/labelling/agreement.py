"""How far those who label agree, from the pairs that more than one of them labelled; for the page, as it goes.

P  pairs
A  annotators
"""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from typing import Any

import numpy as np

from rewardsmith.evaluation.agreement import cohen_kappa, fleiss_kappa, krippendorff_alpha
from rewardsmith.refresh.records import JUDGED
from rewardsmith.refresh.store import Store
from rewardsmith.statistics import Interval

LABEL = {"tie": 0.0, "a": 1.0, "b": 2.0}
FEWEST = 5  # pairs that two annotators share, below which their kappa is not worth a line
MOST_LINES = 15
DRAWS = 500


class Agreement:
    """Agreement of a store's annotators. The prompts of pairs are remembered: they do not change."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.prompt_of: dict[int, int] = {}

    def report(self) -> dict[str, Any]:
        """{"n_pairs", "measures": [{"name", "value", "low", "high"}]}, ready for JSON."""
        votes: dict[int, dict[str, float]] = defaultdict(dict)
        for label in self.store.labels():
            if label.verdict in JUDGED:
                votes[label.comparison_id][label.annotator] = LABEL[label.verdict]
        shared = {pair: by for pair, by in votes.items() if len(by) > 1}
        if not shared:
            return {"n_pairs": 0, "measures": []}
        unknown = [pair for pair in shared if pair not in self.prompt_of]
        self.prompt_of |= {pair.id: pair.prompt.id for pair in self.store.comparisons(unknown)}
        names = sorted({name for by in shared.values() for name in by})
        labels_PA = np.array([[by.get(name, np.nan) for name in names] for by in shared.values()])
        cluster_P = np.array([self.prompt_of[pair] for pair in shared])
        measures = measures_of(labels_PA, names, cluster_P)
        return {"n_pairs": len(shared), "measures": [{"name": name, **found.to_json()} for name, found in measures]}


def measures_of(labels_PA: np.ndarray, names: list[str], cluster_P: np.ndarray) -> list[tuple[str, Interval]]:
    """Krippendorff's alpha of all; Fleiss' kappa where all labelled all; Cohen's kappa of each two, over what both
    labelled.
    """
    found = [("all (Krippendorff's alpha)", krippendorff_alpha(labels_PA, cluster_P, draws=DRAWS))]
    if len(names) > 2 and not np.isnan(labels_PA).any():
        found.append(("all (Fleiss' kappa)", fleiss_kappa(labels_PA, cluster_P, draws=DRAWS)))
    both = [
        (int(kept_P.sum()), first, second, kept_P)
        for first, second in combinations(range(len(names)), 2)
        if (kept_P := ~np.isnan(labels_PA[:, [first, second]]).any(1)).sum() >= FEWEST
    ]
    for n, first, second, kept_P in sorted(both, key=lambda row: -row[0])[:MOST_LINES]:
        kappa = cohen_kappa(labels_PA[kept_P, first], labels_PA[kept_P, second], cluster_P[kept_P], draws=DRAWS)
        found.append((f"{names[first]} and {names[second]} (Cohen's kappa, {n} pairs)", kappa))
    return found
