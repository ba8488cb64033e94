"""How far sigmoid(margin / T) can be read as a probability: temperature, reliability, Brier's parts. numpy and scipy.

    P  pairs: margin_P is the reward of one side minus the other's, probability_P the label for that side
    B  bins of confidence that hold a pair

Which side of a pair is written first means nothing, so everything here is seen from the side the scorer prefers:
`confidence` sigmoid(|margin|) >= 0.5, `correctness` the label's probability of that side, one half at a score tie.
Label ties are pairs like any other, with a correctness of one half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit

from rewardsmith.data.schema import TIE
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.evaluation import metrics
from rewardsmith.evaluation.evaluate import PairRows
from rewardsmith.evaluation.metrics import DRAWS, Floats, Interval, Ints, clustered_mean

Mask = NDArray[np.bool_]

N_BINS = 10
LOWEST = 1e-6  # times the largest |margin|: a lower temperature would make every pair certain
FLAT = 1e-12  # times the largest |margin|: a slope of the cross-entropy that is rounding

# Temperature ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Temperature:
    """The T that makes sigmoid(margin / T) fit the labels best, in units of the margin, or why there is none.

    status "fitted"         `value` is a finite T: above 1 the scorer is too sure of itself, below 1 too shy
           "uninformative"  `value` is inf: margins do not go with the labels, or against them; 1/2 is the best guess
           "separable"      no value: the labels hold the preferred side for certain in every pair (but for margins
                            that are nothing beside the largest), and the best T would be 0. More pairs are needed
           "constant"       no value: every margin is 0, and T changes nothing
           "empty"          no value: no pairs
    """

    value: float | None
    status: Literal["fitted", "uninformative", "separable", "constant", "empty"]
    n: int

    def to_json(self) -> dict[str, Any]:
        """JSON has no infinity: `value` is None where the status is "uninformative" too."""
        return asdict(self) | {"value": self.value if self.status == "fitted" else None}


def fit_temperature(margin_P: ArrayLike, probability_P: ArrayLike) -> Temperature:
    """The temperature that minimises the mean of `metrics.log_loss(margin_P / T, probability_P)`.

    The loss is convex in 1/T, so the root of its slope is the one minimum; soft labels and label ties count as what
    they are, score ties have no say. One number is fitted: on the n pairs it was fitted to, the loss is too low by
    about 1 / (2n) nats a pair. Source: Guo et al. (1706.04599); Gao et al. (2210.10760) for reward models.
    Raises DataError for a margin that is not finite or a probability outside [0, 1].
    """
    margin_P, probability_P = checked_pairs(margin_P, probability_P)
    n, largest = len(margin_P), float(np.abs(margin_P).max(initial=0))
    if largest == 0:
        return Temperature(None, "constant" if n else "empty", n)
    gap_P, correctness_P = np.abs(margin_P) / largest, _preferred_side(margin_P, probability_P)[1]

    def slope(inverse: float) -> float:
        return float(np.mean(gap_P * (expit(inverse * gap_P) - correctness_P)))

    if slope(0.0) >= -FLAT:
        return Temperature(float("inf"), "uninformative", n)
    if slope(1 / LOWEST) <= 0:
        return Temperature(None, "separable", n)
    inverse = brentq(slope, 0.0, 1 / LOWEST, xtol=1e-300, rtol=1e-14, maxiter=2000)
    return Temperature(largest / inverse, "fitted", n)


def calibrated(margin: ArrayLike, temperature: Temperature | float) -> Floats:
    """P(a > b) = sigmoid(margin / T) for margins r_a - r_b of any shape; an infinite T gives 1/2.

    Raises DataError where the fit found no T, ConfigError for a T that is not positive.
    """
    scaled: Floats = np.asarray(margin, np.float64) / _value(temperature)
    return np.asarray(expit(scaled))


def _value(temperature: Temperature | float) -> float:
    if isinstance(temperature, Temperature):
        if temperature.value is None:
            raise DataError(f"the {temperature.n} pairs are {temperature.status}: they have no temperature")
        return temperature.value
    if not temperature > 0:  # NaN fails this too
        raise ConfigError(f"temperature {temperature} is not positive")
    return float(temperature)


# Reliability ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bin:
    """`n` pairs with confidence from `low` to `high`; means over them, correctness with an interval by prompt."""

    n: int
    low: float
    high: float
    confidence: float
    correctness: Interval


def reliability(
    margin_P: ArrayLike,
    probability_P: ArrayLike,
    cluster_P: ArrayLike,
    n_bins: int = N_BINS,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Bin]:
    """The reliability diagram: bins of equal mass by rising confidence, each with the share that was right.

    The bins are those of `metrics.expected_calibration_error`, which is the mean of |confidence - correctness| over
    them, by mass. Equal confidences share a bin, so there may be fewer than `n_bins`; every pair is in one.
    Raises DataError for numbers that are missing or out of range, ConfigError where `n_bins` is below 1.
    """
    margin_P, probability_P = checked_pairs(margin_P, probability_P)
    cluster_P = np.asarray(cluster_P)
    if cluster_P.shape != margin_P.shape:
        raise DataError(f"clusters of shape {list(cluster_P.shape)} for {len(margin_P)} pairs; give one a pair")
    confidence_P, correctness_P = _preferred_side(margin_P, probability_P)
    bin_P = _bins(confidence_P, n_bins)
    bins = []
    for b in range(bin_P.max(initial=-1) + 1):
        inside_P = bin_P == b
        confidence = confidence_P[inside_P]
        correctness = clustered_mean(correctness_P[inside_P], cluster_P[inside_P], draws=draws, seed=seed)
        low, high, mean = confidence.min(), confidence.max(), confidence.mean()
        bins.append(Bin(len(confidence), float(low), float(high), float(mean), correctness))
    return bins


@dataclass(frozen=True)
class BrierParts:
    """The Brier score in parts: `reliability - resolution + uncertainty + within_bins` is `brier`, exactly.

    reliability  squared gap of confidence and correctness, by bin: 0 where calibrated
    resolution   squared distance of the bins' correctness from the overall one: high where confidence tells pairs apart
    uncertainty  variance of the outcome: accuracy (1 - accuracy) where labels are certain
    within_bins  variance of confidence within bins, less twice its covariance with the outcome there
    """

    reliability: float
    resolution: float
    uncertainty: float
    within_bins: float

    @property
    def brier(self) -> float:
        return self.reliability - self.resolution + self.uncertainty + self.within_bins


def brier_parts(margin_P: ArrayLike, probability_P: ArrayLike, n_bins: int = N_BINS) -> BrierParts | None:
    """Murphy's parts of the mean of `metrics.brier`, over the bins of `reliability`; None without pairs.

    The outcome is whether the side that the scorer prefers is the better one: from the side that is written first it
    would be a constant, as files write the better side first. At a score tie either side counts half.
    Source: Murphy (1973), "A new vector partition of the probability score"; Stephenson, Coelho and Jolliffe (2008),
    "Two extra components in the Brier score decomposition", for what bins hide. Raises as `reliability`.
    """
    margin_P, probability_P = checked_pairs(margin_P, probability_P)
    confidence_P, correctness_P = _preferred_side(margin_P, probability_P)
    bin_P = _bins(confidence_P, n_bins)
    if len(bin_P) == 0:
        return None
    n_B = np.bincount(bin_P)
    confidence_B = np.bincount(bin_P, weights=confidence_P) / n_B
    correctness_B = np.bincount(bin_P, weights=correctness_P) / n_B
    # Second moment of the outcome: at a score tie it is p or 1 - p, with a mean of one half either way.
    square_P = np.where(margin_P == 0, (probability_P**2 + (1 - probability_P) ** 2) / 2, correctness_P**2)
    mean = correctness_P.mean()
    off_P = confidence_P - confidence_B[bin_P]
    return BrierParts(
        reliability=float(n_B @ (confidence_B - correctness_B) ** 2 / len(bin_P)),
        resolution=float(n_B @ (correctness_B - mean) ** 2 / len(bin_P)),
        uncertainty=float(square_P.mean() - mean**2),
        within_bins=float(np.mean(off_P**2 - 2 * off_P * (correctness_P - correctness_B[bin_P]))),
    )


def _preferred_side(margin_P: Floats, probability_P: Floats) -> tuple[Floats, Floats]:
    """(confidence, correctness) of the side with the higher reward."""
    return expit(np.abs(margin_P)), TIE + np.sign(margin_P) * (probability_P - TIE)


def _bins(confidence_P: Floats, n_bins: int) -> Ints:
    """Bin of each pair by rising confidence, numbered without gaps; `expected_calibration_error` has the rule."""
    if n_bins < 1:
        raise ConfigError(f"n_bins is {n_bins}; it is at least 1")
    rank_P = np.searchsorted(np.sort(confidence_P), confidence_P, side="left")
    return np.unique(rank_P * n_bins // max(len(rank_P), 1), return_inverse=True)[1].astype(np.int64)


# Report --------------------------------------------------------------------------------------------


def calibration_report(
    rows: PairRows,
    slices: Mapping[str, ArrayLike] | None = None,
    *,
    temperature: Temperature | float | None = None,
    n_bins: int = N_BINS,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Calibration before and after a temperature, overall and by slice, ready for JSON.

    `temperature` is one fitted on other pairs, or None to fit it here; `slices` maps names to masks over the rows.

    score_ties, label_ties  as in `metrics.accuracy`; here all of them count
    temperature             `value`, `status` (see Temperature; "given" for a bare number) and `n` of the fit, and
                            whether it is `fitted_here`, on these pairs
    before, after           nll, brier, ece, `overconfidence` (mean confidence less mean correctness, with an interval
                            by prompt), brier_parts, bins; "after" divides the margins by that temperature
    length_slices           by `length_slices`
    slices                  by the masks; may overlap

    A slice has the same figures without bins and parts, and a temperature of its own for comparison; "after" has the
    one of all pairs. Numbers are None where the data cannot say. ECE is biased upwards by the noise of each bin: across
    slices of other sizes compare `overconfidence`.
    Raises DataError for numbers that are missing or out of range and masks that do not fit, ConfigError for options.
    """
    checked_pairs(rows.margin_P, rows.probability_P)
    masks, length_masks = checked_masks(slices, len(rows)), length_slices(rows)
    used = fit_temperature(rows.margin_P, rows.probability_P) if temperature is None else temperature
    divisor = None if isinstance(used, Temperature) and used.value is None else _value(used)

    def scores(part: PairRows) -> dict[str, Any]:
        return {
            "before": _scores(part, 1.0, n_bins, draws, seed),
            "after": _scores(part, divisor, n_bins, draws, seed),
        }

    def of_slices(by_name: Mapping[str, Mask]) -> list[dict[str, Any]]:
        return [_slice(name, part, scores(part)) for name, part in ((n, rows.where(m)) for n, m in by_name.items())]

    whole = scores(rows)
    whole["before"] |= _diagram(rows, 1.0, n_bins, draws, seed)
    whole["after"] |= _diagram(rows, divisor, n_bins, draws, seed)
    decided_P = rows.probability_P != TIE
    return {
        "n_pairs": len(rows),
        "n_prompts": len(np.unique(rows.prompt_P)),
        "score_ties": int((rows.margin_P[decided_P] == 0).sum()),
        "label_ties": int((~decided_P).sum()),
        "temperature": _temperature_json(used) | {"fitted_here": temperature is None},
        **whole,
        "length_slices": of_slices(length_masks),
        "slices": of_slices(masks),
    }


