"""Contrasts of real answers, beside the edits of written ones: does what edits show hold of what systems answered?

    alpaca:A:B  answers of any two systems in a file of alpaca_eval outputs; without names, every system that is there
                with a `_concise` or `_verbose` twin
    xstest      completions with labels: refusals of safe prompts against compliance, and the other way round
    rm-bench    the same right answer in short, in full, and in full with markdown

Unlike an edit, a real answer differs from its twin in more than the bias: a difference shows that the reward follows it
in practice, not that the bias alone is the cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from rewardsmith.audit.own import by_prompt
from rewardsmith.audit.probes import Cell, Contrast, ContrastSet, Pair, Wanted
from rewardsmith.data.files import data_files, read_rows
from rewardsmith.data.parts import prompt_turns
from rewardsmith.data.schema import Message, Messages, content_hash
from rewardsmith.data.split import unit_hash
from rewardsmith.errors import ConfigError, DataError

MOST_PROMPTS = 100
TWINS = (("_concise", ""), ("", "_verbose"))  # (shorter, longer)
SAFE, UNSAFE = "refusing safe prompts", "complying with unsafe prompts"
Row = dict[str, Any]
Answers = tuple[Messages, str, str]  # prompt, before, after


def real_contrasts(spec: str, most: int = MOST_PROMPTS) -> list[ContrastSet]:
    """The sets that `NAME=PATH` stands for (`alpaca=FILE`, `alpaca:A:B=FILE`, `xstest=FOLDER`, `rm-bench=FILE`).

    Of each, at most `most` prompts, the same ones every time. Raises ConfigError for another NAME, DataError where the
    file has no such contrast.
    """
    name, found, path = spec.partition("=")
    kind, *systems = name.split(":")
    if not found or not path or kind not in READERS or (systems and (kind != "alpaca" or len(systems) != 2)):
        raise ConfigError(f"--real {spec!r}: give alpaca=FILE, alpaca:A:B=FILE, xstest=FOLDER or rm-bench=FILE")
    rows = [raw.value for file in data_files(path) for raw in read_rows(file) if raw.value is not None]
    sets = alpaca(rows, most, tuple(systems)) if systems else READERS[kind](rows, most)
    sets = [one for one in sets if one.contrasts]
    if not sets:
        raise DataError(f"{path}: no contrast of {name} in its {len(rows)} rows")
    return sets


def alpaca(rows: Sequence[Row], most: int = MOST_PROMPTS, systems: tuple[str, ...] = ()) -> list[ContrastSet]:
    """Two systems' answers to the same prompts: those named, or all twins; from the shorter to the longer."""
    answers: dict[str, dict[str, str]] = {}
    for row in rows:
        prompt, response = (_first(row, keys) for keys in (("prompt", "instruction"), ("response", "output")))
        system = row.get("generator")
        if isinstance(system, str) and prompt.strip() and response.strip():
            answers.setdefault(system, {})[prompt] = response
    lost = [system for system in systems if system not in answers]
    if lost:
        raise ConfigError(f"no answers of {lost[0]!r}; there are: {', '.join(sorted(answers))}")
    pairs = [(systems[0], systems[1])] if systems else list(twins(answers))
    return [
        contrast_set(
            f"{before} to {after}",
            f"What is a real answer of {after} worth over {before}'s?",
            (
                (_user(prompt), text, answers[after][prompt])
                for prompt, text in answers[before].items()
                if prompt in answers[after]
            ),
            most,
            agrees_with=() if systems else ("padding",),
        )
        for before, after in pairs
    ]


def twins(systems: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(shorter, longer) for every system that is there in both."""
    there = sorted(set(systems))
    for name, (shorter, longer) in product(there, TWINS):
        stem = name.removesuffix(shorter)
        if (not shorter or stem != name) and stem + longer in there and stem + longer != name:
            yield name, stem + longer


def xstest(rows: Sequence[Row], most: int = MOST_PROMPTS) -> list[ContrastSet]:
    """Systems' completions with labels: the wanted kind of answer against the other one, for the same prompt."""
    by_side: dict[str, dict[Messages, dict[str, list[str]]]] = {SAFE: {}, UNSAFE: {}}
    for row in rows:
        prompt, completion, label, kind = (row.get(key) for key in ("prompt", "completion", "final_label", "type"))
        if isinstance(prompt, str) and isinstance(completion, str) and completion.strip() and isinstance(kind, str):
            side = UNSAFE if kind.startswith("contrast") else SAFE
            by_side[side].setdefault(_user(prompt), {}).setdefault(str(label), []).append(completion)
    complies, refuses = "1_full_compliance", "2_full_refusal"
    ways = ((SAFE, complies, refuses, "needless refusal"), (UNSAFE, refuses, complies, "missing refusal"))
    return [
        contrast_set(
            side,
            f"What is {side} worth in real answers?",
            (
                (prompt, before, after)
                for prompt, found in by_side[side].items()
                for before, after in product(found.get(good, ()), found.get(bad, ()))
            ),
            most,
            wanted="lower",
            agrees_with=(probe,),
        )
        for side, good, bad, probe in ways
    ]


def rm_bench(rows: Sequence[Row], most: int = MOST_PROMPTS) -> list[ContrastSet]:
    """The three styles of a right answer, [short, full, full with markdown]: from each to the next."""
    found = [
        (prompt_turns(row["prompt"], "prompt"), row["chosen"])
        for row in rows
        if isinstance(row.get("prompt"), str)
        and isinstance(row.get("chosen"), list)
        and len(row["chosen"]) == 3
        and all(isinstance(text, str) for text in row["chosen"])
    ]
    steps = (
        ("rm-bench: short to full", 0, 1, ("padding",)),
        ("rm-bench: plain to markdown", 1, 2, ("list", "bold", "header")),
    )
    return [
        contrast_set(
            name,
            "What is the fuller or richer style of the same answer worth?",
            ((prompt, styles[before], styles[after]) for prompt, styles in found),
            most,
            agrees_with=probes,
        )
        for name, before, after, probes in steps
    ]


def contrast_set(
    name: str,
    asks: str,
    answers: Iterable[Answers],
    most: int,
    *,
    wanted: Wanted = "not higher",
    agrees_with: tuple[str, ...] = (),
) -> ContrastSet:
    """A set from (prompt, before, after); equal and blank answers are no contrast."""
    pairs = [
        (prompt, Contrast(Pair(Cell(prompt, before), Cell(prompt, after))))
        for prompt, before, after in answers
        if before != after and before.strip() and after.strip()
    ]
    kept = set(sorted({prompt for prompt, _ in pairs}, key=lambda p: unit_hash(content_hash(p, ()), 0))[:most])
    contrasts = by_prompt([pair for pair in pairs if pair[0] in kept])
    return ContrastSet(name=name, family="real", asks=asks, wanted=wanted, contrasts=contrasts, agrees_with=agrees_with)


def _user(prompt: str) -> Messages:
    return (Message("user", prompt),)


def _first(row: Mapping[str, Any], keys: Sequence[str]) -> str:
    return next((row[key] for key in keys if isinstance(row.get(key), str)), "")


READERS = {"alpaca": alpaca, "xstest": xstest, "rm-bench": rm_bench}
