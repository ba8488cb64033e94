"""`data check`: what preference files hold, what is wrong with them, and what their surface gives away.

    result = check_files(["prefs.jsonl"], ReadOptions(), eval_paths=["held_out.jsonl"])
    for warning in result["warnings"]:
        print(warning["message"])

One pass over each file. Memory does not grow with it beyond what `ledger` bounds and, in the reader, the rows of
files with one response a row. What is measured on a sample says so, with the size of the sample. A warning names
what was seen, how often, up to five places, and what to do about it; a clean file gives none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewardsmith.data.advice import Warnings, relative
from rewardsmith.data.forecast import GroupRenderer, token_forecast
from rewardsmith.data.ledger import Found, Ledger, Places, quantiles
from rewardsmith.data.near import near_duplicates, near_matches
from rewardsmith.data.options import NO_PROMPT
from rewardsmith.data.readers import FileReport, ReadOptions, ReadReport, read_groups
from rewardsmith.data.schema import Group
from rewardsmith.data.surface import surface_baseline
from rewardsmith.data.survey import Counts, Survey, prompt_and_responses, prompt_text, snippet

Paths = str | Path | Sequence[str | Path]
PROGRESS_EVERY = 1000  # groups
BINS = 30


def check_files(
    paths: Paths,
    read_options: ReadOptions | None = None,
    *,
    eval_paths: Paths = (),
    renderer: GroupRenderer | None = None,
    max_length: int = 1024,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Everything `data check` knows about the files, ready for JSON.

    eval_paths  held-out files, read with the same options: what they share with `paths` is reported
    renderer    groups to tokens as training does it (a `text.render.Renderer`), for lengths in tokens. Its own
                limit should be far above max_length, or longer inputs are cut before they are measured
    max_length  the length in tokens that the forecast is for
    seed        of the samples and folds: the same seed and files give the same result
    progress    told how many more groups were read

    Keys: shape, files, rows, groups, pairs, dropped [{file, line, reason}], warnings [{kind, level, count,
    message, action, examples [{where, text}]}], labels, k, turns, roles, tags, lengths (characters), tokens (None
    without a renderer), surface_baseline, sample, eval (None without eval_paths), seed.

    Raises DataError as `read_groups` does.
    """
    options = read_options if read_options is not None else ReadOptions()
    has_eval = isinstance(eval_paths, str | Path) or len(eval_paths) > 0
    places = Places()
    report, eval_report = ReadReport(), ReadReport()
    survey = survey_files(paths, options, report, Survey(places, seed, openings=has_eval), progress)
    held_out = None
    if has_eval:
        held_out = Survey(places, seed, openings=True)
        survey_files(eval_paths, options, eval_report, held_out, progress)
    sample = survey.sample.groups()
    result = {
        **overview(report, survey.counts),
        "labels": label_balance(survey.counts),
        "k": by_number(survey.counts.k),
        "turns": by_number(survey.counts.turns),
        "roles": dict(survey.counts.roles.most_common()),
        "tags": {name: dict(values.most_common()) for name, values in sorted(survey.tags.items())},
        "lengths": lengths(survey),
        "tokens": None if renderer is None else token_forecast(sample, renderer, max_length, seed),
        "surface_baseline": surface_baseline(sample, seed, of_groups=survey.sample.seen),
        "sample": {"groups": len(sample), "of_groups": survey.sample.seen},
        "eval": None if held_out is None else overview(eval_report, held_out.counts),
        "seed": seed,
    }
    result["warnings"] = warnings_of(survey, held_out, report, eval_report, result)
    return result


def survey_files(
    paths: Paths,
    options: ReadOptions,
    report: ReadReport,
    survey: Survey,
    progress: Callable[[int], object] | None,
) -> Survey:
    """One pass over the files."""
    waiting = 0
    for group in read_groups(paths, options, report=report):
        survey.add(group, report.files[-1].shape)
        waiting += 1
        if waiting == PROGRESS_EVERY and progress is not None:
            progress(waiting)
            waiting = 0
    if waiting and progress is not None:
        progress(waiting)
    return survey


def overview(report: ReadReport, counts: Counts) -> dict[str, Any]:
    """What was read, file by file and in all."""
    return {
        "shape": ", ".join(dict.fromkeys(file.shape for file in report.files)),
        "files": [file_facts(file) for file in report.files],
        "rows": sum(file.rows for file in report.files),
        "groups": counts.groups,
        "pairs": counts.pairs,
        "dropped": [row._asdict() for row in report.dropped],
    }


def file_facts(file: FileReport) -> dict[str, Any]:
    """A file's report with plain dicts (`asdict` counts the items of a Counter instead of copying it)."""
    return {name: dict(value) if isinstance(value, dict) else value for name, value in vars(file).items()}


