"""What the benchmarks of the server share: a server as a process of its own, groups of real answers, plain requests."""

from __future__ import annotations

import atexit
import http.client
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.data.schema import Group, Message
from rewardsmith.scorers import ModelScorer, Precision, load_scorer
from rewardsmith.scoring import Scores
from speed_common import alpaca_answers

TOLERANCE = 1e-3  # of a reward: batches add up in different orders
START_S = 120.0


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def request(
    port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 120.0
) -> tuple[int, bytes]:
    """(status, answer) of a server on this machine, by a connection of its own; None is no body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        sent = None if body is None else json.dumps(body)
        connection.request(method, path, sent, {"content-type": "application/json", **(headers or {})})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


class Server:
    """`rewardsmith serve RM` on this machine; `stop()` ends it by SIGTERM and returns its exit code and last words."""

    def __init__(self, model: str | Path, *options: str, port: int = 0) -> None:
        command = [sys.executable, "-m", "rewardsmith.cli", "serve", str(model), "--port", str(port), "--quiet"]
        self.process = subprocess.Popen(
            [*command, "--json", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        atexit.register(self.process.kill)  # nothing outlives a benchmark that fails
        self.said: list[str] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if "http://" in line:
                self.port = int(line.split("http://127.0.0.1:")[1].split()[0])
                break
        else:
            raise SystemExit(f"the server did not start: {''.join(self.said)}")
        threading.Thread(target=self._listen, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.port}"
        until = time.monotonic() + START_S
        while self.ask("GET", "/ready")[0] != 200 and time.monotonic() < until:
            time.sleep(0.1)

    def _listen(self) -> None:
        assert self.process.stderr is not None
        self.said.extend(self.process.stderr)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout: float = 120.0,
    ) -> tuple[int, bytes]:
        return request(self.port, method, path, body, headers, timeout)

    def metric(self, name: str) -> float:
        """One sample of /metrics, with its labels as they are written there; 0 where it is not there."""
        for line in self.ask("GET", "/metrics")[1].decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
        return 0.0

    def resident_mib(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def stop(self) -> tuple[int, dict[str, Any]]:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout is not None
        said = self.process.stdout.read()
        return self.process.wait(), json.loads(said) if said else {}

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Client:
    """One connection that is kept; its requests are answered one after the other."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)

    def rewards(self, body: bytes) -> tuple[int, list[float]]:
        """(status, rewards of the request's one group)."""
        self.connection.request("POST", "/v1/reward", body, {"content-type": "application/json"})
        reply = self.connection.getresponse()
        answer = json.loads(reply.read())
        if reply.status != 200:
            return reply.status, []
        return 200, [row["reward"] for row in answer["groups"][0]["rewards"]]


def ask_ours(client: Client, body: bytes) -> list[float]:
    """Rewards of one request's responses."""
    status, rewards = client.rewards(body)
    assert status == 200, status
    return rewards


def serve_all(
    port: int, bodies: Sequence[bytes], n_clients: int, ask: Callable[[Client, bytes], list[float]] = ask_ours
) -> list[list[float]]:
    """Rewards of every body, asked by as many clients side by side."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for n in range(len(bodies)):
        waiting.put(n)
    found: list[list[float]] = [[] for _ in bodies]

    def work() -> None:
        client = Client(port)
        while True:
            try:
                n = waiting.get_nowait()
            except queue.Empty:
                return
            found[n] = ask(client, bodies[n])

    threads = [threading.Thread(target=work) for _ in range(n_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def body_of(group: Group) -> bytes:
    responses = [response[0].content for response in group.responses]
    return json.dumps({"messages": [m.to_dict() for m in group.prompt], "responses": responses}).encode()


def real_groups(
    data: str | Path, scorer: ModelScorer, *, prompts: int, responses: int, most_tokens: int
) -> list[Group]:
    """The first `responses` systems' answers to the first `prompts` AlpacaEval prompts that fit `most_tokens` whole."""
    found: list[Group] = []
    for prompt, answers in alpaca_answers(str(data)):
        texts = tuple((Message("assistant", answer),) for answer, _ in answers[:responses])
        group = Group(prompt=(Message("user", prompt),), responses=texts)
        (encoded,) = scorer.renderer.encode([group])
        if max(map(len, encoded.token_ids)) <= most_tokens:
            found.append(group)
        if len(found) == prompts:
            break
    return found


def offline(model: str | Path, precision: Precision = "float32") -> ModelScorer:
    return load_scorer(str(model), precision=precision)


def largest_difference(wanted: Sequence[Scores], found: Sequence[Sequence[float]]) -> float:
    return max(float(np.abs(s.rewards - np.array(f)).max()) for s, f in zip(wanted, found, strict=True))


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least squares."""
    return float(np.polyfit(x, y, 1)[0]) if len(x) > 1 else float("nan")
