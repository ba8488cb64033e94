"""A scorer against ratings (or a gold column) of the same answers: rank correlation, and what best of n recovers.

G  groups with at least two rated answers
K  rated answers of a group
S  sizes: values of n
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rewardsmith.best_of_n import best_of_n, powers_of_two
from rewardsmith.data.schema import Group
from rewardsmith.evaluation import metrics
from rewardsmith.evaluation.metrics import DRAWS, Floats, Ints
from rewardsmith.evaluation.pairs import prompt_numbers
from rewardsmith.statistics import clustered_bootstrap, clustered_mean

Rated = tuple[Floats, Floats, Floats]  # rewards, lengths and ratings of a group's rated answers


def rating_report(
    groups: Sequence[Group],
    rewards: Sequence[Floats],
    lengths: Sequence[Floats],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """`rating_correlation` and `best_of_n`, ready for JSON; None and [] where no group has two rated answers.

    rating_correlation  Spearman of reward and rating: `within_prompt` (mean over `n_prompts`), `pooled`, and
                        `length_within_prompt`, the same of length and rating
    best_of_n           by n = 1, 2, 4, ... and the largest number of rated answers, over the `n_groups` that have n:
                        `gold`, the mean rating of the answer that the reward picks of n drawn; `mean_gold`, of any
                        answer; `oracle`, of the one that the rating picks; `recovery`, (gold - mean_gold) / (oracle -
                        mean_gold), the share of the possible gain; `length_only`, gold and recovery of the longest
    """
    found = [(g, _rated(*row)) for g, row in enumerate(zip(groups, rewards, lengths, strict=True))]
    kept = [(g, rated) for g, rated in found if len(rated[2]) > 1]
    if not kept:
        return {"rating_correlation": None, "best_of_n": []}
    prompt_G = prompt_numbers(groups)[[g for g, _ in kept]]
    rated_G = [rated for _, rated in kept]
    return {
        "rating_correlation": _correlation(rated_G, prompt_G, draws, seed),
        "best_of_n": best_of_n_rows(rated_G, prompt_G, draws=draws, seed=seed),
    }


def best_of_n_rows(
    rated_G: Sequence[Rated], prompt_G: Ints, *, draws: int = DRAWS, seed: int = 0
) -> list[dict[str, Any]]:
    """One row for each n; a group with fewer than n rated answers is not in the row, its oracle included."""
    sizes = powers_of_two(max(len(gold_K) for _, _, gold_K in rated_G))
    table_G = [_of_group(rated, [n for n in sizes if n <= len(rated[2])]) for rated in rated_G]
    rows = []
    for s, n in enumerate(sizes):
        has_n = np.array([len(table) > s for table in table_G])
        here_G4 = np.array([table[s] for table in table_G if len(table) > s])
        reward, length, oracle, mean = here_G4.T
        cluster = prompt_G[has_n]

        def gold(values: Floats, cluster: Ints = cluster) -> dict[str, float | None]:
            return clustered_mean(values, cluster, draws=draws, seed=seed).to_json()

        def recovery(values: Floats, cluster: Ints = cluster, gain: Floats = oracle - mean, mean: Floats = mean) -> Any:
            possible = gain if np.abs(gain).max() > 1e-12 else np.zeros_like(gain)  # best of 1 has nothing to gain
            return clustered_bootstrap(
                np.stack([values - mean, possible], axis=1), cluster, draws=draws, seed=seed
            ).to_json()

        rows.append(
            {
                "n": n,
                "n_groups": len(here_G4),
                "gold": gold(reward),
                "mean_gold": float(mean.mean()),
                "oracle": float(oracle.mean()),
                "recovery": recovery(reward),
                "length_only": {"gold": gold(length), "recovery": recovery(length)},
            }
        )
    return rows


def _of_group(rated: Rated, sizes: Sequence[int]) -> Floats:
    """[S, 4] gold of the best of n by reward, by length and by gold itself, and the mean gold."""
    reward_K, length_K, gold_K = rated
    picked = [best_of_n(proxy_K, gold_K, sizes) for proxy_K in (reward_K, length_K, gold_K)]
    return np.stack([*picked, np.full(len(sizes), gold_K.mean())], axis=1)


def _rated(group: Group, reward_K: Floats, length_K: Floats) -> Rated:
    ratings = group.ratings or ()
    at = [k for k, rating in enumerate(ratings) if rating is not None]
    return reward_K[at], length_K[at], np.array([ratings[k] for k in at], dtype=np.float64)


def _correlation(rated_G: Sequence[Rated], prompt_G: Ints, draws: int, seed: int) -> dict[str, Any]:
    reward_R, length_R, gold_R = (np.concatenate(columns) for columns in zip(*rated_G, strict=True))
    prompt_R = np.repeat(prompt_G, [len(gold_K) for _, _, gold_K in rated_G])
    more: dict[str, Any] = {"draws": draws, "seed": seed}
    found = metrics.rank_correlation_within_prompt(reward_R, gold_R, prompt_R, **more)
    of_length = metrics.rank_correlation_within_prompt(length_R, gold_R, prompt_R, **more)
    return {
        "within_prompt": found.within.to_json(),
        "n_prompts": found.n_prompts,
        "pooled": found.pooled,
        "length_within_prompt": of_length.within.to_json(),
    }
