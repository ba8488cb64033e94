"""A server that is ended, killed, and given another model, all under load.

    python benchmarks/serve_faults.py RM --data DIR [--swaps 20] [--clients 2] [--work FOLDER]

term   SIGTERM while 8 clients ask: every request whose head the server had read is answered, exit code 0
kill   SIGKILL, and a new server on the same port, while the retrying client scores: each group scored once, rightly
swap   the folder exchanged and read again --swaps times under load: no request dropped, each reward that of the model
       whose hash the answer names. A swap reads and tries the new model while the old one serves: on two cores, what
       takes 2 s alone takes several times that, so 20 of them take some minutes
flood  16 clients with 8 answers a request and 30 s for it: what does not fit is refused at once with 429 and a
       Retry-After, what is accepted is answered in time and rightly
follow the same with `serve --follow PROJECT`, where `refresh rollback` makes the other of two releases current
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.data.schema import Group
from rewardsmith.model.artifact import load_reward_model, save_reward_model
from rewardsmith.refresh import releases
from rewardsmith.refresh.project import init_project
from rewardsmith.remote import RemoteScorer
from rewardsmith.score_cache import model_hash
from serve_common import TOLERANCE, Client, Server, body_of, offline, real_groups

KEY = "an-admin-key-of-this-benchmark"
SWAP_S = 600.0  # most for one swap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--clients", type=int, default=2, help="that ask while models are swapped")
    parser.add_argument("--work", type=Path, help="folder for a second model; default: a temporary one")
    parser.add_argument("--only", choices=("term", "kill", "flood", "swap", "follow"))
    options = parser.parse_args()
    scorer = offline(options.model)
    groups = real_groups(options.data, scorer, prompts=24, responses=4, most_tokens=256)
    wanted = [scores.rewards for scores in scorer.score(groups)]
    del scorer
    failed = 0
    if options.only in (None, "term"):
        failed += term(options.model, groups, wanted)
    if options.only in (None, "kill"):
        failed += kill(options.model, groups, wanted)
    if options.only in (None, "flood"):
        failed += flood(options.model, options.data)
    for name, change in (("swap", swap), ("follow", follow)):
        if options.only in (None, name):
            with tempfile.TemporaryDirectory(dir=options.work) as folder:
                failed += change(options.model, Path(folder), groups, options.swaps, options.clients)
    raise SystemExit(bool(failed))


def term(model: Path, groups: Sequence[Group], wanted: Sequence[np.ndarray]) -> bool:
    server = Server(model)
    bodies = [body_of(group) for group in groups]
    counts: Counter[str] = Counter()
    ending = threading.Event()

    def work(first: int) -> None:
        client, n = Client(server.port), first
        while True:
            n = (n + 1) % len(bodies)
            before = ending.is_set()
            try:
                status, rewards = client.rewards(bodies[n])
            except (OSError, http.client.HTTPException):
                # Sent after the signal: never accepted. Sent before it: its answer is owed.
                counts["refused after the signal" if before else "lost"] += 1
                return
            right = status == 200 and np.allclose(rewards, wanted[n], atol=TOLERANCE)
            counts["right" if right else f"status {status}"] += 1

    threads = [threading.Thread(target=work, args=(3 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(4)
    accepted = server.metric("rewardsmith_waiting_responses")
    ending.set()
    started = time.monotonic()
    code, last = server.stop()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - started
    print(f"term: {accepted:.0f} responses under way at the signal, ended {seconds:.1f} s later: {dict(counts)}")
    print(f"      exit code {code}, {last}")
    return bool(code or counts["lost"] or sum(counts.values()) - counts["right"] - counts["refused after the signal"])


def kill(model: Path, groups: Sequence[Group], wanted: Sequence[np.ndarray]) -> bool:
    server = Server(model)
    port = server.port
    scorer = RemoteScorer(server.url, patience=120)
    found: list[Any] = []
    done = threading.Event()

    def work() -> None:
        for _ in range(2):
            found.extend(scorer.score(groups))
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(2)
    server.kill()
    time.sleep(1)
    server = Server(model, port=port)
    thread.join()
    right = [np.allclose(s.rewards, w, atol=TOLERANCE) for s, w in zip(found, [*wanted, *wanted], strict=True)]
    print(f"kill: {sum(right)} of {len(right)} groups right, each once; {scorer.retries} retries")
    server.stop()
    return not all(right)


def flood(model: Path, data: Path, clients: int = 16, seconds: float = 90.0) -> bool:
    """More than a machine can do: whether it says so at once, and keeps its word to the rest."""
    scorer = offline(model)
    groups = real_groups(data, scorer, prompts=8, responses=8, most_tokens=256)
    wanted = [scores.rewards for scores in scorer.score(groups)]
    del scorer
    server = Server(model, "--request-seconds", "30")
    bodies = [body_of(group) for group in groups]
    counts: Counter[str] = Counter()
    refused_after: list[float] = []
    until = time.monotonic() + seconds

    def work(first: int) -> None:
        client, n = Client(server.port), first
        while time.monotonic() < until:
            n = (n + 1) % len(bodies)
            started = time.monotonic()
            status, rewards = client.rewards(bodies[n])
            if status == 200:
                counts["right" if np.allclose(rewards, wanted[n], atol=TOLERANCE) else "wrong"] += 1
                continue
            counts[f"status {status}"] += 1
            if status == 429:
                refused_after.append(time.monotonic() - started)
                time.sleep(1.0)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    code, _ = server.stop()
    said = f", refused after {np.median(refused_after):.2f} s at the median" if refused_after else ""
    print(f"flood: {dict(counts)}{said}; exit code {code}")
    return bool(code or counts["wrong"] or not counts["right"] or set(counts) - {"right", "status 429"})


@dataclass(frozen=True)
class Two:
    """Two models that differ in their rewards: RM, and RM with its head turned round."""

    folders: list[Path]
    hashes: list[str | None]
    wanted: dict[str | None, list[np.ndarray]]

    @classmethod
    def of(cls, model: Path, other: Path, groups: Sequence[Group]) -> Two:
        loaded, renderer, meta = load_reward_model(str(model))
        loaded.value_head.weight.data.mul_(-1.5)
        save_reward_model(loaded, renderer, other, meta=meta)
        del loaded
        folders = [model.resolve(), other.resolve()]
        hashes = [model_hash(place) for place in folders]
        wanted = {}
        for place, name in zip(folders, hashes, strict=True):
            scorer = offline(place)
            wanted[name] = [scores.rewards for scores in scorer.score(groups)]
        return cls(folders, hashes, wanted)


def swap(model: Path, folder: Path, groups: Sequence[Group], swaps: int, clients: int) -> bool:
    """A link to the folder is turned, and the server told to read it again."""
    two, current = Two.of(model, folder / "other", groups), folder / "current"
    os.symlink(two.folders[0], current)
    server = Server(current, "--api-key", KEY)

    def change(n: int) -> str | None:
        flip = folder / "next"
        os.symlink(two.folders[(n + 1) % 2], flip)
        os.replace(flip, current)
        status, answer = server.ask("POST", "/admin/reload", headers={"x-api-key": KEY}, timeout=SWAP_S)
        return json.loads(answer).get("artifact") if status == 200 else None

    return under_load("swap", server, groups, two, change, swaps, clients)


def follow(model: Path, folder: Path, groups: Sequence[Group], swaps: int, clients: int) -> bool:
    """Another release is made current on the command line, and the server looks for itself."""
    two, project = Two.of(model, folder / "other", groups), folder / "project"
    registered, _ = init_project(project)
    for place, artifact in zip(reversed(two.folders), reversed(two.hashes), strict=True):  # RM: the second, and current
        with registered.open() as store:
            store.add_model(place.name, path=str(place), artifact_hash=str(artifact), round=0, at=time.time())
        releases.release(project, place, note="of a benchmark", force=True)
    server = Server(f"--follow={project}", "--follow-seconds", "0.5", "--api-key", KEY)

    def change(n: int) -> str | None:
        words = ["refresh", "rollback", str(project), "--to", str(1 + n % 2), "--quiet"]
        subprocess.run([sys.executable, "-m", "rewardsmith.cli", *words], check=True, stdout=subprocess.DEVNULL)
        until = time.monotonic() + SWAP_S
        while time.monotonic() < until:
            status, answer = server.ask("GET", "/ready", headers={"x-api-key": KEY}, timeout=SWAP_S)
            if status == 200 and (found := json.loads(answer).get("artifact")) == two.hashes[(n + 1) % 2]:
                return str(found)
            time.sleep(0.1)
        return None

    return under_load("follow", server, groups, two, change, swaps, clients)


def under_load(
    name: str, server: Server, groups: Sequence[Group], two: Two, change: Callable[[int], str | None], swaps: int,
    clients: int,
) -> bool:  # fmt: skip
    """Whether a request was dropped, a reward was not that of the model whose hash the answer names, or the server did
    not change from one model to the other as often as `change` was called."""
    bodies = [body_of(group) for group in groups]
    counts: Counter[str] = Counter()
    stop = threading.Event()

    def work(first: int) -> None:
        n = first
        while not stop.is_set():
            n = (n + 1) % len(bodies)
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SWAP_S)
            headers = {"content-type": "application/json", "x-api-key": KEY}
            try:
                connection.request("POST", "/v1/reward", bodies[n], headers)
                reply = connection.getresponse()
                answer = json.loads(reply.read())
            except (OSError, http.client.HTTPException):
                counts["lost"] += 1
                continue
            if reply.status != 200:
                counts[f"status {reply.status}"] += 1
                continue
            rewards = [row["reward"] for row in answer["groups"][0]["rewards"]]
            right = np.allclose(rewards, two.wanted[answer["artifact"]][n], atol=TOLERANCE)
            counts["right" if right else "wrong"] += 1

    threads = [threading.Thread(target=work, args=(5 * n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    seconds, seen = [], []
    for n in range(swaps):
        started = time.monotonic()
        seen.append(change(n))
        seconds.append(time.monotonic() - started)
        print(f"{name} {n + 1}: {seconds[-1]:.1f} s, {dict(counts)}", flush=True)
    stop.set()
    for thread in threads:
        thread.join()
    code, _ = server.stop()
    said = f"{np.mean(seconds):.1f} s each on average under load, {max(seconds):.1f} at most"
    print(f"{name}: {swaps} times, {said}: {dict(counts)}; exit code {code}")
    expected = [two.hashes[(n + 1) % 2] for n in range(swaps)]
    return bool(code or seen != expected or sum(counts.values()) != counts["right"])


if __name__ == "__main__":
    main()
