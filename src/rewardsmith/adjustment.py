"""After training: length taken out of rewards, and bounds for reinforcement learning, kept beside the rewards.

    adjusted = bound(reward - offset - f(characters))

`reward` stays what the model says; the adjustment is stored in the artifact under "adjustment", and `score` writes its
result as `adjusted`.

    P  pairs, K  answers of a group, R  answers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from rewardsmith.data.schema import Group, text_of
from rewardsmith.errors import DataError, ModelError
from rewardsmith.scoring import Scorer, Scores
from rewardsmith.statistics import Floats

BoundName = Literal["sigmoid", "tanh", "clip"]
ENOUGH_FOR_BENDS = 400  # pairs: with fewer, one slope
BENDS = (0.25, 0.5, 0.75)  # quantiles of log length where the slope may change
RIDGE = 1e-3  # of each column's sum of squares: against lengths that hardly vary
CLIPPED = (0.05, 0.95)  # quantiles that "clip" cuts at
FEWEST = 20  # pairs


@dataclass(frozen=True)
class Length:
    """f(characters) = slope (l - at) + sum of bend max(l - knot, 0), l = log(1 + characters), `at` the median l.

    Beyond the outer knots f goes on straight, so that ever longer padding is not free.
    """

    slope: float
    at: float
    knots: tuple[float, ...] = ()
    bends: tuple[float, ...] = ()

    def __call__(self, characters: ArrayLike) -> Floats:
        x = np.log1p(np.asarray(characters, np.float64))
        bent = sum(b * (np.maximum(x - k, 0) - max(self.at - k, 0)) for k, b in zip(self.knots, self.bends))
        return np.asarray(self.slope * (x - self.at) + bent)

    def times(self, share: float) -> Length:
        """The same curve, `share` as high."""
        return replace(self, slope=self.slope * share, bends=tuple(share * bend for bend in self.bends))


@dataclass(frozen=True)
class Bound:
    """sigmoid: 1 / (1 + exp(-(r - centre) / scale)), in (0, 1): the chance to beat the median answer of the data it was
    fitted on, where scale is the temperature (centred as in PAR, 2502.18770). tanh: the same shape in (-1, 1). clip:
    cut at `low` and `high`.
    """

    name: BoundName
    centre: float
    scale: float
    low: float
    high: float

    def __call__(self, rewards: ArrayLike) -> Floats:
        r = np.asarray(rewards, np.float64)
        if self.name == "clip":
            return np.clip(r, self.low, self.high)
        half = np.tanh((r - self.centre) / (2 * self.scale))
        return np.asarray(half if self.name == "tanh" else (1 + half) / 2)


@dataclass(frozen=True)
class Adjustment:
    """`offset` puts the rewards of fixed reference answers about zero (refresh train); no comparison sees it."""

    length: Length | None = None
    bound: Bound | None = None
    offset: float = 0.0

    def __call__(self, rewards_K: ArrayLike, characters_K: ArrayLike) -> Floats:
        """[K] adjusted rewards of one group's answers."""
        adjusted_K = np.asarray(rewards_K, np.float64) - self.offset
        if self.length is not None:
            adjusted_K = adjusted_K - self.length(characters_K)
        return adjusted_K if self.bound is None else self.bound(adjusted_K)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def of_artifact(meta: Mapping[str, Any]) -> Adjustment | None:
    """The adjustment that an artifact's metadata holds, or None."""
    kept = meta.get("adjustment")
    if not kept:
        return None
    try:
        length, bound = kept.get("length"), kept.get("bound")
        return Adjustment(
            None if length is None else Length(**length | {k: tuple(length[k]) for k in ("knots", "bends")}),
            None if bound is None else Bound(**bound),
            float(kept.get("offset", 0.0)),
        )
    except (TypeError, ValueError, KeyError, AttributeError):
        raise ModelError(
            "reward_model.json holds an adjustment that this version cannot read; run calibrate again"
        ) from None


