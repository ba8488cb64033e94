"""Accuracy against label budget, for each strategy of `data select`.

    python benchmarks/select_labels.py --data candidates_vs_gpt4_turbo.parquet [--json OUT] [--figure OUT.png]
    python benchmarks/select_labels.py --data candidates_vs_gpt4_turbo.parquet --model RM --features FILE.npz

A few answers a prompt, drawn at random; labels are the file's gold, where it differs by more than 0.02: of other pairs
the question is spent and nothing learnt (`--decided` leaves them out of the pool). Each quarter of the prompts is held
out in turn. Of the others 50 pairs are labelled at random, then batches by the strategy: 50 each, and 100 from 200 on.

A strategy sees what the verb sees: without --model the features of `text_features`, with it what the model's head
reads, computed once and kept in --features (RM must not have been trained on these labels). After each batch a
Bradley-Terry head is fitted anew to the labels so far, on columns scaled without labels, with the penalty that
predicts them best in five folds of prompts; it gives the rewards, and five bootstrapped ones give the members'.
Accuracy is that head's on all decided pairs of the held-out prompts; differences to random are paired by seed and
pair, and intervals are of prompts and seeds, crossed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, compress
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.data.options import ReadOptions
from rewardsmith.data.schema import Group
from rewardsmith.data.select import Pool, Strategy, choose, make_pool, text_features, unit_scale
from rewardsmith.data.split import unit_hash
from rewardsmith.overoptimization.candidates import read_pools
from rewardsmith.refresh.bradley_terry import fit_bradley_terry
from rewardsmith.refresh.features import cached_features, fewer_answers
from rewardsmith.refresh.simulate import CrossedDraws
from rewardsmith.score_cache import model_hash
from rewardsmith.statistics import Floats, Interval, interval_text
from rewardsmith.verbs_common import ScorerOptions

GAP, QUARTERS, FIRST, MEMBERS, FOLDS = 0.02, 4, 50, 5, 5
PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
STRATEGIES: tuple[Strategy, ...] = ("random", "d-optimal", "margin", "disagreement", "coverage")


# -- the data -------------------------------------------------------------------------------------------------------


def some_answers(options: argparse.Namespace) -> list[Group]:
    """The first prompts of the file with a few of their answers, rated by gold; as `refresh simulate` draws them, so
    that a features file of one serves the other."""
    pools, _, _ = read_pools([str(options.data)], ["gold"], ReadOptions(), limit=options.prompts)
    drawn = fewer_answers(pools, options.answers)
    return [replace(pool.group, ratings=tuple(pool.gold_JK[0].tolist())) for pool in drawn]


def features_of(options: argparse.Namespace, groups: Sequence[Group]) -> list[Floats]:
    """[K, F] of each group: of the texts, or what the model's head reads, kept in --features."""
    if options.model is None:
        return text_features(groups)
    cut = options.max_response_length
    kind = f"{model_hash(Path(options.model)) or options.model} {cut} {options.precision}"
    scorer = ScorerOptions(precision=options.precision)
    return cached_features(
        groups,
        kind,
        options.features,
        lambda: scorer.head_inputs("--model", options.model, groups, quiet=False, max_response_length=cut),
    )[0]


@dataclass(frozen=True)
class Sides:
    """The two sides of the prompts. scaled_RF is what heads are fitted on, in the order of the pool's rows.

    held_PF, held_sign_P   feature differences and labels of the held-out prompts' decided pairs
    held_prompt_P          the number of each pair's prompt
    """

    groups: list[Group]
    features: list[Floats]
    scaled_RF: Floats
    held_names: list[str]
    held_PF: Floats
    held_sign_P: Floats
    held_prompt_P: np.ndarray

    def by_prompt(self, value_P: np.ndarray) -> Floats:
        """[C] sums over each held-out prompt's pairs."""
        return np.bincount(self.held_prompt_P, value_P, minlength=len(self.held_names)).astype(np.float64)


def sides_of(groups: Sequence[Group], features: Sequence[Floats], quarter: int) -> Sides:
    scaled_RF = unit_scale(np.concatenate(features))
    scaled = np.split(scaled_RF, np.cumsum([len(f) for f in features])[:-1])
    held = [int(QUARTERS * unit_hash(group.prompt_id, 0)) == quarter for group in groups]
    rows, names = [], []
    for group, scaled_KF in zip(compress(groups, held), compress(scaled, held)):
        for i, j in combinations(range(len(scaled_KF)), 2):
            if sign := decided(group, i, j):
                rows.append((scaled_KF[i] - scaled_KF[j], sign, len(names)))
        names.append(group.prompt_id)
    pool = [place for place, out in enumerate(held) if not out]
    return Sides(
        [groups[place] for place in pool],
        [features[place] for place in pool],
        np.concatenate([scaled[place] for place in pool]),
        names,
        np.array([row for row, _, _ in rows]),
        np.array([sign for _, sign, _ in rows]),
        np.array([number for _, _, number in rows]),
    )


