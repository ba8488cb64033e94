"""What stands behind the labelling page: answers out, rankings in, and how it goes.

What is shown at once is a pair of answers, or a set of up to nine. Both have a number, and both come back as places: 1
for the best, ties on one place. A pair is the ranking of two.

A desk keeps nothing of its own that matters: leases and labels are in the store, on the disk before a request is
answered, so that a server that dies has lost nothing and the next one goes on where it stopped.

In which order answers stand is drawn for each set and person, from a hash: the same again after a reload, and recorded
with the labels.

K  answers of a set
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from rewardsmith.data.schema import Messages
from rewardsmith.labelling.agreement import Agreement
from rewardsmith.labelling.settings import PageLimits
from rewardsmith.refresh import rankings
from rewardsmith.refresh.records import Leased, Recorded
from rewardsmith.refresh.store import Store

Answer = TypeVar("Answer")
OLDEST_S = 30 * 86400.0  # a label that waited longer in a browser gets the time it came
CHEAP_S = 0.02


class Fresh(Generic[Answer]):
    """An answer that costs something, kept for a while: at least `seconds`, and twenty times as long as it took."""

    def __init__(self, work: Callable[[], Answer], seconds: float) -> None:
        self.work, self.seconds = work, seconds
        self.lock = threading.Lock()
        self.answer: Answer | None = None
        self.until = self.took = 0.0

    def get(self) -> Answer:
        with self.lock:
            started = time.monotonic()
            if self.answer is None or started >= self.until:
                self.answer = self.work()
                self.took = time.monotonic() - started
                self.until = time.monotonic() + max(self.seconds, 20 * self.took)
            return self.answer

    def forget(self) -> None:
        """Something changed: answer anew the next time, where that is cheap (in a store of a million it is not)."""
        if self.took < CHEAP_S:
            self.until = 0.0


@dataclass(frozen=True)
class Given:
    """The next set of an annotator; None where there is none, and then whether others hold the last ones."""

    leased: Leased | None
    waiting: bool


@dataclass
class Desk:
    """A store with what the page needs of it. Any number of threads may use one."""

    store: Store
    title: str
    limits: PageLimits = field(default_factory=PageLimits)
    n_labels: int = 0
    refused: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.project = self._name_of_store()
        self.agreement = Agreement(self.store)
        self.counts = Fresh(lambda: self.store.counts(time.time()), 0.5)
        self.team = Fresh(self.agreement.report, 2.0)

    def _name_of_store(self) -> str:
        """A name that no other store has: a browser keeps unsent labels under it."""
        if (name := self.store.value("labelling")) is None:
            self.store.set_value("labelling", secrets.token_hex(8))
            name = self.store.value("labelling")
        assert name is not None, "it was just set"
        return name

    # -- sets -----------------------------------------------------------------------------------------------

    def next(self, annotator: str, holding: Sequence[int]) -> Given:
        """A set that this annotator is not looking at yet, leased; `holding` are the numbers of the others."""
        n = len(set(holding)) + 1
        leased = self.store.lease(annotator, now=time.time(), seconds=self.limits.lease_seconds, n=n)
        fresh = [one for one in leased if one.comparison.id not in holding]
        if fresh:
            return Given(fresh[0], False)
        return Given(None, self.store.held_by_others(annotator, now=time.time()) > 0)

    def renew(self, annotator: str, holding: Sequence[int]) -> int:
        """Lengthen the leases that still hold; returns how many."""
        return self.store.renew(annotator, holding, now=time.time(), seconds=self.limits.lease_seconds)

    def release(self, annotator: str, holding: Sequence[int]) -> int:
        """Give leases back; returns how many."""
        return sum(self.store.give_back(annotator, number) for number in set(holding))

    # -- labels ---------------------------------------------------------------------------------------------

    def label(
        self,
        annotator: str,
        number: int,
        said: Sequence[int] | Literal["skip", "flag"],
        *,
        order: Sequence[int],
        key: str,
        at: float,
        seconds: float,
        note: str,
    ) -> Recorded:
        """Keep what is said of a set: a place for each answer, from the left on, or one word for all; on the disk on
        return, once per key. `order` says which answer stood where (`shown_order`).
        """
        now = time.time()
        kept = self.store.record_ranking(
            number,
            annotator,
            said if isinstance(said, str) else places_by_id(said, order),
            at=at if 0 <= now - at < OLDEST_S else now,
            order=order,
            seconds=seconds,
            note=note,
            key=key,
        )
        self.n_labels += len(kept.labels) if kept.fresh else 0
        self.counts.forget()
        return kept

    def undo(self, annotator: str, key: str, number: int) -> Leased | None:
        """Take back what was said under this key and lease its set again; None where it does not hold (any more)."""
        undone = self.store.undo(
            annotator, now=time.time(), seconds=self.limits.lease_seconds, comparison_id=number, key=key
        )
        self.counts.forget()
        return undone

    # -- how it goes ----------------------------------------------------------------------------------------

    def progress(self, annotator: str) -> dict[str, int]:
        counts = self.counts.get()
        return {
            "total": counts.comparisons,
            "labelled": counts.comparisons - counts.open - counts.flagged,
            "open": counts.open,
            "flagged": counts.flagged,
            "mine": sum(counts.annotators.get(annotator, {}).values()),
        }

    def report(self) -> dict[str, Any]:
        """Labels by annotator, and how far they agree."""
        counts = self.counts.get()
        rows = [{"name": name, **verdicts} for name, verdicts in sorted(counts.annotators.items())]
        return {"annotators": rows, "agreement": self.team.get()}

    # -- for the gate ---------------------------------------------------------------------------------------

    def wait_seconds(self) -> float:
        return 1.0

    def note_left(self) -> None:
        pass

    def note(self, path: str, status: int, seconds: float) -> None:
        if status >= 400:
            self.refused[status] += 1


def shown_order(project: str, number: int, annotator: str, k: int) -> list[int]:
    """Which answer stands where for this person, from the left on: by a fair draw that is the same each time."""

    def place(answer: int) -> bytes:
        text = f"{project}\0{number}\0{annotator}\0{answer}"
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    return sorted(range(k), key=place)


def places_by_id(places_K: Sequence[int], order_K: Sequence[int]) -> list[int]:
    """Places from the left on as places in the order of the answers' ids. DataError where either is none."""
    rankings.check_order(order_K, len(order_K))
    rankings.check_places(places_K, len(order_K))
    by_answer = dict(zip(order_K, places_K, strict=True))
    return [by_answer[answer] for answer in range(len(order_K))]


def on_page(leased: Leased, order: Sequence[int]) -> dict[str, Any]:
    """A set as the page shows it. Nothing says which policy gave which answer, or why the set was proposed."""
    prompt, answers = leased.comparison.prompt, leased.answers
    return {
        "number": leased.comparison.id,
        "order": list(order),
        "prompt": turns(prompt.messages),
        "tools": None if prompt.tools is None else [dict(tool) for tool in prompt.tools],
        "answers": [turns(answers[answer].messages) for answer in order],
    }


def turns(messages: Messages) -> list[dict[str, Any]]:
    """Messages for a page: lone surrogates, which no JSON of the web can hold, become the replacement character."""
    return [
        {"role": web(message.role), "content": web(message.content), "more": web(dict(message.extra))}
        for message in messages
    ]


def web(value: Any) -> Any:
    """The same with every text in it fit for UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {web(key): web(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [web(inner) for inner in value]
    return value
