"""Labels that no person gives: from a scorer that knows the worth of answers (`Gold`), or a judge (`refresh.judge`).

A labeller gives an opinion on each open pair, or says why it has none; `label_open` keeps the opinions as they come: an
end at any moment loses at most what was under way, and the next run goes on with the pairs that are still open.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rewardsmith.data.schema import Group, content_hash
from rewardsmith.errors import ConfigError
from rewardsmith.refresh.pairs import group_of
from rewardsmith.refresh.records import JUDGED, Comparison, NewLabel, Source, Verdict, check_name
from rewardsmith.refresh.store import Store
from rewardsmith.scoring import Scorer

AT_ONCE = 64  # pairs given to a labeller together
EXAMPLES = 3  # of pairs without an opinion, in the report


@dataclass(frozen=True)
class Opinion:
    """A verdict on a pair, or `why` there is none. `note` is kept with the label."""

    verdict: Verdict | None
    note: str = ""
    why: str = ""


class Labeller(Protocol):
    """Gives opinions on pairs, in any order, as they come."""

    @property
    def name(self) -> str:
        """Whose labels these are, in the store."""

    @property
    def source(self) -> Source: ...

    def opinions(self, pairs: Sequence[Comparison]) -> Iterator[tuple[Comparison, Opinion]]: ...

    def report(self) -> dict[str, Any]:
        """What else is worth saying of the pairs so far, ready for JSON."""


def label_open(
    store: Store,
    labeller: Labeller,
    *,
    limit: int | None = None,
    round: int | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, Any]:
    """Have the open pairs labelled, the most urgent first, at most `limit` of them; returns counts, ready for JSON.

    A pair that this labeller labelled before, or has no opinion on, is left as it is. Pairs that people look at just
    now are labelled all the same where they are open. An error of the labeller ends the run with what is kept so far.
    """
    name = check_name(labeller.name, "labeller")
    counts: Counter[str] = Counter()
    without: Counter[str] = Counter()
    examples: list[dict[str, Any]] = []
    kept: list[NewLabel] = []

    def keep() -> None:
        store.add_labels(kept)
        counts.update(label.verdict for label in kept)
        kept.clear()

    done = {label.comparison_id for label in store.labels() if label.annotator == name}
    pairs = [pair for pair in store.open_comparisons(round=round) if pair.id not in done][:limit]
    for begin in range(0, len(pairs), AT_ONCE):
        for pair, opinion in labeller.opinions(pairs[begin : begin + AT_ONCE]):
            advance(1)
            if opinion.verdict is None:
                without[opinion.why.partition(":")[0]] += 1
                if len(examples) < EXAMPLES:
                    examples.append({"comparison": pair.id, "why": opinion.why})
                continue
            new = NewLabel(
                comparison_id=pair.id,
                annotator=name,
                verdict=opinion.verdict,
                at=time.time(),
                note=opinion.note,
                source=labeller.source,
                key=f"{labeller.source}-{pair.id}-{name}",
            )
            kept.append(new)
            # What a judge says costs money and time, and is kept at once; a scorer says it again.
            if labeller.source == "judge" or len(kept) == AT_ONCE:
                keep()
        keep()
    return {
        "labeller": name,
        "pairs": len(pairs),
        "labelled": sum(counts.values()),
        **{verdict: counts[verdict] for verdict in JUDGED},
        "unlabelled": sum(without.values()),
        "reasons": dict(without),
        "examples": examples,
        **labeller.report(),
    }


@dataclass(frozen=True, kw_only=True)
class Gold:
    """A scorer as labeller: the answer with the higher reward is better, equal rewards are a tie.

    With a `temperature` T above 0 it errs as people do: the first wins with probability sigmoid((r_1 - r_2) / T).
    The draw depends on the seed and the texts alone, so that a study gives the same labels again.
    Source: Bradley and Terry (1952); the synthetic labels of Gao et al. (2210.10760).
    """

    scorer: Scorer
    name: str = "gold"
    temperature: float = 0.0
    seed: int = 0
    source: Source = "gold"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"temperature {self.temperature} of the gold labels: give a finite number >= 0")

    def opinions(self, pairs: Sequence[Comparison]) -> Iterator[tuple[Comparison, Opinion]]:
        groups = [group_of(pair, ()) for pair in pairs]
        for pair, group, scores in zip(pairs, groups, self.scorer.score(groups), strict=True):
            yield pair, self.opinion(group, scores.rewards, scores.error)

    def opinion(self, group: Group, rewards_2: np.ndarray, error: str) -> Opinion:
        if error or not np.isfinite(rewards_2).all():
            return Opinion(None, why=f"no reward: {error or 'it is not finite'}")
        first, second = map(float, rewards_2)
        gap = first - second
        if self.temperature:
            first_wins = self.uniform(group) < p_first(gap / self.temperature)
            return Opinion("a" if first_wins else "b", note=f"reward {first:.6g} against {second:.6g}")
        verdict: Verdict = "tie" if gap == 0 else "a" if gap > 0 else "b"
        return Opinion(verdict, note=f"reward {first:.6g} against {second:.6g}")

    def uniform(self, group: Group) -> float:
        """A number in [0, 1) that the seed and the texts decide."""
        text = f"{self.seed}:{content_hash(group.prompt, group.responses)}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64

    def report(self) -> dict[str, Any]:
        return {}


def p_first(log_odds: float) -> float:
    """The logistic function, without overflow."""
    if log_odds >= 0:
        return 1.0 / (1.0 + math.exp(-log_odds))
    return math.exp(log_odds) / (1.0 + math.exp(log_odds))