def decided(group: Group, i: int, j: int) -> float:
    """1 where the first answer is the better one, -1 where the second is, 0 where gold does not say."""
    ratings = group.ratings or ()
    gap = (ratings[i] or 0.0) - (ratings[j] or 0.0)
    return float(np.sign(gap)) if abs(gap) > GAP else 0.0


def only_decided(pool: Pool) -> Pool:
    kept = [p for p, g in enumerate(pool.group_P) if decided(pool.groups[g], *pool.sides_P[p])]
    return replace(
        pool,
        group_P=[pool.group_P[p] for p in kept],
        sides_P=[pool.sides_P[p] for p in kept],
        row_P2=pool.row_P2[kept],
    )


# -- the head -------------------------------------------------------------------------------------------------------


def fit(x_PF: Floats, label_P: Floats, penalties: Sequence[float]) -> list[Floats]:
    """A head for each penalty. It lies in the rows' span and is found there: as many unknowns as labels, if fewer."""
    basis_FD, place_DP = np.linalg.qr(x_PF.T)
    return [basis_FD @ fit_bradley_terry(place_DP.T, label_P, penalty) for penalty in penalties]


def best_penalty(x_PF: Floats, label_P: Floats, group_P: np.ndarray) -> float:
    """The penalty of the least loss on labels of prompts that were not fitted to."""
    lost = dict.fromkeys(PENALTIES, 0.0)
    for fold in range(FOLDS):
        out_P = group_P % FOLDS == fold
        for penalty, weight_F in zip(PENALTIES, fit(x_PF[~out_P], label_P[~out_P], PENALTIES)):
            z_P = x_PF[out_P] @ weight_F
            lost[penalty] += float(np.logaddexp(0, np.where(label_P[out_P] > 0, -z_P, z_P)).sum())
    return min(PENALTIES, key=lambda penalty: lost[penalty])


# -- one run --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """Of each budget: how many pairs of each held-out prompt are right, the share of its labels that gold decides, and
    the penalty."""

    right_BC: Floats
    decided_B: list[float]
    penalty_B: list[float]


def run(sides: Sides, strategy: Strategy, seed: int, options: argparse.Namespace) -> Run:
    rng = np.random.default_rng(seed)
    pool = make_pool(sides.groups, sides.features, most=options.candidates, seed=seed)
    pool = only_decided(pool) if options.decided else pool
    sign_P = np.array([decided(pool.groups[g], *ij) for g, ij in zip(pool.group_P, pool.sides_P)])
    scaled_PF = sides.scaled_RF[pool.row_P2[:, 0]] - sides.scaled_RF[pool.row_P2[:, 1]]
    group_P, more = np.array(pool.group_P), {"per_prompt": options.per_prompt}
    chosen = choose(pool, "random", FIRST, seed=seed, **more).chosen
    right, shares, penalties = [], [], []
    while True:
        known = np.array([p for p in chosen if sign_P[p]])
        x_PF, label_P = scaled_PF[known], (sign_P[known] + 1) / 2
        penalty = best_penalty(x_PF, label_P, group_P[known])
        (weight_F,) = fit(x_PF, label_P, [penalty])
        if len(chosen) in options.budgets:
            right.append(sides.by_prompt((sides.held_PF @ weight_F) * sides.held_sign_P > 0))
            shares.append(len(known) / len(chosen))
            penalties.append(penalty)
        if len(chosen) >= options.budgets[-1]:
            return Run(np.array(right), shares, penalties)
        draws = [rng.integers(0, len(known), len(known)) for _ in range(MEMBERS)]
        members_MR = np.stack([sides.scaled_RF @ fit(x_PF[d], label_P[d], [penalty])[0] for d in draws])
        now = replace(pool, reward_R=sides.scaled_RF @ weight_F, members_MR=members_MR)
        size = FIRST if len(chosen) < 4 * FIRST else 2 * FIRST
        fresh = choose(now, strategy, size, before=chosen, seed=seed + 1, **more).chosen
        assert len(fresh) == size, "the pool is used up: lower --budgets, or raise --prompts or --per-prompt"
        chosen = chosen + fresh


# -- all runs -------------------------------------------------------------------------------------------------------


def study(quarters: Sequence[Sides], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Of each strategy and budget the accuracy, and its difference to random, with their intervals."""
    count_C = np.concatenate([sides.by_prompt(np.ones(len(sides.held_sign_P))) for sides in quarters])
    crossed = CrossedDraws([name for sides in quarters for name in sides.held_names], options.seeds)

    def share(right_SC: Floats) -> Interval:
        return crossed.ratio(np.stack([right_SC, np.broadcast_to(count_C, right_SC.shape)], axis=-1))

    rows: list[dict[str, Any]] = []
    random_SBC = np.empty(0)
    for name in STRATEGIES:
        runs = [[run(sides, name, seed, options) for sides in quarters] for seed in range(options.seeds)]
        right_SBC = np.array([np.concatenate([one.right_BC for one in of_seed], axis=1) for of_seed in runs])
        random_SBC = right_SBC if name == "random" else random_SBC
        for b, budget in enumerate(options.budgets):
            gap_SC = right_SBC[:, b] - random_SBC[:, b]
            rows.append(
                {
                    "strategy": name,
                    "labels": budget,
                    "accuracy": share(right_SBC[:, b]).to_json(),
                    "over_random": share(gap_SC).to_json(),
                    "over_random_by_seed": (gap_SC.sum(axis=1) / count_C.sum()).tolist(),
                    "decided": float(np.mean([one.decided_B[b] for of_seed in runs for one in of_seed])),
                    "penalties": [one.penalty_B[b] for of_seed in runs for one in of_seed],
                }
            )
    return rows


