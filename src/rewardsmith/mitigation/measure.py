"""Before and after: effects of probes, accuracy on the same pairs, gold of the best of n, all paired, with intervals.

    S  seeds    P  pairs    C  prompts    N  sizes of best of n

Differences are after minus before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewardsmith.data.schema import TIE, Group
from rewardsmith.errors import DataError
from rewardsmith.evaluation.compare import LEVEL, compare_rows, paired_difference
from rewardsmith.evaluation.evaluate import evaluate_rows
from rewardsmith.evaluation.metrics import is_correct, length_matched, spearman_by_group
from rewardsmith.evaluation.pairs import PairRows, character_lengths, pair_rows, prompt_numbers
from rewardsmith.evaluation.slices import MATCHED, pair_slices
from rewardsmith.overoptimization.candidates import Pool
from rewardsmith.overoptimization.curves import Draws, length_rewards, path_of
from rewardsmith.statistics import Floats, Interval, clustered_bootstrap, clustered_mean

SHOWN = ("accuracy", "length_matched_accuracy", "length_controlled_accuracy")


# -- probes -------------------------------------------------------------------------------------------------------


def probe_rows(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    worst: Sequence[str],
    effects_before: Mapping[str, Mapping[int, float]],
    effects_after: Mapping[str, Mapping[int, float]],
) -> list[dict[str, Any]]:
    """One row for each probe that both audits asked, the worst of before first: name, family, wanted, worst, before and
    after (each value, low, high, fault, verdict, overtake_rate, and change_sd and placebo_sd, whose difference value
    is), change and fell_by (paired by seed).
    """
    of_after = {row["name"]: row for row in after["probes"]}
    rows = [
        {
            "name": row["name"],
            "family": row["family"],
            "wanted": row["wanted"],
            "worst": row["name"] in worst,
            "before": side(row),
            "after": side(of_after[row["name"]]),
            **paired(effects_before.get(row["name"], {}), effects_after.get(row["name"], {})),
        }
        for row in before["probes"]
        if row["name"] in of_after
    ]
    place = {name: i for i, name in enumerate(worst)}
    return sorted(rows, key=lambda row: place.get(row["name"], len(place)))


def side(row: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("low", "high", "fault", "verdict", "overtake_rate", "change_sd", "placebo_sd")
    return {"value": row["effect_sd"], **{key: row[key] for key in keys}}


def paired(before: Mapping[int, float], after: Mapping[int, float]) -> dict[str, Any]:
    """`change`: mean difference over the seeds that both have; `fell_by`: 1 - mean after / mean before, where the mean
    of before is shown to be above 0. Both by bootstrap over seeds; None where there is no such number."""
    seeds = sorted(set(before) & set(after))
    if not seeds:
        return {"change": None, "fell_by": None}
    rows_S2 = np.array([[before[s], after[s]] for s in seeds])
    change = clustered_mean(rows_S2[:, 1] - rows_S2[:, 0], seeds)
    lowest = clustered_mean(rows_S2[:, 0], seeds).low
    fell = None if lowest is None or lowest <= 0 else clustered_bootstrap(rows_S2, seeds, fallen).to_json()
    return {"change": change.to_json(), "fell_by": fell}


def fallen(sums_D2: Floats) -> Floats:
    """1 - after / before; NaN where before is not above 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums_D2[:, 0] > 0, 1 - sums_D2[:, 1] / sums_D2[:, 0], np.nan)


# -- held-out pairs -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeldOut:
    """The same held-out groups with the rewards of both models."""

    groups: Sequence[Group]
    before: Sequence[Floats]
    after: Sequence[Floats]

    def rows(self, rewards: Sequence[Floats]) -> PairRows:
        return pair_rows(self.groups, rewards, [character_lengths(group) for group in self.groups])


