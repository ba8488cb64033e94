"""The queue: fair, bounded, shared, and one client's trouble is nobody else's."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rewardsmith.serving.batcher import Batch, Batcher, split_rows
from rewardsmith.serving.refusals import Refusal
from rewardsmith.text.pack import distinct_tokens


class SlowScorer:
    """Rewards are the sums of rows' tokens; each batch waits for `go`, and is noted."""

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []
        self.go = threading.Semaphore(0)
        self.n_tokens = self.n_row_tokens = 0

    def reward_batch(self, rows_GK: list[list[np.ndarray]]) -> list[np.ndarray]:
        assert self.go.acquire(timeout=10)
        if any(13 in row for rows_K in rows_GK for row in rows_K):
            raise ValueError("unlucky")
        rows = [row for rows_K in rows_GK for row in rows_K]
        self.batches.append([row.tolist() for row in rows])
        self.n_tokens += distinct_tokens(rows)
        self.n_row_tokens += sum(map(len, rows))
        return [np.array([[float(row.sum()) for row in rows_K]]) for rows_K in rows_GK]


class Notes:
    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def batch(self, batch: Batch) -> None:
        self.batches.append(batch)


def engine(scorer: SlowScorer) -> Any:
    return SimpleNamespace(scorer=scorer)


def rows(*lists: list[int]) -> list[np.ndarray]:
    return [np.array(tokens, dtype=np.int32) for tokens in lists]


def make(scorer: SlowScorer, budget: int = 8, most: int = 100) -> tuple[Batcher, Notes]:
    notes = Notes()
    return Batcher(tokens_per_batch=budget, most_waiting=most, observer=notes), notes


async def queued(batcher: Batcher, n_tokens: int) -> None:
    for _ in range(500):
        if batcher.waiting_tokens == n_tokens:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{batcher.waiting_tokens} tokens wait, not {n_tokens}")


async def occupied(batcher: Batcher, the_engine: Any) -> asyncio.Task[Any]:
    """The model's thread is busy with a unit of one token, so that what comes now gathers."""
    task = asyncio.ensure_future(batcher.submit("first", the_engine, [rows([1])]))
    await asyncio.sleep(0.05)
    await queued(batcher, 0)
    return task


def test_clients_take_turns() -> None:
    async def run() -> None:
        scorer = SlowScorer()
        served, (batcher, _) = engine(scorer), make(scorer, budget=4)
        first = await occupied(batcher, served)
        greedy = [asyncio.ensure_future(batcher.submit("greedy", served, [rows([10 * n, 1])])) for n in range(2, 8)]
        await queued(batcher, 12)
        modest = asyncio.ensure_future(batcher.submit("modest", served, [rows([99, 1])]))
        await queued(batcher, 14)
        scorer.go.release(20)
        await asyncio.gather(first, modest, *greedy)
        place = next(n for n, batch in enumerate(scorer.batches) if [99, 1] in batch)
        assert place == 1, "who came last shares the next batch with who had filled the queue"
        batcher.close()

    asyncio.run(run())


def test_equal_beginnings_of_different_clients_are_paid_once() -> None:
    async def run() -> None:
        scorer = SlowScorer()
        served, (batcher, notes) = engine(scorer), make(scorer, budget=10)
        first = await occupied(batcher, served)
        tasks = [
            asyncio.ensure_future(batcher.submit(f"client {n}", served, [rows([1, 2, 3, 4, 5, 6, 10 + n])]))
            for n in (1, 2, 4)
        ]
        await queued(batcher, 21)
        scorer.go.release(20)
        await asyncio.gather(first, *tasks)
        assert [len(batch) for batch in scorer.batches] == [1, 3], "9 distinct tokens fit a budget of 10"
        assert (notes.batches[1].computed, notes.batches[1].shared) == (9, 12)
        batcher.close()

    asyncio.run(run())


def test_groups_come_back_in_order_and_large_ones_whole() -> None:
    async def run() -> None:
        scorer = SlowScorer()
        served, (batcher, _) = engine(scorer), make(scorer, budget=5)
        scorer.go.release(100)
        groups = [rows(*([n, k] for k in range(1, 8))) for n in (1, 2, 3)] + [rows([5, 6, 7, 8, 9, 10, 11])]
        found = await batcher.submit("a", served, groups)
        for group, values_MK in zip(groups, found, strict=True):
            assert values_MK.tolist() == [[float(row.sum()) for row in group]]
        assert max(sum(map(len, batch)) for batch in scorer.batches if len(batch) > 1) <= 14
        batcher.close()

    asyncio.run(run())


