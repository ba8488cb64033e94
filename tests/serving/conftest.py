"""A server in a thread around a tiny model, asked through real sockets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scorers import ModelScorer
from rewardsmith.scoring import Reading
from rewardsmith.serving.engine import Engine
from rewardsmith.serving.run import serve
from rewardsmith.text.render import RenderConfig, Renderer
from tests.sockets import Running
from tests.tiny import tiny_tokenizer, tiny_trunk


def tiny_scorer(seed: int = 0, *, temperature: float | None = 2.0, tokens_per_batch: int = 512) -> ModelScorer:
    renderer = Renderer(tiny_tokenizer(), RenderConfig(max_length=128))
    model = RewardModel(tiny_trunk(seed=seed))
    reading = Reading(temperature=temperature)
    return ModelScorer(model, renderer, tokens_per_batch=tokens_per_batch, reading=reading)


def tiny_engine(seed: int = 0, **options: Any) -> Engine:
    return Engine(tiny_scorer(seed, **options), "tiny", artifact=f"hash-{seed}", meta={})


def start(engine: Engine | None = None, load: Callable[[], Engine] | None = None, **options: Any) -> Iterator[Running]:
    """Yield a running server, then end it and wait for its thread."""
    engine = engine or tiny_engine()
    found: list[Any] = []
    up = threading.Event()

    def started(address: str, stop: Callable[[], None]) -> None:
        found.extend([address, stop])
        up.set()

    def run() -> None:
        serve(engine, load or tiny_engine, port=0, on_started=started, log_requests=False, **options)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert up.wait(20), "the server did not start"
    address, stop = found
    host, _, port = address.partition("://")[2].rpartition(":")
    yield Running(address, host, int(port))
    stop()
    thread.join(20)
    assert not thread.is_alive(), "the server did not end"


running = contextmanager(start)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    yield from start()
