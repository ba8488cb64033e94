"""A refresh store of a million comparisons: how fast status, propose, a lease and a label are.

    python benchmarks/refresh_store.py [--comparisons 1000000] [--folder DIR] [--store URL] [--json OUT]

A project is filled through the library's own methods: prompts of a few words, a base policy and ten rounds of a policy
with five answers of about 60 words to each prompt and five comparisons of them, nine in ten of which are labelled, a
tenth of them by two of five annotators; then an eleventh round of 5,000 prompts with four answers each, which have
rewards and spreads but no comparison yet. A folder that is filled already is used again. Then, each in a process of its
own and --repeats times:

    status    `refresh.status.status`, from opening the store to the result
    propose   `look` and `propose` of --budget pairs more each time, from opening the store to the pairs' being kept
    lease     `lease_next` and `record_label` of --leases pairs by one annotator: milliseconds for one of each
    command   `rewardsmith refresh status`, with the start of Python

Targets: status and propose in under 2 s. "Work" is processor time: what the wall clock says on a machine that does
nothing else. Peak memory is that of the process. --store takes a PostgreSQL address in the
place of SQLite; its size is asked of the server.

The JSON file: {"settings", "machine", "fill": {"seconds", "peak_mib", "mib"}, "results": {what: {"seconds": [...],
"median", "highest", "cpu_seconds", "peak_mib"}}, "targets"}.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROUNDS, ANSWERS, ANNOTATORS = 10, 5, 5
NEW_PROMPTS, NEW_ANSWERS = 5000, 4
WORDS = [f"{a}{b}{c}" for a in ("ra", "sto", "ri", "la", "co", "se", "un") for b in ("n", "v", "st", "lt")
         for c in ("e", "a", "er", "y", "ing", "o")]  # fmt: skip
TARGET_S = 2.0


def text(generator: random.Random, n: int) -> str:
    return " ".join(generator.choices(WORDS, k=n))


def fill(folder: str, url: str | None, n: int) -> None:
    """Make the project and fill its store."""
    from rewardsmith.refresh.project import init_project

    project, _ = init_project(folder, **({} if url is None else {"store": url}))
    generator = random.Random(0)
    n_prompts = n // ANSWERS
    with project.open() as store:
        prompts = store.add_prompts(new_prompts(generator, n_prompts)).ids
        store.add_responses(answers(generator, prompts, 1, "base", 0))
        for round in range(1, ROUNDS + 1):
            part = prompts[(round - 1) * n_prompts // ROUNDS : round * n_prompts // ROUNDS]
            said = store.add_responses(answers(generator, part, ANSWERS, f"rl-{round}", round)).ids
            pairs = store.add_comparisons(comparisons(generator, part, said, round), at=1.0).ids
            store.add_labels(labels(generator, pairs))
            print(f"round {round}: {len(pairs)} comparisons", file=sys.stderr, flush=True)
        new = store.add_prompts(new_prompts(generator, min(NEW_PROMPTS, n_prompts))).ids
        last = ROUNDS + 1
        store.add_responses(answers(generator, new, 1, "base", 0))
        said = store.add_responses(answers(generator, new, NEW_ANSWERS, f"rl-{last}", last)).ids
        store.add_model("rm", path="models/rm", artifact_hash="none", round=ROUNDS, at=1.0)
        rated = {i: (generator.gauss(0, 1), abs(generator.gauss(0, 0.3))) for i in said}
        rated |= {r.id: (generator.gauss(0, 1), 0.2) for r in store.responses(policy="base") if r.prompt_id >= new[0]}
        store.set_scores("rm", rated)
    (Path(folder) / "filled.json").write_text(json.dumps({"comparisons": n}))


def new_prompts(generator: random.Random, n: int) -> Iterator[Any]:
    from rewardsmith.data.schema import Message
    from rewardsmith.refresh.records import NewPrompt

    return (NewPrompt(messages=(Message("user", text(generator, 12)),)) for _ in range(n))


def answers(generator: random.Random, prompts: list[int], k: int, policy: str, round: int) -> Iterator[Any]:
    from rewardsmith.data.schema import Message
    from rewardsmith.refresh.records import NewResponse

    for prompt in prompts:
        for _ in range(k):
            said = (Message("assistant", text(generator, 60)),)
            yield NewResponse(prompt_id=prompt, messages=said, policy=policy, round=round)


def comparisons(generator: random.Random, prompts: list[int], said: list[int], round: int) -> Iterator[Any]:
    """Each answer against the next one."""
    from rewardsmith.refresh.records import NewComparison

    for p, prompt in enumerate(prompts):
        ids = said[p * ANSWERS : (p + 1) * ANSWERS]
        for k in range(ANSWERS):
            yield NewComparison(
                prompt_id=prompt, a_id=ids[k], b_id=ids[(k + 1) % ANSWERS], round=round, why="for the measurement",
                kind=("new-new", "new-base", "contested", "random")[k % 4], score=round + generator.random(),
                overlap=2 if generator.random() < 0.1 else 1,
            )  # fmt: skip


def labels(generator: random.Random, pairs: list[int]) -> Iterator[Any]:
    from rewardsmith.refresh.records import NewLabel

    for pair in pairs:
        if generator.random() < 0.9:
            who = generator.sample(range(ANNOTATORS), 2 if generator.random() < 0.1 else 1)
            for name in who:
                verdict = generator.choices(("a", "b", "tie", "skip"), weights=(45, 45, 8, 2))[0]
                yield NewLabel(
                    comparison_id=pair, annotator=f"annotator-{name}", verdict=verdict, at=generator.random()
                )


def measure(what: str, folder: str, budget: int, leases: int) -> dict[str, Any]:
    """One measurement in this process."""
    from rewardsmith.refresh.project import open_project
    from rewardsmith.refresh.propose import ProposeOptions, look, propose
    from rewardsmith.refresh.reasons import Rewards
    from rewardsmith.refresh.status import status

    project = open_project(folder)
    start, worked = time.perf_counter(), time.process_time()
    with project.open() as store:
        if what == "status":
            found = status(project, store, time.time())
            said = {key: found[key] for key in ("comparisons", "open", "labels")}
        elif what == "propose":
            seen = look(store, ProposeOptions(), project.base_policy)
            options = ProposeOptions(budget=sum(seen.proposed.values()) + budget)
            found = propose(store, seen, options, Rewards("rm", store.scores("rm", seen.response_ids())), time.time())
            said = {key: found[key] for key in ("added", "before", "kinds", "candidates")}
        else:
            for _ in range(leases):
                leased = store.lease_next("measurer", time.time(), 600)
                assert leased is not None
                store.record_label(leased.comparison.id, "measurer", "a", at=time.time())
            said = {"pairs": leases}
    each = leases if what == "lease" else 1
    seconds, cpu = (time.perf_counter() - start) / each, (time.process_time() - worked) / each
    return {"seconds": seconds, "cpu_seconds": cpu, "said": said, "peak_mib": peak_mib()}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(*words: str) -> dict[str, Any]:
    """This script in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--comparisons", type=int, default=1_000_000)
    parser.add_argument("--folder", default="runs/refresh_store")
    parser.add_argument("--store", help="a PostgreSQL address")
    parser.add_argument("--budget", type=int, default=500)
    parser.add_argument("--leases", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure == "fill":
        start = time.perf_counter()
        fill(options.folder, options.store, options.comparisons)
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "cpu_seconds": time.process_time(), "peak_mib": peak_mib()}))
        return
    if options.measure:
        print(json.dumps(measure(options.measure, options.folder, options.budget, options.leases)))
        return
    report = run(options)
    if options.json:
        Path(options.json).parent.mkdir(parents=True, exist_ok=True)
        Path(options.json).write_text(json.dumps(report, indent=1))


