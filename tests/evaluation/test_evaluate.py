"""The evaluation of a scorer, key by key, on groups small enough to work out by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from rewardsmith.data.schema import Group, Message, Preference
from rewardsmith.errors import DataError
from rewardsmith.evaluation.evaluate import evaluate_rows, most_wrong, pair_rows
from rewardsmith.evaluation.show import evaluation_table

PROMISED = {
    "n_pairs",
    "accuracy",
    "length_baseline",
    "length_matched_accuracy",
    "nll",
    "brier",
    "ece",
    "slices",
    "length_controlled_accuracy",
    "rating_correlation",
    "best_of_n",
    "agreement",
    "calibration",
}


def text(content: str) -> tuple[Message, ...]:
    return (Message("assistant", content),)


def group(name: str, lengths: list[int], *preferences: tuple[int, int, float], **tags: str) -> Group:
    """Responses of the given lengths; preferences as (chosen, rejected, probability)."""
    return Group(
        prompt=text(name),
        responses=tuple(text("x" * length) for length in lengths),
        preferences=tuple(Preference(chosen=a, rejected=b, probability=p) for a, b, p in preferences),
        tags=tags,
    )


GROUPS = [
    group("a", [100, 95, 10], (0, 1, 1.0), (0, 2, 0.75), (1, 2, 1.0), subset="chat"),
    group("b", [30, 60], (0, 1, 1.0), subset="code"),
    group("b", [50, 50], (1, 0, 1.0), subset="code", lang="de"),  # the same prompt as above
    group("c", [5, 9], (0, 1, 0.5), subset="ties"),
    group("d", [7], subset="alone"),
]
REWARDS = [
    np.array([2.0, 3.0, 1.0]),
    np.array([1.0, 0.0]),
    np.array([4.0, 4.0]),
    np.array([0.0, 1.0]),
    np.array([9.0]),
]


def result(**options: Any) -> dict[str, Any]:
    return evaluate_rows(GROUPS, REWARDS, **options)


def test_counts_and_promised_keys() -> None:
    found = result()
    assert set(found) >= PROMISED
    assert (found["n_pairs"], found["n_groups"], found["n_prompts"]) == (6, 5, 4)
    assert found["n_groups_without_pairs"] == 1
    assert (found["score_ties"], found["label_ties"]) == (1, 1)
    for key in ("accuracy", "length_baseline", "length_matched_accuracy"):
        assert set(found[key]) >= {"value", "low", "high"}


def test_accuracy_beside_length() -> None:
    found = result()
    assert found["accuracy"]["value"] == pytest.approx(3 / 5)  # wrong, right, right | right | score tie
    assert found["length_baseline"]["value"] == pytest.approx((3 + 0 + 0.5) / 5)
    assert found["length_baseline"]["ties"] == 1
    assert found["length_matched_accuracy"]["value"] == pytest.approx(0)  # 100 against 95, 50 against 50
    assert found["length_matched_accuracy"]["n"] == 2
    assert found["length_unit"] == "characters"


def test_probabilistic_scores() -> None:
    margins, labels = [-1, 1, 2, 1, 0, -1], [1, 0.75, 1, 1, 1, 0.5]
    p = [1 / (1 + math.exp(-m)) for m in margins]
    nll = [-y * math.log(q) - (1 - y) * math.log(1 - q) for q, y in zip(p, labels)]
    found = result()
    assert found["nll"] == pytest.approx(np.mean(nll))
    assert found["brier"] == pytest.approx(np.mean([(q - y) ** 2 for q, y in zip(p, labels)]))
    assert 0 < found["ece"] < 1


def test_length_correlation() -> None:
    """Within a prompt: a 0.5; b four responses over its two groups; c +1; d alone."""
    found = result()["length_correlation"]
    b = -1.5 / math.sqrt(4.5 * 4.5)  # rewards (1, 0, 4, 4), lengths (30, 60, 50, 50)
    assert found["n_prompts"] == 3
    assert found["within_prompt"]["value"] == pytest.approx((0.5 + b + 1) / 3)
    assert -1 < found["pooled"] < 1


def test_slices() -> None:
    slices = {row["slice"]: row for row in result()["slices"]}
    assert list(slices) == sorted(slices)
    assert slices["subset=chat"] == {
        "slice": "subset=chat", "n": 3, "accuracy": pytest.approx(2 / 3), "low": None, "high": None
    }  # fmt: skip
    assert (slices["subset=code"]["n"], slices["subset=code"]["accuracy"]) == (2, 0.5)
    assert (slices["lang=de"]["n"], slices["lang=de"]["accuracy"]) == (1, 0.0)
    for empty in ("subset=ties", "subset=alone"):
        assert (slices[empty]["n"], slices[empty]["accuracy"]) == (0, None)


def test_token_lengths_take_the_place_of_characters() -> None:
    tokens = [[1, 2, 3], [2, 1], [3, 4], [1, 1], [1]]
    found = result(token_lengths=tokens)
    assert found["length_unit"] == "tokens"
    assert found["length_baseline"]["value"] == pytest.approx((0 + 0 + 0 + 1 + 1) / 5)
    assert found["length_baseline"]["ties"] == 0


def test_rows_carry_their_prompt() -> None:
    rows = pair_rows(GROUPS, REWARDS, [np.ones(len(r)) for r in REWARDS])
    assert rows.prompt_P.tolist() == [0, 0, 0, 1, 1, 2]
    assert rows.group_P.tolist() == [0, 0, 0, 1, 2, 3]
    assert rows.margin_P.tolist() == [-1, 1, 2, 1, 0, -1]


@pytest.mark.parametrize(
    "groups",
    [[], GROUPS[4:], GROUPS[3:4], GROUPS[1:2]],
    ids=["no group", "no pair", "only a label tie", "one pair"],
)
def test_too_little_data_is_null_and_never_nan(groups: list[Group]) -> None:
    found = evaluate_rows(groups, [np.arange(len(g.responses)) for g in groups])
    json.dumps(found, allow_nan=False)
    assert found["accuracy"]["low"] is None
    if not found["n_pairs"]:
        assert found["accuracy"]["value"] is found["nll"] is found["brier"] is found["ece"] is None


def test_the_result_is_json_and_the_same_again() -> None:
    assert json.dumps(result(), allow_nan=False) == json.dumps(result(), allow_nan=False)


def test_the_order_of_groups_changes_no_value() -> None:
    turned = evaluate_rows(GROUPS[::-1], REWARDS[::-1])
    for key in ("nll", "brier", "ece"):
        assert turned[key] == pytest.approx(result()[key])
    assert turned["accuracy"]["value"] == result()["accuracy"]["value"]


def test_intervals_cluster_by_prompt() -> None:
    """Copies of a prompt's group add rows and no information: the interval stays as wide."""
    rng = np.random.default_rng(0)
    groups = [group(f"p{i}", [10, 20], (0, 1, 1.0)) for i in range(50)]
    rewards = [rng.normal(size=2) for _ in groups]
    once, ten = (
        evaluate_rows(groups, rewards)["accuracy"],
        evaluate_rows(groups * 10, rewards * 10)["accuracy"],
    )
    assert ten == once


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_reward_that_is_no_number_names_the_response(bad: float) -> None:
    with pytest.raises(DataError, match=r"group .*response 1"):
        evaluate_rows(GROUPS[1:2], [np.array([0.0, bad])])