def length_slices(rows: PairRows) -> dict[str, Mask]:
    """Three ways to cut all rows by length; each way holds every row once.

    By |length gap| over the longer one, in thirds of equal mass (equal gaps share a third). By whether the scorer
    prefers the longer side. By whether the label does: here the label itself picks the slice, so that no scorer is
    calibrated in it, and a scorer that is fair to length is off by as much in one as in the other: compare the two.
    Raises DataError for a length that is negative or not finite.
    """
    a_P, b_P = (np.asarray(x, np.float64) for x in (rows.chosen_length_P, rows.rejected_length_P))
    if not (np.isfinite(a_P) & np.isfinite(b_P) & (a_P >= 0) & (b_P >= 0)).all():
        raise DataError("a length is missing, not finite or negative; give every response its length")
    longer_P = np.maximum(a_P, b_P)
    gap_P = np.divide(np.abs(a_P - b_P), longer_P, out=np.zeros_like(longer_P), where=longer_P > 0)
    third_P = np.searchsorted(np.sort(gap_P), gap_P, side="left") * 3 // max(len(gap_P), 1)
    scorer_P = np.sign(a_P - b_P) * np.sign(rows.margin_P)
    label_P = np.sign(a_P - b_P) * np.sign(rows.probability_P - TIE)
    return {
        "length gap, lowest third": third_P == 0,
        "length gap, middle third": third_P == 1,
        "length gap, highest third": third_P == 2,
        "scorer prefers the longer": scorer_P > 0,
        "scorer prefers the shorter": scorer_P < 0,
        "equal lengths or a score tie": scorer_P == 0,
        "chosen is longer": label_P > 0,
        "chosen is shorter": label_P < 0,
        "equal lengths or a label tie": label_P == 0,
    }


