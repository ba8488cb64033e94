"""What deserves a line: the coverage's warnings, in plain words, the serious ones first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

THIN = 20  # independent prompts of a cell: below it nothing can be learnt of it
WANTED = 0.05  # of the target's prompts: a trait with so many is worth data
BIASED = 0.65  # of a cell's labels that the surface tells, at the low end of its interval
MOST_NAMED = 4
ALIKE, MUCH_FARTHER = 0.55, 0.75  # chance that a target text is farther than one of the data
MANY_FAR = 0.2  # of the target, beyond the share of a target like the data
SERIOUS, LOOK, NOTE = "serious", "look", "note"
DESCRIPTIVE = ("language", "prompt length", "turns", "safety", "opinion", "asks for", "answer form", "source", "topic")

Report = Mapping[str, Any]
Warning_ = dict[str, str]


def warnings_of(report: Report) -> list[Warning_]:
    found = [
        *label_warnings(report),
        *target_warnings(report),
        *benchmark_warnings(report),
        *slice_warnings(report),
        *language_warnings(report),
        *duplicate_warnings(report),
    ]
    rank = {SERIOUS: 0, LOOK: 1, NOTE: 2}
    return sorted(found, key=lambda warning: rank[warning["level"]])


def warn(kind: str, level: str, message: str) -> Warning_:
    return {"kind": kind, "level": level, "message": message}


def share(number: float) -> str:
    return f"{number:.0%}" if number >= 0.1 or number == 0 else f"{number:.1%}"


def counted(number: int, one: str) -> str:
    return f"{number:,} {one}" if number == 1 else f"{number:,} {one}s"


def tally(counts: Mapping[str, int]) -> str:
    """ "Thai 12, Lao 3"."""
    shown = [f"{name} {n:,}" for name, n in list(counts.items())[:MOST_NAMED]]
    return ", ".join(shown) + (f" and {len(counts) - MOST_NAMED} more" if len(counts) > MOST_NAMED else "")


def label_warnings(report: Report) -> list[Warning_]:
    pairs, ties = report["pairs"], report["ties"]
    if not pairs:
        return [warn("no_pairs", SERIOUS, "No pair is labelled: only prompts and answers are described, no label.")]
    if ties == pairs:
        return [
            warn(
                "only_ties", SERIOUS,
                f"All {counted(pairs, 'pair')} are ties: no cell says which answers are preferred, and a reward model "
                "learns from them that all answers are equal.",
            )
        ]  # fmt: skip
    biased = [
        row for row in report["cells"]
        if row["dimension"] in DESCRIPTIVE and row["effective"] >= THIN
        and (row["surface_accuracy"]["low"] or 0.0) > BIASED
    ]  # fmt: skip
    if not biased:
        return []
    worst = sorted(biased, key=lambda row: -row["surface_accuracy"]["low"])[:MOST_NAMED]
    named = "; ".join(f"{cell_name(row)} {share(row['surface_accuracy']['value'])}" for row in worst)
    return [
        warn(
            "surface", LOOK,
            f"In {counted(len(biased), 'cell')} a model of length and form tells over {share(BIASED)} of the labels "
            f"without reading an answer: {named}. See data balance and data augment.",
        )
    ]  # fmt: skip


def cell_name(row: Mapping[str, Any]) -> str:
    return f"{row['dimension']} “{row['value']}”"


def slice_warnings(report: Report) -> list[Warning_]:
    """Traits that do not vary: nothing can be compared within them."""
    values: dict[str, list[str]] = {}
    for row in report["cells"]:
        if row["groups"]:
            values.setdefault(row["dimension"], []).append(row["value"])
    single = [name for name in DESCRIPTIVE if len(values.get(name, [])) == 1]
    varied = [name for name in DESCRIPTIVE if len(values.get(name, [])) > 1]
    if not single:
        return []
    named = ", ".join(f"{name} ({values[name][0]})" for name in single)
    if not varied:
        return [
            warn("one_slice", SERIOUS, f"One slice only: every group has the same {named}; nothing can be compared.")
        ]
    return [warn("one_slice", LOOK, f"One slice only in {named}: the data says nothing about other values.")]


def language_warnings(report: Report) -> list[Warning_]:
    found = []
    unknown = report["languages"]["not_recognised"]
    n = sum(unknown.values())
    if n:
        found.append(
            warn(
                "language", LOOK if n / report["groups"] > 0.05 else NOTE,
                f"The language of {counted(n, 'group')} is not recognised ({tally(unknown)}): they are a cell of their "
                "own.",
            )
        )  # fmt: skip
    embedding = report["embedding"]
    n = sum(embedding["not_judged"].values())
    if n and not embedding["placed"]:
        found.append(
            warn(
                "embedding", LOOK,
                f"None of the data's {counted(n, 'prompt')} can be placed: they have too few words in common, or the "
                f"embedding does not know the language ({tally(embedding['not_judged'])}). No topic, distance or hole "
                "is told of them.",
            )
        )  # fmt: skip
    places = [("of the data", embedding["not_judged"] if embedding["placed"] else {})]
    if report["target"] is not None:
        places.append(("of the target", report["target"]["prompts"]["not_judged"]))
    for where, counts in places:
        n = sum(counts.values())
        if n:
            found.append(
                warn(
                    "embedding", LOOK,
                    f"{counted(n, 'prompt')} {where} cannot be judged, because the embedding does not know the "
                    f"language ({tally(counts)}): no cluster, distance or hole is told of them"
                    + ("; the table of cells compares their languages." if where == "of the target" else "."),
                )
            )  # fmt: skip
    if report["without_prompt"]:
        found.append(
            warn("no_prompt", LOOK, f"{counted(report['without_prompt'], 'group')} have no prompt and no place.")
        )
    return found


def target_warnings(report: Report) -> list[Warning_]:
    if report["target"] is None:
        return [warn("no_target", NOTE, "Holes can only be told against a target set: give --target FILE.")]
    found: list[Warning_] = []
    for what, facts in report["target"].items():
        if facts is not None:
            found += distance_warnings(what, facts)
    lacking = [
        row for row in report["cells"]
        if (row["target_share"] or 0.0) >= WANTED and row["effective"] < THIN
        and not row["value"].startswith(("(not ", "not judged"))
    ]  # fmt: skip
    if lacking and report["pairs"]:
        named = "; ".join(
            f"{cell_name(row)} ({share(row['target_share'])} of the target, {row['effective']:.0f} independent prompts "
            "with a decided pair)"
            for row in sorted(lacking, key=lambda row: -row["target_share"])[:MOST_NAMED]
        )
        found.append(warn("thin", SERIOUS, f"The target asks for what the data hardly has: {named}."))
    return found


def distance_warnings(what: str, facts: Mapping[str, Any]) -> Sequence[Warning_]:
    far, farther = facts["far"], facts["farther"]
    if far is None:
        return [
            warn(
                "too_few", LOOK,
                f"Distances of the target's {what} cannot be judged: the data has a place for texts of fewer than "
                "20 opening turns, or for none of the target's.",
            )
        ]  # fmt: skip
    told = (
        f"{share(far['value'])} of the target's {what}{between(far)} have no near neighbour in the data; of a target "
        f"like the data, {share(facts['expected'])} would. One of the target is farther from the data than one of the "
        f"data in {share(farther['value'])} of comparisons{between(farther)}; alike would be 50%. "
        f"{share(facts['off']['value'])} lie off the data as a whole; 5% of the data do"
    )
    if (far["low"] or 0.0) <= facts["expected"] and (farther["low"] or 0.0) <= ALIKE:
        return [warn("covered", NOTE, f"{told}.")]
    names = "; ".join(f"{hole['name']} ({hole['far']:,} of {hole['texts']:,})" for hole in facts["holes"][:3])
    level = SERIOUS if far["value"] - facts["expected"] > MANY_FAR or farther["value"] > MUCH_FARTHER else LOOK
    return [warn("holes", level, f"{told}. " + (f"Largest holes: {names}." if names else ""))]


def between(interval: Mapping[str, float | None]) -> str:
    low, high = interval["low"], interval["high"]
    return "" if low is None or high is None else f" ({share(low)} to {share(high)})"


def benchmark_warnings(report: Report) -> list[Warning_]:
    found = []
    for row in report["benchmarks"]:
        more = (
            f", and {row['answers_in_runs']:,} of {counted(row['answers'], 'answer')}" if row["answers_in_runs"] else ""
        )
        if row["contaminated"] or row["answers_in_runs"]:
            message = (
                f"{row['name']}: {row['contaminated']:,} of {counted(row['prompts'], 'prompt')} "
                f"{'is' if row['contaminated'] == 1 else 'are'} in the data "
                f"({row['in_runs']:,} by runs of eight words, {row['near']:,} near duplicates){more}: leave them out "
                "of training, or the benchmark is partly a memory test."
            )
            found.append(warn("contamination", SERIOUS, message))
        else:
            message = f"{row['name']}: none of {counted(row['prompts'], 'prompt')} is in the data by words"
            alike = f"; {row['alike']:,} have a neighbour in the embedding to look at" if row["alike"] else ""
            found.append(warn("contamination", NOTE, f"{message}{alike}."))
    return found


def duplicate_warnings(report: Report) -> list[Warning_]:
    near = report["duplicates"]["near"]
    if not near:
        return []
    message = (
        f"{counted(near, 'prompt')} of {report['prompts']:,} nearly {'repeats' if near == 1 else 'repeat'} another "
        f"({share(near / report['prompts'])})"
    )
    return [warn("duplicates", LOOK, f"{message}: near duplicates count once in the effective sizes.")]