def held_out_rows(held_out: HeldOut, *, seed: int = 0) -> dict[str, Any]:
    """before, after: the whole `evaluate_rows`. difference: accuracy (with p_value), length_matched_accuracy,
    length_correlation, each paired by prompt. worse_slices: those, of part of the pairs, whose accuracy is shown to
    fall, after correction for their number.
    """
    before, after = held_out.rows(held_out.before), held_out.rows(held_out.after)
    compared = compare_rows(after, before, pair_slices(held_out.groups, after), seed=seed)
    whole = int((after.probability_P != TIE).sum())
    rho_C = correlations(held_out.groups, held_out.after) - correlations(held_out.groups, held_out.before)
    rho_C = rho_C[np.isfinite(rho_C)]
    return {
        "before": evaluate_rows(held_out.groups, held_out.before, seed=seed),
        "after": evaluate_rows(held_out.groups, held_out.after, seed=seed),
        "difference": {
            "accuracy": {**compared["difference"], "p_value": compared["p_value"]},
            "length_matched_accuracy": matched_difference(after, before, seed),
            "length_correlation": clustered_mean(rho_C, np.arange(len(rho_C)), seed=seed).to_json(),
        },
        "smallest_detectable": compared["smallest_detectable"],
        "worse_slices": [
            row
            for row in compared["slices"]
            if row["p_adjusted"] is not None
            and row["p_adjusted"] < LEVEL
            and row["difference"] < 0
            and row["n"] < whole
        ],
    }


def matched_difference(after: PairRows, before: PairRows, seed: int) -> dict[str, Any]:
    """Accuracy of after less that of before over pairs whose lengths differ by at most a tenth."""
    kept_P = (after.probability_P != TIE) & length_matched(after.chosen_length_P, after.rejected_length_P, MATCHED)
    right = [is_correct(rows.margin_P, rows.probability_P)[kept_P].astype(np.float64) for rows in (after, before)]
    gap = paired_difference(right[0] - right[1], after.prompt_P[kept_P], seed=seed) if kept_P.any() else Interval(None)
    return {**gap.to_json(), "n": int(kept_P.sum())}


def correlations(groups: Sequence[Group], rewards: Sequence[Floats]) -> Floats:
    """[C] rank correlation of reward and length among the answers to each prompt; NaN where one does not vary."""
    prompt_R = np.repeat(prompt_numbers(groups), [len(row) for row in rewards])
    return spearman_by_group(np.concatenate(rewards), np.concatenate([character_lengths(g) for g in groups]), prompt_R)


# -- candidates ---------------------------------------------------------------------------------------------------


def both_scored(
    pools: Sequence[Pool], before: Sequence[Floats], after: Sequence[Floats]
) -> tuple[list[Pool], list[Floats], list[Floats], int]:
    """The pools with the answers that both models gave a reward, their rewards, and how many answers are left out.

    Raises DataError where no prompt has two of them.
    """
    kept: list[tuple[Pool, Floats, Floats]] = []
    for pool, a_K, b_K in zip(pools, before, after, strict=True):
        good = np.flatnonzero(np.isfinite(a_K) & np.isfinite(b_K))
        if len(good) > 1:
            kept.append((pool.keep(good.tolist()), a_K[good], b_K[good]))
    if not kept:
        raise DataError("--candidates: no prompt has two answers that both models gave a reward")
    left_out = sum(map(len, before)) - sum(len(row) for _, row, _ in kept)
    return [k[0] for k in kept], [k[1] for k in kept], [k[2] for k in kept], left_out


def candidate_rows(
    pools: Sequence[Pool], before: Sequence[Floats], after: Sequence[Floats], gold: str, *, seed: int = 0
) -> dict[str, Any]:
    """Gold of the best of n by each model and by length, at every n, and the paired difference of the two models.

    Raises DataError where one of the models gives all answers of every prompt the same reward.
    """
    for name, rewards in (("before", before), ("after", after)):
        if all(np.ptp(reward_K) == 0 for reward_K in rewards):
            raise DataError(f"the model of {name} gives all answers of every prompt the same reward")
    draws = Draws(pools, seed=seed)
    gold_PN = {
        name: path_of("best_of_n", pools, rewards).gold_JPS[0]
        for name, rewards in (("before", before), ("after", after), ("length", length_rewards(pools)))
    }
    sizes = path_of("best_of_n", pools, before).strength_S
    columns = {name: draws.intervals(values_PN) for name, values_PN in gold_PN.items()}
    columns["difference"] = draws.intervals(gold_PN["after"] - gold_PN["before"])
    return {
        "gold": gold,
        "n_prompts": len(pools),
        "n_candidates": sum(len(row) for row in before),
        "rows": [{"n": int(n), **{name: found[i] for name, found in columns.items()}} for i, n in enumerate(sizes)],
    }
