"""Labels that a model of the data doubts: a review list, for people to look at.

Each decided pair gets p, the probability of its label by a model that never saw that prompt: a logistic regression on
the differences of surface features and of the words of the two answers, fitted on the other folds; or what the caller's
reward model says. Confident learning then says which labels are more likely wrong than right (cleanlab's
`find_label_issues`, Northcutt et al. 1911.00068); the lowest p comes first.

    P  decided pairs, in the order of the groups
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewardsmith.data.schema import Group, Preference, text_of
from rewardsmith.data.split import opening_of
from rewardsmith.data.surface import (
    FEATURES,
    FEWEST_PAIRS,
    FEWEST_PROMPTS,
    FOLDS,
    folds,
    sample_pairs,
    scale,
    surface_features,
)
from rewardsmith.errors import DataError
from rewardsmith.statistics import Floats
from rewardsmith.temperature import calibrated, fit_temperature

MOST_PAIRS = 50_000  # that are looked at
WORDS = 20_000  # of the vocabulary
PENALTY = 10.0  # on surface and words together: a model that is sure of little doubts little
WORD_STRENGTH = 3.0  # of the words beside the surface, as the inverse of their penalty
NAMED = 3  # features or words in a reason


@dataclass(frozen=True)
class Doubt:
    """What a model makes of the labels: the pairs, [P] the probability of each label, and the reasons."""

    pairs: list[tuple[Group, Preference]]
    p_label_P: Floats
    reason_P: list[str]


def decided_pairs(groups: Sequence[Group], seed: int = 0) -> list[tuple[Group, Preference]]:
    """(group, preference) of all decided pairs, or of at most 50,000 drawn from them."""
    kept = sample_pairs([[p for p in group.preferences if not p.is_tie] for group in groups], MOST_PAIRS, seed)
    return [(group, p) for group, pairs in zip(groups, kept, strict=True) for p in pairs]


def review(doubt: Doubt, most: int | None = None) -> list[dict[str, Any]]:
    """The labels that are more likely wrong than right, the most doubtful first: rank, id, source, chosen_index,
    rejected_index, p_label, reason, prompt, chosen, rejected, votes.
    """
    found = issues(doubt.p_label_P)
    return [
        {
            "rank": rank,
            "id": group.id,
            "source": group.source,
            "chosen_index": p.chosen,
            "rejected_index": p.rejected,
            "p_label": float(doubt.p_label_P[i]),
            "reason": doubt.reason_P[i],
            "prompt": text_of(group.prompt),
            "chosen": text_of(group.responses[p.chosen]),
            "rejected": text_of(group.responses[p.rejected]),
            "votes": list(p.votes),
        }
        for rank, i in enumerate(found[:most], 1)
        for group, p in [doubt.pairs[i]]
    ]


def issues(p_label_P: Floats) -> list[int]:
    """Numbers of the pairs whose label is likely wrong, the lowest probability first.

    A pair has no first and second class: which side is written first says nothing. So each is given to confident
    learning twice, once from either side, and both classes have the same threshold.
    """
    from cleanlab.filter import find_label_issues

    n = len(p_label_P)
    right_P2, turned_P2 = np.stack([p_label_P, 1 - p_label_P], 1), np.stack([1 - p_label_P, p_label_P], 1)
    label = np.concatenate([np.zeros(n, dtype=np.int64), np.ones(n, dtype=np.int64)])
    flagged = find_label_issues(label, np.concatenate([right_P2, turned_P2]), n_jobs=1)[:n]
    return sorted(np.flatnonzero(flagged).tolist(), key=lambda i: (p_label_P[i], i))


# -- the model of the data itself -----------------------------------------------------------------------------------


def by_the_data(groups: Sequence[Group], seed: int = 0) -> Doubt:
    """The labels by a model of the surface and the words of the answers, fitted to the other prompts' labels.

    Raises DataError where there are fewer than 20 decided pairs or 10 opening turns.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    pairs = decided_pairs(groups, seed)
    opening_P = [opening_of(group) for group, _ in pairs]
    number = {opening: i for i, opening in enumerate(dict.fromkeys(opening_P))}
    if len(pairs) < FEWEST_PAIRS or len(number) < FEWEST_PROMPTS:
        raise DataError(
            f"{len(pairs)} decided pairs over {len(number)} prompts are too few to tell which labels are doubtful; at "
            f"least {FEWEST_PAIRS} over {FEWEST_PROMPTS} are needed, or a reward model (--model)"
        )
    fold_P = folds(list(number), seed)[[number[opening] for opening in opening_P]]
    x_PF, names = columns(pairs)
    side_P = np.where(np.arange(len(pairs)) % 2, 1.0, -1.0)  # turned round: both outcomes have to be there
    score_P = np.zeros(len(pairs))
    against_P = [""] * len(pairs)
    for fold in range(FOLDS):
        held, rest = np.flatnonzero(fold_P == fold), np.flatnonzero(fold_P != fold)
        model = LogisticRegression(C=1 / PENALTY, fit_intercept=False, max_iter=1000)
        with threadpool_limits(1):
            model.fit(x_PF[rest].multiply(side_P[rest, None]).tocsr(), side_P[rest])
        weight_F = model.coef_[0]
        score_P[held] = x_PF[held] @ weight_F
        for i in held:
            against_P[i] = against(x_PF[i], weight_F, names)
    p_label_P = calibrated(score_P, temperature_of(score_P))
    return Doubt(pairs, p_label_P, [f"{p:.0%} by answers to other prompts; {a}" for p, a in zip(p_label_P, against_P)])


