"""Prompt-disjoint splits: groups that open with the same user turn never part.

Maths. A group's place is u = blake2b(seed, opening turn) / 2^64 in [0, 1), and the sides divide [0, 1) in
the order and the shares of `fractions`. So a group's side depends on nothing but its opening turn and the
seed: rows may be added, removed or reordered, files may be joined, and no group changes sides. The price is
that the shares hold only on average: n openings miss a share f by about sqrt(f (1 - f) / n).

Why the opening turn, not the prompt: one thread gives several groups, each a turn longer than the last. Their
prompts differ, yet a model that trained on one of them has seen most of the next.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence

from rewardsmith.data.schema import Group, Messages, content_hash, text_of
from rewardsmith.errors import ConfigError

LONGEST_LINE = 500  # characters of the first line of a prompt that is only implied
SHORTEST_PREFIX = 16  # characters: below it, and without a whole line, two answers begin alike by chance


def split_groups(groups: Iterable[Group], fractions: Mapping[str, float], seed: int = 0) -> dict[str, list[Group]]:
    """The groups of each side, in their order. For a stream, ask `side_of` group by group instead.

    fractions  side name -> share in (0, 1], adding up to 1: {"train": 0.9, "eval": 0.1}

    Raises ConfigError where the fractions are no such shares.
    """
    check_fractions(fractions)
    sides: dict[str, list[Group]] = {name: [] for name in fractions}
    for group in groups:
        sides[side_of(group, fractions, seed)].append(group)
    return sides


def side_of(group: Group, fractions: Mapping[str, float], seed: int = 0) -> str:
    """The side of one group. Raises ConfigError where the fractions are no shares that add up to 1."""
    check_fractions(fractions)
    place = unit_hash(opening_of(group), seed)
    end = 0.0
    for name, share in fractions.items():
        end += share
        if place < end:
            return name
    return name  # shares that add up to 1 only up to rounding


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Raise ConfigError unless the shares are positive and add up to 1."""
    shown = ", ".join(f"{name} {share}" for name, share in fractions.items()) or "nothing"
    if not fractions or not all(0 < share <= 1 for share in fractions.values()):  # NaN fails this too
        raise ConfigError(f"split into {shown}: every share must be above 0 and at most 1")
    if not math.isclose(math.fsum(fractions.values()), 1.0, abs_tol=1e-6):
        raise ConfigError(f"split into {shown}: the shares add up to {math.fsum(fractions.values()):g}, not 1")


def unit_hash(text: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but `text` and `seed`."""
    key = f"{seed}\0{text}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2**64


def opening_of(group: Group) -> str:
    """What the groups of one thread share: the first user turn, without regard to case and white space.

    A prompt without a user turn gives its text. A group without a prompt, or with an empty one (plain text whose
    prompt is only implied by what the responses have in common), gives the first line of that, or, where they
    have nothing in common, a hash of its content.
    """
    return opening_turn(group.prompt) or implied_opening(group)


def opening_turn(prompt: Messages) -> str:
    """The first user turn, normalised; the whole text where the user said nothing; "" where there is none."""
    for message in prompt:
        if message.role == "user" and message.content.strip():
            return normalised(message.content)
    return normalised(text_of(prompt))


def normalised(text: str) -> str:
    """`text` in lower case, with every run of white space as one space."""
    return " ".join(text.casefold().split())


def implied_opening(group: Group) -> str:
    """The first line of what all responses begin with, or a hash of the content where that is nothing."""
    texts = [text_of(response).lstrip() for response in group.responses]
    if len(set(texts)) > 1:
        line, ended, _ = common_prefix(texts).partition("\n")
        if ended or len(line) >= SHORTEST_PREFIX:
            return normalised(line[:LONGEST_LINE])
    return content_hash(group.prompt, group.responses)


def common_prefix(texts: Sequence[str]) -> str:
    """The longest text that all of `texts` begin with."""
    first, last = min(texts), max(texts)  # what these two share, all between them share
    for index, (a, b) in enumerate(zip(first, last)):
        if a != b:
            return first[:index]
    return first
