"""The labelling page in a thread, around a small store, asked through real sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="the store needs SQLAlchemy")
pytest.importorskip("fastapi", reason="the page needs FastAPI")

from rewardsmith.data.schema import Message, Messages
from rewardsmith.labelling.desk import Desk
from rewardsmith.labelling.run import serve_page
from rewardsmith.labelling.settings import PageLimits
from rewardsmith.refresh.records import NewComparison, NewPrompt, NewResponse
from rewardsmith.refresh.store import Store, open_store
from tests.sockets import Running


def add_pairs(store: Store, texts: Sequence[tuple[str, str, str]], *, overlap: int = 1) -> list[int]:
    """Pairs of (prompt, a, b), the first the most urgent; returns their numbers."""

    def said(role: str, text: str) -> Messages:
        return (Message(role, text),)

    asked = store.add_prompts(NewPrompt(messages=said("user", prompt)) for prompt, _, _ in texts).ids
    answers = store.add_responses(
        NewResponse(prompt_id=prompt, messages=said("assistant", text), policy="p", round=1)
        for prompt, (_, a, b) in zip(asked, texts, strict=True)
        for text in (a, b)
    ).ids
    new = [
        NewComparison(
            prompt_id=prompt, a_id=answers[2 * n], b_id=answers[2 * n + 1], round=1, why="a test",
            score=float(len(texts) - n), overlap=overlap,
        )
        for n, prompt in enumerate(asked)
    ]  # fmt: skip
    return store.add_comparisons(new, at=time.time()).ids


def add_sets(store: Store, n: int, k: int, *, overlap: int = 1) -> list[int]:
    """Sets of answers that begin with a, b, ...; returns their numbers, the most urgent first."""
    sets = []
    for i in range(n):
        (prompt,) = store.add_prompts([NewPrompt(messages=(Message("user", f"question {i}"),))]).ids
        said = store.add_responses(
            NewResponse(prompt_id=prompt, messages=(Message("assistant", f"{a} of {i}"),), policy="p", round=1)
            for a in "abcdefghi"[:k]
        ).ids
        sets.append([
            NewComparison(
                prompt_id=prompt, a_id=a, b_id=b, round=1, why="a test", score=float(n - i), overlap=overlap
            )
            for a, b in combinations(said, 2)
        ])  # fmt: skip
    store.add_sets(sets, at=time.time())
    return list(dict.fromkeys(pair.set_id or pair.id for pair in store.open_comparisons()))


def plain_pairs(n: int) -> list[tuple[str, str, str]]:
    return [(f"question {i}", f"a of {i}", f"b of {i}") for i in range(n)]


@contextmanager
def page_at(store: Store, port: int = 0, limits: PageLimits | None = None, **options: Any) -> Iterator[Running]:
    """The page of a store, served until the block ends."""
    found: list[Any] = []
    up = threading.Event()

    def started(address: str, stop: Callable[[], None]) -> None:
        found.extend([address, stop, threading.current_thread()])
        up.set()

    desk = Desk(store, "test", limits or PageLimits())
    options = {"port": port, "log_requests": False, "on_started": started} | options
    thread = threading.Thread(target=serve_page, args=(desk,), kwargs=options, daemon=True)
    thread.start()
    assert up.wait(20), "the page did not start"
    host, _, bound = found[0].partition("://")[2].rpartition(":")
    yield Running(found[0], host, int(bound))
    found[1]()
    thread.join(20)
    assert not thread.is_alive(), "the page did not end"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store.sqlite", create=True) as opened:
        yield opened
