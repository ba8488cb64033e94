"""How the time and memory of scoring grow: with rows, with responses of a prompt, with length.

    python benchmarks/scaling.py [--axes rows k length] [--json OUT] [--figure OUT.png]

Synthetic, and needs no peer and no data. Three axes, each point in a process of its own, --repeats turns of all points:

    rows    `score_file` streams --rows responses (4 a prompt, about 60 tokens each) from a file to a file through a
            random Llama of two layers, so that what is measured is everything but a model
    k       SmolLM2-135M-Instruct, --prompts prompts of --prompt-length tokens, K answers of --response-length each
    length  the same model, 4 rows of that many tokens that share nothing

k and length are scored as the scorer does: `plan_batches` by --tokens-per-batch, `pack_rows`, `RewardModel`. Measured:
seconds without loading, after a warm-up; peak memory from the loaded model on. A straight line is fitted to the medians
of the seconds.

Targets: the line explains at least 99% of the variance on each axis (attention's own products grow with the square of
the length, so that axis bends where rows are long for the model's width); memory over rows stays within 10%.

The JSON file: {"settings", "machine", "targets", "axes": {axis: {"points", "seconds", "peak_mib", "line", "results"}}}
with seconds and peak_mib as medians of each point.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speed_common import (
    Result,
    Task,
    compute_in,
    forget_peak,
    in_child,
    in_turns,
    make_start,
    new_parser,
    peak_mib,
    report,
    start,
    table,
    target,
    tokenizer_of,
    write_rows,
)

RESPONSES = 4  # of a prompt, on the axis of rows
LENGTH_ROWS = 4
WORDS = "rain stone river lamp cold seven under bread the a of window red north fish glass and to song far"
AXES = {"rows": "rows", "k": "responses of a prompt", "length": "tokens of a row"}


# One point -----------------------------------------------------------------------------------------


def make_tiny(task: Task) -> None:
    """An artifact of a random Llama with two narrow layers, with the small model's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    from rewardsmith import RenderConfig, Renderer, RewardModel
    from rewardsmith.model.artifact import save_reward_model

    tokenizer = tokenizer_of(task)
    torch.manual_seed(task["seed"])
    shape: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config = LlamaConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **shape)
    renderer = Renderer(tokenizer, RenderConfig(max_length=task["max_length"]))
    save_reward_model(RewardModel(LlamaModel(config)), renderer, task["tiny"])


def write_synthetic(path: Path, n_rows: int, seed: int) -> None:
    """Prompts with four answers each, of random words."""
    rng = random.Random(seed)

    def words(n: int) -> str:
        return " ".join(rng.choices(WORDS.split(), k=n))

    n_groups = n_rows // RESPONSES
    groups = [{"prompt": words(20), "responses": [words(20) for _ in range(RESPONSES)]} for _ in range(n_groups)]
    write_rows(str(path), groups)


def score_rows(task: Task) -> Result:
    """A file of responses to a file of rewards."""
    from rewardsmith import read_groups
    from rewardsmith.scorers import load_scorer
    from rewardsmith.scoring import score_file

    scorer = load_scorer(task["tiny"], device="cpu", tokens_per_batch=task["tokens_per_batch"])
    with tempfile.TemporaryDirectory() as folder:
        source, few = Path(folder) / "rows.jsonl", Path(folder) / "few.jsonl"
        write_synthetic(source, task["point"], task["seed"])
        write_synthetic(few, 2 * RESPONSES, task["seed"])
        score_file(scorer, read_groups(few), Path(folder) / "few-rewards.jsonl")
        forget_peak()
        started = time.perf_counter()
        counts = score_file(scorer, read_groups(source), Path(folder) / "rewards.jsonl")
        seconds = time.perf_counter() - started
    assert (counts["rows"], counts["unscored"]) == (task["point"], 0), counts
    return {"seconds": seconds, "peak_mib": peak_mib()}


def random_groups(task: Task, vocabulary: int) -> list[list[list[int]]]:
    """Groups of random token rows: the axis says how many answers, or how long."""
    rng = random.Random(task["seed"])

    def tokens(n: int) -> list[int]:
        return [rng.randrange(100, vocabulary) for _ in range(n)]

    if task["axis"] == "length":
        return [[tokens(task["point"])] for _ in range(LENGTH_ROWS)]
    prompts = [tokens(task["prompt_length"]) for _ in range(task["prompts"])]
    return [[prompt + tokens(task["response_length"]) for _ in range(task["point"])] for prompt in prompts]


def score_tokens(task: Task) -> Result:
    """Rows of tokens to rewards, as the scorer does it."""
    from rewardsmith import load_reward_model
    from rewardsmith.text.pack import pack_rows, plan_batches

    model = load_reward_model(task["start"])[0].eval()
    rows_GK = random_groups(task, model.trunk.config.vocab_size)
    rewards: list[float] = []
    with compute_in(task["precision"]):
        model(batch=pack_rows([[rows_GK[0][0][:32]]]))
        forget_peak()
        started = time.perf_counter()
        for members in plan_batches(rows_GK, task["tokens_per_batch"]):
            rewards += model(batch=pack_rows([rows_GK[g] for g in members])).tolist()
        seconds = time.perf_counter() - started
    assert len(rewards) == sum(map(len, rows_GK))
    return {"seconds": seconds, "peak_mib": peak_mib()}


