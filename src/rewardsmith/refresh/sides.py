"""Which prompts are trained on and which only test: for ever, by a hash of a prompt's opening turn.

The newest policy's pairs are tested on prompts that no round was trained on, and on pairs that were drawn blindly:
those that a model helped to choose would flatter the next one, as they lie where the old one was least sure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from rewardsmith.data.schema import Group, Message, Messages
from rewardsmith.data.split import side_of, unit_hash
from rewardsmith.refresh.ingest import IMPORTED
from rewardsmith.refresh.reasons import Look, pairs_to_draw
from rewardsmith.refresh.records import NewComparison
from rewardsmith.refresh.store import Store

TEST_SHARE = 0.2  # of the prompts
SPLIT_SEED = 20  # not a seed that training uses
HELD_OUT = "held-out"  # the kind of pairs that only test
BLIND = (HELD_OUT, "random", IMPORTED)  # kinds that no model had a part in
ENOUGH_BLIND = 20


@dataclass(frozen=True)
class Labelled:
    """The labelled pairs of a store by side, each with its round."""

    train: list[tuple[Group, int]]
    test: list[tuple[Group, int]]

    def tests_of(self, round: int) -> list[Group]:
        """The round's pairs on the test side that no model helped to choose; where these are few, all of them."""
        tests = [group for group, r in self.test if r == round]
        blind = [group for group in tests if group.tags["kind"] in BLIND]
        return blind if len(blind) >= ENOUGH_BLIND or len(blind) == len(tests) else tests


def is_test(prompt: Messages) -> bool:
    """Whether a prompt is on the test side."""
    group = Group(prompt=prompt, responses=((Message("assistant", ""),),))
    return side_of(group, {"train": 1 - TEST_SHARE, "test": TEST_SHARE}, SPLIT_SEED) == "test"


def labelled(store: Store) -> Labelled:
    """What is trained on and what is tested on, in the order that it was proposed."""
    sides = Labelled([], [])
    for group in store.labelled_groups():
        (sides.test if is_test(group.prompt) else sides.train).append((group, int(group.tags["round"])))
    return sides


def by_side(store: Store, seen: Look) -> tuple[Look, Look]:
    """What is looked at, of the training side's prompts and of the test side's."""
    tests = {prompt.id for prompt in store.prompts(sorted(seen.new)) if is_test(prompt.messages)}
    sides = ({p: ids for p, ids in seen.new.items() if (p in tests) is side} for side in (False, True))
    train, test = (replace(seen, new=new, base={p: ids for p, ids in seen.base.items() if p in new}) for new in sides)
    return train, test


@dataclass(frozen=True)
class Tests:
    """Test pairs of a round: how many were there, were added, and are missing of what was asked for."""

    before: int
    added: int
    missing: int

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def propose_tests(store: Store, seen: Look, n: int, *, seed: int, at: float) -> Tests:
    """Queue up to `n` pairs of held-out prompts (`by_side`), drawn blindly.

    Every prompt gives one before any gives a second. Again adds what is missing and nothing else.
    """
    before = seen.proposed.get(HELD_OUT, 0)
    ranked: list[tuple[int, float, int, tuple[int, int]]] = []
    for prompt in seen.new:
        pairs = sorted(pairs_to_draw(seen, prompt), key=lambda pair: unit_hash(f"{pair}", seed))
        place = unit_hash(f"{seen.round} {prompt}", seed)
        ranked += [(rank, place, prompt, pair) for rank, pair in enumerate(pairs)]
    new = [one for one in sorted(ranked) if one[3] not in seen.old.get(one[2], ())][: max(0, n - before)]
    rows = [
        NewComparison(
            prompt_id=prompt,
            a_id=pair[0],
            b_id=pair[1],
            round=seen.round,
            kind=HELD_OUT,
            why="drawn blindly on a prompt that no model is trained on: tests models on this round's answers",
            score=seen.round + 1 - place / len(new),  # among the others: whoever stops early has labelled some of each
        )
        for place, (_, _, prompt, pair) in enumerate(new)
    ]
    added = store.add_comparisons(rows, at).new
    return Tests(before, added, max(0, n - before - added))
