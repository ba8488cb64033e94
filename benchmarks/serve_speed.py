"""The server's throughput at saturation against offline packed scoring of the same rows, and its latency against load.

    python benchmarks/serve_speed.py RM --data DIR [--prompts 24] [--clients 16] [--seconds 12] [--figure OUT.png]

DIR holds alpaca_eval/candidates_vs_gpt4_turbo.parquet. Two cases: 8 responses a prompt, and one. In turns, --repeats
times: offline (`scorer.score(groups)`, one call), and the server, asked by --clients clients with one group a request
until all groups are answered. Rewards are compared. Target: the server gives at least 90% of the offline rate.

Then requests of single responses arrive at random (Poisson) at shares of the saturation rate, --seconds each, and the
latencies are drawn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.data.schema import Group
from serve_common import Client, Server, body_of, largest_difference, offline, real_groups, serve_all
from speed_common import machine, table, target

SHARES = (0.2, 0.4, 0.6, 0.8, 0.95)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=24, help="of the case with 8 responses; 4 times as many singles")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12.0, help="at each load; 0 leaves latency out")
    parser.add_argument("--max-tokens", type=int, default=512, help="longest row taken")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    scorer = offline(options.model, options.precision)
    cases = {
        "8 responses": real_groups(
            options.data, scorer, prompts=options.prompts, responses=8, most_tokens=options.max_tokens
        ),
        "singles": real_groups(
            options.data, scorer, prompts=4 * options.prompts, responses=1, most_tokens=options.max_tokens
        ),
    }
    # All rows wait at once here: no deadline on the way.
    server = Server(options.model, "--request-seconds", "3600", "--precision", options.precision)
    results: dict[str, Any] = {"machine": machine(), "cases": {}}
    rows, targets = [], []
    for name, groups in cases.items():
        result = compare(scorer, server, groups, options)
        results["cases"][name] = result
        n = sum(len(group.responses) for group in groups)
        ratio = statistics.median(result["ratios"])
        rows.append(
            [
                name,
                str(n),
                f"{n / statistics.median(result['offline_s']):.1f}",
                f"{n / statistics.median(result['served_s']):.1f}",
                f"{ratio:.2f}",
                f"{result['largest_difference']:.1e}",
            ]
        )
        targets.append(target(f"{name}: served over offline", 0.9, ratio))
    print(table(["case", "responses", "offline/s", "served/s", "ratio", "difference"], rows))
    for t in targets:
        print(t)
    if options.seconds > 0:
        singles = cases["singles"]
        rate = len(singles) / statistics.median(results["cases"]["singles"]["served_s"])
        results["load"] = [
            latency(server, singles, rate * share, options.seconds) | {"share": share} for share in SHARES
        ]
        lines = [
            [f"{r['share']:.0%}", f"{r['rate']:.1f}", str(r["n"]), f"{1e3 * r['p50']:.0f}", f"{1e3 * r['p99']:.0f}"]
            for r in results["load"]
        ]
        print(table(["share", "asked/s", "answered", "p50 ms", "p99 ms"], lines))
        if options.figure:
            draw(results["load"], options.figure)
    code, last = server.stop()
    print(f"server: exit code {code}, {last}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def compare(scorer: Any, server: Server, groups: Sequence[Group], options: argparse.Namespace) -> dict[str, Any]:
    """Both ways in turns, after one of each as a warm-up."""
    bodies = [body_of(group) for group in groups]
    seconds: dict[str, list[float]] = {"offline_s": [], "served_s": []}
    wanted = scorer.score(groups)
    found = serve_all(server.port, bodies, options.clients)
    difference = largest_difference(wanted, found)
    for _ in range(options.repeats):
        started = time.perf_counter()
        scorer.score(groups)
        seconds["offline_s"].append(time.perf_counter() - started)
        started = time.perf_counter()
        difference = max(difference, largest_difference(wanted, serve_all(server.port, bodies, options.clients)))
        seconds["served_s"].append(time.perf_counter() - started)
    ratios = [a / b for a, b in zip(seconds["offline_s"], seconds["served_s"], strict=True)]
    return {**seconds, "ratios": ratios, "largest_difference": difference}


def latency(server: Server, groups: Sequence[Group], rate: float, seconds: float) -> dict[str, Any]:
    """Requests at random times; a request's latency counts from when it was to be sent."""
    rng = np.random.default_rng(0)
    due = np.cumsum(rng.exponential(1 / rate, size=max(2, int(rate * seconds))))
    bodies = [body_of(groups[n % len(groups)]) for n in range(len(due))]
    took = np.zeros(len(due))
    started = time.perf_counter()

    def one(n: int) -> None:
        Client(server.port).rewards(bodies[n])
        took[n] = time.perf_counter() - started - due[n]

    threads = []
    for n, at in enumerate(due):
        time.sleep(max(0.0, at - (time.perf_counter() - started)))
        threads.append(threading.Thread(target=one, args=(n,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    p50, p99 = np.quantile(took, [0.5, 0.99])
    return {"rate": rate, "n": len(due), "p50": float(p50), "p99": float(p99)}


def draw(load: Sequence[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.2, 3.4))
    x = [100 * r["share"] for r in load]
    axes.plot(x, [1e3 * r["p50"] for r in load], "o-", label="median")
    axes.plot(x, [1e3 * r["p99"] for r in load], "s--", label="99%")
    axes.set(xlabel="load, % of the rate at saturation", ylabel="latency, ms", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
