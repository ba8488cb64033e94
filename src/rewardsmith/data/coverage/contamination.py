"""What benchmark files share with the data: eight-word runs, near duplicates, and neighbours in the embedding.

    I  items of the benchmark: its prompts and its answers     H  distinct runs of all items

A run is eight words in lower case; an item is found where at least half of its runs are in the data, in prompts or in
answers alike (the share is over all of the data: an item may be found in pieces). A prompt shorter than eight words is
one run, and has to be there as a whole text; answers of under 20 words are left out, because "I'm sorry, I can't help
with that." is in every file. Source: the
overlap of Touvron et al. (2307.09288, A.6), with the run of Brown et al. (2005.14165, C) cut to eight.

Beside it: prompts that nearly repeat one of the data (MinHash, `data.near`), and prompts whose nearest neighbour in the
embedding is closer than `alike`: those are to be looked at, not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewardsmith.data.coverage.embedding import Embedded
from rewardsmith.data.coverage.items import Item
from rewardsmith.data.coverage.neighbours import nearest
from rewardsmith.data.coverage.traits import user_text
from rewardsmith.data.near import FACTORS, MOST_WORDS, near_matches, word_hash
from rewardsmith.data.schema import text_of
from rewardsmith.data.survey import snippet

RUN = 8  # words
FOUND = 0.5  # of an item's runs
FEWEST_WORDS = 20  # of an answer: shorter ones are set phrases
EXAMPLES = 8
MORE_FACTORS = np.concatenate([FACTORS, np.array([0x27D4EB2F, 0x165667B1, 0xD3A2646C, 0xFD7046C5, 0xB55A4F09])]).astype(
    np.uint64
)

Runs = NDArray[np.uint64]


def long_runs(text: str) -> Runs:
    """Sorted distinct 64-bit hashes of the runs of eight words. A shorter text is one run."""
    words = text.casefold().split(maxsplit=MOST_WORDS)[:MOST_WORDS]
    if not words:
        return np.zeros(0, dtype=np.uint64)
    hashes = np.array(list(map(word_hash, words)), dtype=np.uint64)
    n = max(len(hashes) - RUN + 1, 1)
    padded = np.concatenate([hashes, np.zeros(RUN, dtype=np.uint64)])
    mixed = np.zeros(n, dtype=np.uint64)
    for i in range(RUN):  # wraps round at 2^64, as a hash may
        mixed = (mixed ^ padded[i : i + n]) * MORE_FACTORS[i]
        mixed ^= mixed >> np.uint64(29)
    return np.unique(mixed)


@dataclass
class RunIndex:
    """The runs of a benchmark's texts, and which of them were seen in the data."""

    run_H: Runs
    item_runs: list[NDArray[np.int64]]  # of each item the numbers of its runs
    seen_H: NDArray[np.bool_]
    where_H: NDArray[np.int64]  # the first text of the data that has the run

    @classmethod
    def of(cls, texts: Sequence[str]) -> RunIndex:
        runs = [long_runs(text) for text in texts]
        run_H = np.unique(np.concatenate([np.zeros(0, dtype=np.uint64), *runs]))
        rows = [np.searchsorted(run_H, row) for row in runs]
        return cls(run_H, rows, np.zeros(len(run_H), dtype=bool), np.full(len(run_H), -1, dtype=np.int64))

    def look(self, runs: Runs, number: int) -> None:
        """Mark the runs that a text of the data has."""
        if not len(self.run_H):
            return
        place = np.minimum(np.searchsorted(self.run_H, runs), len(self.run_H) - 1)
        hit = place[self.run_H[place] == runs]
        new = hit[~self.seen_H[hit]]
        self.seen_H[new], self.where_H[new] = True, number

    def shares(self) -> list[tuple[float, int]]:
        """Of each item (share of its runs that were seen, the text of the data that has most of them or -1)."""
        found = []
        for row in self.item_runs:
            seen = self.where_H[row][self.seen_H[row]]
            where = int(np.bincount(seen).argmax()) if len(seen) else -1
            found.append((len(seen) / len(row) if len(row) else 0.0, where))
        return found


