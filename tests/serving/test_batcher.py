"""The queue: fair, bounded, shared, and one client's trouble is nobody else's."""

from __future__ import annotations

import asyncio
import threading
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


def test_a_group_that_fails_fails_alone() -> None:
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
