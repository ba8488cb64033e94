"""The page of a trained model: one HTML file that opens from disk, without network; it is whole without script too.

Prompts, answers, notes, tags and names come from files that nobody vouches for: the template escapes all of them,
only our own figures and sections are put in as markup, and the one script is fixed text, named by its hash in the
page's security policy. Whatever is missing (no held-out data, no curve, no interval) is said to be missing; it never
stops the page.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.data.schema import TIE, Group
from rewardsmith.evaluation.evaluate import PairRows
from rewardsmith.report import run_figures, run_words
from rewardsmith.report.outlook import Outlook, outlook
from rewardsmith.report.page import counted, percent, render, signed, span, write_text
from rewardsmith.report.run_calibration import Calibration, calibration_of
from rewardsmith.report.run_length import against_prompt_mean, by_longer_side, length_gap
from rewardsmith.report.run_pairs import PRINTED, example_view, extreme_pairs
from rewardsmith.report.section import Section
from rewardsmith.report.sections import sections
from rewardsmith.report.verdict import LengthRule, Verdict, decided_pairs, judge, length_rule, rows_of, value_of
from rewardsmith.statistics import Floats

MOST_SLICES = 40
MOST_LEFT_OUT = 200  # rows in the table; the rest is counted
LEAST = 1e-3  # of a temperature, where words need a number: below it everything is stated as certain


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


@dataclass(frozen=True, kw_only=True)
class Known:
    """All that is known of one model: what its page and its card are made from."""

    title: str
    meta: Mapping[str, Any]
    """The artifact's metadata (reward_model.json)."""
    curve: Sequence[Mapping[str, Any]] = ()
    """The lines of training_metrics.jsonl."""
    evaluation: Mapping[str, Any]
    """What `evaluate_rows` returned for `groups`, or {} where nothing was scored."""
    groups: Sequence[Group] = ()
    rewards: Sequence[Sequence[float]] = ()
    """One reward per response of each group."""
    measured_on: Sequence[str] = ()
    """Names of the files that `groups` came from."""
    trained_on: Sequence[str] = ()
    """Those of them that the model was trained on."""
    example: Mapping[str, Any] | None = None
    """{"prompt": text, "answers": [{"text", "reward"}, ...]}"""
    results: Sequence[tuple[str, Mapping[str, Any]]] = ()
    """(file name, JSON object) of other verbs' results."""


@dataclass(frozen=True)
class Findings:
    """What follows from it: rows, words and numbers, before any of it is drawn."""

    groups: list[Group]
    rewards: list[Floats]
    not_finite: int
    rows: PairRows
    rule: LengthRule | None
    calibration: Calibration
    verdict: Verdict
    outlook: Outlook
    sections: list[Section]

    @property
    def temperature(self) -> float:
        """The divisor of reward gaps, 1 where none is stored."""
        return 1.0 if self.calibration.temperature is None else max(self.calibration.temperature, LEAST)


def findings(known: Known) -> Findings:
    """Raises DataError for a result of another verb that no section knows."""
    groups, rewards, not_finite = finite_groups(known.groups, known.rewards)
    rows = rows_of(groups, rewards)
    rule = length_rule(known.evaluation, rows)
    calibration = calibration_of(rows, known.meta)
    in_training = (known.meta.get("metrics") or {}).get("held_out")
    further = sections(known.results)
    found = outlook(
        known.evaluation,
        rule,
        temperature=calibration.temperature,
        overconfidence=calibration.overconfidence,
        length_gap=length_gap(rows),
    )
    return Findings(
        groups,
        rewards,
        not_finite,
        rows,
        rule,
        calibration,
        judge(known.evaluation, rule, trained_on=known.trained_on, in_training=in_training),
        with_sections(found, further),
        further,
    )


def with_sections(found: Outlook, further: Sequence[Section]) -> Outlook:
    """What the sections add goes first: a planted or found bias matters more than a slice."""
    weak, steps = (tuple(line for s in further for line in getattr(s, name)) for name in ("weak", "next_steps"))
    return Outlook(found.good, weak + found.weak, steps + found.next_steps)


