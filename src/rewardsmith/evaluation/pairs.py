"""One row per preference: what every number about pairs is a group-by over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewardsmith.data.schema import Group, Preference, text_of
from rewardsmith.evaluation.metrics import Floats, Ints


@dataclass(frozen=True)
class PairRows:
    """One row per preference.

    margin_P           reward of chosen minus reward of rejected
    probability_P      the label: P(chosen is better), 0.5 a tie
    prompt_P           prompt number, equal where the prompt is the same
    group_P            index into the groups
    chosen_length_P, rejected_length_P
    """

    margin_P: Floats
    probability_P: Floats
    prompt_P: Ints
    group_P: Ints
    chosen_length_P: Floats
    rejected_length_P: Floats

    def __len__(self) -> int:
        return len(self.margin_P)

    def where(self, mask_P: NDArray[np.bool_]) -> PairRows:
        """The rows of the mask."""
        return PairRows(*(column_P[mask_P] for column_P in vars(self).values()))


def pair_rows(groups: Sequence[Group], rewards: Sequence[Floats], lengths: Sequence[Floats]) -> PairRows:
    """One row per preference of every group, in order."""
    prompts = prompt_numbers(groups)
    found = [(g, p) for g, group in enumerate(groups) for p in group.preferences]
    return PairRows(
        margin_P=_floats(rewards[g][p.chosen] - rewards[g][p.rejected] for g, p in found),
        probability_P=_floats(p.probability for _, p in found),
        prompt_P=np.array([prompts[g] for g, _ in found], dtype=np.int64),
        group_P=np.array([g for g, _ in found], dtype=np.int64),
        chosen_length_P=_floats(lengths[g][p.chosen] for g, p in found),
        rejected_length_P=_floats(lengths[g][p.rejected] for g, p in found),
    )


def pairs_of(groups: Sequence[Group]) -> list[tuple[Group, Preference]]:
    """(group, preference) of every row of `pair_rows`."""
    return [(group, preference) for group in groups for preference in group.preferences]


def pair_texts(group: Group, preference: Preference) -> dict[str, str]:
    """Where a pair is from, and its texts, for people."""
    return {
        "source": group.source,
        "prompt": text_of(group.prompt),
        "chosen": text_of(group.responses[preference.chosen]),
        "rejected": text_of(group.responses[preference.rejected]),
    }


def character_lengths(group: Group) -> Floats:
    """Characters of each response's text."""
    return np.array([len(text_of(response)) for response in group.responses], dtype=np.float64)


def prompt_numbers(groups: Sequence[Group]) -> Ints:
    """One number per distinct prompt, by first appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(g.prompt_id, len(numbers)) for g in groups], dtype=np.int64)


def _floats(values: Any) -> Floats:
    return np.array(list(values), dtype=np.float64)
