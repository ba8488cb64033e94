"""The ways to cut pairs into slices: tags, source file, number of turns, length, strength of the label.

    P  pairs: one mask each, true for the pairs that are in the slice

Slices overlap: each way cuts all pairs anew. A name is "way=value".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from rewardsmith.data.schema import TIE, Group
from rewardsmith.evaluation.metrics import Floats, length_matched
from rewardsmith.evaluation.pairs import PairRows, pairs_of

Mask = NDArray[np.bool_]

MATCHED = 0.1  # lengths within 10% of the longer one
FAR = 0.5  # of the longer one
MOST_TURNS = 5  # so many or more share a slice
STRENGTHS = ((0.7, "P up to 0.7"), (0.9, "P over 0.7 to 0.9"), (1.0, "P over 0.9"))


def pair_slices(groups: Sequence[Group], rows: PairRows) -> dict[str, Mask]:
    """Masks over the `pair_rows` of these groups, by name.

    TAG=value        of the group's tags
    source=file      the file's name, with its folder where two files share a name
    turns=n          messages of the user in the prompt, 5 and more together
    longer=          chosen, rejected, or neither (equal lengths)
    length gap=      bins of |length gap| over the longer one: at most 10%, up to 50%, over 50%
    label strength=  bins of the label's probability, and thirds of its margin: only where they vary
    """
    group_names = [[*_tag_names(group), f"turns={_turns(group)}"] for group in groups]
    for names, file in zip(group_names, _file_names(groups), strict=True):
        names += [f"source={file}"] if file else []
    found: dict[str, list[int]] = {}
    for p, g in enumerate(rows.group_P.tolist()):
        for name in group_names[g]:
            found.setdefault(name, []).append(p)
    for name in (name for names in group_names for name in names):  # of groups without a pair: there, and empty
        found.setdefault(name, [])
    masks = {name: _mask(members, len(rows)) for name, members in found.items()}
    margins = np.array([preference.margin for _, preference in pairs_of(groups)], dtype=np.float64)
    return dict(sorted((masks | _by_length(rows) | _by_strength(rows.probability_P, margins)).items()))


def _tag_names(group: Group) -> list[str]:
    return [f"{tag}={value}" for tag, value in group.tags.items()]


def _turns(group: Group) -> str:
    turns = sum(message.role == "user" for message in group.prompt)
    return str(turns) if turns < MOST_TURNS else f"{MOST_TURNS} or more"


def _file_names(groups: Sequence[Group]) -> list[str]:
    """The file of each group, as short as tells the files apart; "" where it has none."""
    files = [group.source.rpartition(":")[0] for group in groups]
    short = {file: PurePath(file).name for file in files}
    shared = len(set(short.values())) < len(short)
    return [file if shared else short[file] for file in files]


def _mask(members: Sequence[int], n: int) -> Mask:
    mask_P = np.zeros(n, dtype=bool)
    mask_P[list(members)] = True
    return mask_P


def _by_length(rows: PairRows) -> dict[str, Mask]:
    a_P, b_P = rows.chosen_length_P, rows.rejected_length_P
    near_P, middle_P = length_matched(a_P, b_P, MATCHED), length_matched(a_P, b_P, FAR)
    masks = {"longer=chosen": a_P > b_P, "longer=rejected": a_P < b_P, "longer=neither": a_P == b_P}
    masks["length gap=at most 10% of the longer answer"] = near_P
    for side, longer_P in (("chosen", a_P > b_P), ("rejected", a_P < b_P)):
        masks[f"length gap={side} is longer by 10-50% of its length"] = longer_P & middle_P & ~near_P
        masks[f"length gap={side} is longer by over 50% of its length"] = longer_P & ~middle_P
    return {name: mask_P for name, mask_P in masks.items() if mask_P.any()}


def _by_strength(probability_P: Floats, margin_P: Floats) -> dict[str, Mask]:
    """Label ties are in no slice of strength: they have none."""
    decided_P = probability_P != TIE
    masks: dict[str, Mask] = {}
    if len(np.unique(probability_P[decided_P])) > 1:
        bin_P = np.searchsorted([edge for edge, _ in STRENGTHS], probability_P - 1e-12)
        masks |= {f"label strength={name}": decided_P & (bin_P == b) for b, (_, name) in enumerate(STRENGTHS)}
    if len(np.unique(margin_P[decided_P])) > 1:
        rank_P = np.searchsorted(np.sort(margin_P[decided_P]), margin_P, side="left")
        third_P = np.minimum(rank_P * 3 // decided_P.sum(), 2)
        for t, name in enumerate(("lowest", "middle", "highest")):
            masks[f"label strength={name} third of margins"] = decided_P & (third_P == t)
    return {name: mask_P for name, mask_P in masks.items() if mask_P.any()}
