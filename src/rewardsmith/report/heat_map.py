"""Which words a reward comes from, as a page: the answers of one prompt with every word or sentence marked.

Not by colour alone: what raises the reward stands on a tint with a solid line below it, what lowers it on another with
a dotted one, the more the thicker; the strongest are listed with their numbers. Texts are escaped by the template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardsmith.data.schema import Group, text_of
from rewardsmith.report.page import render, reward, write_text

LEVELS = 4  # of strength
SILENT = 0.08  # of the largest value: below it, a unit is left unmarked
LISTED = 8
MEANING = {
    "word": "the answer's reward less its reward without the word",
    "sentence": "the answer's reward less its reward without the sentence",
    "gradient": "integrated gradients from an answer of average tokens to this one",
}


def write_heat_map(
    path: str | Path,
    group: Group,
    rows: Sequence[Mapping[str, Any]],
    *,
    title: str,
    labels: Sequence[str] = (),
    sentences: Sequence[str] = (),
) -> None:
    """Write the page. The file appears whole or not at all; DataError where it cannot be written."""
    write_text(Path(path), heat_map_html(group, rows, title=title, labels=labels, sentences=sentences))


def heat_map_html(
    group: Group,
    rows: Sequence[Mapping[str, Any]],
    *,
    title: str,
    labels: Sequence[str] = (),
    sentences: Sequence[str] = (),
) -> str:
    """A page of what `audit.tokens.explain` returned.

    labels     what each row's answer is ("chosen", "rejected"); the answers' numbers by default
    sentences  what the model rewards in general, in words
    """
    values = [abs(unit["value"]) for row in rows for unit in row["units"] if unit["value"] is not None]
    largest = max(values, default=0.0)
    names = list(labels) or [f"answer {row['response'] + 1}" for row in rows]
    return render(
        "heat_map.html",
        title=title,
        prompt=text_of(group.prompt),
        note=group.note,
        answers=[answer_view(name, row, largest) for name, row in zip(names, rows, strict=True)],
        sentences=list(sentences),
        levels=[("down", n) for n in range(LEVELS, 0, -1)] + [("up", n) for n in range(1, LEVELS + 1)],
        largest=reward(largest).lstrip("+"),
    )


def answer_view(name: str, row: Mapping[str, Any], largest: float) -> dict[str, Any]:
    """One answer as the template shows it."""
    known = sorted((u for u in row["units"] if u["value"]), key=lambda u: -abs(u["value"]))[:LISTED]
    return {
        "name": name,
        "reward": reward(row["reward"]),
        "meaning": MEANING[row["by"]],
        "parts": list(parts_of(row, largest)),
        "strongest": [
            {"text": " ".join(u["text"].split())[:90] or "(blank)", "value": reward(u["value"]), "up": u["value"] > 0}
            for u in known
        ],
        "completeness": completeness_words(row["completeness"]) if "completeness" in row else "",
    }


def completeness_words(complete: Mapping[str, float]) -> str:
    """How far integrated gradients account for the reward."""
    return (
        f"The values add up to {reward(complete['sum'])}; the reward is {reward(complete['difference'])} away from "
        "that of the answer of average tokens."
    )


def parts_of(row: Mapping[str, Any], largest: float) -> list[dict[str, str]]:
    """The whole text in order: marked units, and what lies between them."""
    parts, end = [], 0
    for unit in row["units"]:
        if unit["start"] > end:
            parts.append({"text": row["text"][end : unit["start"]], "mark": "", "value": ""})
        text = row["text"][max(unit["start"], end) : unit["end"]]  # two tokens may share a character
        parts.append({"text": text, "mark": mark_of(unit["value"], largest), "value": reward(unit["value"])})
        end = max(end, unit["end"])
    parts.append({"text": row["text"][end:], "mark": "", "value": ""})
    return [part for part in parts if part["text"]]


def mark_of(value: float | None, largest: float) -> str:
    """ "up l3", "down l1"; "" for a value too small to be seen."""
    if value is None or largest <= 0 or abs(value) < SILENT * largest:
        return ""
    level = min(LEVELS, 1 + int(LEVELS * abs(value) / largest))
    return f"{'up' if value > 0 else 'down'} l{level}"