def _scores(rows: PairRows, temperature: float | None, n_bins: int, draws: int, seed: int) -> dict[str, Any]:
    if temperature is None or len(rows) == 0:
        return {"nll": None, "brier": None, "ece": None, "overconfidence": Interval(None).to_json()}
    margin_P, probability_P = rows.margin_P / temperature, rows.probability_P
    confidence_P, correctness_P = _preferred_side(margin_P, probability_P)
    over = clustered_mean(confidence_P - correctness_P, rows.prompt_P, draws=draws, seed=seed)
    return {
        "nll": float(metrics.log_loss(margin_P, probability_P).mean()),
        "brier": float(metrics.brier(margin_P, probability_P).mean()),
        "ece": metrics.expected_calibration_error(margin_P, probability_P, n_bins),
        "overconfidence": over.to_json(),
    }


def _diagram(rows: PairRows, temperature: float | None, n_bins: int, draws: int, seed: int) -> dict[str, Any]:
    if temperature is None:
        return {"brier_parts": None, "bins": []}
    margin_P, probability_P = rows.margin_P / temperature, rows.probability_P
    parts = brier_parts(margin_P, probability_P, n_bins)
    bins = reliability(margin_P, probability_P, rows.prompt_P, n_bins, draws=draws, seed=seed)
    return {"brier_parts": None if parts is None else asdict(parts), "bins": [asdict(b) for b in bins]}


