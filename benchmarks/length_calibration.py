"""What `calibrate --length` does to accuracy, to the correlation with length, and to the gold of the best answer.

    python benchmarks/length_calibration.py RM FILE [--other-judge candidates_vs_davinci003.parquet]
        [--rating-key gold --rating-gap 0.02 --max-responses 8]

Length is fitted on each half of the prompts and taken out on the other. Shares of 0, 0.25, 0.5 and 1. Best of all
answers by the adjusted reward, judged by the file's ratings and, where an answer's text is in it, by the other judge;
differences to the plain reward are paired by prompt, with 95% intervals.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq

from rewardsmith.adjustment import characters
from rewardsmith.best_of_n import best_of_n
from rewardsmith.data.options import ReadOptions
from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import Group, text_of
from rewardsmith.data.split import side_of
from rewardsmith.evaluation.adjusting import HALVES, fitted_length, length_effect
from rewardsmith.score_cache import open_scorer
from rewardsmith.scoring import score_stream
from rewardsmith.statistics import clustered_mean

SHARES = (0.0, 0.25, 0.5, 1.0)


def crossed(groups: Sequence[Group], rewards: Sequence[np.ndarray], share: float) -> list[np.ndarray]:
    """Rewards of each half with length fitted on the other."""
    sides = [side_of(group, HALVES) for group in groups]
    members = {name: [i for i, side in enumerate(sides) if side != name] for name in HALVES}
    length = {n: fitted_length([groups[i] for i in m], [rewards[i] for i in m]) for n, m in members.items()}
    return [r - share * length[side](characters(g)) for g, r, side in zip(groups, rewards, sides)]


def best_gold(gold: Sequence[np.ndarray], proxies: Sequence[np.ndarray]) -> np.ndarray:
    """[prompts] gold of the answer with the highest proxy, among those that have gold."""
    found = []
    for gold_K, proxy_K in zip(gold, proxies):
        known_K = ~np.isnan(gold_K)
        if known_K.sum() > 1:
            found.append(float(best_of_n(proxy_K[known_K], gold_K[known_K], [int(known_K.sum())])[0]))
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file")
    parser.add_argument("--other-judge")
    parser.add_argument("--rating-key")
    parser.add_argument("--rating-gap", type=float, default=0.0)
    parser.add_argument("--max-responses", type=int)
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    args = parser.parse_args()
    options = ReadOptions(rating_key=args.rating_key, rating_gap=args.rating_gap, max_responses=args.max_responses)
    groups = list(read_groups(args.file, options))
    rewards = [s.rewards for _, s in score_stream(open_scorer(args.model, precision=args.precision), groups)]
    for share in SHARES[1:]:
        effect = length_effect(groups, rewards, share)
        for key in effect["before"]:
            sides = [effect[side][key] for side in ("before", "after")]
            shown = [f"{s['value']:.3f} ({s['low']:.3f} to {s['high']:.3f})" for s in sides]
            print(f"share {share:<5} {key:<28} {shown[0]} -> {shown[1]}")
    judges: dict[str, list[np.ndarray]] = {}
    if args.rating_key:
        judges["file"] = [np.array(g.ratings, dtype=np.float64) for g in groups]
    if args.other_judge:
        rows = pq.read_table(args.other_judge, columns=["prompt", "response", "gold"]).to_pylist()
        known = {(row["prompt"], row["response"]): row["gold"] for row in rows}
        judges["other"] = [
            np.array([known.get((text_of(g.prompt), text_of(r)), np.nan) for r in g.responses]) for g in groups
        ]
    for name, gold in judges.items():
        plain = best_gold(gold, rewards)
        proxies = {f"share {share}": crossed(groups, rewards, share) for share in SHARES}
        proxies["longest"] = [characters(g) for g in groups]
        proxies["any"] = [np.zeros(len(r)) for r in rewards]
        for what, proxy in proxies.items():
            values = best_gold(gold, proxy)
            gap = clustered_mean(values - plain, np.arange(len(values)))
            print(
                f"judge {name}: {len(values)} prompts, best by {what:<11} {values.mean():.3f}, to the plain reward "
                f"{gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
            )


if __name__ == "__main__":
    main()
