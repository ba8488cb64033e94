"""What a pass over a file of any size can remember: hashes with their places, lengths, and a sample.

Everything here is bounded. A `Ledger` holds 17 bytes an entry and, when full, keeps the entries whose hash ends
in one more zero bit: what is equal has equal hashes, so equal things stay or go together, and counts over what
is left are right for a known share of the keys. `Columns` keep every second row when full. A `Reservoir` is a
uniform sample.
"""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rewardsmith.data.schema import Group, Messages

CAPACITY = 1 << 22  # entries: 71 MB
SAMPLE_GROUPS = 20_000
SAMPLE_CHARACTERS = 96_000_000  # bounds the sample where groups are large
LINE_BITS = 40
MASK = (1 << 64) - 1
EXAMPLES = 5


def hash_bytes(data: bytes) -> int:
    """64 bits of blake2b: the same in every process, unlike `hash`."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def hash_text(text: str) -> int:
    return hash_bytes(text.encode("utf-8", "surrogatepass"))


def hash_turns(turns: Messages) -> int:
    """Equal exactly where roles, contents and extras are equal."""
    if len(turns) == 1 and not turns[0].extra:
        return hash_text(f"{turns[0].role}\x1f{turns[0].content}")
    return hash_text("\x1e".join(f"{m.role}\x1f{m.content}\x1f{m.extra or ''}" for m in turns))


def mix(*parts: int) -> int:
    """One 64-bit key of several, in their order."""
    key = len(parts)
    for part in parts:
        key = (key * 0x9E3779B97F4A7C15 + part) & MASK
    # The low bits decide what a full ledger keeps; without this they would be those of the last part.
    return (key ^ key >> 29) * 0xBF58476D1CE4E5B9 & MASK


class Places:
    """ "file:line" as one integer, and back."""

    def __init__(self) -> None:
        self.files: dict[str, int] = {}

    def code(self, source: str) -> int:
        """The integer of a group's source; line 0 where it names none."""
        file, _, line = source.rpartition(":")
        if not line.isdigit():
            file, line = source, "0"
        return self.files.setdefault(file, len(self.files)) << LINE_BITS | int(line)

    def show(self, code: int) -> str:
        """The "file:line" of a code."""
        return f"{list(self.files)[int(code) >> LINE_BITS]}:{int(code) & (1 << LINE_BITS) - 1}"


class Found(NamedTuple):
    """So many things, and of the first few the place of each and the place of what it is like."""

    total: int
    examples: list[tuple[int, int]]


class Ledger:
    """Keys with a place and a flag (-1, 0 or 1), in the order they came."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.share = 1  # one key in so many is kept
        self.keys, self.places, self.flags = array("Q"), array("Q"), array("b")

    def add(self, key: int, place: int, flag: int = 0) -> None:
        if key & (self.share - 1):
            return
        self.keys.append(key)
        self.places.append(place)
        self.flags.append(flag)
        if len(self.keys) > self.capacity:
            self.thin(self.share * 2)

    def thin(self, share: int) -> None:
        """Keep one key in `share` (a power of two)."""
        self.share = share
        kept = np.frombuffer(self.keys, np.uint64) & np.uint64(share - 1) == 0
        self.keys = array("Q", np.frombuffer(self.keys, np.uint64)[kept].tobytes())
        self.places = array("Q", np.frombuffer(self.places, np.uint64)[kept].tobytes())
        self.flags = array("b", np.frombuffer(self.flags, np.int8)[kept].tobytes())

    def columns(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int8]]:
        """Keys in ascending order with their places and flags; equal keys in the order they came."""
        keys = np.frombuffer(self.keys, np.uint64)
        order = np.argsort(keys, kind="stable")
        return (
            keys[order],
            np.frombuffer(self.places, np.uint64)[order],
            np.frombuffer(self.flags, np.int8)[order],
        )

    def repeats(self) -> Found:
        """Entries whose key came before."""
        keys, places, _ = self.columns()
        again = np.flatnonzero(keys[1:] == keys[:-1]) + 1
        if not len(again):
            return Found(0, [])
        starts = run_starts(keys)
        first = starts[np.searchsorted(starts, again, side="right") - 1]
        shown = np.argsort(places[again], kind="stable")[:EXAMPLES]
        return Found(len(again), [(int(places[again[i]]), int(places[first[i]])) for i in shown])

    def conflicts(self) -> Found:
        """Keys that carry both the flag 1 and the flag -1 at different places; counted once each."""
        keys, places, flags = self.columns()
        found: list[tuple[int, int]] = []
        if len(keys) < 2:
            return Found(0, found)
        starts = run_starts(keys)
        both = (np.maximum.reduceat(flags, starts) == 1) & (np.minimum.reduceat(flags, starts) == -1)
        ends = np.append(starts[1:], len(keys))
        for start, end in zip(starts[both], ends[both], strict=True):
            up, down = (places[start:end][flags[start:end] == flag][0] for flag in (1, -1))
            if up != down:  # a group that contradicts itself is a cycle, not a conflict of rows
                found.append((int(max(up, down)), int(min(up, down))))
        found.sort()
        return Found(len(found), found[:EXAMPLES])

    def shared_with(self, other: Ledger) -> Found:
        """Entries of this ledger whose key is in the other one; examples give the place here and there."""
        share = max(self.share, other.share)
        mine, places, _ = self.columns()
        theirs, their_places, _ = other.columns()
        # Where only one of the two was thinned, the other is cut to the same share.
        kept = mine & np.uint64(share - 1) == 0
        mine, places = mine[kept], places[kept]
        at = np.searchsorted(theirs, mine)
        hit = np.zeros(len(mine), dtype=bool)
        inside = at < len(theirs)
        hit[inside] = theirs[at[inside]] == mine[inside]
        which = np.flatnonzero(hit)
        shown = which[np.argsort(places[which], kind="stable")[:EXAMPLES]]
        return Found(int(hit.sum()), [(int(places[i]), int(their_places[at[i]])) for i in shown])


def run_starts(keys: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Where each run of equal keys begins."""
    return np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))