def temperature_of(margin_P: Floats) -> float:
    """The temperature at which margins fit their own labels; DataError where they say nothing about them."""
    fit = fit_temperature(margin_P, np.ones(len(margin_P)))
    if fit.status == "separable":  # every label is as predicted: none is doubtful
        return 1.0
    if fit.status != "fitted" or fit.value is None:
        raise DataError(
            f"the {len(margin_P)} labels cannot be told better than by chance, so none can be doubted; with a good "
            "reward model (--model) they may"
        )
    return fit.value


def columns(pairs: Sequence[tuple[Group, Preference]]) -> tuple[Any, list[str]]:
    """(sparse [P, F] differences chosen minus rejected of surface features and words, names of the columns)."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    index: dict[tuple[int, int], int] = {}
    texts: list[str] = []
    for group, p in pairs:
        for k in (p.chosen, p.rejected):
            if (id(group), k) not in index:
                index[id(group), k] = len(texts)
                texts.append(text_of(group.responses[k]))
    chosen_P = [index[id(group), p.chosen] for group, p in pairs]
    rejected_P = [index[id(group), p.rejected] for group, p in pairs]
    surface_RF = np.array([surface_features(text) for text in texts])
    difference_PF = surface_RF[chosen_P] - surface_RF[rejected_P]
    blocks = [csr_matrix(difference_PF / scale(difference_PF))]
    names = [feature.name for feature in FEATURES]
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, max_features=WORDS, sublinear_tf=True)
    try:
        words_RF = words.fit_transform(texts)
    except ValueError:  # no word is there twice
        return blocks[0], names
    blocks.append(WORD_STRENGTH * (words_RF[chosen_P] - words_RF[rejected_P]))
    return hstack(blocks).tocsr(), [*names, *(f"“{word}”" for word in words.get_feature_names_out())]


def against(x_1F: Any, weight_F: Floats, names: Sequence[str]) -> str:
    """What speaks most against the label, in words."""
    share = x_1F.data * weight_F[x_1F.indices]
    worst = [i for i in np.argsort(share)[:NAMED] if share[i] < 0]
    found = [f"{'more' if x_1F.data[i] > 0 else 'less'} {names[x_1F.indices[i]]}" for i in worst]
    return f"against the chosen answer: {', '.join(found)}" if found else "nothing speaks against the chosen answer"


# -- a reward model ---------------------------------------------------------------------------------------------------


def by_rewards(groups: Sequence[Group], rewards: Sequence[Floats], seed: int = 0) -> Doubt:
    """The labels by a reward model: P(label) = sigmoid(reward gap / T), with the T that fits these labels best.

    A model that was trained on the same labels has learnt some of the wrong ones.
    """
    of_group = {id(group): values for group, values in zip(groups, rewards, strict=True)}
    pairs = decided_pairs(groups, seed)
    margin_P = np.array([of_group[id(group)][p.chosen] - of_group[id(group)][p.rejected] for group, p in pairs])
    p_label_P = calibrated(margin_P, temperature_of(margin_P))
    reason_P = [
        f"{p:.0%} by the reward model: the chosen answer's reward is {abs(margin):.3g} "
        f"{'lower' if margin < 0 else 'higher'}"
        for margin, p in zip(margin_P, p_label_P)
    ]
    return Doubt(pairs, p_label_P, reason_P)
