"""Peak memory and time of `data check` on a generated file of 1,000,000 pairs.

    python benchmarks/data_check_memory.py --json memory.json

The file (about 2.1 GB of JSON lines, TRL shape) is written to a temporary folder and deleted afterwards. The check
runs in a process of its own, whose peak resident set the operating system reports. Exits 1 where that is 1 GB
or more, or where the check did not see every row.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIMIT_MB = 1000
CHECK = """
import json, sys, time
from rewardsmith.data.validate import check_files
begin, cpu = time.perf_counter(), time.process_time()
result = check_files([sys.argv[1]])
facts = {key: result[key] for key in ("shape", "rows", "groups", "pairs", "sample")}
facts["warnings"] = {w["kind"]: w["count"] for w in result["warnings"]}
facts["seconds"], facts["cpu_seconds"] = time.perf_counter() - begin, time.process_time() - cpu
print(json.dumps(facts))
"""


def rows(n: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Pairs with log-normal lengths (median 30, 100 and 100 words) over 20,000 made-up words, some of them common.

    One row in a thousand repeats an earlier one with its label turned round, so that the check has work to do.
    """
    draw = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(20_000)]
    # Drawing from slices of one long shuffled text is ten times faster than drawing words, and no less varied.
    text = draw.choices(words, weights=[1 / (rank + 10) for rank in range(len(words))], k=2_000_000)

    def said(median: float) -> str:
        length = max(3, min(2000, int(draw.lognormvariate(0, 0.8) * median)))
        start = draw.randrange(len(text) - length)
        return " ".join(text[start : start + length]) + "."

    last: dict[str, Any] = {}
    for number in range(n):
        if number % 1000 == 999:
            yield {"prompt": last["prompt"], "chosen": last["rejected"], "rejected": last["chosen"]}
            continue
        last = {"prompt": said(30), "chosen": said(100), "rejected": said(100)}
        yield last


def measure(pairs: int, folder: Path) -> dict[str, Any]:
    """Write the file, check it in a child process, and return what both cost."""
    path = folder / "pairs.jsonl"
    begin = time.perf_counter()
    with path.open("w", encoding="utf-8") as file:
        for row in rows(pairs):
            file.write(json.dumps(row) + "\n")
    written = time.perf_counter() - begin
    # One thread: what is measured is one core.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(path)], stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    kilobyte = 1024 if platform.system() == "Darwin" else 1  # macOS reports bytes
    return {
        **json.loads(done.stdout),
        "file_mb": path.stat().st_size / 1e6,
        "write_seconds": written,
        "peak_mb": usage.ru_maxrss / kilobyte * 1024 / 1e6,
        "limit_mb": LIMIT_MB,
    }


def show(found: dict[str, Any], pairs: int) -> None:
    """The table for people."""
    table = [
        ("file", f"{found['file_mb']:,.0f} MB, {found['rows']:,} rows"),
        ("peak memory", f"{found['peak_mb']:,.0f} MB (limit {found['limit_mb']:,})"),
        ("time", f"{found['seconds']:,.0f} s ({found['cpu_seconds']:,.0f} s of one core)"),
        ("per pair", f"{found['cpu_seconds'] / pairs * 1e6:,.0f} us of one core"),
        ("sample", f"{found['sample']['groups']:,} of {found['sample']['of_groups']:,} groups"),
        ("warnings", ", ".join(f"{kind} {count:,}" for kind, count in found["warnings"].items()) or "none"),
    ]
    for name, value in table:
        print(f"{name:<12} {value}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments.pairs, Path(folder))
    show(found, arguments.pairs)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return int(found["peak_mb"] >= LIMIT_MB or found["rows"] != arguments.pairs)


if __name__ == "__main__":
    sys.exit(main())