def _slice(name: str, rows: PairRows, scores: dict[str, Any]) -> dict[str, Any]:
    own = fit_temperature(rows.margin_P, rows.probability_P)
    n_prompts = len(np.unique(rows.prompt_P))
    return {"slice": name, "n": len(rows), "n_prompts": n_prompts, "temperature": own.to_json(), **scores}


def _temperature_json(temperature: Temperature | float) -> dict[str, Any]:
    if isinstance(temperature, Temperature):
        return temperature.to_json()
    return {"value": float(temperature) if np.isfinite(temperature) else None, "status": "given", "n": None}


# What comes in -------------------------------------------------------------------------------------


def checked_pairs(margin_P: ArrayLike, probability_P: ArrayLike) -> tuple[Floats, Floats]:
    """Both as float64 of one length, or DataError naming the first pair that cannot be used."""
    try:
        margin_P, probability_P = np.asarray(margin_P, np.float64), np.asarray(probability_P, np.float64)
    except (TypeError, ValueError):
        raise DataError("margins and probabilities are not one number per pair") from None
    if margin_P.ndim != 1 or margin_P.shape != probability_P.shape:
        raise DataError(f"margins of shape {list(margin_P.shape)}, probabilities of {list(probability_P.shape)}")
    for what, values_P, good_P in (
        ("margin", margin_P, np.isfinite(margin_P)),
        ("probability", probability_P, (probability_P >= 0) & (probability_P <= 1)),
    ):
        if not good_P.all():
            p = int(np.flatnonzero(~good_P)[0])
            raise DataError(f"pair {p}: the {what} is missing or out of range ({values_P[p]})")
    return margin_P, probability_P


def checked_masks(slices: Mapping[str, ArrayLike] | None, n: int) -> dict[str, Mask]:
    """The masks as boolean arrays over `n` rows, or DataError naming the slice."""
    masks = {name: np.asarray(mask) for name, mask in (slices or {}).items()}
    for name, mask in masks.items():
        if mask.dtype != np.bool_ or mask.shape != (n,):
            raise DataError(
                f"slice {name!r} is {mask.dtype} of shape {list(mask.shape)}; it takes one true or false for each of "
                f"{n} pairs"
            )
    return masks