def write_run_page(path: str | Path, known: Known) -> None:
    """Write the page of one model. The file appears whole or not at all.

    Raises DataError where the file cannot be written, or a result is of no kind that a section knows.
    """
    write_text(Path(path), run_page(known))


def run_page(known: Known, found: Findings | None = None) -> str:
    """The page as HTML."""
    from markupsafe import Markup

    found = found or findings(known)
    meta, evaluation = known.meta, known.evaluation
    wrong, right, n_wrong = extreme_pairs(found.groups, found.rewards, found.temperature)
    figures = drawn(known, found)
    script = files("rewardsmith.report").joinpath("templates", "run.js").read_text(encoding="utf-8")
    left_out = run_words.left_out(meta)
    return render(
        "run.html",
        title=known.title,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        verdict=found.verdict,
        outlook=found.outlook,
        one_states=percent(1 / (1 + math.exp(-1 / found.temperature))),
        about=run_words.about(meta, evaluation, known.measured_on),
        facts=headline(evaluation, found.rule),
        length_dots=length_dots(evaluation, found.rows),
        figures={name: Markup(svg) for name, svg in figures.items()},
        curve_notes=run_words.curve_notes(meta, known.curve),
        slices=slice_tables(evaluation),
        slices_beyond=max(0, len(evaluation.get("slices") or []) - MOST_SLICES),
        margin_note=run_words.margin_note(found.rows),
        calibration=found.calibration,
        n_bins=len(found.calibration.bins),
        example=example_view(known.example, found.temperature),
        wrong=wrong,
        printed=PRINTED,
        right=right,
        n_wrong=n_wrong,
        sections=[(s.anchor, s.heading, Markup(s.body)) for s in found.sections],
        measured=run_words.measured(evaluation, found.not_finite),
        machine=run_words.machine(meta),
        parity=run_words.parity(meta),
        files=run_words.data_files(meta),
        losses_of_data=run_words.cut_and_dropped(meta),
        dropped_now=(evaluation.get("dropped") or [])[:MOST_LEFT_OUT],
        as_they_are=(meta.get("normalisation") or {}).get("applied") == "none",
        left_out=left_out[:MOST_LEFT_OUT],
        left_out_beyond=max(0, len(left_out) - MOST_LEFT_OUT),
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
        dot("Accuracy", evaluation["accuracy"], ", ".join(behind)),
        dot(
            "Longer answer wins",
            evaluation.get("length_baseline") or {},
            f"{counted(ties, 'pair')} of equal length count half" if ties else "the length baseline",
            baseline=True,
        ),
        dot("Accuracy, similar lengths", matched, counted(matched.get("n") or 0, "pair") + ", within 10%"),
    ]


def length_dots(evaluation: Mapping[str, Any], rows: PairRows) -> list[Dot]:
    """The headline, and the accuracy where the better answer is longer and where it is shorter."""
    dots = headline_dots(evaluation)
    sides = by_longer_side(rows) if dots else []
    return dots + [dot(name, share.to_json(), counted(n, "pair")) for name, share, n in sides]


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


def drawn(known: Known, found: Findings) -> dict[str, str]:
    """The figures by name; "" where there is nothing to draw."""
    kept = (known.meta.get("metrics") or {}).get("kept_step")
    decided = found.rows.where(found.rows.probability_P != TIE)
    guess = math.log(2) if run_words.plain_loss(known.meta) else None
    return {
        "loss": run_figures.curve(known.curve, "loss", kept=kept, guess=guess),
        "accuracy": run_figures.curve(known.curve, "accuracy", kept=kept, guess=0.5),
        "margins": run_figures.margin_histogram(decided.margin_P),
        "reliability": run_figures.reliability(found.calibration.bins, found.calibration.after),
        "by_length": run_figures.rewards_by_length(*against_prompt_mean(found.groups, found.rewards)),
    }
