"""The slices of pairs, on groups small enough to name every member."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rewardsmith.data.schema import Group, Message, Preference
from rewardsmith.evaluation.pairs import character_lengths, pair_rows
from rewardsmith.evaluation.slices import pair_slices


def group(name: str, lengths: tuple[int, int], turns: int = 1, source: str = "", **stated: float) -> Group:
    prompt = [Message(role, f"{name} {t}") for t in range(turns) for role in ("assistant", "user")][1:]
    return Group(
        prompt=tuple(prompt),
        responses=tuple((Message("assistant", "x" * length),) for length in lengths),
        preferences=(Preference(chosen=0, rejected=1, **stated),),
        tags={"kind": name[0]},
        source=source,
    )


def slices(groups: list[Group]) -> dict[str, list[int]]:
    rows = pair_rows(groups, [np.zeros(len(g.responses)) for g in groups], [character_lengths(g) for g in groups])
    masks = pair_slices(groups, rows)
    assert list(masks) == sorted(masks)
    return {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()}


def test_tags_sources_and_turns() -> None:
    found = slices(
        [
            group("a0", (5, 9), source="data/one.jsonl:1"),
            group("a1", (5, 9), turns=2, source="data/two.jsonl:1"),
            group("b2", (5, 9), turns=7, source="data/two.jsonl:2"),
            group("b3", (5, 9), turns=5),
        ]
    )
    assert (found["kind=a"], found["kind=b"]) == ([0, 1], [2, 3])
    assert (found["source=one.jsonl"], found["source=two.jsonl"]) == ([0], [1, 2])
    assert (found["turns=1"], found["turns=2"], found["turns=5 or more"]) == ([0], [1], [2, 3])


def test_files_of_one_name_keep_their_folder() -> None:
    found = slices([group("a", (5, 9), source="x/d.jsonl:1"), group("b", (5, 9), source="y/d.jsonl:1")])
    assert (found["source=x/d.jsonl"], found["source=y/d.jsonl"]) == ([0], [1])


def test_length() -> None:
    lengths = [(100, 95), (95, 100), (100, 60), (100, 50), (100, 49), (60, 100), (10, 100), (7, 7), (90, 100)]
    found = slices([group(f"g{i}", pair) for i, pair in enumerate(lengths)])
    assert found["longer=chosen"] == [0, 2, 3, 4]
    assert found["longer=rejected"] == [1, 5, 6, 8]
    assert found["longer=neither"] == [7]
    assert found["length gap=at most 10% of the longer answer"] == [0, 1, 7, 8]
    assert found["length gap=chosen is longer by 10-50% of its length"] == [2, 3]
    assert found["length gap=chosen is longer by over 50% of its length"] == [4]
    assert found["length gap=rejected is longer by 10-50% of its length"] == [5]
    assert found["length gap=rejected is longer by over 50% of its length"] == [6]


def test_every_pair_is_in_one_bin_of_length() -> None:
    draw = np.random.default_rng(0)
    found = slices([group(f"g{i}", tuple(draw.integers(1, 30, 2).tolist())) for i in range(60)])
    for way in ("longer=", "length gap="):
        assert sorted(p for name, inside in found.items() if name.startswith(way) for p in inside) == list(range(60))


def test_strength_where_labels_vary() -> None:
    shares = [0.6, 0.7, 2 / 3, 0.9, 0.75, 1.0, 0.5]
    found = slices([group(f"g{i}", (5, 9), probability=p) for i, p in enumerate(shares)])
    assert found["label strength=P up to 0.7"] == [0, 1, 2]
    assert found["label strength=P over 0.7 to 0.9"] == [3, 4]
    assert found["label strength=P over 0.9"] == [5]  # the tie, row 6, has no strength
    found = slices([group(f"g{i}", (5, 9), margin=m) for i, m in enumerate([1, 5, 2, 3, 3, 9])])
    assert found["label strength=lowest third of margins"] == [0, 2]
    assert found["label strength=middle third of margins"] == [3, 4]
    assert found["label strength=highest third of margins"] == [1, 5]


@pytest.mark.parametrize("stated", [{}, {"margin": 2.0}, {"probability": 0.8}])
def test_no_strength_where_labels_do_not_vary(stated: dict[str, float]) -> None:
    groups = [group(f"g{i}", (5, 9), **stated) for i in range(4)]
    assert not any(name.startswith("label strength") for name in slices(groups))


def test_groups_without_a_pair_keep_their_names() -> None:
    found = slices([group("a", (5, 9)), replace(group("b", (5, 9)), preferences=(), id="")])
    assert found["kind=b"] == []
