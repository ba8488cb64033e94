"""The calibration of a run: reliability and Brier's parts, with and without the temperature that the artifact holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewardsmith.evaluation.calibration import calibration_report, reliability
from rewardsmith.evaluation.evaluate import PairRows
from rewardsmith.report.page import count, decimal, minus, percent, points, signed
from rewardsmith.statistics import Interval
from rewardsmith.temperature import of_artifact

PAIRS_PER_BIN = 25  # of the reliability plot, at least
MOST_BINS = 8
THIRDS = "length gap, "

Bins = list[tuple[float, Interval, int]]


@dataclass(frozen=True)
class Calibration:
    """What the page shows of it.

    temperature     as stored, None where none was fitted, inf where the rewards say nothing
    bins, after     (mean stated probability, share right, pairs), with T = 1 and with the stored one ([] without)
    overconfidence  mean stated probability minus share right, with the stored T where there is one
    rows            (measure, as it is, with the temperature)
    """

    temperature: float | None
    bins: Bins
    after: Bins
    overconfidence: Interval
    rows: tuple[tuple[str, str, str], ...]
    note: str


def calibration_of(rows: PairRows, meta: Mapping[str, Any]) -> Calibration:
    """The calibration of rows under an artifact's metadata. Without rows everything in it is empty."""
    temperature = of_artifact(meta)
    if not len(rows):
        return Calibration(temperature, [], [], Interval(None), (), "")
    n_bins = int(np.clip(len(rows) // PAIRS_PER_BIN, 1, MOST_BINS))
    # A stored temperature was fitted elsewhere; none is fitted to the pairs that it would be judged on.
    found = calibration_report(rows, temperature=1.0 if temperature is None else temperature)
    used = found["before"] if temperature is None else found["after"]
    over = Interval(**used["overconfidence"])
    return Calibration(
        temperature,
        bins_of(rows, 1.0, n_bins),
        [] if temperature is None else bins_of(rows, temperature, n_bins),
        over,
        tuple(table_of(found)),
        note_of(used, over, meta),
    )


def bins_of(rows: PairRows, temperature: float, n_bins: int) -> Bins:
    """Bins for the figure: fewer than those of the calibration error where there are few pairs."""
    bins = reliability(rows.margin_P / temperature, rows.probability_P, rows.prompt_P, n_bins)
    return [(b.confidence, b.correctness, b.n) for b in bins]


def table_of(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The measures of both sides; a reader who has no temperature is shown the first only."""
    sides = (found["before"], found["after"])
    parts = [side["brier_parts"] or {} for side in sides]
    rows = [
        ("log-loss per pair, nats (a coin: 0.693)", *(decimal(side["nll"]) for side in sides)),
        ("Brier score (a coin: 0.250)", *(decimal(side["brier"]) for side in sides)),
        ("· off the diagonal, by bin (reliability)", *(decimal(part.get("reliability")) for part in parts)),
        ("· told apart by confidence (resolution, higher is better)", *(decimal(p.get("resolution")) for p in parts)),
        ("· in the outcome itself (uncertainty)", *(decimal(part.get("uncertainty")) for part in parts)),
        ("· within the bins", *(decimal(part.get("within_bins")) for part in parts)),
        ("calibration error", *(decimal(side["ece"]) for side in sides)),
        ("too sure by, points", *(over_words(side["overconfidence"]) for side in sides)),
    ]
    for row in found["length_slices"]:
        if row["slice"].startswith(THIRDS) and row["n"]:
            name = f"too sure by, {row['slice']} ({count(row['n'])} pairs)"
            rows.append((name, *(over_words(row[side]["overconfidence"]) for side in ("before", "after"))))
    return [(name, minus(before), minus(after)) for name, before, after in rows if before != "–"]


def over_words(figure: Mapping[str, float | None]) -> str:
    value, low, high = (figure[key] for key in ("value", "low", "high"))
    if value is None:
        return "–"
    return signed(value) + ("" if low is None or high is None else f" ({signed(low)} to {signed(high)})")


def note_of(side: Mapping[str, Any], over: Interval, meta: Mapping[str, Any]) -> str:
    """Whether the model's probabilities may be believed."""
    stated = sum(b["confidence"] * b["n"] for b in side["bins"]) / max(sum(b["n"] for b in side["bins"]), 1)
    words = f"For the answer it prefers the model states {percent(stated)} on average, and is right in "
    words += percent(stated - (over.value or 0.0))
    if over.low is None or over.high is None or over.value is None:
        words += "."
    elif over.low > 0:
        words += f": too sure of itself by {points(over.value)}."
    elif over.high < 0:
        words += f": less sure than it could be, by {points(over.value)}."
    else:
        words += ", which agree within the noise."
    words += f" Calibration error {side['ece']:.3f}; noise alone makes it more than zero."
    return f"{words} {temperature_words(meta)}"


def temperature_words(meta: Mapping[str, Any]) -> str:
    kept = meta.get("calibration") or {}
    temperature = of_artifact(meta)
    if temperature is None:
        return "No temperature is stored: reward gaps are read as they are."
    size = "infinite: rewards say nothing of these labels" if np.isinf(temperature) else f"{temperature:.3g}"
    where = f", fitted on {count(kept['n_pairs'])} pairs" if kept.get("n_pairs") is not None else ""
    pairs = f" ({kept['pairs']})" if kept.get("pairs") else ""
    return f"The stored temperature is {size}{where}{pairs}."
