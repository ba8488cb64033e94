"""What a model is good for, where it is weak, and what to do next, from the same numbers as the verdict.

A slice is called good or weak only where its interval, widened for the number of slices (Bonferroni), lies on one
side. What is not shown either way is said to be that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from rewardsmith.report.page import counted, minus, percent, points
from rewardsmith.report.verdict import CHANCE, FEW_PAIRS, FEW_PROMPTS, LengthRule, standing_of, value_of
from rewardsmith.statistics import Interval

NAMED = 4  # slices in one sentence; the figure has all
NOT_CONTENT = ("longer", "length gap", "label strength")  # ways to cut slices that `evaluate` adds itself


@dataclass(frozen=True)
class Outlook:
    """Sentences under three headings. None of the three is empty on a page."""

    good: tuple[str, ...]
    weak: tuple[str, ...]
    next_steps: tuple[str, ...]


def outlook(
    evaluation: Mapping[str, Any],
    rule: LengthRule | None,
    *,
    temperature: float | None = None,
    overconfidence: Interval | None = None,
    length_gap: Interval | None = None,
) -> Outlook:
    """The three lists.

    temperature     the one that the artifact holds, None where none was fitted
    overconfidence  mean stated probability minus share right, with that temperature where there is one
    length_gap      accuracy where the chosen answer is longer, minus accuracy where it is shorter
    """
    low, high = ((evaluation.get("accuracy") or {}).get(key) for key in ("low", "high"))
    measured = value_of(evaluation, "accuracy") is not None
    above = low is not None and low > CHANCE
    slices = of_content(evaluation)
    good = [*standing_words(above, rule), *strong_slices(slices)]
    weak = [
        *worse_than_chance(low, high),
        *length_words(length_gap),
        *weak_slices(slices, value_of(evaluation, "accuracy")),
        *sureness(overconfidence, temperature),
    ]
    if not measured:
        good, weak = ["Not known: nothing was measured."], ["Not known: nothing was measured."]
    return Outlook(
        tuple(good or ["Nothing that these pairs could show."]),
        tuple(weak or ["No weakness that these pairs could show. That is no proof that there is none."]),
        tuple(next_steps(evaluation, rule, temperature, overconfidence, length_gap)),
    )


# Good ------------------------------------------------------------------------------------------------


def standing_words(above_chance: bool, rule: LengthRule | None) -> list[str]:
    if not above_chance:
        return []
    if standing_of(rule) == "above":
        return ["Ordering answers to one prompt, for prompts like those it was measured on."]
    return ["A first ordering of answers to one prompt, to be checked: it is right more often than a coin."]


def strong_slices(slices: Sequence[Mapping[str, Any]]) -> list[str]:
    found = [row for row in slices if side_of(row, CHANCE, len(slices)) > 0]
    found.sort(key=lambda row: -row["accuracy"])
    if not found:
        return []
    return [f"Shown better than a coin in {counted(len(found), 'slice')} of {len(slices)}: {named(found)}."]


# Weak ------------------------------------------------------------------------------------------------


def worse_than_chance(low: float | None, high: float | None) -> list[str]:
    if low is None or high is None:
        return []
    if high < CHANCE:
        return ["It prefers the answer that the data rejects, more often than a coin would."]
    return ["Nothing shows that it knows which answer is better."] if low <= CHANCE else []


def length_words(gap: Interval | None) -> list[str]:
    """Where accuracy depends on which side is longer."""
    if gap is None or gap.value is None or gap.low is None or gap.high is None or gap.low <= 0 <= gap.high:
        return []
    if gap.value > 0:
        return [f"Right {points(gap.value)} more often where the better answer is the longer one: it leans to length."]
    return [
        f"Right {points(gap.value)} more often where the better answer is the shorter one: it leans against length."
    ]


def weak_slices(slices: Sequence[Mapping[str, Any]], overall: float | None) -> list[str]:
    wrong = [row for row in slices if side_of(row, CHANCE, len(slices)) < 0]
    below = [
        row for row in slices if overall is not None and row not in wrong and side_of(row, overall, len(slices)) < 0
    ]
    open_ = [row for row in slices if row["n"] and side_of(row, CHANCE, len(slices)) == 0 and row not in below]
    words = []
    if wrong:
        words.append(f"Worse than a coin in {named(sorted(wrong, key=worst))}.")
    if below:
        words.append(f"Below its own average in {named(sorted(below, key=worst))}.")
    if open_:
        words.append(f"Not shown to be better than a coin in {named(sorted(open_, key=worst))}.")
    return words


def sureness(over: Interval | None, temperature: float | None) -> list[str]:
    if over is None or over.value is None or over.low is None or over.high is None or over.low <= 0 <= over.high:
        return []
    how = "" if temperature is None else ", even with its stored temperature"
    if over.value > 0:
        return [f"Its probabilities are too high by {points(over.value)}{how}."]
    return [f"Its probabilities are too low by {points(over.value)}{how}: it is right more often than it states."]


# Next ------------------------------------------------------------------------------------------------


def next_steps(
    evaluation: Mapping[str, Any],
    rule: LengthRule | None,
    temperature: float | None,
    over: Interval | None,
    length_gap: Interval | None,
) -> list[str]:
    """What to do, the most urgent first."""
    if value_of(evaluation, "accuracy") is None:
        return ["Measure it on pairs that it was not trained on: rewardsmith report RM heldout.jsonl."]
    low, high = (evaluation["accuracy"].get(key) for key in ("low", "high"))
    steps = []
    if low is None or (evaluation.get("n_prompts") or FEW_PROMPTS) < FEW_PROMPTS:
        steps.append("Hold out more prompts: with so few, no interval means much.")
    elif high < CHANCE:
        steps.append("Check with rewardsmith data check whether chosen and rejected were swapped.")
    elif low <= CHANCE:
        steps.append("Train on more pairs or from a larger base model, and measure again.")
    if standing_of(rule) != "above" or (length_gap and length_words(length_gap)):
        steps.append("Add pairs in which the better answer is not the one that length would choose.")
    slices = of_content(evaluation)
    poor = [row for row in slices if row["n"] >= FEW_PAIRS // 2 and side_of(row, CHANCE, len(slices)) <= 0]
    if poor:
        steps.append(f"Add training pairs, and held-out pairs, for {named(sorted(poor, key=worst), shares=False)}.")
    if temperature is None:
        steps.append("Fit a temperature on pairs that no test uses: rewardsmith calibrate RM dev.jsonl.")
    elif sureness(over, temperature):
        steps.append("Fit the temperature anew on pairs like these: rewardsmith calibrate RM dev.jsonl.")
    steps.append("Read the pairs that it gets most wrong, below: labels may be wrong too.")
    return steps


# Slices ----------------------------------------------------------------------------------------------


def of_content(evaluation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Slices by tag and turns. Those by length and by strength of the label are no subject that one could add data
    for, and are in the figures; a file is one only where there are several."""
    slices = [row for row in evaluation.get("slices") or [] if row["slice"].partition("=")[0] not in NOT_CONTENT]
    files = [row for row in slices if row["slice"].startswith("source=")]
    return [row for row in slices if len(files) > 1 or row not in files]