def measure(task: Task) -> Result:
    if task["axis"] == "prepare":
        make_start(task)
        make_tiny(task)
        return {}
    return score_rows(task) if task["axis"] == "rows" else score_tokens(task)


# Lines ---------------------------------------------------------------------------------------------


def line(x: Sequence[float], y: Sequence[float]) -> Result:
    """The straight line of least squares, and the share of y's variance that it explains."""
    import numpy as np

    slope, intercept = np.polyfit(x, y, 1)
    rest = np.asarray(y) - (slope * np.asarray(x) + intercept)
    return {"slope": float(slope), "intercept": float(intercept), "r2": float(1 - rest.var() / np.var(y))}


def summarise(axis: str, results: dict[int, list[Result]]) -> Result:
    points = sorted(results)
    seconds = [statistics.median(run["seconds"] for run in results[x]) for x in points]
    memory = [statistics.median(run["peak_mib"] for run in results[x]) for x in points]
    found = {"points": points, "seconds": seconds, "peak_mib": memory, "results": results}
    return {**found, "line": line(points, seconds) if len(points) > 2 else None}


def table_of(axis: str, found: Result) -> str:
    rows = [
        [f"{x}", f"{s:.3g}", f"{1000 * s / x:.3g}", f"{mib:.0f}"]
        for x, s, mib in zip(found["points"], found["seconds"], found["peak_mib"], strict=True)
    ]
    fit = found["line"]
    text = table((AXES[axis], "seconds", "ms each", "peak MiB"), rows)
    if fit is not None:
        text += f"\n\nline: {fit['intercept']:.3g} s + {fit['slope']:.3g} s each, R^2 {fit['r2']:.5f}"
    return text


def targets_of(axes: dict[str, Result]) -> list[Result]:
    targets = [
        target(f"{axis}: R^2 of a straight line", 0.99, found["line"]["r2"])
        for axis, found in axes.items()
        if found["line"]
    ]
    if "rows" in axes:
        memory = axes["rows"]["peak_mib"]
        growth = max(memory) / memory[0]
        targets.append(target("rows: most memory over that of the fewest rows", 1.1, growth, at_most=True))
    return targets


def draw(axes: dict[str, Result], path: Path) -> None:
    """Seconds above, memory below, one column an axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, len(axes), figsize=(4 * len(axes), 6), squeeze=False, layout="constrained")
    for column, (axis, found) in enumerate(axes.items()):
        above: Any = panels[0][column]
        below: Any = panels[1][column]
        above.plot(found["points"], found["seconds"], "o", color="#1f5fa8")
        if fit := found["line"]:
            ends = [0, max(found["points"])]
            above.plot(ends, [fit["intercept"] + fit["slope"] * x for x in ends], color="#1f5fa8", linewidth=1)
            above.set_title(f"R² = {fit['r2']:.4f}", fontsize=10)
        below.plot(found["points"], found["peak_mib"], "o-", color="#a8571f", linewidth=1)
        below.set_xlabel(AXES[axis])
        for panel, values in ((above, found["seconds"]), (below, found["peak_mib"])):
            panel.set_xlim(0, 1.05 * max(found["points"]))
            panel.set_ylim(0, 1.1 * max(values))
    panels[0][0].set_ylabel("seconds")
    panels[1][0].set_ylabel("peak MiB")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def run(options: argparse.Namespace) -> None:
    points = {"rows": options.rows, "k": options.ks, "length": options.lengths}
    with tempfile.TemporaryDirectory() as folder:
        files = {"start": str(Path(folder) / "start"), "tiny": str(Path(folder) / "tiny")}
        shared: Task = {**vars(options), **files}
        in_child(options, {**shared, "axis": "prepare"})
        tasks = {
            f"{axis} {point}": {**shared, "axis": axis, "point": point}
            for axis in options.axes
            for point in sorted(points[axis])
        }
        results = in_turns(options, tasks)
    axes = {
        axis: summarise(axis, {point: results[f"{axis} {point}"] for point in points[axis]}) for axis in options.axes
    }
    if options.figure:
        draw(axes, options.figure)
    report(options, [table_of(axis, found) for axis, found in axes.items()], targets_of(axes), {"axes": axes})


def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__, repeats=3, max_length=256, data=False)
    parser.add_argument("--axes", nargs="+", choices=tuple(AXES), default=list(AXES))
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 2000, 4000, 8000, 16000], help="multiples of 4")
    parser.add_argument("--ks", type=int, nargs="+", default=[2, 4, 8, 12, 16], help="responses of a prompt")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 256, 512, 1024, 2048], help="tokens of a row")
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--prompt-length", type=int, default=256)
    parser.add_argument("--response-length", type=int, default=128)
    parser.add_argument("--tokens-per-batch", type=int, default=8192)
    parser.add_argument("--figure", type=Path, help="draw the axes into this PNG file")
    return parser


if __name__ == "__main__":
    start(parser(), run, measure)
