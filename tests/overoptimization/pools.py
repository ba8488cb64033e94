"""Recorded candidates for tests: made in memory, or written as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.data.schema import Group, Message
from rewardsmith.overoptimization.candidates import Pool


def pool(gold, *, number: int = 0, base=None, texts=None) -> Pool:
    """One prompt's candidates; `gold` is [K] or [J, K]."""
    gold_JK = np.atleast_2d(np.asarray(gold, float))
    k = gold_JK.shape[1]
    answers = texts or [f"answer {i:02} of {number:03}" for i in range(k)]
    group = Group(
        prompt=(Message("user", f"question {number}"),), responses=tuple((Message("assistant", t),) for t in answers)
    )
    return Pool(group, gold_JK, np.full(k, 1 / k) if base is None else np.asarray(base, float))


def humped(n_prompts: int = 60, k: int = 16, seed: int = 0) -> tuple[list[Pool], list[np.ndarray]]:
    """(pools, rewards) where gold follows the reward until its highest values, which are worth nothing."""
    rng = np.random.default_rng(seed)
    pools, rewards = [], []
    for number in range(n_prompts):
        reward_K = rng.standard_normal(k)
        gold_K = np.where(reward_K > 1.2, -1.0, reward_K) + 0.3 * rng.standard_normal(k)
        pools.append(pool(gold_K, number=number))
        rewards.append(reward_K)
    return pools, rewards


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    """A JSON lines file of candidates, one answer a row."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows(n_prompts: int = 12, k: int = 4, **columns) -> list[dict[str, Any]]:
    """One row per answer: longer answers are better up to the last one, which is padding."""
    worth = [*range(k - 1), -1]
    return [
        {
            "prompt_id": f"p{p}",
            "prompt": f"question {p}?",
            "response": f"{p} " + "word " * (i + 1),
            "judge": float(worth[i]),
            **{name: of(p, i) for name, of in columns.items()},
        }
        for p in range(n_prompts)
        for i in range(k)
    ]