def table(rows: Sequence[dict[str, Any]], budgets: Sequence[int]) -> str:
    by = {(row["strategy"], row["labels"]): row for row in rows}
    lines = [f"{'labels':<14}" + "".join(f"{budget:>26}" for budget in budgets)]
    cells = [interval_text(by["random", budget]["accuracy"]) for budget in budgets]
    lines.append(f"{'random':<14}" + "".join(f"{cell:>26}" for cell in cells))
    for name in STRATEGIES[1:]:
        cells = [interval_text(by[name, budget]["over_random"], "+.3f") for budget in budgets]
        lines.append(f"{name:<14}" + "".join(f"{cell:>26}" for cell in cells))
    lines.append("share of the labels that gold decides")
    for name in STRATEGIES:
        lines.append(f"{name:<14}" + "".join(f"{by[name, budget]['decided']:>26.0%}" for budget in budgets))
    return "\n".join(lines)


def draw(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """The difference to random by budget, with its interval."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(STRATEGIES) - 1, figsize=(11, 2.8), sharey=True, layout="constrained")
    for name, ax in zip(STRATEGIES[1:], axes):
        own = [row for row in rows if row["strategy"] == name]
        labels = [row["labels"] for row in own]
        value, low, high = ([row["over_random"][key] for row in own] for key in ("value", "low", "high"))
        ax.axhline(0, color="#1d2126", linewidth=0.8)
        ax.fill_between(labels, low, high, color="#1f5fa8", alpha=0.15, linewidth=0)
        ax.plot(labels, value, color="#1f5fa8", marker="o", markersize=4)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("labels")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("accuracy less random's")
    figure.savefig(file, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", help="a reward model: features are what its head reads")
    parser.add_argument("--features", metavar="FILE.npz", help="keeps what the head reads, for the next run")
    parser.add_argument("--prompts", type=int, default=240, help="the first so many of the file")
    parser.add_argument("--answers", type=int, default=12, help="of each prompt, drawn at random")
    parser.add_argument("--max-response-length", type=int, default=128, help="with --model: cut answers")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--budgets", type=int, nargs="+", default=[50, 100, 200, 400])
    parser.add_argument("--per-prompt", type=int, default=4)
    parser.add_argument("--candidates", type=int, default=10, help="pairs of a prompt to choose from")
    parser.add_argument("--decided", action="store_true", help="only pairs that gold decides are in the pool")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    groups = some_answers(options)
    features = features_of(options, groups)
    if lost := [place for place, f in enumerate(features) if not np.isfinite(f).all()]:
        raise SystemExit(
            f"{len(lost)} prompts cannot be rendered by {options.model}: give another --max-response-length"
        )
    quarters = [sides_of(groups, features, quarter) for quarter in range(QUARTERS)]
    pairs = sum(len(sides.held_sign_P) for sides in quarters)
    source = "text features" if options.model is None else f"head input of {options.model}"
    print(f"{options.data.name}, {source}: {len(groups)} prompts, judged by {pairs} pairs that gold decides")
    print(f"accuracy of random, and differences to it; {options.seeds} seeds [95%]", flush=True)
    rows = study(quarters, options)
    print(table(rows, options.budgets))
    if options.json:
        told = {key: value for key, value in vars(options).items() if key not in ("json", "figure")}
        options.json.write_text(
            json.dumps({"options": told, "prompts": len(groups), "pairs": pairs, "rows": rows}, indent=1, default=str)
            + "\n"
        )
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
