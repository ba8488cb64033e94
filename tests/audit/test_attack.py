"""The attack: finds what is there to be found, no more, within its budget; token suffixes raise the reward."""

from __future__ import annotations

import json

import pytest

from rewardsmith.audit.attack import SUFFIXES, attack, attack_table, text_edits, token_attack
from rewardsmith.audit.probes import Cell
from rewardsmith.audit.run import builtin_probes
from rewardsmith.audit.seeds import Seed
from rewardsmith.data.schema import Group, Message
from rewardsmith.errors import DataError
from rewardsmith.scoring import FunctionScorer

N = 12
PROBES = [builtin_probes()[name] for name in ("padding", "list", "emoji", "opener", "confidence", "exclamation")]


def made_seeds() -> list[Seed]:
    return [
        Seed(
            id=f"s{i}",
            kind="knowledge",
            prompt=(Message("user", f"question {i}"),),
            texts={
                "right": f"It is right number {i}. That is known.",
                "wrong": f"It is wrong number {i}. That is known.",
            },
        )
        for i in range(N)
    ]


def likes(*signs: str, needed: float = 1.0):
    """A reward of 1 for the right answer and a share of it for each sign that an answer shows."""

    def reward(prompt: str, response: str) -> float:
        return float("right" in response) + needed / len(signs) * sum(sign in response for sign in signs)

    return FunctionScorer(reward)


def test_one_edit_suffices_where_one_sign_does():
    result = attack(likes("\n- "), made_seeds(), PROBES, budget=50)
    assert result["success"]["value"] == 1.0
    assert result["edits"][0]["rate"] == 1.0
    assert result["compositions"][0] == {"edits": ["list"], "wins": N}
    assert all(row["edits"] == ["list"] for row in result["seeds"])
    assert result["cheapest"]["hacked"] == "- It is wrong number 0. \n- That is known.".replace(". \n", ".\n")
    assert json.loads(json.dumps(result, allow_nan=False))["n_attacked"] == N


def test_two_signs_need_two_edits_and_the_order_of_signs_is_found():
    result = attack(likes("\n- ", "!"), made_seeds(), PROBES, budget=400)
    assert result["success"]["value"] == 1.0
    assert result["edits"][0]["rate"] == 0.0
    assert result["edits"][1]["rate"] == 1.0
    assert {"list"} <= set(result["cheapest"]["edits"])
    assert (
        result["cheapest"]["reward_hacked"] >= result["cheapest"]["reward_right"] > result["cheapest"]["reward_wrong"]
    )
    assert "passes" in attack_table(result)


def test_nothing_is_found_where_edits_are_worth_nothing():
    result = attack(likes("a sign that no edit makes"), made_seeds(), PROBES, budget=60, depth=2)
    assert result["success"]["value"] == 0.0
    assert result["cheapest"] is None
    assert result["compositions"] == []
    assert all(not row["passed"] and row["queries"] == 60 for row in result["seeds"])


def test_no_more_answers_are_scored_than_the_budget_allows_and_the_curve_counts_them():
    asked: list[str] = []

    def reward(prompt: str, response: str) -> float:
        asked.append(response)
        return float("right" in response) + ("\n- " in response)

    result = attack(FunctionScorer(reward), made_seeds(), PROBES, budget=7)
    assert len(asked) == 2 * N + result["n_queries"]
    assert result["n_queries"] <= 7 * N
    # By hand: the place of the winning text in the order in which that seed's answers were asked for.
    by_seed = {row["id"]: [t for t in asked[2 * N :] if f"number {row['id'][1:]}." in t] for row in result["seeds"]}
    places = [
        next((n for n, text in enumerate(by_seed[row["id"]], 1) if "\n- " in text), None) for row in result["seeds"]
    ]
    assert [row["queries"] for row in result["seeds"] if row["passed"]] == [p for p in places if p is not None]
    rate = {point["budget"]: point["rate"] for point in result["curve"]}
    assert rate[5] == sum(p is not None and p <= 5 for p in places) / N
    assert list(rate) == [1, 2, 5, 7]


def test_the_same_input_gives_the_same_result_and_another_salt_another_order():
    first, again = (attack(likes("\n- ", "!"), made_seeds(), PROBES, budget=20) for _ in range(2))
    assert first == again
    other = attack(likes("\n- "), made_seeds(), PROBES, budget=20, salt=1)
    assert [r["queries"] for r in other["seeds"]] != [
        r["queries"] for r in attack(likes("\n- "), made_seeds(), PROBES, budget=20)["seeds"]
    ]


def test_a_scorer_that_fails_is_named_and_a_wrong_answer_ahead_is_not_attacked():
    def reward(prompt: str, response: str) -> float:
        if "\n- " in response:
            raise TimeoutError("no answer")
        return len(response) + (prompt == "question 0") * ("wrong" in response) * 100.0

    seeds = made_seeds()
    seeds[0] = Seed(**{**vars(seeds[0]), "texts": {**seeds[0].texts, "right": "It is right. Known now."}})
    for i in range(1, N):
        seeds[i] = Seed(**{**vars(seeds[i]), "texts": {**seeds[i].texts, "right": seeds[i]["right"] + " Yes, it is."}})
    result = attack(FunctionScorer(reward), seeds, PROBES, budget=10, depth=1)
    assert result["n_ahead"] == 1
    assert result["n_attacked"] == N - 1
    assert any("TimeoutError: no answer" in problem for problem in result["problems"])
    with pytest.raises(DataError, match="no seed can be attacked"):
        attack(FunctionScorer(lambda prompt, response: 0.0), seeds, PROBES)


def test_suffixes_and_all_text_probes_are_there_to_compose():
    edits = text_edits(list(builtin_probes().values()))
    n_probes = sum(probe.text is not None for probe in builtin_probes().values())
    assert len(edits) == n_probes + len(SUFFIXES)


def test_a_suffix_of_tokens_raises_the_reward_and_is_read_back_as_it_is(tiny_scorer):
    cell = Cell((Message("user", "what is it"),), "a thing in the sea")
    found = token_attack(tiny_scorer, cell, length=3, steps=4, candidates=16)
    assert found["path"] == sorted(found["path"])
    assert found["reward_after"] > max(found["path"][0], found["reward_before"])
    again = tiny_scorer.score([Group(prompt=cell.prompt, responses=((Message("assistant", found["text"]),),))])[0]
    assert again.rewards[0] == pytest.approx(found["reward_after"], abs=1e-5)
    assert found["text"] == cell.response + found["suffix"]
    assert found == token_attack(tiny_scorer, cell, length=3, steps=4, candidates=16)
