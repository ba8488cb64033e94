"""What training_options.py compares, where each result is, and the table of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

EDITS = ("padding", "restating")
COLUMNS = ("accuracy", "length-matched", "rank correlation", "padding", "restating", "gold")


def options() -> dict[str, dict[str, Any]]:
    """name -> the loss's options, and "teacher" where the labels are a teacher's."""
    return {
        "plain": {},
        "centring 0.01": {"centring": 0.01},
        "smoothing 0.1": {"label_smoothing": 0.1},
        "flips 0.1": {"flip_rate": 0.1},
        "flips 0.1, unbiased": {"flip_rate": 0.1, "flip_correction": "unbiased"},
        "text 0.05": {"text_regularisation": 0.05},
        "consistency 0.2": {"consistency": 0.2},
        "consistency 1": {"consistency": 1.0},
        "consistency 5": {"consistency": 5.0},
        "odin 1": {"odin": 1.0},
        "odin 1, consistency 1": {"odin": 1.0, "consistency": 1.0},
        "odin 1, consistency 1, text 0.05": {"odin": 1.0, "consistency": 1.0, "text_regularisation": 0.05},
        "teacher": {"teacher": True},
    }


def file_of(work: Path, name: str, seed: int, end: str = ".json") -> Path:
    return work / "results" / f"{name.replace(', ', '+').replace(' ', '-')}--{seed}{end}"


def tasks(args: argparse.Namespace) -> list[tuple[str, int]]:
    """Seed by seed, so that what there was time for is comparable; plain first, which others need."""
    names = [name for name in options() if not args.only or name in args.only or name == "plain"]
    return [("plain", s) for s in range(args.seeds)] + [
        (name, s) for s in range(args.seeds) for name in names if name != "plain"
    ]


def test_groups(work: Path) -> list[Any]:
    from rewardsmith.data.options import ReadOptions
    from rewardsmith.data.readers import read_groups

    return list(
        read_groups(str(work / "test.parquet"), ReadOptions(rating_key="gold", rating_gap=0.02, max_responses=8))
    )


def test_pools(work: Path) -> list[Any]:
    from rewardsmith.data.options import ReadOptions
    from rewardsmith.overoptimization.candidates import read_pools

    return read_pools([str(work / "other_judge.parquet")], ["gold"], ReadOptions())[0]


class Figures:
    """One number per prompt, pair or audit seed for each figure, whose mean is the figure; NaN where it has none."""

    def __init__(self, args: argparse.Namespace) -> None:
        from rewardsmith.evaluation.pairs import character_lengths, prompt_numbers

        self.groups, self.pools = test_groups(args.work), test_pools(args.work)
        self.lengths = [character_lengths(group) for group in self.groups]
        self.prompts = prompt_numbers(self.groups)

    def of(self, result: dict[str, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """figure -> (values, the cluster of each)."""
        from rewardsmith.best_of_n import best_of_n
        from rewardsmith.evaluation.metrics import is_correct, length_matched
        from rewardsmith.evaluation.pairs import pair_rows
        from rewardsmith.evaluation.slices import MATCHED

        rewards = [np.array(row) for row in result["test"]]
        rows = pair_rows(self.groups, rewards, self.lengths)
        right_P = is_correct(rows.margin_P, rows.probability_P).astype(float)
        alike_P = length_matched(rows.chosen_length_P, rows.rejected_length_P, MATCHED)
        rho_G = np.array([spearman(r, n) for r, n in zip(rewards, self.lengths)])
        gold_G = [
            float(best_of_n(np.array(reward_K), pool.gold_JK[0], [len(reward_K)])[0])
            for reward_K, pool in zip(result["pools"], self.pools, strict=True)
        ]
        figures = {
            "accuracy": (right_P, rows.prompt_P),
            "length-matched": (right_P[alike_P], rows.prompt_P[alike_P]),
            "rank correlation": (rho_G, np.asarray(self.prompts)),
            "gold": (np.array(gold_G), np.arange(len(gold_G))),
        }
        for name in EDITS:
            value_S = np.full(result["n_audit_seeds"], np.nan)  # a seed that the edit does not apply to has none
            for seed, effect in result["effects"][name].items():
                value_S[int(seed)] = effect
            figures[name] = (value_S, np.arange(len(value_S)))
        return figures

    def length_alone(self) -> dict[str, float]:
        """What the longer answer would get."""
        result = {
            "test": [row.tolist() for row in self.lengths],
            "pools": [pool.length_K.tolist() for pool in self.pools],
            "effects": {name: {} for name in EDITS},
            "n_audit_seeds": 0,
        }
        return {k: float(np.nanmean(v)) for k, (v, _) in self.of(result).items() if len(v)}


def spearman(x_K: np.ndarray, y_K: np.ndarray) -> float:
    from scipy.stats import rankdata

    if np.ptp(x_K) == 0 or np.ptp(y_K) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(x_K), rankdata(y_K))[0, 1])


def report(args: argparse.Namespace) -> dict[str, Any]:
    from rewardsmith.statistics import clustered_mean

    figures = Figures(args)
    found: dict[str, dict[int, Any]] = {}
    failed = []
    for name, seed in tasks(args):
        file = file_of(args.work, name, seed)
        if file.exists():
            found.setdefault(name, {})[seed] = figures.of(json.loads(file.read_text()))
            continue
        error = file.with_suffix(".error")
        failed.append(f"{name}, seed {seed}: " + (error.read_text() if error.exists() else "not done in time"))
    rows = []
    for name, by_seed in found.items():
        beside = [seed for seed in by_seed if seed in found.get("plain", {})]
        row: dict[str, Any] = {"option": name, "seeds": sorted(by_seed)}
        for column in COLUMNS:
            row[column] = interval(clustered_mean, [by_seed[s][column] for s in by_seed])
            if name != "plain" and beside:
                pairs = [(by_seed[s][column], found["plain"][s][column]) for s in beside]
                row[f"{column}, to plain"] = interval(
                    clustered_mean, [(a[0] - b[0], a[1]) for a, b in pairs if len(a[0]) == len(b[0])]
                )
        rows.append(row)
    setting = {k: str(v) for k, v in vars(args).items() if k not in ("data", "work", "json", "until", "worker")}
    return {
        "setting": setting,
        "n_test_prompts": len(figures.groups),
        "n_pools": len(figures.pools),
        "length_alone": figures.length_alone(),
        "rows": rows,
        "failed": failed,
    }


def interval(mean: Any, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float | None]:
    """Mean over seeds of each value, then over values, with an interval over their clusters."""
    if not parts:
        return {"value": None, "low": None, "high": None}
    values_P = np.mean([values for values, _ in parts], axis=0)
    known_P = ~np.isnan(values_P)
    return mean(values_P[known_P], parts[0][1][known_P]).to_json()


def show(result: dict[str, Any]) -> None:
    """One table: each figure, and below it the difference to plain training."""
    print(f"{'':<34}{'seeds':>6}" + "".join(f"{column:>26}" for column in COLUMNS))
    alone = result["length_alone"]
    print(f"{'the longer answer':<40}" + "".join(f"{cell(alone.get(c)):>26}" for c in COLUMNS))
    for row in result["rows"]:
        print(f"{row['option']:<34}{len(row['seeds']):>6}" + "".join(f"{cell(row[c]):>26}" for c in COLUMNS))
        if row["option"] != "plain":
            cells = [cell(row.get(f"{column}, to plain"), "+") for column in COLUMNS]
            print(f"{'    to plain':<40}" + "".join(f"{text:>26}" for text in cells))
    for line in result["failed"]:
        print(f"no result: {line}")


def cell(value: Any, sign: str = "") -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if not value or value["value"] is None:
        return "-"
    low = "" if value["low"] is None else f" [{value['low']:{sign}.3f}, {value['high']:{sign}.3f}]"
    return f"{value['value']:{sign}.3f}{low}"
