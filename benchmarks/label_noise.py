"""Wrong labels that were planted: what share of the review list are they, and what share of them is on it?

    python benchmarks/label_noise.py FILE [--rating-key gold --rating-gap 0.02] [--model RM] [--share 0.25]

Turns a share of the decided labels round, lists doubtful ones by the model of the data (or by RM), and prints the
precision of the first 50, 100 and of all, and the recall of all. Labels that were wrong before count as right ones
here, so precision is too low by what the file has of them. Five seeds; the mean and the range.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rewardsmith.data.noise import Doubt, by_rewards, by_the_data, review
from rewardsmith.data.options import ReadOptions
from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import Group
from rewardsmith.score_cache import open_scorer
from rewardsmith.scoring import score_stream

Key = tuple[str, int, int]


def flip(groups: Sequence[Group], share: float, seed: int) -> tuple[list[Group], set[Key]]:
    """The groups with a share of their decided labels turned round, and which."""
    draw = random.Random(seed)
    flipped: set[Key] = set()
    found = []
    for group in groups:
        stated = []
        for p in group.preferences:
            if not p.is_tie and draw.random() < share:
                p = replace(p, chosen=p.rejected, rejected=p.chosen)
                flipped.add((group.id, p.chosen, p.rejected))
            stated.append(p)
        found.append(replace(group, preferences=tuple(stated)))
    return found, flipped


def measured(doubt: Doubt, flipped: set[Key]) -> dict[str, float]:
    hits = [(row["id"], row["chosen_index"], row["rejected_index"]) in flipped for row in review(doubt)]
    return {
        "listed": len(hits),
        "first 50": float(np.mean(hits[:50])),
        "first 100": float(np.mean(hits[:100])),
        "precision": float(np.mean(hits)),
        "recall": sum(hits) / len(flipped),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--rating-key")
    parser.add_argument("--rating-gap", type=float, default=0.0)
    parser.add_argument("--model")
    parser.add_argument("--max-responses", type=int)
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    options = ReadOptions(rating_key=args.rating_key, rating_gap=args.rating_gap, max_responses=args.max_responses)
    groups = list(read_groups(args.file, options))
    rewards = None
    if args.model:
        rewards = [
            scores.rewards for _, scores in score_stream(open_scorer(args.model, precision=args.precision), groups)
        ]
    rows = []
    for seed in range(args.seeds):
        noisy, flipped = flip(groups, args.share, seed)
        doubt = by_the_data(noisy, seed) if rewards is None else by_rewards(noisy, rewards, seed)
        rows.append(measured(doubt, flipped))
    print(f"{args.file}: {len(doubt.pairs)} labels, {args.share:.0%} turned round, {args.seeds} seeds")
    for key in rows[0]:
        values = [row[key] for row in rows]
        print(f"  {key:<10} {np.mean(values):8.3f}  ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
