"""`data coverage` on 100,000 pairs made from real preference files: seconds and peak memory.

    python benchmarks/data_coverage.py DATA --target prompts.jsonl --benchmarks bench.json --page --json coverage.json

The pairs are made from those of DATA (preference files of any shape) with a seed: a prompt is the prompt of one group
with sentences of another's and with words replaced by words of the same files, in proportions drawn for each pair; a
hundredth repeat the prompt of an earlier pair with one word more. Answers stay those of the group. So topics, lengths
and labels are real and near duplicates are there, but the prompts are many. The verb runs in a process of its own,
whose peak resident set the operating system reports. Exits 1 where it takes more than 180 s or 2,000 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

LIMIT_S, LIMIT_MB = 180, 2000
SAME = 0.01  # of the pairs repeat an earlier prompt, but for a word
RUN = """
import json, sys, time
from rewardsmith.cli import main
begin, cpu = time.perf_counter(), time.process_time()
code = main([*sys.argv[2:], "--json"])
open(sys.argv[1], "w").write(json.dumps([time.perf_counter() - begin, time.process_time() - cpu]))
sys.exit(code)
"""
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def source_pairs(files: Sequence[str]) -> list[tuple[str, str, str]]:
    """(prompt, chosen, rejected) of decided pairs, at most ten of a group."""
    from rewardsmith.data.coverage.traits import user_text
    from rewardsmith.data.readers import ReadOptions, read_groups
    from rewardsmith.data.schema import text_of

    found = []
    for file in files:
        options = ReadOptions(rating_key="gold") if "candidates" in Path(file).name else ReadOptions()
        for group in read_groups(file, options):
            for p in [p for p in group.preferences if not p.is_tie][:10]:
                texts = (text_of(group.responses[p.chosen]), text_of(group.responses[p.rejected]))
                found.append((user_text(group.prompt), *texts))
    return found


def rows(pairs: Sequence[tuple[str, str, str]], n: int, seed: int) -> Iterator[dict[str, Any]]:
    """`n` pairs with prompts of their own."""
    draw = random.Random(seed)
    words = [word for prompt, _, _ in pairs for word in prompt.split()]
    made: list[str] = []
    for number in range(n):
        prompt, chosen, rejected = pairs[draw.randrange(len(pairs))]
        if made and draw.random() < SAME:
            yield {"prompt": f"{draw.choice(made)} {draw.choice(words)}", "chosen": chosen, "rejected": rejected}
            continue
        replaced = draw.uniform(0.1, 0.5)
        mixed = [draw.choice(words) if draw.random() < replaced else word for word in prompt.split()]
        other = SENTENCE.split(draw.choice(pairs)[0])
        made.append(f"{' '.join(mixed)} {draw.choice(other)} ({number % 97})")
        yield {"prompt": made[-1], "chosen": chosen, "rejected": rejected}


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write the file, run the verb on it in a child process, and return what that cost."""
    path, times = folder / "pairs.jsonl", folder / "times.json"
    pairs = source_pairs(arguments.files)
    with path.open("w", encoding="utf-8") as file:
        for row in rows(pairs, arguments.pairs, arguments.seed):
            file.write(json.dumps(row) + "\n")
    words = ["data", "coverage", str(path)]
    if arguments.target:
        words += ["--target", *arguments.target]
    if arguments.benchmarks:
        words += ["--benchmarks", *arguments.benchmarks]
    if arguments.page:
        words += ["--page", str(folder / "coverage.html")]
    command = [sys.executable, "-c", RUN, str(times), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    kilobyte = 1024 if platform.system() == "Darwin" else 1  # macOS reports bytes
    seconds, cpu_seconds = json.loads(times.read_text(encoding="utf-8"))
    result = json.loads(done.stdout)
    return {
        "pairs": result["pairs"],
        "source_pairs": len(pairs),
        "prompts": result["prompts"],
        "near_duplicates": result["duplicates"]["near"],
        "topics": len(result["topics"]),
        "cells": len(result["cells"]),
        "target_prompts": result["target"]["prompts"]["texts"] if result["target"] else 0,
        "benchmark_prompts": sum(row["prompts"] for row in result["benchmarks"]),
        "file_mb": path.stat().st_size / 1e6,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_mb": usage.ru_maxrss / kilobyte * 1024 / 1e6,
        "limit_seconds": LIMIT_S,
        "limit_mb": LIMIT_MB,
    }


def show(found: dict[str, Any]) -> None:
    table = [
        ("file", f"{found['file_mb']:,.0f} MB, {found['pairs']:,} pairs from {found['source_pairs']:,} real ones"),
        ("found", f"{found['prompts']:,} prompts, {found['near_duplicates']:,} near duplicates, "
         f"{found['topics']} topics, {found['cells']} cells"),
        ("beside", f"{found['target_prompts']:,} target prompts, {found['benchmark_prompts']:,} benchmark prompts"),
        ("time", f"{found['seconds']:,.0f} s on {found['cores']} core{'s' if found['cores'] != 1 else ''} "
         f"({found['cpu_seconds']:,.0f} s of one core; limit {found['limit_seconds']} s on two)"),
        ("peak memory", f"{found['peak_mb']:,.0f} MB (limit {found['limit_mb']:,})"),
    ]  # fmt: skip
    for name, value in table:
        print(f"{name:<12} {value}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="+", help="preference files that the pairs are made from")
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--target", nargs="*", default=[], help="files of target prompts")
    parser.add_argument("--benchmarks", nargs="*", default=[], help="benchmark files")
    parser.add_argument("--page", action="store_true", help="with the map")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments, Path(folder))
    show(found)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return int(found["peak_mb"] >= LIMIT_MB or found["seconds"] >= LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