def label_balance(counts: Counts) -> dict[str, Any]:
    """What kinds of labels there are.

    first_position, by shape, is the share of decided pairs whose better side comes first in the row. It is known
    only where a row has an order of its own: `chosen` and `rejected` say nothing about it.
    """
    names = ("strict", "ties", "soft", "with_margin", "with_votes", "unanimous")
    shown = {name: getattr(counts, name) for name in (*names, "groups_without_pairs", "groups_with_ratings")}
    position = {shape: {"share": counts.first_chosen[shape] / n, "n": n} for shape, n in counts.ordered.items() if n}
    return {**shown, "first_position": position}


def by_number(counts: dict[int, int]) -> dict[str, int]:
    """A histogram by ascending number, with the keys that JSON allows."""
    return {str(number): counts[number] for number in sorted(counts)}


def lengths(survey: Survey) -> dict[str, Any]:
    """Characters of prompts and of both sides of decided pairs, with histograms."""
    rows = survey.pair_lengths.rows().astype(np.float64)
    chosen, rejected = rows[:, 0], rows[:, 1]
    difference = chosen - rejected
    return {
        "prompt": quantiles(survey.prompt_lengths.rows()[:, 0]),
        "response": quantiles(survey.response_lengths.rows()[:, 0]),
        "chosen": quantiles(chosen),
        "rejected": quantiles(rejected),
        "histogram": side_histogram(chosen, rejected),
        "difference": difference_histogram(difference),
        "longer_chosen": share(difference > 0),
        "equal_length": share(difference == 0),
    }


def share(flags: NDArray[np.bool_]) -> float | None:
    return float(flags.mean()) if len(flags) else None


def side_histogram(chosen: NDArray[Any], rejected: NDArray[Any]) -> dict[str, list[float]]:
    """Equal bins up to the 99th percentile of both sides; the last bin holds what is longer."""
    if not len(chosen):
        return {"edges": [], "chosen": [], "rejected": []}
    top = max(float(np.percentile(np.concatenate([chosen, rejected]), 99)), 1.0)
    edges = np.linspace(0, top, BINS + 1)
    return {
        "edges": edges.tolist(),
        "chosen": np.histogram(np.minimum(chosen, top), edges)[0].tolist(),
        "rejected": np.histogram(np.minimum(rejected, top), edges)[0].tolist(),
    }


def difference_histogram(difference: NDArray[Any]) -> dict[str, list[float]]:
    """Bins that are symmetric about zero, up to the 98th percentile of the size; the outer ones hold the rest."""
    if not len(difference):
        return {"edges": [], "counts": []}
    top = max(float(np.percentile(np.abs(difference), 98)), 1.0)
    edges = np.linspace(-top, top, BINS + 2)  # an odd number of bins: the middle one is about zero
    return {
        "edges": edges.tolist(),
        "counts": np.histogram(np.clip(difference, -top, top), edges)[0].tolist(),
    }


# --- what deserves a warning ---------------------------------------------------------------------------------


def warnings_of(
    survey: Survey,
    held_out: Survey | None,
    report: ReadReport,
    eval_report: ReadReport,
    result: dict[str, Any],
) -> list[dict[str, Any]]:
    """All warnings, the serious ones first, then by count."""
    warnings = Warnings(survey.places)
    for one in (report, eval_report):
        reader_warnings(warnings, one)
    for kind, finding in survey.findings.items():
        warnings.add(kind, finding.count, finding.examples)
    repeats = survey.contents.repeats()
    add_found(warnings, "duplicates_exact", repeats, survey.contents, "the same prompt and responses as")
    conflicts = survey.comparisons.conflicts()
    add_found(warnings, "contradictory_labels", conflicts, survey.comparisons, "the opposite label of")
    near_warning(warnings, survey)
    if held_out is not None:
        overlap_warnings(warnings, survey, held_out)
    label_warnings(warnings, survey.counts)
    surface_warning(warnings, result["surface_baseline"])
    token_warnings(warnings, result["tokens"])
    return warnings.sorted()


def add_found(warnings: Warnings, kind: str, found: Found, ledger: Ledger, relation: str) -> None:
    """What a ledger found; a thinned one saw one key in `share`, so the count is scaled up and says so."""
    shown = [(warnings.places.show(place), warnings.places.show(like)) for place, like in found.examples]
    examples = [(place, f"{relation} {relative(like, place)}") for place, like in shown]
    about = "" if ledger.share == 1 else f" (estimated from one in {ledger.share})"
    warnings.add(kind, found.total * ledger.share, examples, about=about)


def reader_warnings(warnings: Warnings, report: ReadReport) -> None:
    """Dropped rows, those whose two sides have different prompts by themselves, and the reader's own remarks."""
    mismatched = [row for row in report.dropped if is_mismatch(row.reason)]
    others = [row for row in report.dropped if not is_mismatch(row.reason)]
    for kind, rows in (("dropped_rows", others), ("prompt_mismatch", mismatched)):
        examples = [(f"{row.file}:{row.line}", row.reason) for row in rows[:5]]
        warnings.add(kind, len(rows), examples)
    for remark in report.warnings:
        if f": {NO_PROMPT} (" in remark:
            continue  # the survey says so, with examples
        warnings.add("reader", 1, [], about=remark)


