"""A server under mixed load for a long time: clients that ask, leave, send garbage, stall and come back.

    python benchmarks/serve_soak.py RM --data DIR [--minutes 30] [--json OUT]

Side by side: 6 clients that ask and compare every reward with the offline one, 2 that leave in the middle of a request,
2 that send garbage, 2 that open a connection and say nothing. Counted: wrong rewards, answers that did not come,
requests refused for want of time (429), 5xx. The server's resident memory is read every second; its slope is that of
the last two thirds. Exits with 1 where a reward was wrong, lost, or a 5xx was sent.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from serve_common import TOLERANCE, Client, Server, body_of, offline, real_groups, slope

GARBAGE = (
    b"\0\1\2\3\r\n\r\n",
    b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /v1/reward HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n{{{{{",
    b"POST /v1/reward HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n"
    + b"[" * 4000,
    b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n"
    b'{"input": 3}',
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    scorer = offline(options.model)
    groups = real_groups(options.data, scorer, prompts=24, responses=4, most_tokens=256)
    wanted = [scores.rewards for scores in scorer.score(groups)]
    del scorer
    bodies = [body_of(group) for group in groups]
    server = Server(options.model, "--body-seconds", "5")
    counts: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    stop = threading.Event()

    def asking(rng: random.Random) -> None:
        client = Client(server.port)
        while not stop.is_set():
            n = rng.randrange(len(bodies))
            try:
                status, rewards = client.rewards(bodies[n])
            except (OSError, http.client.HTTPException):
                counts["lost"] += 1
                client = Client(server.port)
                continue
            statuses[str(status)] += 1
            if status == 429:  # more than it can do in time, and said so
                counts["refused"] += 1
                time.sleep(1.0)
                continue
            right = status == 200 and bool(np.allclose(rewards, wanted[n], atol=TOLERANCE))
            counts["right" if right else "wrong"] += 1
            if rng.random() < 0.05:
                client = Client(server.port)

    def leaving(rng: random.Random) -> None:
        body = rng.choice(bodies)
        head = f"POST /v1/reward HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Type: application/json\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(
                head.encode() + b"Content-Type: application/json\r\n\r\n" + body[: rng.randrange(len(body) + 1)]
            )
            time.sleep(rng.uniform(0, 0.3))
        counts["left"] += 1

    def littering(rng: random.Random) -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            connection.sendall(rng.choice(GARBAGE))
            connection.settimeout(1)
            said = connection.recv(4096)
        statuses[f"garbage {said[9:12].decode('latin-1')}"] += 1
        time.sleep(0.05)

    def stalling(rng: random.Random) -> None:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"POST /v1/reward HTTP/1.1\r\nHo"[: rng.randrange(1, 28)])
            stop.wait(rng.uniform(1, 8))
        counts["stalled"] += 1

    def again(step: Callable[[random.Random], None], rng: random.Random) -> None:
        while not stop.is_set():
            try:
                step(rng)
            except OSError:
                counts["turned away"] += 1

    steps = [asking] * 6 + [leaving] * 2 + [littering] * 2 + [stalling] * 2
    threads = [threading.Thread(target=again, args=(step, random.Random(n))) for n, step in enumerate(steps)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    seconds, memory = [], []
    while time.monotonic() - started < 60 * options.minutes and server.process.poll() is None:
        time.sleep(1.0)
        seconds.append(time.monotonic() - started)
        memory.append(server.resident_mib())
    stop.set()
    for thread in threads:
        thread.join()
    waiting = server.metric("rewardsmith_waiting_responses")
    code, last = server.stop()
    third = len(seconds) // 3
    growth = slope(seconds[third:], memory[third:]) * 60
    failed = sum(n for status, n in statuses.items() if status.removeprefix("garbage ").startswith("5"))
    print(f"{options.minutes:g} min: {dict(counts)}, statuses {dict(statuses)}, waiting at the end {waiting:.0f}")
    print(f"memory {memory[third]:.0f} to {memory[-1]:.0f} MiB in the last two thirds, slope {growth:+.2f} MiB/min")
    print(f"server: exit code {code}, {last}")
    if options.json:
        row = {"counts": counts, "statuses": statuses, "seconds": seconds, "memory_mib": memory, "slope": growth}
        options.json.write_text(json.dumps(row, indent=1) + "\n")
    raise SystemExit(bool(counts["wrong"] or counts["lost"] or failed or waiting or code))


if __name__ == "__main__":
    main()
