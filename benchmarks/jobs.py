"""Many commands of one benchmark: each as soon as what it needs is done, a few at a time, its result kept on the disk.

A run that was stopped goes on with what is missing. A command that fails costs its own result and what needs it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """One subprocess whose last line of output is a JSON object; `needs` names jobs that come first."""

    name: str
    words: list[str]
    needs: list[str] = field(default_factory=list)


class Pool:
    """Runs jobs as soon as what they need is done, a few at a time; keeps their results on the disk."""

    def __init__(self, work: Path, at_once: int) -> None:
        self.folder = work / "jobs"
        self.folder.mkdir(parents=True, exist_ok=True)
        # The cores that are ours: under taskset, more threads than these would wait for each other.
        ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = max(1, ours // at_once)
        self.at_once = at_once

    def run(self, jobs: Sequence[Job], told: Callable[[dict[str, dict[str, Any]]], None]) -> dict[str, dict[str, Any]]:
        """{job: its result, or {"error": why}}. `told` hears of all results, so far, whenever a job has ended."""
        done: dict[str, Future[dict[str, Any]]] = {}
        with ThreadPoolExecutor(self.at_once) as threads:
            for job in jobs:  # in order: what a job needs was handed in before it, so no thread waits for ever
                needed = [done[name] for name in job.needs]
                done[job.name] = threads.submit(self._after, job, needed)
            for _ in as_completed(done.values()):
                told({n: f.result() if f.done() else {"error": "not finished"} for n, f in done.items()})
        return {name: future.result() for name, future in done.items()}

    def _after(self, job: Job, needed: Sequence[Future[dict[str, Any]]]) -> dict[str, Any]:
        if any("error" in future.result() for future in needed):
            return {"error": f"not run: one of {', '.join(job.needs)} failed"}
        file = self.folder / f"{job.name}.json"
        if file.exists():
            return dict(json.loads(file.read_text()))
        started = time.monotonic()
        env = os.environ | {"OMP_NUM_THREADS": str(self.threads), "TOKENIZERS_PARALLELISM": "false"}
        env.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # each process would start one per core
        with (self.folder / f"{job.name}.log").open("w") as log:
            done = subprocess.run(job.words, stdout=subprocess.PIPE, stderr=log, text=True, env=env, check=False)
        seconds = time.monotonic() - started
        try:
            found = dict(json.loads(done.stdout))
        except ValueError:
            last = (self.folder / f"{job.name}.log").read_text().strip().splitlines()[-1:] or [
                f"exit {done.returncode}"
            ]
            print(f"{job.name}: FAILED after {seconds:.0f} s: {last[0]}", file=sys.stderr, flush=True)
            return {"error": last[0][:300]}
        print(f"{job.name}: {seconds:.0f} s", file=sys.stderr, flush=True)
        file.write_text(json.dumps(found))
        return found
