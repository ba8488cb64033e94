"""What a model makes of length: accuracy by which side is longer, and rewards against lengths within prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rewardsmith.data.schema import TIE, Group
from rewardsmith.evaluation.calibration import length_slices
from rewardsmith.evaluation.evaluate import PairRows, character_lengths
from rewardsmith.evaluation.metrics import is_correct
from rewardsmith.statistics import Floats, Interval, clustered_bootstrap, clustered_mean

SIDES = (("Better answer is longer", "chosen is longer"), ("Better answer is shorter", "chosen is shorter"))


def by_longer_side(rows: PairRows) -> list[tuple[str, Interval, int]]:
    """(name, accuracy, pairs) where the better answer is the longer one, and where it is the shorter one."""
    decided = rows.where(rows.probability_P != TIE)
    right_P, masks = right_of(decided), length_slices(decided)
    return [
        (name, clustered_mean(right_P[masks[key]], decided.prompt_P[masks[key]]), int(masks[key].sum()))
        for name, key in SIDES
    ]


def length_gap(rows: PairRows) -> Interval:
    """Accuracy where the better answer is longer, minus where it is shorter, prompts resampled together."""
    decided = rows.where(rows.probability_P != TIE)
    right_P, masks = right_of(decided), length_slices(decided)
    longer_P, shorter_P = (masks[key].astype(float) for _, key in SIDES)
    sums_P4 = np.stack([right_P * longer_P, longer_P, right_P * shorter_P, shorter_P], axis=1)
    return clustered_bootstrap(sums_P4, decided.prompt_P, difference)


def difference(sums_D4: Floats) -> Floats:
    """First over second column, minus third over fourth; NaN where one of them is empty."""
    with np.errstate(invalid="ignore", divide="ignore"):
        gap_D: Floats = sums_D4[:, 0] / sums_D4[:, 1] - sums_D4[:, 2] / sums_D4[:, 3]
    return gap_D


def right_of(rows: PairRows) -> Floats:
    return is_correct(rows.margin_P, rows.probability_P).astype(np.float64)


def against_prompt_mean(groups: Sequence[Group], rewards: Sequence[Floats]) -> tuple[Floats, Floats]:
    """(length over the mean length, reward minus the mean reward) of each answer among those to its prompt.

    Rewards of different prompts do not compare, so each prompt is its own measure. Groups of one answer, and those
    without text, say nothing.
    """
    ratios, gaps = [np.zeros(0)], [np.zeros(0)]
    for group, reward_K in zip(groups, rewards, strict=True):
        length_K = character_lengths(group)
        if len(length_K) > 1 and length_K.min() > 0:
            ratios.append(length_K / length_K.mean())
            gaps.append(reward_K - reward_K.mean())
    return np.concatenate(ratios), np.concatenate(gaps)
