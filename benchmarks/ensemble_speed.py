"""What an ensemble costs beside one model: training and scoring, layers in common computed once.

    .venv/bin/python benchmarks/ensemble_speed.py --data DIR [--steps 6] [--members 4] [--json OUT]

DIR holds hh_harmless/{train,dev}.jsonl.gz. SmolLM2-135M-Instruct on the CPU, --batch-size pairs a step. Ways take
turns, each in a process of its own:

    one model                all layers trained
    ensemble                 --members members with the top third of the layers each, on one trunk
    ensemble, cached         the same where the frozen layers' states are on the disk: every epoch after the first

Measured: pairs a second over --steps steps after a warm-up step, without loading, filling the cache and saving; pairs a
second of scoring the first --score-pairs held-out pairs with what was trained; peak memory of training.

Targets: the ensemble without a cache takes at most 1.5 times the training time of one model, and at most twice its
scoring time.

The JSON file: {"settings", "machine", "targets", "results": {way: [{"seconds", "cpu_seconds", "losses", "peak_mib",
"score_seconds", "score_cpu_seconds", "threads"}]}}.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from quality_vs_trl import read_pairs, small_model
from speed_common import (
    Clock,
    Result,
    Task,
    in_child,
    in_turns,
    new_parser,
    peak_mib,
    rate,
    ratios,
    report,
    spread,
    start,
    table,
    target,
    training_result,
    write_rows,
)

ONE, MANY, CACHED = "one model", "ensemble", "ensemble, cached"


def measure(task: Task) -> Result:
    """Train one way, then score with it."""
    from transformers import AutoConfig

    from rewardsmith import RenderConfig, TrainConfig, load_scorer, read_groups, train

    os.environ["XDG_CACHE_HOME"] = task["cache"]
    model = task["model"] or f"gguf:{small_model()}"
    options = {}
    if task["way"] != ONE:
        source, file = (Path(small_model()).parent, small_model().name) if not task["model"] else (model, None)
        depth = AutoConfig.from_pretrained(source, **({"gguf_file": file} if file else {})).num_hidden_layers
        options = {"members": task["members"], "train_layers": depth // 3}
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            data=(task["rows"],),
            model=model,
            output=str(Path(folder) / "rm"),
            batch_size=task["batch_size"],
            learning_rate=task["learning_rate"],
            seed=task["seed"],
            precision=task["precision"],
            device="cpu",
            save_every=10**9,
            trunk_cache_gb=4.0 if task["way"] == CACHED else 0.0,
            render=RenderConfig(max_length=task["max_length"]),
            **options,
        )
        with Clock() as clock:
            train(config, quiet=True)
        scorer = load_scorer(config.output, device="cpu", precision=task["precision"])
        groups = list(read_groups((task["held_out"],)))
        scorer.score(groups[:1])
        began, cpu_began = time.perf_counter(), time.process_time()
        scorer.score(groups)
        scoring = {
            "score_seconds": [time.perf_counter() - began],
            "score_cpu_seconds": [time.process_time() - cpu_began],
        }
    return {**training_result(clock, [], 0), **scoring, "process_peak_mib": peak_mib()}


def prepare(options: argparse.Namespace, folder: Path) -> Task:
    """The files that all ways read."""
    data = options.data / "hh_harmless"
    n = (options.steps + 1) * options.batch_size
    files = {"rows": str(folder / "train.jsonl"), "held_out": str(folder / "dev.jsonl"), "cache": str(folder / "cache")}
    write_rows(files["rows"], read_pairs(data / "train.jsonl.gz", n, 2 * options.max_length))
    write_rows(files["held_out"], read_pairs(data / "dev.jsonl.gz", options.score_pairs, 2 * options.max_length))
    return {**vars(options), **files}


def run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        shared = prepare(options, Path(name))
        tasks = {way: {**shared, "way": way} for way in (ONE, MANY, CACHED)}
        in_child(options, {**tasks[CACHED]})  # fills the cache
        results = in_turns(options, tasks)
    rows = []
    for way, runs in results.items():
        speed = spread([rate(found, options.batch_size) for found in runs])
        training = spread([1 / r for r in ratios(results, way, ONE)])
        scoring = spread([1 / r for r in ratios(results, way, ONE, "score_seconds")])
        by_cpu = [
            spread([1 / r for r in ratios(results, way, ONE, key)]) for key in ("cpu_seconds", "score_cpu_seconds")
        ]
        memory = f"{statistics.median(found['peak_mib'] for found in runs):.0f}"
        rows.append([way, speed, training, by_cpu[0], scoring, by_cpu[1], memory])
    columns = (
        "way", "pairs/s", "training time of one model", "by CPU time", "scoring time of one model", "by CPU time",
        "peak MiB, training",
    )  # fmt: skip
    cost = {
        key: statistics.median(1 / r for r in ratios(results, MANY, ONE, key)) for key in ("seconds", "score_seconds")
    }
    targets = [
        target("training time of one model", 1.5, cost["seconds"], at_most=True),
        target("scoring time of one model", 2.0, cost["score_seconds"], at_most=True),
    ]
    report(options, [table(columns, rows)], targets, {"results": results})


def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__, repeats=1)
    parser.add_argument("--steps", type=int, default=6, help="measured optimiser steps, after one of warm-up")
    parser.add_argument("--batch-size", type=int, default=8, help="pairs in an optimiser step")
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--score-pairs", type=int, default=60, help="held-out pairs to score")
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    return parser


if __name__ == "__main__":
    start(parser(), run, measure)
