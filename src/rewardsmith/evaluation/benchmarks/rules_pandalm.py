"""The rule of PandaLM's test set: two answers, three annotators who may call a tie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rewardsmith.data.schema import Group
from rewardsmith.evaluation.agreement import among_annotators, cohen_kappa, full_agreement, labels_of, verdict
from rewardsmith.evaluation.benchmarks.outcomes import Figure, Outcome, Outcomes, checked_rewards, result
from rewardsmith.statistics import DRAWS, Interval

LABELS = (0, 1, 2)  # tie, first answer, second answer


def pandalm(
    groups: Sequence[Group], rewards: Sequence[ArrayLike], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Any]:
    """PandaLM (2306.05087): accuracy on the pairs that the annotators' majority decides; equal rewards are wrong.

    A scalar reward calls no ties, so the pairs whose majority is a tie are not in the score. `three_class` is
    the publisher's own count over all pairs, where the scorer's label is a tie only at equal rewards:
    accuracy and the plain means over the three labels of precision, recall and F1.

    accuracy by annotator        on the pairs that this annotator decided
    kappa with annotator         Cohen's, over all three labels
    annotators among themselves  Cohen's kappa by pair, Fleiss' kappa, Krippendorff's alpha, share of full agreement

    Where three annotators name three labels the majority is the first one's, as in the publisher's code
    (WeOpenML/PandaLM, data/compute_metrics.py); `three_way_splits` counts those.
    """
    rewards = checked_rewards(groups, rewards)
    labels_PA = np.array([labels_of(group.preferences[0]) for group in groups], dtype=np.int64)
    said_P = np.array([verdict(r, group.preferences[0]) for r, group in zip(rewards, groups)], dtype=np.int64)
    majority_P = np.array([Counter(row).most_common(1)[0][0] for row in labels_PA.tolist()])
    names = [f"annotator{a + 1}" for a in range(labels_PA.shape[1])]
    rows = [Outcome(p, "all agree", value) for p, value in enumerate(full_agreement(labels_PA))]
    for part, truth_P in (("decided", majority_P), *zip(names, labels_PA.T, strict=True)):
        decided = np.flatnonzero(truth_P != 0).tolist()
        rows += [Outcome(p, part, float(said_P[p] == truth_P[p]), int(said_P[p] == 0)) for p in decided]
    outcomes = Outcomes(groups, rows, draws=draws, seed=seed)
    prompt_P = [group.prompt_id for group in groups]
    more: dict[str, Any] = {"draws": draws, "seed": seed}
    with_each = {name: cohen_kappa(said_P, labels_P, prompt_P, **more) for name, labels_P in zip(names, labels_PA.T)}
    return result(
        outcomes,
        {"decided": 1.0},
        score_is="accuracy on the pairs that the majority of the annotators decides; equal rewards are wrong",
        parts={
            "accuracy by annotator": {name: outcomes.mean(name) for name in names},
            "kappa with annotator": {name: _figure(found, len(groups)) for name, found in with_each.items()},
        },
        reference={
            "annotators among themselves": {
                **{n: _figure(i, len(groups)) for n, i in among_annotators(labels_PA, names, prompt_P, **more).items()},
                "all agree": outcomes.mean("all agree"),
            }
        },
        three_class=three_class(majority_P, said_P),
        majority_ties=int((majority_P == 0).sum()),
        three_way_splits=int(sum(len(set(row)) == 3 for row in labels_PA.tolist())),
    )


def _figure(interval: Interval, n: int) -> Figure:
    return {**interval.to_json(), "n": n, "score_ties": 0}


def three_class(truth_P: ArrayLike, said_P: ArrayLike) -> dict[str, float]:
    """Accuracy, and means over the three labels of precision, recall and F1 (0 where one is 0/0)."""
    truth_P, said_P = np.asarray(truth_P), np.asarray(said_P)
    scores = []
    for label in LABELS:
        hits = float(((truth_P == label) & (said_P == label)).sum())
        precision, recall = _over(hits, (said_P == label).sum()), _over(hits, (truth_P == label).sum())
        scores.append((precision, recall, _over(2 * precision * recall, precision + recall)))
    precision, recall, f1 = np.mean(scores, axis=0).tolist()
    return {
        "accuracy": float((truth_P == said_P).mean()),
        "macro_precision": precision,
        "macro_recall": recall,
        "macro_f1": f1,
    }


def _over(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
