"""Requests of all clients, packed together for the one thread that computes.

    accept    how many responses wait is bounded; what does not fit is refused with the time after which to ask again
    submit    a job's groups become units of at most one batch, queued by client; refused at once where what is ahead of
              them would take longer than their deadline allows
    run       the model thread takes units from the clients in turn until the budget of distinct tokens is full, so
              that equal beginnings are paid for once whoever sent them; while it computes, the next batch gathers

A batch holds units of one engine only: what was tokenised for a model is scored by that model, also while another one
takes over.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import numpy as np

from rewardsmith.progress import say
from rewardsmith.serving.engine import Engine
from rewardsmith.serving.refusals import Refusal
from rewardsmith.text.pack import distinct_tokens

FULL = 0.9  # of the budget: a batch that has so many distinct tokens need not be filled further
MOST_COUNTS = 64  # times that a batch's distinct tokens are counted
RATE_MEMORY = 0.8  # of the tokens and seconds of earlier batches that count at each batch
SURE = 0.8  # of the seconds left, those that may be planned: a rate measured so far is not that of the next batches
MOST_WAIT_S = 60.0  # a refusal names no longer time


@dataclass(frozen=True)
class Caller:
    """Who asks, for fairness (a key's name, or a connection), and until when (`time.monotonic`) an answer is of use."""

    name: str
    deadline: float = math.inf


@dataclass(eq=False)
class Job:
    """One request's groups: `rewards` are filled unit by unit, `future` ends when none is `left`."""

    engine: Engine
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[list[np.ndarray]]
    rewards: list[list[np.ndarray]]
    left: int
    entered: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class Unit:
    """Rows of one group that are computed together; `part` says which part of the group."""

    job: Job
    group: int
    part: int
    rows: Sequence[np.ndarray]
    n_tokens: int


@dataclass(frozen=True)
class Batch:
    """What was computed, for the metrics."""

    fill: float
    seconds: float
    waited: tuple[float, ...]
    computed: int
    shared: int


class Observer(Protocol):
    def batch(self, batch: Batch) -> None: ...


class Batcher:
    """The queue and its thread. `most_waiting` responses may be accepted at a time, half of them of one client."""

    def __init__(self, *, tokens_per_batch: int, most_waiting: int, observer: Observer) -> None:
        self.tokens_per_batch, self.most_waiting, self.observer = tokens_per_batch, most_waiting, observer
        self.queues: OrderedDict[str, deque[Unit]] = OrderedDict()
        self.wake = threading.Condition()
        self.accepted: dict[str, int] = {}
        self.waiting_tokens = 0
        self.measured_tokens = self.measured_seconds = 0.0  # of recent batches
        self.busy_tokens, self.busy_since = 0, 0.0  # of the batch that is computed
        self.closing = False
        self.thread = threading.Thread(target=self._run, name="model", daemon=True)
        self.thread.start()

    # -- the loop's side ----------------------------------------------------------------------------------

    @property
    def n_accepted(self) -> int:
        return sum(self.accepted.values())

    @contextmanager
    def accept(self, client: str, n_responses: int) -> Iterator[None]:
        """A place in the queue for as long as it lasts; Refusal where there is none."""
        own = self.accepted.get(client, 0)
        if self.closing:
            raise Refusal("unready", "the server is shutting down", retry_after=1.0)
        if self.n_accepted + n_responses > self.most_waiting or own + n_responses > self.most_waiting // 2:
            raise Refusal("overloaded", "too many responses are waiting", retry_after=self.wait_seconds())
        self.accepted[client] = own + n_responses
        try:
            yield
        finally:
            self.accepted[client] -= n_responses
            if not self.accepted[client]:
                del self.accepted[client]

    @property
    def rate(self) -> float:
        """Tokens of the queue computed in a second; 0: not known. Large batches count by their size: they are what a
        full queue is computed in.
        """
        return self.measured_tokens / self.measured_seconds if self.measured_seconds else 0.0

    def measured(self, n_tokens: int, seconds: float) -> None:
        """A batch was computed. Tokens are counted as in the queue: what units share is in each of them."""
        self.measured_tokens = RATE_MEMORY * self.measured_tokens + n_tokens
        self.measured_seconds = RATE_MEMORY * self.measured_seconds + max(seconds, 1e-6)

    def wait_seconds(self) -> float:
        """About how long the queue takes."""
        return min(max(1.0, self.waiting_tokens / self.rate if self.rate else 1.0), MOST_WAIT_S)

    async def submit(
        self, client: str, engine: Engine, rows_GK: Sequence[Sequence[np.ndarray]], *, deadline: float = math.inf
    ) -> list[np.ndarray]:
        """`reward_batch` of each group's rows. A caller that is cancelled takes its units out of the queue.

        Refusal where the queue would keep them beyond the deadline (`time.monotonic`).
        """
        if not rows_GK:
            return []
        loop = asyncio.get_running_loop()
        job = Job(engine, loop, loop.create_future(), [], 0)
        units = [
            Unit(job, g, part, rows, distinct_tokens(rows))
            for g, rows_K in enumerate(rows_GK)
            for part, rows in enumerate(split_rows(rows_K, self.tokens_per_batch))
        ]
        job.left = len(units)
        job.rewards = [[] for _ in rows_GK]
        for unit in units:
            job.rewards[unit.group].append(np.empty((0, 0)))
        with self.wake:
            self._check_deadline(client, units, deadline - time.monotonic())
            self.queues.setdefault(client, deque()).extend(units)
            self.waiting_tokens += sum(unit.n_tokens for unit in units)
            self.wake.notify()
        await job.future
        return [np.concatenate(parts, axis=1) for parts in job.rewards]

    def _check_deadline(self, client: str, units: Sequence[Unit], seconds_left: float) -> None:
        """Refusal where units would not be done in time. Where nothing waits, or no rate is known, they are tried."""
        ahead, rate = self._tokens_ahead(client, len(units)), self.rate
        if not ahead or not rate:
            return
        under_way = max(0.0, self.busy_tokens / rate - (time.monotonic() - self.busy_since)) if self.busy_tokens else 0
        seconds = under_way + (ahead + sum(unit.n_tokens for unit in units)) / rate
        if seconds > SURE * seconds_left:
            raise Refusal(
                "overloaded",
                "more is waiting than can be computed before this request's deadline",
                retry_after=min(max(1.0, seconds - SURE * seconds_left), MOST_WAIT_S),
            )

    def _tokens_ahead(self, client: str, n_units: int) -> int:
        """Tokens that wait and are computed before the next `n_units` of a client are: its own, and of every other
        client's as many units as there are turns until then.
        """
        waiting = {
            name: [unit.n_tokens for unit in queue if not unit.job.future.done()] for name, queue in self.queues.items()
        }
        own = waiting.pop(client, [])
        turns = len(own) + n_units
        return sum(own) + sum(sum(islice(others, turns)) for others in waiting.values())

    def close(self) -> None:
        """Compute what is queued, then end the thread."""
        with self.wake:
            self.closing = True
            self.wake.notify()
        self.thread.join()

    # -- the model's thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self.wake:
                while not self.queues and not self.closing:
                    self.wake.wait()
                if not self.queues:
                    return
                units = self._take()
                self.busy_tokens, self.busy_since = sum(unit.n_tokens for unit in units), time.monotonic()
            if units:
                self._compute(units)
            with self.wake:
                self.busy_tokens = 0

    def _take(self) -> list[Unit]:
        """The next batch: units of one engine from the clients in turn. Who was served goes to the end of the row.

        Tokens are added up as if nothing were shared until the budget is reached, and counted exactly from then on.
        """
        units: list[Unit] = []
        blocked: set[str] = set()
        total = counts = 0
        while True:
            client = next((name for name in self.queues if name not in blocked), None)
            if client is None or (total >= FULL * self.tokens_per_batch):
                return units
            queue = self.queues[client]
            while queue and queue[0].job.future.done():  # its client has left, or its deadline has passed
                self.waiting_tokens -= queue.popleft().n_tokens
            if not queue:
                del self.queues[client]
                continue
            unit = queue[0]
            together = total + unit.n_tokens
            if units and together > self.tokens_per_batch and counts < MOST_COUNTS:
                together = distinct_tokens([row for taken in (*units, unit) for row in taken.rows])
                counts += 1
            other = bool(units) and unit.job.engine is not units[0].job.engine
            if other or (units and together > self.tokens_per_batch):
                blocked.add(client)
                continue
            units.append(queue.popleft())
            self.waiting_tokens -= unit.n_tokens
            total = together
            if queue:
                self.queues.move_to_end(client)
            else:
                del self.queues[client]

    def _compute(self, units: list[Unit]) -> None:
        scorer = units[0].job.engine.scorer
        started = time.monotonic()
        before, rows_before = scorer.n_tokens, scorer.n_row_tokens
        try:
            values = scorer.reward_batch([unit.rows for unit in units])
        except Exception as error:
            if len(units) > 1:  # one of them is to blame; the others get their rewards
                for unit in units:
                    self._compute([unit])
                return
            _tell(units[0].job.loop, _fail, units[0].job, error)
            return
        seconds = time.monotonic() - started
        computed = scorer.n_tokens - before
        with self.wake:
            self.measured(sum(unit.n_tokens for unit in units), seconds)
        batch = Batch(
            fill=computed / self.tokens_per_batch,
            seconds=seconds,
            waited=tuple(started - unit.job.entered for unit in units),
            computed=computed,
            shared=scorer.n_row_tokens - rows_before - computed,
        )
        _tell(units[0].job.loop, self._deliver, units, values, batch)

    def _deliver(self, units: list[Unit], values: list[np.ndarray], batch: Batch) -> None:
        """On the loop: hand each unit's rewards to its job."""
        for unit, values_VK in zip(units, values, strict=True):
            job = unit.job
            job.rewards[unit.group][unit.part] = values_VK
            job.left -= 1
            if not job.left and not job.future.done():
                job.future.set_result([])
        self.observer.batch(batch)


def split_rows(rows_K: Sequence[np.ndarray], budget: int) -> Iterator[Sequence[np.ndarray]]:
    """A group's rows in parts of at most `budget` tokens each (a longer row by itself): no batch is without bound."""
    if distinct_tokens(rows_K) <= budget:
        yield rows_K
        return
    part: list[np.ndarray] = []
    for row in rows_K:
        if part and distinct_tokens([*part, row]) > budget:
            yield part
            part = []
        part.append(row)
    yield part


def _fail(job: Job, error: Exception) -> None:
    say(f"the model failed: {type(error).__name__}: {' '.join(str(error).split())}")  # it saw tokens only, no text
    if not job.future.done():
        job.future.set_exception(Refusal("failed", f"the model failed: {type(error).__name__}"))


def _tell(loop: asyncio.AbstractEventLoop, call: object, *arguments: object) -> None:
    """Call something on a loop that may be gone by now."""
    try:
        loop.call_soon_threadsafe(call, *arguments)  # type: ignore[arg-type]
    except RuntimeError:
        return
