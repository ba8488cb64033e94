"""`data balance`: weights under which length and other surface features no longer say which answer was preferred.

Maths. The surface model gives the label of pair p the probability e_p = sigmoid(w . d_p), with d_p the features of
chosen minus rejected. The weight is that of the other outcome,

    v_p = 1 - e_p

so that a pair which the surface predicts counts little, and one that it gets wrong counts fully. At the fit's optimum
sum_p v_p d_p = 0: under the weights, chosen and rejected answers have the same mean of every feature, exactly so but
for the small penalty on w. The sign of the length difference is one of the features, so "the longer answer wins" is
right half the time. Weights of 1/e balance too, but have no bound. Source: Li, Morgan and Zaslavsky (1404.1785),
overlap weights.

Weights are scaled to mean 1 over the decided pairs and capped. What they cost is the effective sample size
(sum v)^2 / sum v^2 (Kish 1965). Ties say nothing of the surface and keep weight 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rewardsmith.data.schema import Group, text_of
from rewardsmith.data.split import split_groups, unit_hash
from rewardsmith.data.surface import (
    FEATURES,
    FEWEST_PAIRS,
    MOST_PAIRS,
    fit,
    surface_baseline,
    surface_features,
)
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.statistics import Floats

PENALTY = 0.01  # on the surface model: enough for features that are copies of each other
LENGTH = [feature.name for feature in FEATURES].index("length")
UNBALANCED = 0.1  # of a feature's SD: what is left of a mean difference that deserves a warning
FEW = 0.2  # share of the pairs that are left in effect: below it the weights cost too much


@dataclass(frozen=True)
class Balanced:
    """The groups with their new weights, or those that were drawn, and what is to be said of them, ready for JSON."""

    groups: list[Group]
    report: dict[str, Any]


def balance(groups: Sequence[Group], *, cap: float = 5.0, resample: bool = False, seed: int = 0) -> Balanced:
    """Groups weighted so that the surface predicts nothing, or a draw from them in those proportions.

    cap       largest weight, times the mean. A lower one leaves more pairs in effect and some of the bias
    resample  keep each decided pair with a chance in proportion to its weight, unweighted, instead of weighting it.
              Groups that lose all their pairs are left out

    Report: pairs (decided ones), weights {lowest, median, highest, capped}, effective_pairs, kept_pairs and kept_groups
    (of a draw), imbalance {before, after} (largest |mean difference| of a feature, in its SD), surface_baseline {before
    (on all pairs), after (`on_others`)}, warnings.

    Raises DataError where fewer than 20 pairs are decided, ConfigError for a cap below 1.
    """
    if not cap >= 1:  # NaN fails this too
        raise ConfigError(f"--cap {cap}: give at least 1, the mean weight")
    difference_PF = differences(groups)
    n = len(difference_PF)
    if n < FEWEST_PAIRS:
        raise DataError(f"{n} decided pairs are too few to balance; at least {FEWEST_PAIRS} are needed")
    weight_P, capped = weights(difference_PF, fit_surface(difference_PF, seed), cap)
    report: dict[str, Any] = {
        "groups": len(groups),
        "pairs": n,
        "weights": {
            "lowest": float(weight_P.min()),
            "median": float(np.median(weight_P)),
            "highest": float(weight_P.max()),
            "capped": capped,
        },
        "effective_pairs": effective(weight_P),
        "imbalance": {
            "before": imbalance(difference_PF, np.ones(n)),
            "after": imbalance(difference_PF, weight_P),
        },
    }
    if resample:
        found = drawn(groups, weight_P, seed)
        kept = sum(not p.is_tie for group in found for p in group.preferences)
        report |= {"kept_pairs": kept, "kept_groups": len(found)}
    else:
        found = spread(groups, weight_P)
    before, after = surface_baseline(groups, seed), on_others(groups, cap, seed)
    report["surface_baseline"] = {"before": before, "after": after}
    report["warnings"] = warnings_of(report)
    return Balanced(found, report)


def on_others(groups: Sequence[Group], cap: float, seed: int) -> dict[str, Any]:
    """The surface baseline under weights that were fitted to other openings: one half of them, for the other half.

    On the pairs that the weights were fitted to, the baseline would come out well below one half: what balances all
    pairs turns each fold against the rest.
    """
    halves = split_groups(groups, {"fitted": 0.5, "asked": 0.5}, seed + 1)
    fitted_PF, asked_PF = differences(halves["fitted"]), differences(halves["asked"])
    if min(len(fitted_PF), len(asked_PF)) < FEWEST_PAIRS:
        return surface_baseline([], seed)
    weight_P, _ = weights(asked_PF, fit_surface(fitted_PF, seed), cap)
    return surface_baseline(spread(halves["asked"], weight_P), seed)


def warnings_of(report: dict[str, Any]) -> list[str]:
    remedy = "label pairs in which it is the other way round, or add counterfactual ones (data augment)"
    found = []
    share, left = report["effective_pairs"] / report["pairs"], report["imbalance"]["after"]
    if share < FEW:
        found.append(
            f"the weights leave {report['effective_pairs']:.0f} of {report['pairs']} pairs in effect ({share:.0%}): "
            f"the surface tells nearly all labels; {remedy}"
        )
    if left > UNBALANCED:
        found.append(
            f"a feature still differs by {left:.2f} of its SD between chosen and rejected answers: too few pairs go "
            f"against it, or the cap is low; {remedy}"
        )
    before, after = (report["surface_baseline"][side]["logistic_accuracy"]["value"] for side in ("before", "after"))
    if before is not None and after is not None and after >= before:
        found.append(
            f"on prompts that the weights were not fitted to, the surface tells no less than before ({after:.0%} of "
            f"the labels after, {before:.0%} before): {report['pairs']} pairs are too few for these weights, or there "
            "was little to break; better train without them"
        )
    return found


def differences(groups: Sequence[Group]) -> Floats:
    """[P, F + 1] of all decided pairs in order: features of chosen minus rejected, and the sign of that of length."""
    rows: list[Floats] = []
    for group in groups:
        decided = [p for p in group.preferences if not p.is_tie]
        which = {k for p in decided for k in (p.chosen, p.rejected)}
        features = {k: np.array(surface_features(text_of(group.responses[k]))) for k in which}
        rows += [features[p.chosen] - features[p.rejected] for p in decided]
    plain_PF = np.array(rows).reshape(len(rows), len(FEATURES))
    return np.concatenate([plain_PF, np.sign(plain_PF[:, [LENGTH]])], axis=1)


def fit_surface(difference_PF: Floats, seed: int) -> Floats:
    """The surface model of the pairs, or of a sample where there are very many."""
    if len(difference_PF) > MOST_PAIRS:
        some = np.random.default_rng(seed).choice(len(difference_PF), MOST_PAIRS, replace=False)
        difference_PF = difference_PF[np.sort(some)]
    side_P = np.where(np.arange(len(difference_PF)) % 2, 1.0, -1.0)  # turned round: both outcomes have to be there
    return fit(difference_PF, side_P, penalty=PENALTY)


def weights(difference_PF: Floats, weight_F: Floats, cap: float) -> tuple[Floats, int]:
    """[P] the weight of each pair under a surface model, and how many are capped."""
    return scaled(1 / (1 + np.exp(np.clip(difference_PF @ weight_F, -500, 500))), cap)


def scaled(raw_P: Floats, cap: float) -> tuple[Floats, int]:
    """(weights of mean 1, none above `cap`, how many are at it)."""
    weight_P = raw_P / raw_P.mean() if raw_P.mean() > 0 else np.ones_like(raw_P)
    for _ in range(100):  # cutting the highest raises the rest, which may pass the cap in turn
        if weight_P.max() <= cap * (1 + 1e-9):
            break
        weight_P = np.minimum(weight_P, cap)
        weight_P = weight_P / weight_P.mean()
    weight_P = np.minimum(weight_P, cap)
    return weight_P, int((weight_P >= cap * (1 - 1e-6)).sum())


def effective(weight_P: Floats) -> float:
    """Kish's effective sample size."""
    return float(weight_P.sum() ** 2 / (weight_P**2).sum())


