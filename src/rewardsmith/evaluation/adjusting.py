"""What taking length out of rewards does to them: fitted on half of the prompts, measured on the other, both ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rewardsmith.adjustment import FEWEST, Adjustment, Length, characters, fit_length
from rewardsmith.data.schema import Group
from rewardsmith.data.split import side_of
from rewardsmith.errors import DataError
from rewardsmith.evaluation.evaluate import evaluate_rows
from rewardsmith.evaluation.metrics import Floats
from rewardsmith.evaluation.pairs import character_lengths, pair_rows

HALVES = {"first": 0.5, "second": 0.5}
SHOWN = ("accuracy", "length_matched_accuracy", "length_controlled_accuracy")


def fitted_length(groups: Sequence[Group], rewards: Sequence[Floats]) -> Length:
    """What length does, by all pairs of the groups."""
    rows = pair_rows(groups, rewards, [character_lengths(group) for group in groups])
    return fit_length(rows.margin_P, rows.probability_P, rows.chosen_length_P, rows.rejected_length_P)


def length_effect(
    groups: Sequence[Group], rewards: Sequence[Floats], share: float = 1.0, *, seed: int = 0
) -> dict[str, Any]:
    """{"before", "after"}: accuracy, length_matched_accuracy, length_controlled_accuracy, length_correlation (Spearman
    of reward and length within a prompt), each with its interval. `share` of f is taken out. DataError where
    half of the pairs are too few.
    """
    side_G = [side_of(group, HALVES, seed) for group in groups]
    lengths = {}
    for side, other in (("first", "second"), ("second", "first")):
        members = [g for g, name in enumerate(side_G) if name == other]
        n, whole = (sum(len(groups[g].preferences) for g in part) for part in (members, range(len(groups))))
        if n < FEWEST:
            raise DataError(
                f"{whole} pairs are too few to measure what taking length out does: one half of the prompts has {n}, "
                f"at least {FEWEST} are needed"
            )
        lengths[side] = fitted_length([groups[g] for g in members], [rewards[g] for g in members]).times(share)
    adjusted = [
        Adjustment(lengths[side])(values, characters(group))
        for side, values, group in zip(side_G, rewards, groups, strict=True)
    ]
    return {name: _numbers(groups, values, seed) for name, values in (("before", rewards), ("after", adjusted))}


def _numbers(groups: Sequence[Group], rewards: Sequence[Floats], seed: int) -> dict[str, Any]:
    found = evaluate_rows(groups, rewards, seed=seed)
    return {key: found[key] for key in SHOWN} | {"length_correlation": found["length_correlation"]["within_prompt"]}
