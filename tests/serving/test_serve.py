"""A server under load: the offline rewards, whatever else is in the batch; nothing dropped when it ends or changes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import http.client
import itertools
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rewardsmith.data.schema import Group, Message
from rewardsmith.last_layer import fit_laplace
from rewardsmith.serving.batcher import Caller
from rewardsmith.serving.engine import Engine
from rewardsmith.serving.playground import LoopScorer
from rewardsmith.serving.service import Service
from rewardsmith.serving.settings import Limits
from tests.serving.conftest import running, start, tiny_engine, tiny_scorer
from tests.sockets import Running

TOLERANCE = 1e-4  # of rewards that spread by about 1; batches add up in different orders


def random_group(rng: random.Random) -> Group:
    def words(n: int) -> str:
        return " ".join(rng.choice(["the", "a", "in", "on", "es", "ther", "z!"]) for _ in range(n))

    prompt = rng.choice(["the shared prompt in all of them", words(rng.randint(0, 30))])
    answers = [words(rng.randint(1, 40)) for _ in range(rng.randint(1, 5))]
    return Group(prompt=(Message("user", prompt),), responses=tuple((Message("assistant", a),) for a in answers))


def body_of(group: Group) -> dict[str, Any]:
    return {
        "messages": [message.to_dict() for message in group.prompt],
        "responses": [response[0].content for response in group.responses],
    }


def test_served_rewards_are_the_offline_rewards_whatever_else_is_in_the_batch(server: Running) -> None:
    rng = random.Random(0)
    groups = [random_group(rng) for _ in range(120)]
    wanted = [scores.rewards for scores in tiny_scorer().score(groups)]
    with ThreadPoolExecutor(12) as threads:
        replies = list(threads.map(lambda group: server.post("/v1/reward", body_of(group)), groups))
    for reply, rewards_K in zip(replies, wanted, strict=True):
        assert reply.status == 200
        found = [row["reward"] for row in reply.json["groups"][0]["rewards"]]
        np.testing.assert_allclose(found, rewards_K, atol=TOLERANCE)
    said = server.get("/metrics").body.decode()
    shared = next(line for line in said.splitlines() if line.startswith('rewardsmith_tokens_total{kind="shared"}'))
    assert float(shared.split()[1]) > 0


def test_the_std_of_a_last_layer_is_served_also_of_a_group_in_parts() -> None:
    scorer = tiny_scorer(tokens_per_batch=64)
    head_H = scorer.models[0].head()
    directions = np.random.default_rng(0).normal(size=(9, len(head_H)))
    scorer.uncertainty, _ = fit_laplace(directions, head_H, np.zeros(len(head_H)), prior=1.0)
    rng = random.Random(1)
    groups = [random_group(rng) for _ in range(6)]
    groups.append(replace(groups[0], responses=tuple((Message("assistant", f"{n} the on z!"),) for n in range(30))))
    wanted = scorer.score(groups)
    with running(Engine(scorer, "tiny", artifact=None, meta={})) as server:
        for group, scores in zip(groups, wanted, strict=True):
            rows = server.post("/v1/reward", body_of(group)).json["groups"][0]["rewards"]
            assert scores.std is not None
            assert scores.std.max() > 1e-3
            np.testing.assert_allclose([row["std"] for row in rows], scores.std, atol=TOLERANCE)


def test_a_client_that_leaves_costs_nobody_anything() -> None:
    with running() as server:
        before = server.post("/v1/reward", {"messages": [], "responses": ["a"]}).json
        for n in range(20):
            body = json.dumps({"messages": [], "responses": [f"{n} b " * 8] * 32}).encode()
            with socket.create_connection((server.host, server.port)) as raw:
                head = f"POST /v1/reward HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
                head = head.replace("host: x", "host: localhost") + "content-type: application/json\r\n\r\n"
                raw.sendall(head.encode() + body[: len(body) if n % 2 else 10])
        assert server.post("/v1/reward", {"messages": [], "responses": ["a"]}).json == before
        deadline = time.monotonic() + 5
        while "rewardsmith_waiting_responses 0.0" not in (said := server.get("/metrics").body.decode()):
            assert time.monotonic() < deadline, "places in the queue were not given back"
        assert "rewardsmith_clients_left_total 0.0" not in said


def test_a_deadline_that_passes_is_said() -> None:
    with running() as server:
        big = {"messages": [], "responses": ["b " * 60] * 200}
        reply = server.post("/v1/reward", big, headers={"x-timeout-seconds": "0.005"})
        assert (reply.status, reply.json["error"]["type"], "retry-after" in reply.headers) == (504, "late", True)
        assert server.post("/v1/reward", big, headers={"x-timeout-seconds": "nan"}).status == 400
        assert server.post("/v1/reward", big).status == 200


def test_a_full_queue_refuses_with_the_time_to_come_back() -> None:
    with running(limits=Limits(max_waiting=8, max_responses=4)) as server:
        body = {"messages": [], "responses": ["b " * 60] * 4}
        with ThreadPoolExecutor(16) as threads:
            replies = list(threads.map(lambda _: server.post("/v1/reward", body), range(64)))
        assert {reply.status for reply in replies} == {200, 429}
        for reply in replies:
            if reply.status == 429:
                assert int(reply.headers["retry-after"]) >= 1
                assert reply.json["error"]["type"] == "overloaded"
        busy = server.post("/rerank", {"query": "q", "texts": ["a"]})
        assert busy.status == 200, "and takes requests again"


def hammer(server: Running, stop: threading.Event, found: list[tuple[int, Any]]) -> None:
    """Ask on one connection after the other until the server is gone; note every answer that came."""
    while not stop.is_set():
        connection = http.client.HTTPConnection(server.host, server.port, timeout=20)
        try:
            connection.connect()
        except OSError:
            return
        try:
            body = json.dumps({"messages": [], "responses": ["b " * 20] * 8})
            connection.request("POST", "/v1/reward", body, {"content-type": "application/json"})
            reply = connection.getresponse()
            found.append((reply.status, json.loads(reply.read())))
        except (OSError, http.client.HTTPException):
            found.append((0, None))
        finally:
            connection.close()


def test_what_was_accepted_is_answered_when_the_server_ends() -> None:
    serving = start()
    server = next(serving)
    found: list[tuple[int, Any]] = []
    threads = [threading.Thread(target=hammer, args=(server, threading.Event(), found)) for _ in range(6)]
    for thread in threads:
        thread.start()
    while len(found) < 20:
        time.sleep(0.01)
    with pytest.raises(StopIteration):
        next(serving)
    for thread in threads:
        thread.join(20)
    answered = [status for status, _ in found if status]
    assert set(answered) <= {200, 503}
    assert answered.count(200) >= 20
    # A connection that was open but had not sent its request's head when the server closed it may break.
    assert [status for status, _ in found].count(0) <= 6


def test_the_model_is_exchanged_without_a_dropped_or_mixed_answer() -> None:
    seeds = itertools.count(1)
    key = "an-admin-key-of-the-test"
    from rewardsmith.serving.keys import KeyRing

    engines = {f"hash-{seed}": tiny_scorer(seed) for seed in range(6)}
    group = Group(prompt=(), responses=((Message("assistant", "b " * 20),),))
    wanted = {name: scorer.score([group])[0].rewards[0] for name, scorer in engines.items()}
    with running(load=lambda: tiny_engine(next(seeds)), keys=KeyRing([key])) as server:
        headers = {"authorization": f"Bearer {key}"}
        found: list[Any] = []
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                found.append(server.post("/v1/reward", {"messages": [], "responses": ["b " * 20]}, headers=headers))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for n in range(1, 6):
            assert server.post("/admin/reload", None, headers=headers).json["artifact"] == f"hash-{n}"
        stop.set()
        for thread in threads:
            thread.join(20)
        assert {reply.status for reply in found} == {200}
        for reply in found:
            reward = reply.json["groups"][0]["rewards"][0]["reward"]
            assert reward == pytest.approx(wanted[reply.json["artifact"]], abs=TOLERANCE)
        assert len({reply.json["artifact"] for reply in found}) > 2


def test_a_model_that_cannot_be_read_leaves_the_old_one() -> None:
    from rewardsmith.errors import ModelError
    from rewardsmith.serving.keys import KeyRing

    errors = [ModelError("/some/secret/place has no reward head"), KeyError("secret"), MemoryError()]

    def load() -> Any:
        raise errors.pop()

    key = "an-admin-key-of-the-test"
    with running(load=load, keys=KeyRing([key])) as server:
        headers = {"x-api-key": key}
        while errors:
            reply = server.post("/admin/reload", None, headers=headers)
            assert (reply.status, "secret" in reply.body.decode()) == (500, False)
            assert "the old one stays" in reply.json["error"]["message"]
        assert server.post("/v1/reward", {"messages": [], "responses": ["a"]}, headers=headers).status == 200


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    yield from start()


def test_a_reload_outlives_the_request_for_it() -> None:
    async def run() -> None:
        go = threading.Event()

        def load() -> Any:
            assert go.wait(10)
            return tiny_engine(1)

        service = Service(tiny_engine(), load, Limits())
        await service.start()
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(service.reload(), 0.05)
        assert service.engine.artifact == "hash-0"
        go.set()
        while service.reloading:
            await asyncio.sleep(0.01)
        assert service.engine.artifact == "hash-1"
        assert service.metrics.total("rewardsmith_reloads_total", outcome="done") == 2, "one after the other"
        await service.stop()

    asyncio.run(run())


def test_what_an_explanation_asks_is_given_up_with_it() -> None:
    async def run() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        class Busy:
            async def score_groups(self, client: Any, groups: Any) -> Any:
                begun.set()
                try:
                    await asyncio.sleep(30)
                finally:
                    ended.set()

        scorer = LoopScorer(Busy(), Caller("a"))  # type: ignore[arg-type]
        asking = asyncio.ensure_future(asyncio.to_thread(scorer.score, []))
        await asyncio.wait_for(begun.wait(), 5)
        scorer.stop()
        await asyncio.wait_for(ended.wait(), 5)
        with pytest.raises((asyncio.CancelledError, concurrent.futures.CancelledError)):
            await asking
        with pytest.raises((asyncio.CancelledError, concurrent.futures.CancelledError)):
            await asyncio.to_thread(scorer.score, [])

    asyncio.run(run())