@dataclass(frozen=True)
class Benchmark:
    """One benchmark's items, with the points of their prompts, and the runs of prompts and of answers."""

    name: str
    items: Sequence[Item]
    place: Embedded
    answers: list[str]
    index: RunIndex

    @classmethod
    def of(cls, name: str, items: Sequence[Item], place: Embedded) -> Benchmark:
        answers = [answer for item in items for answer in item.answers if len(answer.split()) >= FEWEST_WORDS]
        texts = [*(text_of(item.prompt) for item in items), *answers]
        return cls(name, items, place, answers, RunIndex.of(texts))


def contamination(
    benchmarks: Sequence[Benchmark],
    data_texts: Iterable[tuple[str, str]],
    *,
    prompts: Sequence[str],
    sources: Sequence[str],
    data: Embedded,
    alike: float,
) -> list[dict[str, Any]]:
    """What each benchmark shares with the data, ready for JSON. One pass over the data serves all of them.

    data_texts  (text, source) of every prompt and answer of the data
    prompts     the data's distinct prompts, with their `sources` and `data`, their points
    alike       cosine distance below which a neighbour is shown

    Keys: name, prompts, answers, in_runs, answers_in_runs, near, contaminated (prompts found in either way), alike
    (neighbours that neither found), examples [{text, found, share, source, like}].
    """
    text_sources = []
    for number, (text, source) in enumerate(data_texts):
        runs = long_runs(text)
        for benchmark in benchmarks:
            benchmark.index.look(runs, number)
        text_sources.append(source)
    return [found_of(one, text_sources, prompts, sources, data, alike) for one in benchmarks]


def found_of(
    benchmark: Benchmark,
    text_sources: Sequence[str],
    prompts: Sequence[str],
    sources: Sequence[str],
    data: Embedded,
    alike: float,
) -> dict[str, Any]:
    items, answers, shares = benchmark.items, benchmark.answers, benchmark.index.shares()
    asked = [text_of(item.prompt) for item in items]
    in_runs = {i: shares[i] for i in range(len(items)) if shares[i][0] >= FOUND}
    answer_runs = {a: shares[len(items) + a] for a in range(len(answers)) if shares[len(items) + a][0] >= FOUND}
    near = dict(near_matches([user_text(item.prompt) for item in items], prompts))
    distance_I, neighbour_I = nearest(benchmark.place.near_NX, data.near_NX)
    close_I = benchmark.place.judged_N & (distance_I < alike)
    like = {int(i): int(neighbour_I[i]) for i in np.flatnonzero(close_I) if i not in in_runs and i not in near}
    examples = [example(asked[i], "runs of words", share, text_sources[where]) for i, (share, where) in in_runs.items()]
    examples += [
        example(asked[i], "near duplicate", None, sources[u], prompts[u]) for i, u in near.items() if i not in in_runs
    ]
    examples += [
        example(answers[a], "answer, runs of words", share, text_sources[where])
        for a, (share, where) in answer_runs.items()
    ]
    looks = [
        example(asked[i], "alike by the embedding", 1 - float(distance_I[i]), sources[u], prompts[u])
        for i, u in sorted(like.items(), key=lambda pair: float(distance_I[pair[0]]))
    ]
    return {
        "name": benchmark.name,
        "prompts": len(items),
        "answers": len(answers),
        "in_runs": len(in_runs),
        "answers_in_runs": len(answer_runs),
        "near": len(near),
        "contaminated": len(in_runs.keys() | near.keys()),
        "alike": len(like),
        "examples": [*examples[:EXAMPLES], *looks[: max(2, EXAMPLES - len(examples))]],
    }


def example(text: str, found: str, share: float | None, source: str, like: str = "") -> dict[str, Any]:
    return {"text": snippet(text), "found": found, "share": share, "source": source, "like": snippet(like)}
