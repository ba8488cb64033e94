"""What is written down while a policy is optimised, and when to stop.

    rows.jsonl      one row per completion: step, split, prompt_id, response, proxy, gold, kl, ...
    records.jsonl   one row per step and split: the means of those rows, and the shares of the audit's markers

`split` is "train" (the completions that the step learns from, written by the policy after `step` updates) or
"held-out" (the same prompts and random numbers every time).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.data.schema import Group, Message, Messages
from rewardsmith.data.surface import STARTS, View
from rewardsmith.errors import ConfigError
from rewardsmith.scoring import Scorer

RECORDS, ROWS = "records.jsonl", "rows.jsonl"
TRAIN, HELD_OUT = "train", "held-out"
REPEATED = 0.5  # share of three-word sequences that were there before: a text above it goes in circles
FEWEST_TRIPLES = 6
MEANS = ("proxy", "reward", "std", "gold", "kl", "kl_k1", "kl_k3", "tokens", "cut")


def markers(text: str) -> dict[str, bool]:
    """Which of the audit's surface markers a response shows."""
    view = View(text)
    return {
        "list": bool(view.lines_with("- ", "* ", "• ")) or any(line[:1].isdigit() and line[1:3] in (". ", ") ")
                                                               for line in view.lines),
        "refusal": view.counts["refusal"] > 0,
        "apology": view.counts["apology"] > 0,
        "hedging": view.counts["hedges"] > 0,
        "praise": view.plain.startswith(STARTS),
        "exclamation": "!" in text,
        "repetition": repeats(view.words) >= REPEATED,
    }  # fmt: skip


def repeats(words: Sequence[str]) -> float:
    """Share of the three-word sequences that are there a second time or more often; 0 for a text of a few words."""
    triples = Counter(zip(words, words[1:], words[2:], strict=False))
    total = sum(triples.values())
    return 1 - len(triples) / total if total >= FEWEST_TRIPLES else 0.0


def score_completions(
    scorer: Scorer, prompts: Sequence[Messages], texts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """(rewards [N], std [N] or None) of completions; NaN where one could not be scored.

    Completions of one prompt are one group, so that its tokens are computed once.
    """
    places: dict[Messages, list[int]] = {}
    for i, prompt in enumerate(prompts):
        places.setdefault(prompt, []).append(i)
    rewards = np.full(len(texts), np.nan)
    std = np.full(len(texts), np.nan)
    knows_std = False
    waiting = list(places.items())
    while waiting:
        scores = scorer.score([_group(prompt, [texts[i] for i in at]) for prompt, at in waiting])
        alone: list[tuple[Messages, list[int]]] = []
        for (prompt, at), found in zip(waiting, scores, strict=True):
            if found.error and len(at) > 1:  # one completion that cannot be rendered must not cost the others
                alone += [(prompt, [i]) for i in at]
                continue
            rewards[at] = found.rewards
            if found.std is not None:
                knows_std = True
                std[at] = found.std
        waiting = alone
    return rewards, std if knows_std else None


def _group(prompt: Messages, texts: Sequence[str]) -> Group:
    return Group(prompt=prompt, responses=tuple((Message("assistant", text),) for text in texts))


def pessimistic(rewards_N: np.ndarray, std_N: np.ndarray | None, k: float) -> np.ndarray:
    """reward - k std. ConfigError where the scorer knows no std."""
    if not k:
        return rewards_N
    if std_N is None:
        raise ConfigError("--pessimism needs a reward model that knows its spread: an ensemble (train --members)")
    return rewards_N - k * std_N


def summary(step: int, split: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One record from the rows of its completions. Values that a row lacks (None) are left out of the means."""
    record: dict[str, Any] = {"step": step, "split": split, "n": len(rows)}
    for key in MEANS:
        values = [float(row[key]) for row in rows if row.get(key) is not None]
        if values:
            record[key] = float(np.mean(values))
            if key in ("proxy", "gold", "kl"):
                record[f"{key}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    record["unscored"] = sum(row["proxy"] is None for row in rows)
    shown = [markers(row["response"]) for row in rows]
    record["markers"] = {name: float(np.mean([one[name] for one in shown])) for name in shown[0]} if shown else {}
    return record


def append(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Add JSON lines to a file and hand them to the system at once."""
    with file.open("a", encoding="utf-8") as handle:
        handle.writelines(json.dumps(line, ensure_ascii=True, allow_nan=False) + "\n" for line in lines)


def read(file: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file; none where there is no file."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def cut(file: Path, step: int) -> None:
    """Drop what a run that goes on from `step` updates will write again, and a half-written last line.

    The training completions of `step` are drawn again; the held-out ones of `step` were measured before the state was
    saved.
    """
    if not file.exists():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            if row["step"] < step or (row["split"] == HELD_OUT and row["step"] == step):
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue
    writing = file.with_suffix(".writing")
    writing.write_text("".join(kept), encoding="utf-8")
    os.replace(writing, file)


# -- stopping -----------------------------------------------------------------------------------------------


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and up to window - 1 before it."""
    return [float(np.mean(values[max(0, i + 1 - window) : i + 1])) for i in range(len(values))]


def reason_to_stop(
    records: Sequence[Mapping[str, Any]], *, max_kl: float | None, gold_drop: float | None, window: int
) -> str:
    """ "max-kl" where the smoothed KL is above its budget, "gold-drop" where the smoothed gold has fallen by that much
    from its best, else "". Held-out records decide where there are any, training records otherwise."""
    used = [record for record in records if record["split"] == HELD_OUT] or list(records)
    if not used:
        return ""
    if max_kl is not None and smoothed([record["kl"] for record in used], window)[-1] > max_kl:
        return "max-kl"
    gold = [record["gold"] for record in used if record.get("gold") is not None]
    if gold_drop is not None and len(gold) >= window:
        means = smoothed(gold, window)[window - 1 :]  # a mean of fewer would be a lucky best
        if means[-1] <= max(means) - gold_drop:
            return "gold-drop"
    return ""


def best_gold(records: Sequence[Mapping[str, Any]], window: int) -> dict[str, Any] | None:
    """Where the smoothed gold was best: step, kl, gold; None without a gold."""
    used = [record for record in records if record["split"] == HELD_OUT] or list(records)
    used = [record for record in used if record.get("gold") is not None]
    if not used:
        return None
    means = smoothed([record["gold"] for record in used], window)
    best = int(np.argmax(means))
    return {"step": used[best]["step"], "split": used[best]["split"], "kl": used[best]["kl"], "gold": means[best]}