def side_of(row: Mapping[str, Any], bar: float, n_slices: int) -> int:
    """1 where a slice's accuracy is shown to be above `bar`, -1 below, 0 where it is not shown."""
    value, low, high = row.get("accuracy"), row.get("low"), row.get("high")
    if value is None or low is None or high is None or value == bar:
        return 0
    if low == high:  # all alike: a bootstrap sees no spread, and only many pairs make that evidence
        return 0 if row["n"] < FEW_PAIRS else (1 if value > bar else -1)
    wider = NormalDist().inv_cdf(1 - 0.025 / max(n_slices, 1)) / NormalDist().inv_cdf(0.975)
    if value - (value - low) * wider > bar:
        return 1
    return -1 if value + (high - value) * wider < bar else 0


def named(rows: Sequence[Mapping[str, Any]], *, shares: bool = True) -> str:
    """ "code (61.0%), facts (58.2%) and 3 more"."""
    names = [
        short_slice(row["slice"]) + (f" ({minus(percent(row['accuracy']))})" if shares else "") for row in rows[:NAMED]
    ]
    return ", ".join(names) + (f" and {len(rows) - NAMED} more" if len(rows) > NAMED else "")


def short_slice(name: str) -> str:
    """ "subset=code" is "code" to people; a value that is empty keeps its tag, and a number says of what."""
    tag, _, value = name.partition("=")
    if value == "1":
        tag = tag.removesuffix("s")  # of turns
    return f"{value} {tag}" if value[:1].isdigit() else value or name


def worst(row: Mapping[str, Any]) -> float:
    return float(row["accuracy"] or 0.0)
