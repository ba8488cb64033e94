"""Answers beside the same after an edit that leaves their content alone: what `--consistency` holds together.

The edits are those of `data augment` (padding, bullets, ...). One answer of a group, drawn at random, is edited when
the data is loaded, and the edit is one more response of the group: it shares the prompt in the packed line, and where
the edit comes behind the answer, the answer too. No label says anything about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from random import Random

from rewardsmith.data.counterfactuals import KINDS, Around, Source
from rewardsmith.data.schema import TIE, Group, Messages

Twins = tuple[tuple[int, int], ...]
NOBODY = Around((), 0.0)


@dataclass(frozen=True, kw_only=True)
class Twinned(Group):
    """A group some of whose responses are edits. twins: (answer, the same after an edit), by index."""

    twins: Twins = ()


def twins_of(group: Group) -> Twins:
    """The edits of a group that counts."""
    return group.twins if isinstance(group, Twinned) and group.weight > 0 else ()


def with_twin(group: Group, kinds: Sequence[str], seed: int) -> tuple[Group, str]:
    """(the group with an edit of one of its answers, the kind of it); the group itself and "" where none applies.

    Which answer and which edit depends on the group's id and the seed alone.
    """
    rng = Random(f"{group.id}:{seed}:twin")
    which = rng.randrange(len(group.responses))
    for kind in rng.sample(list(kinds), len(kinds)):
        made = KINDS[kind].make(Source(group, which, None, None), NOBODY, rng, TIE)
        if not isinstance(made, str):
            return _joined(group, made.responses[1], which), kind
    return group, ""


def _joined(group: Group, edited: Messages, which: int) -> Twinned:
    values = {f.name: getattr(group, f.name) for f in fields(Group)}
    values["responses"] = (*group.responses, edited)
    if group.ratings is not None:
        values["ratings"] = (*group.ratings, None)
    return Twinned(**values, twins=((which, len(group.responses)),))
