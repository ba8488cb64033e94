"""A scorer against ratings: its rank correlation, and the share of the oracle's gain."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import spearmanr

from rewardsmith.data.schema import Group, Message
from rewardsmith.evaluation.ratings import rating_report


def rated(prompt: str, ratings: list[float | None]) -> Group:
    return Group(
        prompt=(Message("user", prompt),),
        responses=tuple((Message("assistant", f"{prompt} {k}"),) for k in range(len(ratings))),
        ratings=tuple(ratings),
    )


def columns(n: int, k: int, seed: int = 0) -> tuple[list[Group], list[np.ndarray], list[np.ndarray]]:
    draw = np.random.default_rng(seed)
    gold = draw.normal(size=(n, k)).round(1)
    groups = [rated(f"p{g}", row.tolist()) for g, row in enumerate(gold)]
    return groups, list(gold + draw.normal(size=(n, k))), list(draw.integers(1, 9, size=(n, k)).astype(float))


def test_recovery_counted_over_all_subsets() -> None:
    groups, rewards, lengths = columns(6, 5)
    rows = {row["n"]: row for row in rating_report(groups, rewards, lengths)["best_of_n"]}
    assert list(rows) == [1, 2, 4, 5]
    for n in (2, 4, 5):
        won, mean, best = [], [], []
        for group, reward in zip(groups, rewards):
            gold = np.array(group.ratings)
            for inside in map(list, combinations(range(5), n)):
                won.append(gold[inside][np.argmax(reward[inside])])
                best.append(gold[inside].max())
            mean.append(gold.mean())
        assert rows[n]["gold"]["value"] == pytest.approx(np.mean(won))
        assert rows[n]["oracle"] == pytest.approx(np.mean(best))
        expected = (np.mean(won) - np.mean(mean)) / (np.mean(best) - np.mean(mean))
        assert rows[n]["recovery"]["value"] == pytest.approx(expected)
        assert rows[n]["recovery"]["low"] < expected < rows[n]["recovery"]["high"]
    assert rows[1]["recovery"]["value"] is None
    assert rows[1]["gold"]["value"] == pytest.approx(rows[1]["mean_gold"])


def test_an_oracle_recovers_all_and_a_constant_nothing() -> None:
    groups, _, lengths = columns(20, 4)
    gold = [np.array(group.ratings) for group in groups]
    for rewards, share in ((gold, 1.0), ([np.zeros(4)] * 20, 0.0), ([-g for g in gold], None)):
        for row in rating_report(groups, rewards, lengths)["best_of_n"][1:]:
            assert row["n_groups"] == 20
            if share is None:
                assert row["recovery"]["value"] < 0
            else:
                assert row["recovery"]["value"] == pytest.approx(share, abs=1e-12)


def test_length_stands_beside() -> None:
    groups, rewards, lengths = columns(20, 4)
    by_reward, by_length = rating_report(groups, rewards, lengths), rating_report(groups, lengths, rewards)
    for row, turned in zip(by_reward["best_of_n"], by_length["best_of_n"]):
        assert row["length_only"]["recovery"] == turned["recovery"]
    assert by_reward["rating_correlation"]["length_within_prompt"] == by_length["rating_correlation"]["within_prompt"]


def test_answers_without_a_rating_are_not_there() -> None:
    groups = [rated("a", [1.0, None, 3.0, 2.0]), rated("b", [None, 1.0, None]), rated("c", [0.0, 1.0])]
    rewards = [np.array([0.0, 99.0, 1.0, 2.0]), np.zeros(3), np.array([0.0, 1.0])]
    found = rating_report(groups, rewards, rewards)
    rho = spearmanr([0, 1, 2], [1, 3, 2]).statistic
    assert found["rating_correlation"]["n_prompts"] == 2
    assert found["rating_correlation"]["within_prompt"]["value"] == pytest.approx((rho + 1) / 2)
    rows = {row["n"]: row for row in found["best_of_n"]}
    assert {n: row["n_groups"] for n, row in rows.items()} == {1: 2, 2: 2, 3: 1}
    assert (rows[3]["gold"]["value"], rows[3]["oracle"], rows[3]["mean_gold"]) == (2.0, 3.0, 2.0)


def test_groups_of_one_prompt_are_one_cluster() -> None:
    groups, rewards, lengths = columns(12, 4)
    once = rating_report(groups, rewards, lengths)
    thrice = rating_report(groups * 3, rewards * 3, lengths * 3)
    for row, copied in zip(once["best_of_n"], thrice["best_of_n"]):
        for end in ("low", "high"):
            assert copied["gold"][end] == pytest.approx(row["gold"][end])


@pytest.mark.parametrize("ratings", [[], [None, None], [1.0], [1.0, None]])
def test_nothing_rated(ratings: list[float | None]) -> None:
    groups = [rated("a", ratings)] if ratings else []
    row = [np.zeros(len(ratings))] * len(groups)
    assert rating_report(groups, row, row) == {"rating_correlation": None, "best_of_n": []}


def test_equal_ratings_have_no_gain() -> None:
    groups = [rated(f"{i}", [0.1, 0.1, 0.1]) for i in range(5)]
    rewards = [np.arange(3.0)] * 5
    found = rating_report(groups, rewards, rewards)
    json.dumps(found, allow_nan=False)
    assert all(row["recovery"]["value"] is None for row in found["best_of_n"])
    assert found["rating_correlation"]["within_prompt"]["value"] is None
