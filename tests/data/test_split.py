"""Splits: whole threads, the shares asked for, and no movement when rows are added."""

from __future__ import annotations

import random

import pytest

from rewardsmith.data.schema import Group, Message, Preference
from rewardsmith.data.split import opening_of, side_of, split_groups
from rewardsmith.errors import ConfigError

SHARES = {"train": 0.8, "eval": 0.2}


def group(*turns: str, answers: tuple[str, ...] = ("yes", "no")) -> Group:
    """A group whose prompt alternates user and assistant turns."""
    prompt = tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(turns))
    responses = tuple((Message("assistant", text),) for text in answers)
    return Group(prompt=prompt, responses=responses, preferences=(Preference(chosen=0, rejected=1),))


def test_growing_dialogues_of_one_thread_stay_together() -> None:
    groups = []
    for n in range(200):
        turns = [f"question {n}", "answer", "and then?", "more", "and then?"]
        groups += [group(*turns[:length]) for length in (1, 3, 5)]
    sides = split_groups(groups, SHARES)
    openings = {name: {opening_of(g) for g in side} for name, side in sides.items()}
    assert not openings["train"] & openings["eval"]
    assert sum(map(len, sides.values())) == len(groups)
    assert all(len(side) % 3 == 0 for side in sides.values())


def test_shares_hold_on_average() -> None:
    sides = split_groups([group(f"question {n}") for n in range(5000)], {"a": 0.7, "b": 0.2, "c": 0.1})
    assert list(sides) == ["a", "b", "c"]
    # Four standard deviations of the widest share.
    assert [len(side) / 5000 for side in sides.values()] == pytest.approx([0.7, 0.2, 0.1], abs=0.026)


def test_neither_order_nor_other_rows_move_a_group() -> None:
    groups = [group(f"question {n}") for n in range(300)]
    before = {opening_of(g): side_of(g, SHARES) for g in groups}
    more = groups + [group(f"new {n}") for n in range(300)]
    random.Random(0).shuffle(more)
    after = {opening_of(g): name for name, side in split_groups(more, SHARES).items() for g in side}
    assert before == {opening: after[opening] for opening in before}


def test_seed_changes_the_split_and_nothing_else_does() -> None:
    groups = [group(f"question {n}") for n in range(300)]
    first = [side_of(g, SHARES, seed=1) for g in groups]
    assert first == [side_of(g, SHARES, seed=1) for g in groups]
    assert first != [side_of(g, SHARES, seed=2) for g in groups]


def test_opening_ignores_case_space_and_system_turn() -> None:
    with_system = Group(
        prompt=(Message("system", "Be brief."), Message("user", "  What IS\n it? ")),
        responses=((Message("assistant", "This."),),),
    )
    assert opening_of(with_system) == opening_of(group("what is it?")) == "what is it?"


def test_prompt_without_a_user_turn() -> None:
    only_system = Group(prompt=(Message("system", "Write a poem."),), responses=((Message("assistant", "Ah."),),))
    assert opening_of(only_system) == "write a poem."


def test_implied_prompts_are_their_first_common_line() -> None:
    first = group(answers=("Q: why?\nA: because", "Q: why?\nA: no idea"))
    second = group(answers=("Q: why?\nA: because\nQ: and?\nA: x", "Q: why?\nA: because\nQ: and?\nA: y"))
    assert opening_of(first) == opening_of(second) == "q: why?"


def test_groups_without_prompt_or_common_beginning_do_not_stick_together() -> None:
    groups = [group(answers=(f"The {n}", f"This {n}")) for n in range(200)]
    assert len({opening_of(g) for g in groups}) == 200
    assert len(split_groups(groups, SHARES)["eval"]) > 10


@pytest.mark.parametrize("prompt", [(), ("",), (" \n",)])
def test_groups_with_an_empty_prompt_share_neither_opening_nor_prompt(prompt: tuple[str, ...]) -> None:
    groups = [group(*prompt, answers=(f"The {n}", f"This {n}")) for n in range(50)]
    assert len({opening_of(g) for g in groups}) == 50
    assert len({g.prompt_id for g in groups}) == 50
    asked = [group("question", answers=(f"The {n}", f"This {n}")) for n in range(50)]
    assert len({g.prompt_id for g in asked}) == 1


@pytest.mark.parametrize("shares", [{}, {"a": 0.5}, {"a": 1.2, "b": -0.2}, {"a": float("nan")}, {"a": 0.0, "b": 1.0}])
def test_shares_that_are_none(shares: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="split into"):
        split_groups([], shares)
