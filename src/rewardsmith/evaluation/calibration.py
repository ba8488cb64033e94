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
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rewardsmith.data.schema import TIE
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.evaluation import metrics
from rewardsmith.evaluation.metrics import DRAWS, Floats, Interval, Ints, clustered_mean
from rewardsmith.evaluation.pairs import PairRows

# Named again here: whoever reads calibration looks for the temperature in this file.
from rewardsmith.temperature import Temperature as Temperature
from rewardsmith.temperature import calibrated as calibrated
from rewardsmith.temperature import checked_pairs as checked_pairs
from rewardsmith.temperature import divisor_of, preferred_side
from rewardsmith.temperature import fit_temperature as fit_temperature

Mask = NDArray[np.bool_]

N_BINS = 10

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
    confidence_P, correctness_P = preferred_side(margin_P, probability_P)
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
    confidence_P, correctness_P = preferred_side(margin_P, probability_P)
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
    divisor = None if isinstance(used, Temperature) and used.value is None else divisor_of(used)

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
    confidence_P, correctness_P = preferred_side(margin_P, probability_P)
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
