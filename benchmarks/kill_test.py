"""SIGKILL at random moments, resumed each time: the run ends with the same bits as an unbroken one.

    python benchmarks/kill_test.py --work DIR [--kills 20]

Trains a small random Llama (or --model) on the bundled data once unbroken, then again with a killer beside it:
after a random delay the process gets SIGKILL and is started with --resume, until the wanted number of kills
is reached. While it runs, the output folder is watched: it must never be there in part. Compares every loss
value and every weight bit by bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rewardsmith.model.load import default_model, load_tokenizer
from rewardsmith.quickstart import bundled_data

COMPLETE = {"config.json", "model.safetensors", "reward_model.json", "tokenizer.json", "training_metrics.jsonl"}


def small_model(folder: Path) -> str:
    """Four layers of random weights behind the real tokenizer."""
    if not folder.exists():
        tokenizer = load_tokenizer(default_model())
        torch.manual_seed(0)
        shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
        LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        AutoTokenizer.from_pretrained(folder)
    return str(folder)


def command(model: str, output: Path, steps: int) -> list[str]:
    return [
        sys.executable, "-m", "rewardsmith.cli", "train", "--data", str(bundled_data()), "--eval-fraction", "0.1",
        "--limit", str(steps * 4), "--batch-size", "4", "--eval-every", "10", "--save-every", "2",
        "--learning-rate", "1e-3", "--model", model, "--output", str(output), "--quiet", "--device", "cpu", "--resume",
    ]  # fmt: skip


def start(words: list[str]) -> subprocess.Popen:
    return subprocess.Popen(words, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL)


def is_half(output: Path) -> bool:
    return output.exists() and not {f.name for f in output.iterdir()} >= COMPLETE


def steps_done(work: Path) -> int:
    """Lines in the run's log: about the step it is at."""
    file = work / ".killed.run" / "metrics.jsonl"
    return file.read_bytes().count(b'"loss"') if file.exists() else 0


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, (folder / "training_metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--model", default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    model = options.model or small_model(options.work / "model")
    whole, killed = options.work / "whole", options.work / "killed"
    assert start(command(model, whole, options.steps)).wait() == 0
    rng = random.Random(options.seed)
    kills, during, half, starts, finished = 0, [], 0, 0, 0
    while kills < options.kills:
        process, starts = start(command(model, killed, options.steps)), starts + 1
        # A moment some steps further on, or, one time in five, anywhere in the first seconds (starting, loading).
        early = rng.random() < 0.2
        target = steps_done(options.work) + rng.randint(0, max(1, options.steps // 5))
        end = time.monotonic() + rng.uniform(0.1, 8.0) if early else float("inf")
        while process.poll() is None and time.monotonic() < end and (early or steps_done(options.work) < target):
            half += is_half(killed)
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.2))  # between steps, while saving, while writing the artifact
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            during.append(steps_done(options.work))
        elif process.returncode == 0 and kills < options.kills:
            # Done before the wanted number of kills: compare, and begin a new run, killed like the first.
            finished += 1
            if losses(killed) != losses(whole):
                break
            shutil.rmtree(killed)
        half += is_half(killed)
        print(f"kill {kills}: at step {during[-1] if during else 0}", file=sys.stderr, flush=True)
    assert start(command(model, killed, options.steps)).wait() == 0
    a, b = load_file(whole / "model.safetensors"), load_file(killed / "model.safetensors")
    result = {
        "kills": kills,
        "starts": starts + 1,
        "steps": len(losses(whole)),
        "steps_at_kill": during,
        "runs_finished_between": finished,
        "losses_identical": losses(whole) == losses(killed),
        "weights_identical": a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a),
        "half_artifacts_seen": half,
    }
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if result["losses_identical"] and result["weights_identical"] and not half else 1


if __name__ == "__main__":
    sys.exit(main())
