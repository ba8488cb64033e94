"""alpaca_eval's recorded answers with judged quality, as the benchmarks take them: prompts, answers, groups.

Prompts are ordered by a hash of their id, so that a part of them is a blind draw and every benchmark's training prompts
are the same first ones. `gold` is what the file's judge made of an answer, between 0 and 1.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TRAIN_PROMPTS = 320
GAP = 0.02  # of gold, above which one answer is preferred
LABELS, OTHER_JUDGE = "gpt4_turbo", "davinci003"  # who orders training answers; who judges what was chosen by a reward


def judged_by(data: Path, judge: str) -> pa.Table:
    """The answers that this judge has seen: prompt_id, prompt, response, gold and more."""
    return pq.read_table(data / "alpaca_eval" / f"candidates_vs_{judge}.parquet")


def hashed(prompts: list[str]) -> list[str]:
    """Each prompt once, in the order of its hash."""
    return sorted(set(prompts), key=lambda p: hashlib.sha256(p.encode()).hexdigest())


def rows_of(table: pa.Table, prompts: Sequence[str]) -> pa.Table:
    """All answers to these prompts, in the file's order."""
    wanted = set(prompts)
    return table.filter(pa.array([p in wanted for p in table["prompt_id"].to_pylist()]))


def places_of(prompt_R: Sequence[str]) -> dict[str, list[int]]:
    """prompt -> its rows."""
    rows: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompt_R):
        rows.setdefault(prompt, []).append(i)
    return rows


def spread(table: pa.Table, k: int = 4) -> pa.Table:
    """Of each prompt, k rows: one at random from each quarter of its range of gold, the rest at random."""
    rng = random.Random(0)
    gold = table["gold"].to_pylist()
    chosen: list[int] = []
    for members in places_of(table["prompt_id"].to_pylist()).values():
        low, high = min(gold[i] for i in members), max(gold[i] for i in members)
        quarters: dict[int, list[int]] = {}
        for i in members:
            quarters.setdefault(min(int(k * (gold[i] - low) / (high - low or 1)), k - 1), []).append(i)
        picked = [rng.choice(quarter) for quarter in quarters.values()]
        rest = [i for i in members if i not in picked]
        chosen += sorted(picked + rng.sample(rest, k - len(picked)))
    return table.take(chosen)


def some_of(table: pa.Table, most: int, rng: random.Random) -> pa.Table:
    """Of each prompt at most so many rows, drawn at random."""
    by_prompt = places_of(table["prompt_id"].to_pylist())
    return table.take(pa.array([i for rows in by_prompt.values() for i in rng.sample(rows, min(most, len(rows)))]))


def groups_of(table: pa.Table, prompts: Sequence[str]) -> list[dict[str, Any]]:
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


def write(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """JSON lines."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
