"""What each group of each round counts in the loss: a floor under old rounds, and importance weights.

    G  groups, of all rounds;  R  answers;  F  features

    floor        old rounds together have at least this share of the weight: what was learnt is not forgotten for
                 the sake of the newest pairs (replay)
    importance   an old group counts as often as the newest policy would have written its answers:
                     w_g = exp(2 mean_k log(p_new(y_k) / p_old(y_k)))
                 as a comparison is of two answers, from log-probabilities where both are recorded, else from a
                 classifier that tells old answers from new ones. Scaled to mean 1, capped, and the effective number of
                 old groups (Kish) is reported: the fewer, the less is left of them.
Sources: Shimodaira (2000) for weights under covariate shift; Sugiyama et al. (2012), section 4.1, for ratios from a
classifier; Kish (1965) for the effective size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rewardsmith.data.balance import effective, scaled
from rewardsmith.data.schema import Group
from rewardsmith.data.select import text_features
from rewardsmith.data.surface import folds
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.statistics import Floats, Ints

LARGEST_LOG_RATIO = 20.0  # of an answer: beyond, the cap decides anyway, and exp stays finite


@dataclass(frozen=True)
class Weighted:
    """Groups with their weights, and what was done: ready for JSON."""

    groups: list[Group]
    report: dict[str, Any]


def weigh(
    groups: Sequence[Group],
    round_G: Sequence[int],
    *,
    replay_floor: float,
    log_ratio_GK: Sequence[Floats] | None = None,
    cap: float = 5.0,
) -> Weighted:
    """The groups with the weights of their rounds; `log_ratio_GK` (of old groups and new) asks for importance weights.

    report: `shares` of the weight by round, `floor_factor` on old rounds, and of importance weights `n_old`,
    `effective`, `n_capped`, `cap` (None without them).
    """
    if not 0 <= replay_floor < 1:
        raise ConfigError(f"--replay-floor {replay_floor}: give a share in [0, 1)")
    round_of_G = np.asarray(round_G, np.int64)
    weight_G = np.array([group.weight for group in groups], np.float64)
    old_G = round_of_G < round_of_G.max(initial=0)
    importance: dict[str, Any] | None = None
    if log_ratio_GK is not None and old_G.any():
        if not cap >= 1:
            raise ConfigError(f"--importance-cap {cap}: give at least 1")
        ratio_O, n_capped = scaled(pair_ratios([log_ratio_GK[g] for g in np.flatnonzero(old_G).tolist()]), cap)
        weight_G[old_G] *= ratio_O
        importance = {"n_old": int(old_G.sum()), "effective": effective(ratio_O), "n_capped": n_capped, "cap": cap}
    factor = floor_factor(float(weight_G[old_G].sum()), float(weight_G[~old_G].sum()), replay_floor)
    weight_G[old_G] *= factor
    total = weight_G.sum()
    if not total > 0:
        raise DataError("every group has weight 0: there is nothing to train on")
    shares = {int(r): float(weight_G[round_of_G == r].sum() / total) for r in np.unique(round_of_G)}
    kept = [replace(group, weight=float(weight)) for group, weight in zip(groups, weight_G, strict=True)]
    return Weighted(kept, {"shares": shares, "floor_factor": factor, "importance": importance})


def floor_factor(old: float, new: float, floor: float) -> float:
    """What the old weight is multiplied by so that old / (old + new) is at least `floor`; 1 where it is already."""
    if old <= 0 or new <= 0 or old >= floor * (old + new):
        return 1.0
    return floor / (1 - floor) * new / old


def pair_ratios(log_ratio_GK: Sequence[Floats]) -> Floats:
    """[G] exp(2 mean_k log ratio): of a pair, the product of its two answers' ratios."""
    means_G = np.array([np.clip(row, -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).mean() for row in log_ratio_GK])
    return np.exp(2 * (means_G - means_G.max(initial=-np.inf)))  # a common factor is taken out by the scaling


def classifier_log_ratios(groups: Sequence[Group], new_G: Sequence[bool], *, seed: int = 0) -> list[Floats]:
    """[K] log p_new(y) / p_old(y) of each group's answers, by a logistic regression on the texts (`text_features`).

    Fitted on four fifths of the prompts and asked about the last fifth, five times, so that no answer speaks for
    itself. DataError where one side has no answer.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    sizes = [len(group.responses) for group in groups]
    features_RF = np.concatenate(text_features(groups, seed)) if groups else np.zeros((0, 1))
    new_R = np.repeat(np.asarray(new_G, bool), sizes)
    if not new_R.any() or new_R.all():
        raise DataError("importance weights need answers of an old round and of the newest")
    prompts, prompt_G = np.unique([group.prompt_id for group in groups], return_inverse=True)
    fold_R: Ints = np.repeat(folds(prompts.tolist(), seed)[prompt_G], sizes)
    logit_R = np.zeros(len(new_R))
    for fold in np.unique(fold_R):
        inside_R = fold_R == fold
        rest = new_R[~inside_R]
        if not rest.any() or rest.all():
            continue  # too few prompts to tell: ratio 1
        model = LogisticRegression(C=0.1, max_iter=1000)
        with threadpool_limits(1):
            model.fit(features_RF[~inside_R], rest)
        prior = np.log(rest.sum() / (~rest).sum())
        logit_R[inside_R] = model.decision_function(features_RF[inside_R]) - prior
    return list(np.split(logit_R, np.cumsum(sizes)[:-1]))
