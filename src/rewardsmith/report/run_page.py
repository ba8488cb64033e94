"""The page of a trained model: one HTML file that opens from disk, without network or script.

Prompts, answers, notes, tags and names come from files that nobody vouches for: the template escapes all of them,
and only our own figures are put in as markup. Whatever is missing (no held-out data, no curve, no interval) is
said to be missing; it never stops the page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.data.schema import TIE, Group
from rewardsmith.evaluation.evaluate import PairRows
from rewardsmith.report import run_figures, run_words
from rewardsmith.report.page import counted, percent, render, signed, span, write_text
from rewardsmith.report.run_pairs import example_view, extreme_pairs
from rewardsmith.report.verdict import LengthRule, decided_pairs, judge, length_rule, rows_of, value_of
from rewardsmith.statistics import Floats, Interval

MOST_SLICES = 40
MOST_LEFT_OUT = 200  # rows in the table; the rest is counted


@dataclass(frozen=True)
class Dot:
    """One row of a dot plot of shares: a value with its interval, in words too."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: str
    baseline: bool = False

    @property
    def text(self) -> str:
        return percent(self.value)

    @property
    def range(self) -> str:
        return "" if self.why else span(self.low or 0.0, self.high or 0.0)

    @property
    def why(self) -> str:
        """Why there is no interval, "" where there is one."""
        if self.value is None:
            return "no pairs"
        if self.low is None or self.high is None:
            return "no interval"
        # A bootstrap of pairs that are all alike has no width, however few they are: that is no certainty.
        return "all alike: no interval" if self.low == self.high else ""

    @property
    def described(self) -> str:
        return self.why if self.value is None else f"{self.text}, {self.why or '95% interval ' + self.range}"


def write_run_page(
    path: str | Path,
    *,
    title: str,
    meta: dict[str, Any],
    evaluation: dict[str, Any],
    curve: list[dict[str, Any]],
    groups: Sequence[Group],
    rewards: Sequence[Sequence[float]],
    example: dict[str, Any] | None = None,
) -> None:
    """Write the page of one model. The file appears whole or not at all.

    meta        the artifact's metadata (reward_model.json)
    evaluation  what `evaluate_rows` returned for `groups`, or {} where nothing was held out
    curve       the lines of training_metrics.jsonl
    rewards     one reward per response of each group
    example     {"prompt": text, "answers": [{"text", "reward"}, ...]}

    Raises DataError where the file cannot be written.
    """
    page = run_page(
        title=title, meta=meta, evaluation=evaluation, curve=curve, groups=groups, rewards=rewards, example=example
    )
    write_text(Path(path), page)


def run_page(
    *,
    title: str,
    meta: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    curve: Sequence[Mapping[str, Any]],
    groups: Sequence[Group],
    rewards: Sequence[Sequence[float]],
    example: Mapping[str, Any] | None = None,
) -> str:
    """The page as HTML."""
    from markupsafe import Markup

    scored, arrays, not_finite = finite_groups(groups, rewards)
    rows = rows_of(scored, arrays)
    rule = length_rule(evaluation, rows)
    bins = run_words.reliability_bins(rows)
    wrong, right, n_wrong = extreme_pairs(scored, arrays)
    figures = drawn(meta, curve, rows, bins)
    return render(
        "run.html",
        title=title,
        verdict=judge(evaluation, rule),
        about=run_words.about(meta, evaluation),
        facts=headline(evaluation, rule),
        headline_dots=headline_dots(evaluation),
        figures={name: Markup(svg) for name, svg in figures.items()},
        curve_notes=run_words.curve_notes(meta, curve),
        slices=slice_tables(evaluation),
        slices_beyond=max(0, len(evaluation.get("slices") or []) - MOST_SLICES),
        margin_note=run_words.margin_note(rows),
        calibration_note=run_words.calibration_note(rows, evaluation),
        n_bins=len(bins),
        example=example_view(example),
        wrong=wrong,
        right=right,
        n_wrong=n_wrong,
        measured=run_words.measured(evaluation, not_finite),
        machine=run_words.machine(meta),
        parity=run_words.parity(meta),
        files=run_words.data_files(meta),
        losses_of_data=run_words.cut_and_dropped(meta),
        as_they_are=(meta.get("normalisation") or {}).get("applied") == "none",
        left_out=run_words.left_out(meta)[:MOST_LEFT_OUT],
        left_out_beyond=max(0, len(run_words.left_out(meta)) - MOST_LEFT_OUT),
        config=run_words.as_json(meta.get("config")),
        contract=run_words.as_json({key: meta[key] for key in ("render", "pooling", "path", "dtype") if key in meta}),
    )


