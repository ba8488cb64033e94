"""Accuracy against label budget, for each strategy of `data select`.

    python benchmarks/select_labels.py --data candidates_vs_gpt4_turbo.parquet

Pairs of eight answers a prompt, drawn at random; labels are the file's gold, where it differs by more than 0.02. A
quarter of the prompts is held out. 50 pairs are labelled at random, then batches of 50 by the strategy, each with a
Bradley-Terry model (logistic regression on the features of `text_features`) that was fitted to the labels so far, and
five bootstrapped ones for the disagreement. Accuracy on the held-out prompts' pairs, five seeds; and beside each
strategy the difference to random under the same seeds.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from rewardsmith.data.options import ReadOptions
from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import Group, preferences_from_ratings
from rewardsmith.data.select import Pool, Strategy, choose, make_pool, text_features, unit_scale
from rewardsmith.data.split import unit_hash

BUDGETS = (50, 100, 150, 200, 300, 400)
BATCH, ANSWERS, GAP, PER_PROMPT, MEMBERS = 50, 8, 0.02, 2, 5
STRATEGIES: tuple[Strategy, ...] = ("random", "d-optimal", "margin", "disagreement", "coverage")


def some_answers(group: Group, seed: int) -> Group:
    """The group with eight of its answers, and the labels that their ratings give."""
    draw = random.Random(f"{group.id}:{seed}")
    kept = sorted(draw.sample(range(len(group.responses)), min(ANSWERS, len(group.responses))))
    ratings = tuple((group.ratings or ())[k] for k in kept)
    return replace(
        group,
        responses=tuple(group.responses[k] for k in kept),
        ratings=ratings,
        preferences=preferences_from_ratings(ratings, GAP),
    )


def labelled(pool: Pool, scaled_RF: np.ndarray, pairs: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(feature differences, +1 or -1) of the pairs that their ratings decide."""
    rows, sides = [], []
    for p in pairs:
        ratings = pool.groups[pool.group_P[p]].ratings or ()
        i, j = pool.sides_P[p]
        gap = (ratings[i] or 0.0) - (ratings[j] or 0.0)
        if abs(gap) > GAP:
            rows.append(scaled_RF[pool.row_P2[p, 0]] - scaled_RF[pool.row_P2[p, 1]])
            sides.append(np.sign(gap))
    return np.array(rows), np.array(sides)


def fit(x_PF: np.ndarray, side_P: np.ndarray) -> np.ndarray:
    turn_P = np.where(np.arange(len(side_P)) % 2, 1.0, -1.0)
    model = LogisticRegression(C=0.03, fit_intercept=False, max_iter=500)
    return model.fit(x_PF * (side_P * turn_P)[:, None], turn_P).coef_[0]


def curve(pool: Pool, held: Pool, strategy: Strategy, seed: int) -> list[float]:
    """Accuracy at every budget."""
    rng = np.random.default_rng(seed)
    chosen = choose(pool, "random", BUDGETS[0], per_prompt=PER_PROMPT, seed=seed).chosen
    held_PF, held_side_P = labelled(held, held.features_RF, list(range(len(held.group_P))))
    found = []
    while True:
        x_PF, side_P = labelled(pool, pool.features_RF, chosen)
        weight_F = fit(x_PF, side_P)
        if len(chosen) in BUDGETS:
            found.append(float((np.sign(held_PF @ weight_F) == held_side_P).mean()))
        if len(chosen) >= BUDGETS[-1]:
            return found
        draws = [rng.integers(0, len(side_P), len(side_P)) for _ in range(MEMBERS)]
        members = np.stack([pool.features_RF @ fit(x_PF[d], side_P[d]) for d in draws])
        now = replace(pool, reward_R=pool.features_RF @ weight_F, std_R=members.std(axis=0, ddof=1))
        fresh = choose(now, strategy, BATCH, before=chosen, per_prompt=PER_PROMPT, seed=seed + 1).chosen
        assert len(fresh) == BATCH, "the pool is used up: lower the budgets"
        chosen = chosen + fresh


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    everything = list(read_groups(args.data, ReadOptions(rating_key="gold", rating_gap=1e9)))
    curves: dict[str, list[list[float]]] = {name: [] for name in STRATEGIES}
    for seed in range(args.seeds):
        groups = [some_answers(group, seed) for group in everything]
        features = text_features(groups, seed)
        scaled = np.split(unit_scale(np.concatenate(features)), np.cumsum([len(f) for f in features])[:-1])
        out = [unit_hash(group.id, seed) < 0.25 for group in groups]
        sides = [
            make_pool(
                [g for g, o in zip(groups, out) if o == side],
                [f for f, o in zip(scaled, out) if o == side],
                seed=seed,
            )
            for side in (False, True)
        ]
        for name in STRATEGIES:
            curves[name].append(curve(*sides, name, seed))
    print(f"{args.data.name}: accuracy on held-out prompts, mean of {args.seeds} seeds (difference to random +- its")
    print("standard error over seeds)")
    print(f"{'labels':<14}" + "".join(f"{budget:>22}" for budget in BUDGETS))
    control = np.array(curves["random"])
    for name in STRATEGIES:
        values = np.array(curves[name])
        gap = values - control
        error = gap.std(0, ddof=1) / np.sqrt(len(gap))
        cells = [f"{v:.3f} ({g:+.3f}+-{e:.3f})" for v, g, e in zip(values.mean(0), gap.mean(0), error)]
        print(f"{name:<14}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