def test_rewards_must_fit_their_groups() -> None:
    name = GROUPS[0].id
    with pytest.raises(DataError, match=rf"group {name}: rewards of shape \[2\] for 3 responses"):
        evaluate_rows(GROUPS[:1], [np.zeros(2)])
    with pytest.raises(DataError, match="1 rows of rewards for 5 groups"):
        evaluate_rows(GROUPS, REWARDS[:1])
    for wrong in (None, ["high", "low", "low"], [[1.0], [2.0, 3.0], [4.0]], 1.0):
        with pytest.raises(DataError, match=f"group {name}: "):
            evaluate_rows(GROUPS[:1], [wrong])  # type: ignore[list-item]
    with pytest.raises(DataError, match=rf"group {name}: the reward of response 2 is missing"):
        evaluate_rows(GROUPS[:1], [[1.0, 2.0, None]])  # type: ignore[list-item]
    with pytest.raises(DataError, match=rf"group {name}: lengths of shape \[1\] for 3 responses"):
        evaluate_rows(GROUPS[:1], REWARDS[:1], token_lengths=[[1]])


def test_groups_without_a_prompt_are_their_own_clusters() -> None:
    groups = [
        Group(prompt=(), responses=(text(f"{i} a"), text(f"{i} b")), preferences=(Preference(chosen=0, rejected=1),))
        for i in range(20)
    ]
    found = evaluate_rows(groups, [[float(i % 3), 1.0] for i in range(20)])
    assert found["n_prompts"] == 20
    assert found["accuracy"]["low"] < found["accuracy"]["value"] < found["accuracy"]["high"]