def test_no_more_is_accepted_than_may_wait_and_half_for_one() -> None:
    batcher, _ = make(SlowScorer(), most=10)
    with batcher.accept("a", 5):
        with pytest.raises(Refusal) as caught, batcher.accept("a", 1):
            pass
        assert (caught.value.status, caught.value.retry_after) == (429, 1.0)
        with batcher.accept("b", 5), pytest.raises(Refusal), batcher.accept("c", 1):
            pass
    assert batcher.n_accepted == 0
    assert batcher.accepted == {}
    batcher.close()
    with pytest.raises(Refusal) as caught, batcher.accept("a", 1):
        pass
    assert caught.value.status == 503


def test_who_leaves_is_not_computed() -> None:
    async def run() -> None:
        scorer = SlowScorer()
        served, (batcher, _) = engine(scorer), make(scorer)
        first = await occupied(batcher, served)
        leaving = asyncio.ensure_future(batcher.submit("leaving", served, [rows([7, 7])]))
        staying = asyncio.ensure_future(batcher.submit("staying", served, [rows([8, 8])]))
        await queued(batcher, 4)
        leaving.cancel()
        await asyncio.sleep(0)
        scorer.go.release(20)
        assert (await staying)[0].tolist() == [[16.0]]
        await first
        assert [7, 7] not in [row for batch in scorer.batches for row in batch]
        await queued(batcher, 0)
        batcher.close()

    asyncio.run(run())


