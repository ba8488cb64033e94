"""The server beside Infinity (PyPI's infinity-emb, torch engine) on the same exported model and the same answers.

    python benchmarks/serve_infinity.py RM --data DIR --infinity PYTHON [--prompts 24] [--clients 16] [--cores 0]

PYTHON belongs to an environment with `infinity-emb[torch,server]`, transformers below 4.50 and numpy below 2. DIR holds
alpaca_eval/candidates_vs_gpt4_turbo.parquet. Two cases: 8 responses a prompt, and one. Both servers run side by side,
one idle while the other is asked; in turns, --repeats times, the same clients ask each for all rewards, one prompt with
its responses a request. Infinity serves a model of one label as a reranker and has no chat template: it is given the
text that our renderer makes of the prompt as query, what follows it as documents, and gives raw scores. It strips both
of white space, so that a row is a token or two shorter than ours; its scores are compared with what our model says of
exactly those tokens, offline. --cores pins the servers (not the
clients) to these cores, with as many threads.

Targets: at least 2 times Infinity's rate on 8 responses a prompt, and 1.2 times on singles.
"""

from __future__ import annotations

import argparse
import atexit
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.data.schema import Group
from serve_common import Client, Server, ask_ours, body_of, free_port, offline, real_groups, serve_all
from speed_common import machine, table, target

START_S = 240.0
TARGETS = {"8 responses": 2.0, "singles": 1.2}


class Infinity:
    """`infinity_emb v2` as a process of its own, on one folder."""

    def __init__(self, python: Path, folder: str, environment: dict[str, str]) -> None:
        self.port = free_port()
        # The console script belongs to the environment; batches as large as its classifier makes them.
        command = [
            str(python.with_name("infinity_emb")), "v2", "--model-id", folder,
            "--host", "127.0.0.1", "--port", str(self.port),
            "--engine", "torch", "--device", "cpu", "--dtype", "float32", "--no-bettertransformer", "--no-compile",
            "--no-model-warmup", "--served-model-name", "rm",
        ]  # fmt: skip
        self.log = Path(tempfile.mkstemp(suffix=".infinity.log")[1])
        quiet = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "PYTHONPATH": ""}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env={**environment, **quiet}, stdout=log, stderr=log)
        atexit.register(self.process.kill)
        until = time.monotonic() + START_S
        while time.monotonic() < until and self.process.poll() is None:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                time.sleep(0.5)
        sys.exit(f"Infinity did not start: {self.log.read_text()[-3000:]}")


def ask_infinity(client: Client, body: bytes) -> list[float]:
    """Raw scores of one request's documents, in their order."""
    connection = client.connection
    connection.request("POST", "/rerank", body, {"content-type": "application/json"})
    reply = connection.getresponse()
    answer = json.loads(reply.read())
    if reply.status != 200:
        os.write(2, f"Infinity: {answer}\n".encode())
        os._exit(1)
    return [row["relevance_score"] for row in sorted(answer["results"], key=lambda row: row["index"])]


def texts_of(scorer: Any, group: Group) -> tuple[bytes, list[float]]:
    """The request, and what our model says of its tokens: the rendered prompt up to where the response begins is the
    query, the rest of each row a document."""
    (encoded,) = scorer.renderer.encode([group])
    texts = [scorer.renderer.tokenizer.decode(row, skip_special_tokens=False) for row in encoded.token_ids]
    first = texts[0].rindex(group.responses[0][0].content.strip()[:40])
    query = texts[0][:first]
    assert all(text.startswith(query) for text in texts), "responses of one prompt begin alike"
    documents = [text[first:] for text in texts]
    body = {"model": "rm", "query": query, "documents": documents, "raw_scores": True}
    head, *rest = (scorer.renderer.tokenizer(text.strip())["input_ids"] for text in (query, *documents))
    (rewards_1K,) = scorer.reward_batch([[np.array(head + tail) for tail in rest]])
    return json.dumps(body).encode(), rewards_1K[0].tolist()


ASKS = {"ours": ask_ours, "infinity": ask_infinity}


def pinned(cores: Sequence[int]) -> dict[str, str]:
    """The environment of servers on these cores; this process is pinned meanwhile, and its children inherit it."""
    if not cores:
        return dict(os.environ)
    os.sched_setaffinity(0, set(cores))
    threads = str(len(cores))
    os.environ |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    return dict(os.environ)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--infinity", type=Path, required=True, help="the python of its environment")
    parser.add_argument("--prompts", type=int, default=24, help="of the case with 8 responses; 4 times as many singles")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=512, help="longest row taken")
    parser.add_argument("--cores", type=int, nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    all_cores = os.sched_getaffinity(0)
    environment = pinned(options.cores)
    infinity, ours = (
        Infinity(options.infinity, options.model, environment),
        Server(options.model, "--request-seconds", "3600"),
    )
    os.sched_setaffinity(0, all_cores)
    scorer = offline(options.model)
    results: dict[str, Any] = {"machine": machine(), "cores": options.cores, "cases": {}}
    rows, targets = [], []
    for case, n_responses, n_prompts in (("8 responses", 8, options.prompts), ("singles", 1, 4 * options.prompts)):
        groups = real_groups(
            options.data, scorer, prompts=n_prompts, responses=n_responses, most_tokens=options.max_tokens
        )
        asked = [texts_of(scorer, g) for g in groups]
        bodies = {"ours": [body_of(g) for g in groups], "infinity": [body for body, _ in asked]}
        ports = {"ours": ours.port, "infinity": infinity.port}
        seconds: dict[str, list[float]] = {"ours": [], "infinity": []}
        rewards: dict[str, list[list[float]]] = {}
        for turn in range(options.repeats + 1):  # the first is a warm-up
            for way in ("ours", "infinity") if turn % 2 else ("infinity", "ours"):
                started = time.perf_counter()
                rewards[way] = serve_all(ports[way], bodies[way], options.clients, ASKS[way])
                if turn:
                    seconds[way].append(time.perf_counter() - started)
        wanted = np.concatenate([reward_K for _, reward_K in asked])
        difference = float(np.abs(wanted - np.concatenate(rewards["infinity"])).max())
        ratio = statistics.median(b / a for a, b in zip(seconds["ours"], seconds["infinity"], strict=True))
        n = len(wanted)
        results["cases"][case] = {**seconds, "n": n, "ratio": ratio, "largest_difference": difference}
        rates = [f"{n / statistics.median(seconds[way]):.1f}" for way in ("ours", "infinity")]
        rows.append([case, str(n), *rates, f"{ratio:.2f}", f"{difference:.1e}"])
        targets.append(target(f"{case}: ours over Infinity", TARGETS[case], ratio))
    print(table(["case", "responses", "ours/s", "Infinity/s", "ratio", "difference"], rows))
    for line in targets:
        print(line)
    ours.stop()
    infinity.process.terminate()
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