def test_calibration_uses_the_temperature_that_is_given() -> None:
    fitted, given = result()["calibration"], result(temperature=2.0)["calibration"]
    assert fitted["temperature"]["fitted_here"]
    assert (given["temperature"]["value"], given["temperature"]["fitted_here"]) == (2.0, False)
    assert given["before"]["nll"] == pytest.approx(result()["nll"])
    halved = evaluate_rows(GROUPS, [reward / 2 for reward in REWARDS])
    assert given["after"]["ece"] == pytest.approx(halved["ece"])
    assert given["after"]["brier"] == pytest.approx(halved["brier"])
    parts = given["after"]["brier_parts"]
    whole = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within_bins"]
    assert whole == pytest.approx(given["after"]["brier"])
    assert sum(b["n"] for b in given["after"]["bins"]) == 6
    assert [s["slice"] for s in given["slices"]] == [s["slice"] for s in result()["slices"]]
    assert any(s["slice"].startswith("length gap") for s in given["length_slices"])


def test_a_temperature_that_says_nothing_is_json_too() -> None:
    json.dumps(result(temperature=math.inf), allow_nan=False)


def test_most_wrong_by_hand() -> None:
    """Wrong: a 0-1 by 1, and the score tie of the second b; the label tie c is not."""
    found = most_wrong(GROUPS, REWARDS, 5)
    assert [row["margin"] for row in found] == [-1.0, 0.0]
    first = found[0]
    assert (first["prompt"], first["chosen"], first["rejected"]) == ("a", "x" * 100, "x" * 95)
    assert (first["chosen_length"], first["rejected_length"], first["probability"]) == (100, 95, 1.0)
    assert first["tags"] == {"subset": "chat"}
    assert most_wrong(GROUPS, REWARDS, 1) == found[:1]
    assert most_wrong(GROUPS, REWARDS, 0) == []
    with pytest.raises(DataError, match="response 1 is missing"):
        most_wrong(GROUPS[1:2], [np.array([0.0, math.nan])], 5)


def test_the_table_shows_what_is_there() -> None:
    rated = [
        Group(
            prompt=text(f"{i}"),
            responses=tuple(text("x" * (k + 1)) for k in range(4)),
            preferences=(Preference(chosen=0, rejected=1, probability=2 / 3, votes=(1.0, 1.0, 0.0)),),
            ratings=(4.0, 3.0, 2.0, 1.0),
            source="d.jsonl:1",
        )
        for i in range(8)
    ]
    shown = evaluation_table(evaluate_rows(rated, [[4.0, 3.0, 1.0, 2.0 + i] for i in range(8)], temperature=2.0))
    for words in ("as stored with the model", "best of n", "n 4", "annotators with each other", "length controlled"):
        assert words in shown
    assert "source=" not in shown  # all pairs are in that slice
    plain = evaluation_table(result())
    assert "annotators" not in plain
    assert "best of n" not in plain
    assert "subset=chat" in plain
    assert "no pairs" in evaluation_table(evaluate_rows([], []))