class Columns:
    """Rows of `width` small integers; when full, every second row goes and from then on every second one comes."""

    def __init__(self, width: int, capacity: int = CAPACITY) -> None:
        self.width, self.capacity = width, capacity
        self.values = array("I")
        self.stride, self.seen = 1, 0

    def add(self, *row: int) -> None:
        if self.seen % self.stride == 0:
            self.values.extend([min(value, 0xFFFFFFFF) for value in row])
        self.seen += 1
        if len(self.values) > self.capacity * self.width:
            self.stride *= 2
            self.values = array("I", self.rows()[::2].tobytes())

    def rows(self) -> NDArray[np.uint32]:
        """(rows, width), as a view."""
        return np.frombuffer(self.values, np.uint32).reshape(-1, self.width)


@dataclass
class Reservoir:
    """A uniform sample of a stream of groups, the same for the same seed and stream.

    At most `capacity` groups; where these hold more than `characters`, half of them are given up and the sample
    goes on at half the size, which leaves it uniform.
    """

    seed: int = 0
    capacity: int = SAMPLE_GROUPS
    characters: int = SAMPLE_CHARACTERS
    seen: int = 0
    held: int = 0
    items: list[tuple[Group, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)

    def add(self, group: Group, size: int) -> None:
        """Offer a group of `size` characters."""
        self.seen += 1
        if len(self.items) < self.capacity:
            self.items.append((group, size))
            self.held += size
        else:
            at = int(self.draw.random() * self.seen)
            if at >= self.capacity:
                return
            self.held += size - self.items[at][1]
            self.items[at] = group, size
        while self.held > self.characters and len(self.items) > 1:
            self.halve()

    def halve(self) -> None:
        self.capacity = max(1, len(self.items) // 2)
        self.items = self.draw.sample(self.items, self.capacity)
        self.held = sum(size for _, size in self.items)

    def groups(self) -> list[Group]:
        """The sampled groups."""
        return [group for group, _ in self.items]

    @property
    def is_whole(self) -> bool:
        """True where nothing was left out."""
        return self.seen == len(self.items)


def quantiles(values: NDArray[Any]) -> dict[str, float | int | None]:
    """n, mean and the usual quantiles; None where there is nothing."""
    names = {"min": 0, "p5": 5, "p25": 25, "p50": 50, "p75": 75, "p95": 95, "p99": 99, "max": 100}
    if not len(values):
        return {"n": 0, "mean": None, **dict.fromkeys(names)}
    found = np.percentile(values, list(names.values()))
    return {"n": len(values), "mean": float(values.mean()), **{k: float(v) for k, v in zip(names, found)}}


def chunks(values: list[Any], size: int) -> Iterator[list[Any]]:
    """Consecutive pieces of at most `size`."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
