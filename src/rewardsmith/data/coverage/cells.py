"""The cells of a data set: for every value of every trait, how much is there and what the labels say.

    G  groups     P  pairs     C  opening turns

A cell's labels are described by the share of ties, by how often the longer answer wins, by how much of the labels a
model of surface features predicts that was fitted to other prompts (`data.surface`, one fit for all cells), and by how
often a given model is right. Intervals resample opening turns.

The effective size is Kish's (sum w)^2 / sum w^2 over opening turns, w the weight of a turn's decided pairs, near
duplicates joined: a hundred pairs of one prompt are as good as one prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewardsmith.data.coverage.traits import Traits
from rewardsmith.data.schema import Group, text_of
from rewardsmith.data.surface import (
    FEWEST_PAIRS,
    FEWEST_PROMPTS,
    held_out_scores,
    pair_differences,
    pair_weights,
    sample_pairs,
    wins,
)
from rewardsmith.statistics import Floats, Ints, clustered_mean

MOST_VALUES = 40  # of one trait; the rest shares a cell
MOST_SURFACE = 20_000  # pairs that the surface model looks at
MOST_FOR_INTERVAL = 20_000  # pairs of a cell
DRAWS = 500
OTHERS = "(others)"


@dataclass(frozen=True)
class Pairs:
    """Every pair of the data. outcome_P: 1 where the longer answer won, 1/2 where lengths are equal, 0 where not.

    surface_P  1 where the surface model is right, 1/2 where it has no opinion, NaN where it was not asked
    right_P    1 where the given model is right, 0 where not (an equal reward is not right), NaN where there is none
    """

    group_P: Ints
    tie_P: NDArray[np.bool_]
    longer_P: Floats
    weight_P: Floats
    surface_P: Floats
    right_P: Floats


def pairs_of(groups: Sequence[Group], rewards: Sequence[Floats | None] | None, seed: int) -> Pairs:
    """All pairs in order; `rewards` are a model's, [K] of each group, NaN or None where it has none."""
    group, tie, longer, weight, right = [], [], [], [], []
    for g, one in enumerate(groups):
        if not one.preferences:
            continue
        lengths = [len(text_of(response)) for response in one.responses]
        of_group = None if rewards is None else rewards[g]
        for p, w in zip(one.preferences, pair_weights(one, one.preferences), strict=True):
            a, b = lengths[p.chosen], lengths[p.rejected]
            group.append(g)
            tie.append(p.is_tie)
            longer.append((a > b) + 0.5 * (a == b))
            weight.append(w)
            right.append(np.nan if of_group is None or p.is_tie else is_right(of_group[p.chosen], of_group[p.rejected]))
    surface_P = np.full(len(group), np.nan)
    place, value = surface_outcomes(groups, seed)
    surface_P[place] = value
    return Pairs(
        np.array(group, dtype=np.int64),
        np.array(tie, dtype=bool),
        np.array(longer, dtype=np.float64),
        np.array(weight, dtype=np.float64),
        surface_P,
        np.array(right, dtype=np.float64),
    )


def is_right(chosen: float, rejected: float) -> float:
    return float("nan") if np.isnan(chosen) or np.isnan(rejected) else float(chosen > rejected)


def surface_outcomes(groups: Sequence[Group], seed: int) -> tuple[Ints, Floats]:
    """(numbers of the decided pairs that were asked, 1 where a surface model fitted to other prompts is right)."""
    decided = [[p for p in group.preferences if not p.is_tie] for group in groups]
    kept = sample_pairs(decided, MOST_SURFACE, seed)
    pairs = pair_differences(groups, kept, seed)
    nothing = np.zeros(0, dtype=np.int64), np.zeros(0)
    if len(pairs.length_P) < FEWEST_PAIRS or len(np.unique(pairs.prompt_P)) < FEWEST_PROMPTS:
        return nothing
    place: list[int] = []
    first = 0
    for group, chosen in zip(groups, kept, strict=True):
        numbers = {id(p): first + n for n, p in enumerate(group.preferences)}
        place += [numbers[id(p)] for p in chosen]
        first += len(group.preferences)
    side_P = np.where(np.random.default_rng(seed).random(len(place)) < 0.5, -1.0, 1.0)
    side_P[:2] = 1.0, -1.0  # both classes are there
    return np.array(place, dtype=np.int64), wins(held_out_scores(pairs, side_P))


# -- cells ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """What the cells are counted from. cluster_G: the opening turn of each group, near duplicates joined."""

    traits: Sequence[Traits]
    cluster_G: Ints
    prompt_G: Ints
    pairs: Pairs
    seed: int = 0


