"""How much of the processor's matrix-product speed our training reaches, and where the rest of the time goes.

    python benchmarks/mfu.py --data DIR [--steps 8] [--train-layers N] [--json OUT]

DIR holds hh_harmless/train.jsonl.gz. `rewardsmith.train` on --batch-size pairs a step, SmolLM2-135M-Instruct, settings
as in train_speed.py; needs no peer. A first step warms up, --steps steps are measured, one more is profiled.

    arithmetic  of a distinct token: 6 FLOP for each weight of a trained layer's matrices (2 forward, 4 backward), 2 for
                each of a frozen one (--train-layers). Embeddings, the last layer's feed-forward (needed at the last
                token of a row only), attention's own products, norms, the optimiser and tokens computed twice count
                nothing, so that only useful work raises the figure.
    peak        the best of three torch.matmul of 2048 x 2048 matrices in the compute type after every step, in the same
                process, with the same threads
    MFU         arithmetic of the measured steps / their seconds / peak
    profile     torch.profiler over one whole step: each operator's own time, by class

Target: MFU of at least 60%.

The JSON file: {"settings", "machine", "targets", "results": [{"seconds", "step_tokens", "matmul_gflops", "parameters",
"classes": {class: seconds}, "operators": {name: seconds}, ...}]}.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from speed_common import (
    Clock,
    Result,
    Task,
    hh_pairs,
    in_child,
    in_turns,
    make_start,
    new_parser,
    report,
    spread,
    start,
    table,
    target,
    tokenizer_of,
    train_ours,
    write_rows,
)

SIDE = 2048
PRODUCTS = 3  # after every step
MATMUL, ATTENTION, INDEX, OPTIMIZER = "matrix products", "attention", "gather and index", "optimiser"
CLASSES = {
    MATMUL: r"aten::(mm|addmm|bmm|baddbmm|matmul|linear|mkldnn\w*|_mkl\w*)$",
    ATTENTION: r"\w*::\w*(scaled_dot_product|flash_attention)\w*",
    OPTIMIZER: r"Optimizer\..*|aten::(_fused_adam|_foreach)\w*",
    INDEX: r"aten::(embedding|index|_index|gather|scatter|take|_unsafe_index|masked|cat|select|slice)\w*",
    "copies": r"aten::(copy_|clone|contiguous|_to_copy|to)$",
    "elementwise and reductions": r"aten::.*",
}


class ProfilingClock(Clock):
    """A clock that after every step times matrix products, and profiles the step after `steps` measured ones."""

    def __init__(self, steps: int, precision: str) -> None:
        import torch
        from torch.profiler import ProfilerActivity, profile

        super().__init__()
        self.steps = steps
        self.begins: list[float] = []
        self.gflops: list[float] = []
        self.matrix = torch.randn(SIDE, SIDE).to(getattr(torch, precision))
        self.product = torch.empty_like(self.matrix)
        self.profile = profile(activities=[ProfilerActivity.CPU])

    def tick(self, *_: object) -> None:
        super().tick()
        if len(self.ends) == self.steps + 2:
            self.profile.stop()
            return
        self.gflops += [self.time_product() for _ in range(PRODUCTS)]
        if len(self.ends) == self.steps + 1:
            self.profile.start()
        self.begins.append(time.perf_counter())

    def time_product(self) -> float:
        import torch

        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            started = time.perf_counter()
            torch.matmul(self.matrix, self.matrix, out=self.product)
            return 2e-9 * SIDE**3 / (time.perf_counter() - started)

    @property
    def seconds(self) -> list[float]:
        return [end - begin for begin, end in zip(self.begins, self.ends[1:])][: self.steps]


def weights_of(folder: str, train_layers: int | None) -> dict[str, int]:
    """Weights of linear layers, trained and frozen, that every token is multiplied with."""
    from torch import nn

    from rewardsmith import load_reward_model

    trunk = load_reward_model(folder)[0].trunk
    n = trunk.config.num_hidden_layers
    counts = {"trained": 0, "frozen": 0}
    for name, module in trunk.named_modules():
        found = re.search(r"layers\.(\d+)\.(\w+)", name)
        if isinstance(module, nn.Linear) and found and (int(found[1]), found[2]) != (n - 1, "mlp"):
            trained = train_layers is None or int(found[1]) >= n - train_layers
            counts["trained" if trained else "frozen"] += module.weight.numel()
    return counts


def class_of(operator: str) -> str:
    return next((name for name, pattern in CLASSES.items() if re.match(pattern, operator)), "other")


def measure(task: Task) -> Result:
    if task["way"] == "prepare":
        make_start(task)
        write_rows(task["rows"], hh_pairs(task["data"], task["pairs"], task["max_length"], tokenizer_of(task)))
        return {}
    clock = ProfilingClock(task["steps"], task["precision"])
    # Without the disk cache of frozen layers: what is counted as their arithmetic is then done in the step.
    frozen = {"train_layers": task["train_layers"], "trunk_cache_gb": 0.0}
    result = train_ours({**task, "train_options": frozen}, clock)
    del result["cpu_seconds"]  # the timed products are in them
    events: Any = clock.profile.key_averages()
    operators = {event.key: event.self_cpu_time_total / 1e6 for event in events}
    classes: dict[str, float] = {}
    for name, seconds in operators.items():
        classes[class_of(name)] = classes.get(class_of(name), 0.0) + seconds
    parameters = weights_of(task["start"], task["train_layers"])
    found = {"matmul_gflops": clock.gflops, "parameters": parameters, "classes": classes, "operators": operators}
    return {**result, **found}


def arithmetic(run: Result) -> Result:
    """Speeds of a run's measured steps; its peak and MFU."""
    flop = 6 * run["parameters"]["trained"] + 2 * run["parameters"]["frozen"]
    tokens = run["step_tokens"][1 : len(run["seconds"]) + 1]
    peak = max(run["matmul_gflops"])
    tokens_per_s = sum(tokens) / sum(run["seconds"])
    best = max(n / seconds for n, seconds in zip(tokens, run["seconds"], strict=True))
    return {
        "distinct tokens/s": tokens_per_s,
        "MFLOP/token": flop / 1e6,
        "GFLOP/s": tokens_per_s * flop / 1e9,
        "peak GFLOP/s": peak,
        "median matmul GFLOP/s": statistics.median(run["matmul_gflops"]),
        "MFU": tokens_per_s * flop / 1e9 / peak,
        "MFU of the best step": best * flop / 1e9 / peak,
        "MFU by the run's own account": run["own_speed"]["mfu"],
    }