def finite_groups(groups: Sequence[Group], rewards: Sequence[Sequence[float]]) -> tuple[list[Group], list[Floats], int]:
    """Groups whose rewards are all finite, these rewards, and how many groups were left aside."""
    arrays = [np.asarray(row, dtype=np.float64) for row in rewards]
    kept = [
        (group, row)
        for group, row in zip(groups, arrays, strict=True)
        if len(row) == len(group.responses) and np.isfinite(row).all()
    ]
    return [group for group, _ in kept], [row for _, row in kept], len(arrays) - len(kept)


def headline(evaluation: Mapping[str, Any], rule: LengthRule | None) -> list[tuple[str, str, str]]:
    """(number, what it is, remark) of the facts that open the page."""
    facts = []
    for dot in headline_dots(evaluation):
        facts.append((dot.text, dot.name, f"{dot.why or '95% interval ' + dot.range}; {dot.n}"))
    lead = rule.lead if rule is not None else None
    if rule is not None and lead is not None and lead.value is not None:
        remark = f"that rule, {percent(rule.accuracy)}, reads no answer"
        if lead.low is not None and lead.high is not None:
            remark = f"95% interval {signed(lead.low)} to {signed(lead.high)}; {remark}"
        facts.append((signed(lead.value), f"points over “{rule.prefers} wins”", remark))
    return facts


def headline_dots(evaluation: Mapping[str, Any]) -> list[Dot]:
    """The model, the length baseline, and the model where length cannot help; [] without an accuracy."""
    if value_of(evaluation, "accuracy") is None:
        return []
    matched = evaluation.get("length_matched_accuracy") or {}
    pairs, prompts = decided_pairs(evaluation), evaluation.get("n_prompts")
    behind = [counted(pairs, "pair")] if pairs is not None else []
    behind += [counted(prompts, "prompt")] if prompts is not None else []
    ties = (evaluation.get("length_baseline") or {}).get("ties")
    return [
        dot("Held-out accuracy", evaluation["accuracy"], ", ".join(behind)),
        dot(
            "Longer answer wins",
            evaluation.get("length_baseline") or {},
            f"{counted(ties, 'pair')} of equal length count half" if ties else "the length baseline",
            baseline=True,
        ),
        dot("Accuracy, similar lengths", matched, counted(matched.get("n") or 0, "pair") + ", within 10%"),
    ]


def dot(name: str, figure: Mapping[str, Any], n: str, *, baseline: bool = False) -> Dot:
    value, low, high = (figure.get(key) for key in ("value", "low", "high"))
    return Dot(name, value, low, high, n, baseline)


def slice_tables(evaluation: Mapping[str, Any]) -> list[tuple[str, list[Dot]]]:
    """Per tag its slices from best to worst; of many slices, those with most pairs."""
    slices = sorted(evaluation.get("slices") or [], key=lambda row: -row["n"])[:MOST_SLICES]
    tables: dict[str, list[Dot]] = {}
    for row in sorted(slices, key=lambda row: -1.0 if row["accuracy"] is None else -row["accuracy"]):
        tag, _, value = row["slice"].partition("=")
        figure = {"value": row["accuracy"], "low": row.get("low"), "high": row.get("high")}
        tables.setdefault(tag, []).append(dot(value, figure, counted(row["n"], "pair")))
    # n = 0 last, and the tag with most slices last too: short tables are read first.
    for dots in tables.values():
        dots.sort(key=lambda row: row.value is None)
    return sorted(tables.items(), key=lambda item: (len(item[1]), item[0]))


def drawn(
    meta: Mapping[str, Any],
    curve: Sequence[Mapping[str, Any]],
    rows: PairRows,
    bins: Sequence[tuple[float, Interval, int]],
) -> dict[str, str]:
    """The figures by name; "" where there is nothing to draw."""
    kept = (meta.get("metrics") or {}).get("kept_step")
    decided = rows.where(rows.probability_P != TIE)
    return {
        "loss": run_figures.curve(curve, "loss", kept=kept, guess=math.log(2) if run_words.plain_loss(meta) else None),
        "accuracy": run_figures.curve(curve, "accuracy", kept=kept, guess=0.5),
        "margins": run_figures.margin_histogram(decided.margin_P),
        "reliability": run_figures.reliability(bins),
    }