def run(options: argparse.Namespace) -> dict[str, Any]:
    folder = Path(options.folder)
    report: dict[str, Any] = {
        "settings": vars(options),
        "machine": {"platform": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count()},
        "results": {},
    }
    if not (folder / "filled.json").exists():
        words = ["--measure", "fill", "--folder", str(folder), "--comparisons", str(options.comparisons)]
        report["fill"] = child(*words, *(["--store", options.store] if options.store else []))
        took = report["fill"]
        print(f"filled in {took['seconds']:.0f} s ({took['cpu_seconds']:.0f} of work), peak {took['peak_mib']:.0f} MiB")
    if not options.store:
        size = sum(file.stat().st_size for file in folder.glob("store.sqlite*")) / 2**20
        report["mib"] = size
        print(f"the store has {size:.0f} MiB")
    for what in ("status", "propose", "lease", "command"):
        rows = []
        for _ in range(options.repeats):
            if what == "command":
                start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
                command = [sys.executable, "-m", "rewardsmith.cli", "refresh", "status", str(folder), "--json"]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                rows.append({"seconds": time.perf_counter() - start, "cpu_seconds": cpu, "peak_mib": 0.0, "said": {}})
            else:
                words = ["--measure", what, "--folder", str(folder), "--budget", str(options.budget)]
                rows.append(child(*words, "--leases", str(options.leases)))
        seconds = [row["seconds"] for row in rows]
        median, highest = statistics.median(seconds), max(seconds)
        cpu = statistics.median(row["cpu_seconds"] for row in rows)
        peak = max(row["peak_mib"] for row in rows)
        report["results"][what] = {
            "seconds": seconds, "median": median, "highest": highest, "cpu_seconds": cpu, "peak_mib": peak,
            "said": [row["said"] for row in rows],
        }  # fmt: skip
        times = f"median {median:.3f} s ({cpu:.3f} of work), highest {highest:.3f} s"
        print(f"{what:<8} {times}, peak {peak:.0f} MiB  {rows[-1]['said']}", flush=True)
    kept = {what: report["results"][what]["highest"] < TARGET_S for what in ("status", "propose")}
    report["targets"] = kept
    print("under 2 s: " + ", ".join(f"{what} {'yes' if holds else 'NO'}" for what, holds in kept.items()))
    return report


if __name__ == "__main__":
    main()