def fit_length(
    margin_P: ArrayLike, probability_P: ArrayLike, chosen_length_P: ArrayLike, rejected_length_P: ArrayLike
) -> Length:
    """What length does to the reward among answers that people judged alike: least squares of the reward gap on the
    label and the gap in length,

        margin_p = a (2 p - 1) + f(chosen) - f(rejected)

    so that what longer answers earn by being preferred is left to them, as far as one label can tell it: a better
    answer is better by more than another, and that part still counts as length. With 400 pairs or more, f may bend at
    the quartiles of length. Compare Huang et al. (2409.17407), who leave the label out.
    Raises DataError for fewer than 20 pairs, and where lengths never differ.
    """
    margin_P, probability_P = np.asarray(margin_P, np.float64), np.asarray(probability_P, np.float64)
    if len(margin_P) < FEWEST:
        raise DataError(f"{len(margin_P)} pairs are too few to fit what length does; at least {FEWEST} are needed")
    chosen_P, rejected_P = (np.log1p(np.asarray(x, np.float64)) for x in (chosen_length_P, rejected_length_P))
    both_R = np.concatenate([chosen_P, rejected_P])
    knots = np.unique(np.quantile(both_R, BENDS)) if len(margin_P) >= ENOUGH_FOR_BENDS else np.zeros(0)

    def basis(x_P: Floats) -> Floats:
        return np.stack([x_P, *(np.maximum(x_P - k, 0) for k in knots)], axis=1)

    gap_PF = basis(chosen_P) - basis(rejected_P)
    if not gap_PF[:, 0].any():
        raise DataError("the two sides of every pair are equally long: nothing says what length does")
    x_PF = np.concatenate([(2 * probability_P - 1)[:, None], gap_PF], axis=1)
    square_FF = x_PF.T @ x_PF
    weight_F = np.linalg.solve(square_FF + RIDGE * np.diag(np.diag(square_FF) + 1e-12), x_PF.T @ margin_P)
    return Length(float(weight_F[1]), float(np.median(both_R)), tuple(knots.tolist()), tuple(weight_F[2:].tolist()))


def fit_bound(name: BoundName, rewards_R: ArrayLike, temperature: float | None) -> Bound:
    """Centre, scale and cuts from the rewards (length taken out already) of answers like those to come.

    Scale is the temperature where there is a finite one, else the standard deviation. DataError where rewards are all
    the same.
    """
    r = np.asarray(rewards_R, np.float64)
    if len(r) == 0 or r.max() == r.min():
        raise DataError("all rewards are the same: there is nothing to bound")
    scale = temperature if temperature is not None and np.isfinite(temperature) else float(r.std())
    low, high = np.quantile(r, CLIPPED)
    return Bound(name, float(np.median(r)), float(scale), float(low), float(high))


def characters(group: Group) -> Floats:
    """[K] characters of the group's answers."""
    return np.array([len(text_of(response)) for response in group.responses], dtype=np.float64)


class AdjustedScorer:
    """A scorer whose `Scores.adjusted` is filled; with `instead`, its rewards are the adjusted ones.

    Then `calibrated` is None, as the temperature is that of the rewards as they were. What else the scorer has is
    handed through.
    """

    def __init__(self, scorer: Scorer, adjustment: Adjustment, *, instead: bool = False) -> None:
        self.scorer, self.adjustment, self.instead = scorer, adjustment, instead
        self.temperature = None if instead else getattr(scorer, "temperature", None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scorer, name)

    def score(self, groups: Sequence[Group]) -> list[Scores]:
        found = []
        for group, scores in zip(groups, self.scorer.score(groups), strict=True):
            adjusted_K = self.adjustment(scores.rewards, characters(group))
            with_it = replace(scores, adjusted=adjusted_K)
            found.append(replace(with_it, rewards=adjusted_K, calibrated=None) if self.instead else with_it)
        return found