def shares(run: Result, what: str, most: int) -> list[list[str]]:
    """The largest parts of the profiled step."""
    whole = sum(run[what].values())
    largest = sorted(run[what].items(), key=lambda item: -item[1])[:most]
    return [[name, f"{seconds:.3f}", f"{seconds / whole:.1%}"] for name, seconds in largest]


def run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        task: Task = {
            **vars(options),
            "start": str(Path(folder) / "start"),
            "rows": str(Path(folder) / "pairs.jsonl"),
            "pairs": (options.steps + 2) * options.batch_size,
        }
        in_child(options, {**task, "way": "prepare"})
        runs = in_turns(options, {"ours": {**task, "way": "ours"}})["ours"]
    figures = [arithmetic(run) for run in runs]
    rows = [[name, spread([f[name] for f in figures])] for name in figures[0]]
    tables = [
        table(("measure", "value"), rows),
        table(("class of operators", "seconds in a step", "share"), shares(runs[0], "classes", len(CLASSES) + 1)),
        table(("operator", "own seconds in a step", "share"), shares(runs[0], "operators", 15)),
    ]
    targets = [target("MFU", 0.6, statistics.median(f["MFU"] for f in figures))]
    report(options, tables, targets, {"figures": figures, "results": runs})


def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__, repeats=1)
    parser.add_argument("--steps", type=int, default=8, help="measured optimiser steps")
    parser.add_argument("--batch-size", type=int, default=8, help="pairs in an optimiser step")
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--train-layers", type=int, help="train only the top N layers")
    return parser


if __name__ == "__main__":
    start(parser(), run, measure)