def cells(table: Table, target: Sequence[Traits] = ()) -> list[dict[str, Any]]:
    """One row per value of each trait, the most groups first, ready for JSON.

    Keys: dimension, value, prompts (distinct), groups, share (of groups), pairs, ties (share of pairs or None),
    longer_wins, surface_accuracy, model_accuracy (intervals over decided pairs), surface_pairs, model_pairs,
    effective, target, target_share (of the target's prompts; None without a target or where it has no such trait).
    """
    dimensions = list(dict.fromkeys(name for traits in table.traits for name in traits))
    rows: list[dict[str, Any]] = []
    for dimension in dimensions:
        rows += dimension_cells(table, dimension, target)
    return rows


def whole(table: Table) -> dict[str, Any]:
    """The cell of everything: the keys of `cells` without dimension, value and target."""
    return cell(table, np.ones(len(table.traits), dtype=bool), np.ones(len(table.pairs.group_P), dtype=bool))


def dimension_cells(table: Table, dimension: str, target: Sequence[Traits]) -> list[dict[str, Any]]:
    values = [traits.get(dimension, "(none)") for traits in table.traits]
    counts = Counter(values)
    named = {value for value, _ in counts.most_common(MOST_VALUES)}
    asked = [traits[dimension] for traits in target if dimension in traits]
    wanted = Counter(OTHERS if value in counts and value not in named else value for value in asked)
    n_wanted = len(asked)
    names = [value if value in named else OTHERS for value in values]
    order = [value for value, _ in Counter(names).most_common()]
    code = {value: number for number, value in enumerate(order)}
    code_G = np.array([code[name] for name in names], dtype=np.int64)
    code_P = code_G[table.pairs.group_P] if len(table.pairs.group_P) else np.zeros(0, dtype=np.int64)
    rows = []
    for number, value in enumerate(order):
        row = cell(table, code_G == number, code_P == number) | {"dimension": dimension, "value": value}
        row["target"] = wanted.get(value, 0) if n_wanted else None
        row["target_share"] = wanted.get(value, 0) / n_wanted if n_wanted else None
        rows.append(row)
    # What the target has and the data lacks is a cell too.
    for value, n in wanted.most_common():
        if value not in code:
            rows.append(
                empty_cell() | {"dimension": dimension, "value": value, "target": n, "target_share": n / n_wanted}
            )
    return rows


def empty_cell() -> dict[str, Any]:
    nothing = {"value": None, "low": None, "high": None}
    return {
        "prompts": 0, "groups": 0, "share": 0.0, "pairs": 0, "ties": None, "longer_wins": nothing,
        "surface_accuracy": nothing, "surface_pairs": 0, "model_accuracy": nothing, "model_pairs": 0, "effective": 0.0,
    }  # fmt: skip


def cell(table: Table, in_G: NDArray[np.bool_], in_P: NDArray[np.bool_]) -> dict[str, Any]:
    pairs = table.pairs
    decided_P = in_P & ~pairs.tie_P
    opening_P = table.cluster_G[pairs.group_P] if len(in_P) else np.zeros(0, dtype=np.int64)
    asked_P, scored_P = decided_P & ~np.isnan(pairs.surface_P), decided_P & ~np.isnan(pairs.right_P)

    def mean(value_P: Floats, which_P: NDArray[np.bool_]) -> dict[str, float | None]:
        return interval(value_P[which_P], opening_P[which_P], pairs.weight_P[which_P], table.seed)

    n_pairs = int(in_P.sum())
    return {
        "prompts": len(np.unique(table.prompt_G[in_G])),
        "groups": int(in_G.sum()),
        "share": float(in_G.mean()),
        "pairs": n_pairs,
        "ties": float(pairs.tie_P[in_P].mean()) if n_pairs else None,
        "longer_wins": mean(pairs.longer_P, decided_P),
        "surface_accuracy": mean(pairs.surface_P, asked_P),
        "surface_pairs": int(asked_P.sum()),
        "model_accuracy": mean(pairs.right_P, scored_P),
        "model_pairs": int(scored_P.sum()),
        "effective": effective_size(opening_P[decided_P], pairs.weight_P[decided_P]),
    }


def interval(value_P: Floats, opening_P: Ints, weight_P: Floats, seed: int) -> dict[str, float | None]:
    """The weighted mean with its interval; of a very large cell, both from a sample of its pairs."""
    if len(value_P) > MOST_FOR_INTERVAL:
        some = np.random.default_rng(seed).choice(len(value_P), MOST_FOR_INTERVAL, replace=False)
        value_P, opening_P, weight_P = value_P[some], opening_P[some], weight_P[some]
    few = len(np.unique(opening_P)) < FEWEST_PROMPTS  # of so few an interval would say too much
    return clustered_mean(value_P, opening_P, weight_P, draws=0 if few else DRAWS, seed=seed).to_json()


def effective_size(opening_P: Ints, weight_P: Floats) -> float:
    """(sum w)^2 / sum w^2 over opening turns."""
    if not len(opening_P):
        return 0.0
    weight_C = np.bincount(opening_P, weight_P)
    square = float((weight_C**2).sum())
    return float(weight_C.sum() ** 2 / square) if square > 0 else 0.0
