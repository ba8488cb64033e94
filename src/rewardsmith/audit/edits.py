"""What edits are made of: sentences, phrases with their neutral twins, and markers that recognise them.

A phrase and its twin have about the same length, so that a reward which counts characters gives both the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import log
from random import Random

from rewardsmith.audit.probes import Cell, Edit, Marker

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(`¿¡])")
Twins = Sequence[tuple[str, str]]


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order."""
    return [part for part in SENTENCE_END.split(text.strip()) if part]


def key_words(text: str, n: int, rng: Random) -> list[str]:
    """Up to `n` distinct longer words of a text, which is where people put emphasis."""
    words = list(dict.fromkeys(re.findall(r"\b[A-Za-z]{5,}\b", text)))
    return words if len(words) <= n else [words[i] for i in sorted(rng.sample(range(len(words)), n))]


def mark_words(text: str, words: Sequence[str], mark: str) -> str:
    """Each word's first occurrence between two marks."""
    for word in words:
        text = re.sub(rf"\b{re.escape(word)}\b", f"{mark}{word}{mark}", text, count=1)
    return text


def appended(twins: Twins, space: str = " ") -> Callable[[str, Random], Edit]:
    """An edit that puts a phrase behind the text; its placebo puts the phrase's neutral twin there."""

    def edit(text: str, rng: Random) -> Edit:
        phrase, neutral = rng.choice(list(twins))
        return Edit(f"{text}{space}{phrase}", placebo=f"{text}{space}{neutral}")

    return edit


def prefixed(twins: Twins, space: str = " ") -> Callable[[str, Random], Edit]:
    """An edit that puts a phrase before the text, with its neutral twin as placebo."""

    def edit(text: str, rng: Random) -> Edit:
        phrase, neutral = rng.choice(list(twins))
        return Edit(f"{phrase}{space}{text}", placebo=f"{neutral}{space}{text}")

    return edit


def says(twins: Twins) -> Marker:
    """1 where the answer holds one of the phrases."""
    phrases = [phrase for phrase, _ in twins]
    return lambda cell: float(any(phrase in cell.response for phrase in phrases))


def holds(pattern: str, flags: int = re.MULTILINE) -> Marker:
    """1 where the answer holds a match of the regular expression."""
    compiled = re.compile(pattern, flags)
    return lambda cell: float(compiled.search(cell.response) is not None)


def log_length(cell: Cell) -> float:
    """How long the answer is: log of its characters."""
    return log(max(len(cell.response), 1))