def imbalance(difference_PF: Floats, weight_P: Floats) -> float:
    """The largest |weighted mean difference| of a feature, in units of its root mean square."""
    scale_F = np.sqrt((difference_PF**2).mean(0))
    mean_F = np.abs(weight_P @ difference_PF / weight_P.sum())
    return float((mean_F[scale_F > 0] / scale_F[scale_F > 0]).max(initial=0.0))


def spread(groups: Sequence[Group], weight_P: Floats) -> list[Group]:
    """The weights of pairs in their places.

    Training averages over the pairs of a group, then over groups: a group's own weight takes the mean of its pairs'
    factors, so that each pair counts what it did, times its factor.
    """
    stream = iter(weight_P.tolist())
    weighted = []
    for group in groups:
        factors = [1.0 if p.is_tie else next(stream) for p in group.preferences]
        stated = tuple(replace(p, weight=p.weight * f) for p, f in zip(group.preferences, factors, strict=True))
        before, after = (sum(p.weight for p in side) for side in (group.preferences, stated))
        mean = after / before if before > 0 else 1.0
        weighted.append(replace(group, preferences=stated, weight=group.weight * mean))
    return weighted


def drawn(groups: Sequence[Group], weight_P: Floats, seed: int) -> list[Group]:
    """Groups with the pairs that were kept. A pair's chance is its weight over the largest; ties stay."""
    stream = iter((weight_P / weight_P.max()).tolist())
    found = []
    for group in groups:
        kept = tuple(
            p
            for p in group.preferences
            if p.is_tie or unit_hash(f"{group.id}\0{p.chosen}\0{p.rejected}", seed) < next(stream)
        )
        if kept or not group.preferences:
            found.append(replace(group, preferences=kept))
    return found
