"""The temperature at which reward gaps read as probabilities: P(a > b) = sigmoid((r_a - r_b) / T). numpy and scipy.

    P  pairs: margin_P is the reward of one side minus the other's, probability_P the label for that side

Training fits it to the held-out pairs, scoring applies it, evaluation says how well it fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from rewardsmith.errors import ConfigError, DataError
from rewardsmith.statistics import Floats

LOWEST = 1e-6  # times the largest |margin|: a lower temperature would make every pair certain
FLAT = 1e-12  # times the largest |margin|: a slope of the cross-entropy that is rounding


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


def stored(margin_P: ArrayLike, probability_P: ArrayLike, pairs: str) -> dict[str, Any]:
    """The fit as an artifact's metadata keeps it under "calibration"; `pairs` says which ones."""
    fit = fit_temperature(margin_P, probability_P)
    return {"temperature": fit.to_json()["value"], "status": fit.status, "n_pairs": fit.n, "pairs": pairs}


def of_artifact(meta: Mapping[str, Any]) -> float | None:
    """The T that an artifact's metadata holds: inf where its rewards say nothing, None where none was fitted."""
    kept = meta.get("calibration") or {}
    return float("inf") if kept.get("status") == "uninformative" else kept.get("temperature")


def fit_temperature(margin_P: ArrayLike, probability_P: ArrayLike) -> Temperature:
    """The temperature that minimises the mean cross-entropy of the labels under sigmoid(margin_P / T).

    The loss is convex in 1/T, so the root of its slope is the one minimum; soft labels and label ties count as what
    they are, score ties have no say. One number is fitted: on the n pairs it was fitted to, the loss is too low by
    about 1 / (2n) nats a pair. Source: Guo et al. (1706.04599); Gao et al. (2210.10760) for reward models.
    Raises DataError for a margin that is not finite or a probability outside [0, 1].
    """
    from scipy.optimize import brentq
    from scipy.special import expit

    margin_P, probability_P = checked_pairs(margin_P, probability_P)
    n, largest = len(margin_P), float(np.abs(margin_P).max(initial=0))
    if largest == 0:
        return Temperature(None, "constant" if n else "empty", n)
    gap_P, correctness_P = np.abs(margin_P) / largest, preferred_side(margin_P, probability_P)[1]

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
    from scipy.special import expit

    scaled: Floats = np.asarray(margin, np.float64) / divisor_of(temperature)
    return np.asarray(expit(scaled))


def divisor_of(temperature: Temperature | float) -> float:
    """The number that margins are divided by, or the errors of `calibrated`."""
    if isinstance(temperature, Temperature):
        if temperature.value is None:
            raise DataError(f"the {temperature.n} pairs are {temperature.status}: they have no temperature")
        return temperature.value
    if not temperature > 0:  # NaN fails this too
        raise ConfigError(f"temperature {temperature} is not positive")
    return float(temperature)


def preferred_side(margin_P: Floats, probability_P: Floats) -> tuple[Floats, Floats]:
    """(confidence, correctness) of the side with the higher reward; at a score tie one half is correct."""
    from scipy.special import expit

    return expit(np.abs(margin_P)), 0.5 + np.sign(margin_P) * (probability_P - 0.5)


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