def test_a_group_that_fails_fails_alone(capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        scorer = SlowScorer()
        served, (batcher, _) = engine(scorer), make(scorer)
        first = await occupied(batcher, served)
        bad = asyncio.ensure_future(batcher.submit("bad", served, [rows([13])]))
        good = asyncio.ensure_future(batcher.submit("good", served, [rows([4, 4])]))
        await queued(batcher, 3)
        scorer.go.release(20)
        assert (await good)[0].tolist() == [[8.0]]
        with pytest.raises(Refusal, match="the model failed: ValueError"):
            await bad
        await first
        batcher.close()

    asyncio.run(run())
    assert "the model failed: ValueError: unlucky" in capsys.readouterr().err, "who runs the server learns why"


def test_a_batch_is_of_one_model() -> None:
    async def run() -> None:
        old, new = SlowScorer(), SlowScorer()
        batcher, _ = make(old)
        before, after = engine(old), engine(new)
        first = await occupied(batcher, before)
        tasks = [
            asyncio.ensure_future(batcher.submit(f"{n}", before if n % 2 else after, [rows([n + 1])])) for n in range(6)
        ]
        await queued(batcher, 6)
        old.go.release(20)
        new.go.release(20)
        found = await asyncio.gather(*tasks)
        assert [float(values[0][0, 0]) for values in found] == [1, 2, 3, 4, 5, 6]
        assert sorted(row[0] for batch in new.batches for row in batch) == [1, 3, 5]
        await first
        batcher.close()

    asyncio.run(run())


def test_closing_answers_what_is_queued() -> None:
    async def run() -> None:
        scorer = SlowScorer()
        served, (batcher, _) = engine(scorer), make(scorer)
        tasks = [asyncio.ensure_future(batcher.submit("a", served, [rows([n] * 5)])) for n in range(1, 9)]
        await asyncio.sleep(0.05)
        scorer.go.release(50)
        await asyncio.to_thread(batcher.close)
        found = await asyncio.gather(*tasks)
        assert [float(values[0][0, 0]) for values in found] == [5.0 * n for n in range(1, 9)]

    asyncio.run(run())


@pytest.mark.parametrize("budget", [3, 5, 100])
def test_parts_of_a_group_fit_the_budget_and_lose_nothing(budget: int) -> None:
    random = np.random.default_rng(0)
    group = [random.integers(0, 3, size=n).astype(np.int32) for n in (1, 2, 6, 3, 3, 9, 2)]
    parts = list(split_rows(group, budget))
    assert [row.tolist() for part in parts for row in part] == [row.tolist() for row in group]
    assert all(len(part) == 1 or distinct_tokens(part) <= budget for part in parts)


class PacedScorer(SlowScorer):
    """Computes at a known rate of tokens a second."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def reward_batch(self, rows_GK: list[list[np.ndarray]]) -> list[np.ndarray]:
        time.sleep(sum(len(row) for rows_K in rows_GK for row in rows_K) / self.rate)
        self.go.release()
        return super().reward_batch(rows_GK)


def test_what_cannot_be_done_in_time_is_refused_at_once_and_what_is_accepted_is_done_in_time() -> None:
    """16 clients, each with 100 tokens, at 800 a second: the last would wait 2 s, and may wait 1 s."""

    async def ask(batcher: Batcher, served: Any, n: int, seconds: float) -> tuple[int, float]:
        started = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                await batcher.submit(f"{n}", served, [rows([n] * 100)], deadline=started + seconds)
            status = 200
        except Refusal as refusal:
            status = refusal.status
        except TimeoutError:
            status = 504
        return status, time.monotonic() - started

    async def run(known: bool) -> list[tuple[int, float]]:
        scorer = PacedScorer(800)
        served, (batcher, _) = engine(scorer), make(scorer, budget=100)
        if known:
            batcher.measured(800, 1.0)
        # A quarter of a second is left for a machine that stalls.
        found = await asyncio.gather(*(ask(batcher, served, n, 1.0) for n in range(20, 36)))
        batcher.close()
        return found

    found = asyncio.run(run(known=True))
    assert {status for status, _ in found} == {200, 429}, "none is late"
    assert all(seconds < 0.25 for status, seconds in found if status == 429)
    assert 4 <= sum(status == 200 for status, _ in found) <= 7, "0.8 of 1 s are 6 of them"
    assert 504 in {status for status, _ in asyncio.run(run(known=False))}, "without a rate all are tried"


def test_turns_decide_how_long_a_client_waits() -> None:
    async def run() -> None:
        scorer = SlowScorer()
        served, (batcher, _) = engine(scorer), make(scorer, budget=4)
        batcher.measured(10, 1.0)
        first = await occupied(batcher, served)
        greedy = asyncio.ensure_future(batcher.submit("greedy", served, [rows([n, 1, 2, 3]) for n in range(50)]))
        await queued(batcher, 200)
        # 20 s of another's work wait. One unit has one of its units ahead (0.4 s), and takes 0.1 s itself.
        soon = time.monotonic() + 2
        modest = asyncio.ensure_future(batcher.submit("modest", served, [rows([7])], deadline=soon))
        await queued(batcher, 201)
        for client, groups in (("other", [rows([n]) for n in range(5)]), ("greedy", [rows([1])])):
            with pytest.raises(Refusal) as caught:
                await batcher.submit(client, served, groups, deadline=time.monotonic() + 2)
            assert caught.value.status == 429
        assert (caught.value.retry_after or 0) == pytest.approx(20.2 + 0.1 - 0.8 * 2, abs=0.5), "when it would do"
        assert batcher.waiting_tokens == 201, "what is refused leaves nothing behind"
        for task in (greedy, modest):
            task.cancel()
        await asyncio.sleep(0)
        # All that waits was given up: nothing is ahead, and what has no chance is tried as well.
        tried = asyncio.ensure_future(
            batcher.submit("late", served, [rows([1] * 99)], deadline=time.monotonic() + 0.01)
        )
        scorer.go.release(100)
        assert (await tried)[0].tolist() == [[99.0]]
        await first
        batcher.close()

    asyncio.run(run())


def test_the_rate_counts_tokens_as_the_queue_does_and_is_that_of_large_batches() -> None:
    batcher, _ = make(SlowScorer())
    assert batcher.rate == 0
    for _ in range(50):
        batcher.measured(40, 0.1)
    assert batcher.rate == pytest.approx(400)
    batcher.measured(4000, 1.0)
    assert 2500 < batcher.rate < 4000
    batcher.close()

    async def shared() -> float:
        scorer = PacedScorer(1000)
        served, (batcher, _) = engine(scorer), make(scorer, budget=8)
        same = rows([1, 2, 3, 4, 5, 6])
        await asyncio.gather(*(batcher.submit(f"{n}", served, [same]) for n in range(4)))
        batcher.close()
        return batcher.rate

    assert 600 < asyncio.run(shared()) < 1100, "of 24 tokens in the queue, not of the 6 that were computed"
