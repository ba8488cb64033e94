"""Training speed and memory on real pairs: TRL's RewardTrainer and Rewardsmith, same pairs, same order, same start.

    make peers
    .venv/peers/bin/python benchmarks/train_speed.py --data DIR [--steps 12] [--repeats 2] [--json OUT]

DIR holds hh_harmless/train.jsonl.gz. SmolLM2-135M-Instruct, all weights trained in --precision on the CPU, --batch-size
pairs in an optimiser step, rows of at most --max-length tokens, no checkpointing, a constant learning rate, AdamW,
gradients clipped to norm 1. Three ways take turns, each in a process of its own:

    trl, a step at once    all pairs of a step in one padded forward pass
    trl, a pair at once    one pair in a forward pass, the rest accumulated: least padding, TRL at its best
    ours                   `rewardsmith.train` as it is

Measured: pairs a second over --steps steps after a warm-up step (without loading, tokenising and saving); peak memory
from the warm-up's end to the last step's ("training") and to the process's ("process": in ours with the saving of the
model, which TRL is not asked to do); the loss of every step, of which the first shows that all ways began with the same
pairs and weights.

Targets: at least 3.5 times the pairs a second of TRL with a step at once and 2.5 times those with a pair at once; at
most half the training memory of a step at once.

The JSON file: {"settings", "machine", "targets", "results": {way: [{"seconds": [of each step], "cpu_seconds",
"losses", "tokens", "peak_mib", "process_peak_mib", "threads"}]}}.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from speed_common import (
    TRAINING_COLUMNS,
    Result,
    Task,
    hh_pairs,
    in_child,
    in_turns,
    make_start,
    new_parser,
    our_order,
    ratios,
    read_rows,
    report,
    start,
    table,
    target,
    tokenizer_of,
    train_ours,
    train_with_trl,
    training_rows,
    write_rows,
)

AT_ONCE, BY_PAIR, OURS = "trl, a step at once", "trl, a pair at once", "ours"


def measure(task: Task) -> Result:
    """One run of one way, or the files that all of them read."""
    if task["way"] == "prepare":
        make_start(task)
        write_rows(task["rows"], hh_pairs(task["data"], task["pairs"], task["max_length"], tokenizer_of(task)))
        return {}
    if task["way"] == "ours":
        return train_ours(task)
    pairs = read_rows(task["rows"])
    return train_with_trl(task, [pairs[i] for i in our_order(task["seed"], len(pairs))], task["batch_size"])


def run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = {"start": str(Path(folder) / "start"), "rows": str(Path(folder) / "pairs.jsonl")}
        shared: Task = {**vars(options), **files, "pairs": (options.steps + 1) * options.batch_size}
        in_child(options, {**shared, "way": "prepare"})
        tasks = {
            AT_ONCE: {**shared, "way": "trl", "pairs_at_once": options.batch_size},
            BY_PAIR: {**shared, "way": "trl", "pairs_at_once": 1},
            OURS: {**shared, "way": "ours"},
        }
        results = in_turns(options, tasks)
    memory = {way: statistics.median(run["peak_mib"] for run in runs) for way, runs in results.items()}
    targets = [
        target(f"speed against {AT_ONCE}", 3.5, statistics.median(ratios(results, OURS, AT_ONCE))),
        target(f"speed against {BY_PAIR}", 2.5, statistics.median(ratios(results, OURS, BY_PAIR))),
        target(f"share of the memory of {AT_ONCE}", 0.5, memory[OURS] / memory[AT_ONCE], at_most=True),
    ]
    rows = training_rows(results, OURS, options.batch_size)
    report(options, [table(("way", "pairs/s", *TRAINING_COLUMNS), rows)], targets, {"results": results})


def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__, repeats=2)
    parser.add_argument("--steps", type=int, default=12, help="measured optimiser steps, after one of warm-up")
    parser.add_argument("--batch-size", type=int, default=8, help="pairs in an optimiser step")
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    return parser


if __name__ == "__main__":
    start(parser(), run, measure)
