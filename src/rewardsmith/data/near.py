"""Near duplicates by MinHash: texts that share at least 80% of their three-word runs.

Candidates come from datasketch's LSH index, and each is confirmed on the runs themselves: what is counted is a
near duplicate, not an estimate. (The index misses fewer than one in a hundred of the pairs right at the
threshold, and fewer above it: 1 - (1 - 0.8^5)^12 = 0.991.)
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.8
BANDS, ROWS = 12, 5  # of the index: what share of near duplicates become candidates
PERMUTATIONS = BANDS * ROWS
RUN = 3  # words
MOST_WORDS = 4000  # of a text that are looked at
MOST_CANDIDATES = 20  # that are confirmed for one text
FACTORS = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D], dtype=np.uint64)

Runs = NDArray[np.uint32]


@lru_cache(1 << 16)  # most words of a text are common ones
def word_hash(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))


def word_runs(text: str) -> Runs:
    """Sorted distinct hashes of the runs of three words, in lower case. A shorter text is one run."""
    words = text.casefold().split(maxsplit=MOST_WORDS)[:MOST_WORDS]
    hashes = np.array(list(map(word_hash, words)), dtype=np.uint64)
    n = max(len(hashes) - RUN + 1, 1)
    padded = np.concatenate([hashes, np.zeros(RUN, dtype=np.uint64)])
    mixed = sum(padded[i : i + n] * FACTORS[i] for i in range(RUN))
    # Sorting and comparing neighbours is several times faster than np.unique on so few.
    runs = np.sort((mixed ^ (mixed >> np.uint64(32))).astype(np.uint32))
    return runs[np.concatenate([[True], runs[1:] != runs[:-1]])]


def jaccard(a: Runs, b: Runs) -> float:
    """Share of the runs of both texts that are in both."""
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)


class NearIndex:
    """Texts by number, asked for one that is nearly the same."""

    def __init__(self, threshold: float = THRESHOLD) -> None:
        from datasketch import MinHashLSH

        self.threshold = threshold
        self.index = MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, ROWS))
        self.runs: dict[int, Runs] = {}

    def signature(self, runs: Runs) -> object:
        from datasketch import MinHash

        if not hasattr(self, "blank"):
            # Runs are hashes already. Copies of one object share its permutations.
            self.blank = MinHash(num_perm=PERMUTATIONS, hashfunc=int)
        made = self.blank.copy()
        made.update_batch(runs.tolist())
        return made

    def find(self, runs: Runs, signature: object) -> int | None:
        """The number of a text like it, or None."""
        for number in sorted(self.index.query(signature))[:MOST_CANDIDATES]:
            if jaccard(runs, self.runs[number]) >= self.threshold:
                return int(number)
        return None

    def add(self, number: int, runs: Runs, signature: object) -> None:
        self.index.insert(number, signature, check_duplication=False)
        self.runs[number] = runs


def near_duplicates(texts: Iterable[str]) -> list[tuple[int, int]]:
    """(number of a text, number of the earlier text it nearly repeats).

    A text that repeats another is not indexed itself: a thousand copies are found as copies of the first.
    """
    index = NearIndex()
    return [(number, like) for number, like in _matches(index, texts, insert=True)]


def near_matches(texts: Sequence[str], others: Sequence[str]) -> list[tuple[int, int]]:
    """(number in `texts`, number in `others` that it nearly repeats)."""
    index = NearIndex()
    for _ in _matches(index, others, insert=True):
        pass
    return list(_matches(index, texts, insert=False))


def _matches(index: NearIndex, texts: Iterable[str], *, insert: bool) -> Iterator[tuple[int, int]]:
    for number, text in enumerate(texts):
        runs = word_runs(text)
        signature = index.signature(runs)
        like = index.find(runs, signature)
        if like is not None:
            yield number, like
        elif insert:
            index.add(number, runs, signature)