def is_mismatch(reason: str) -> bool:
    """Whether the reader dropped a row because its two sides do not answer the same prompt."""
    return "different prompts" in reason or "another prompt" in reason


def near_warning(warnings: Warnings, survey: Survey) -> None:
    """Near duplicates in the sample; exact ones are counted elsewhere and left out here."""
    groups = distinct(survey.sample.groups(), prompt_and_responses)
    pairs = near_duplicates(prompt_and_responses(group) for group in groups)
    shown = [(groups[a].source, groups[b].source) for a, b in pairs[:5]]
    examples = [(place, f"nearly the same as {relative(like, place)}") for place, like in shown]
    warnings.add("duplicates_near", len(pairs), examples, about=sampled(survey))


def distinct(groups: Sequence[Group], text: Callable[[Group], str]) -> list[Group]:
    """The first group of each text, in the order of the sample."""
    return list({text(group): group for group in reversed(groups)}.values())[::-1]


def sampled(survey: Survey) -> str:
    """How much of the files the sample is, where it is not all."""
    if survey.sample.is_whole:
        return ""
    return f" in a random sample of {len(survey.sample.items):,} of {survey.sample.seen:,} groups"


def overlap_warnings(warnings: Warnings, survey: Survey, held_out: Survey) -> None:
    """What the evaluation files share with the training files: prompts, opening turns, near prompts."""
    assert survey.openings is not None, "an overlap needs the openings of both"
    assert held_out.openings is not None
    prompts = held_out.prompts.shared_with(survey.prompts)
    ledger = max(held_out.prompts, survey.prompts, key=lambda one: one.share)
    add_found(warnings, "overlap_prompts", prompts, ledger, "the same prompt as")
    openings = held_out.openings.shared_with(survey.openings)
    ledger = max(held_out.openings, survey.openings, key=lambda one: one.share)
    if openings.total > prompts.total:
        add_found(warnings, "overlap_openings", openings, ledger, "opens with the same turn as")
    train, held = survey.sample.groups(), held_out.sample.groups()
    seen = {prompt_text(group) for group in train}
    train = distinct(train, prompt_text)
    held = [group for group in distinct(held, prompt_text) if prompt_text(group) not in seen]
    pairs = near_matches([prompt_text(group) for group in held], [prompt_text(group) for group in train])
    examples = [(held[a].source, f"{snippet(prompt_text(held[a]))} (near {train[b].source})") for a, b in pairs[:5]]
    warnings.add("overlap_near", len(pairs), examples, about=sampled(survey))


def label_warnings(warnings: Warnings, counts: Counts) -> None:
    """Labels that lean to one place of the row, and files of which no pair can be learnt."""
    n, first = counts.ordered["pairwise"], counts.first_chosen["pairwise"]
    # Only in this shape does the order come from the collection; elsewhere it is often sorted by quality.
    if n and abs(first - n / 2) > 4 * np.sqrt(n / 4) and abs(first / n - 0.5) > 0.05:
        warnings.add("position", n, [], about=f"{first / n:.0%}")
    if counts.pairs and not counts.strict:
        warnings.add("only_ties", counts.ties, [])


def surface_warning(warnings: Warnings, baseline: dict[str, Any]) -> None:
    """Surface features that predict more than 60% of the held-out labels, beyond doubt."""
    names = {
        "length_accuracy": "Always preferring the longer answer",
        "shorter_accuracy": "Always preferring the shorter answer",
        "logistic_accuracy": "A model of surface features",
    }
    best = max(names, key=lambda key: baseline[key]["low"] or 0.0)
    if (baseline[best]["low"] or 0.0) > 0.6:
        about = f"{names[best]} agrees with {baseline[best]['value']:.0%}"
        warnings.add("surface", baseline["n_pairs"], [], about=about)


def token_warnings(warnings: Warnings, tokens: dict[str, Any] | None) -> None:
    """What max_length would cut, and what the chat template refuses, in the groups that were tokenised."""
    if tokens is None:
        return
    about = f" at {tokens['max_length']:,} tokens ({tokens['groups']:,} groups were tokenised)"
    answers = round((tokens["answers_cut"] or 0) * tokens["responses"])
    prompts = round((tokens["prompts_cut"] or 0) * tokens["groups"])
    warnings.add("answers_cut", answers, [], about=about)
    warnings.add("prompts_cut", prompts, [], about=about)
    refused = [(example["source"], example["reason"]) for example in tokens["refused_examples"]]
    warnings.add("template_refuses", tokens["refused"], refused)
