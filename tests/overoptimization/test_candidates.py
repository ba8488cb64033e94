"""Candidates files: columns joined by prompt and answer, and what is left out said and counted."""

from __future__ import annotations

import numpy as np
import pytest

from rewardsmith.data.options import ReadOptions
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.overoptimization.candidates import read_pools, without_unscored
from tests.overoptimization.pools import pool, rows, write_rows

READ = ReadOptions()


def excluded(found):
    return {row.reason: row.count for row in found}


def test_gold_columns_side_by_side(tmp_path):
    file = write_rows(tmp_path / "c.jsonl", rows(3, other=lambda p, i: p * 10 + i))
    pools, left_out, _ = read_pools([file], ["judge", "other"], READ)
    assert [len(p.base_K) for p in pools] == [4, 4, 4]
    assert pools[2].gold_JK.tolist() == [[0, 1, 2, -1], [20, 21, 22, 23]]
    assert pools[0].base_K == pytest.approx([0.25] * 4)
    assert left_out == []


def test_answers_without_gold_are_counted_and_the_columns_stay_aligned(tmp_path):
    """A row without a value, one without the key, and one with NaN, in different columns."""
    table = rows(3, other=lambda p, i: 10 * p + i)
    table[0]["judge"] = None
    del table[5]["other"]
    table[10]["other"] = float("nan")
    file = write_rows(tmp_path / "c.jsonl", table)
    pools, left_out, _ = read_pools([file], ["judge", "other"], READ)
    assert [p.gold_JK[1].tolist() for p in pools] == [[1, 2, 3], [10, 12, 13], [20, 21, 23]]
    assert pools[0].base_K == pytest.approx([1 / 3] * 3)
    assert sum(row.count for row in left_out if "answer" in row.reason) == 3


def test_equal_answers_of_two_systems_keep_their_own_gold(tmp_path):
    table = rows(1, other=lambda p, i: float(i))
    for row in table:
        row["response"] = "the same"
    file = write_rows(tmp_path / "c.jsonl", table)
    pools, _, _ = read_pools([file], ["judge", "other"], READ)
    assert pools[0].gold_JK.tolist() == [[0, 1, 2, -1], [0, 1, 2, 3]]


def test_a_prompt_with_one_answer_is_left_out(tmp_path):
    file = write_rows(tmp_path / "c.jsonl", rows(2)[:5])
    pools, left_out, _ = read_pools([file], ["judge"], READ)
    assert len(pools) == 1
    assert excluded(left_out) == {"a prompt with fewer than two answers": 1}


def test_nothing_left_is_an_error_that_says_why(tmp_path):
    file = write_rows(tmp_path / "c.jsonl", rows(3, k=2)[::2])
    with pytest.raises(DataError, match=r"no prompt has two answers.*fewer than two answers \(3\)"):
        read_pools([file], ["judge"], READ)


def test_base_probabilities_must_sum_to_one(tmp_path):
    table = rows(2, p0=lambda p, i: [0.1, 0.2, 0.3, 0.4][i] if p == 0 else 0.2)
    file = write_rows(tmp_path / "c.jsonl", table)
    pools, left_out, _ = read_pools([file], ["judge"], READ, base="p0")
    assert pools[0].base_K == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert excluded(left_out) == {"a prompt whose base probabilities do not sum to 1": 1}


def test_log_probabilities_become_a_distribution(tmp_path):
    table = rows(1, logp=lambda p, i: -900.0 + np.log(i + 1))
    file = write_rows(tmp_path / "c.jsonl", table)
    pools, _, _ = read_pools([file], ["judge"], READ, base_logprob="logp")
    assert pools[0].base_K == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_lists_of_answers_are_read_too(tmp_path):
    row = {"prompt": "q", "responses": ["a", "b", "c"], "judge": [1, 2, 3], "other": [3, None, 1]}
    file = write_rows(tmp_path / "c.jsonl", [row])
    pools, left_out, _ = read_pools([file], ["judge", "other"], READ)
    assert pools[0].gold_JK.tolist() == [[1, 3], [3, 1]]
    assert excluded(left_out) == {"an answer without 'other'": 1}


def test_a_recorded_reward_that_is_the_gold_is_refused(tmp_path):
    file = write_rows(tmp_path / "c.jsonl", rows(5, mine=lambda p, i: [0, 1, 2, -1][i] * 2.0 + 5))
    with pytest.raises(DataError, match="'mine' is 'judge' itself"):
        read_pools([file], ["judge"], READ, recorded="mine")


@pytest.mark.parametrize(
    ("gold", "options", "words"),
    [
        ([], {}, "--gold"),
        (["judge", "judge"], {}, "named twice"),
        (["judge"], {"base": "a", "base_logprob": "b"}, "exclude each other"),
    ],
)
def test_options_that_contradict(tmp_path, gold, options, words):
    file = write_rows(tmp_path / "c.jsonl", rows(2))
    with pytest.raises(ConfigError, match=words):
        read_pools([file], gold, READ, **options)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "response": "r", "judge": 1},
        {"prompt": "p", "responses": ["a", "b"], "judge": [1, 2]},
        {"prompt": "p", "completions": [{"response": "a", "judge": 1}, {"response": "b", "judge": 2}]},
    ],
)
@pytest.mark.parametrize("columns", [(["golf"], None), (["judge", "golf"], None), (["judge"], "golf")])
def test_a_column_that_is_not_there_is_named_beside_those_that_are(tmp_path, row, columns):
    gold, recorded = columns
    rows_of_two = [row, {**row, "response": "s"}] if "response" in row else [row]
    file = write_rows(tmp_path / "c.jsonl", rows_of_two)
    with pytest.raises(DataError) as caught:
        read_pools([file], gold, READ, recorded=recorded)
    assert f"{file} has no column 'golf'; it has: prompt, " in str(caught.value)
    assert "judge" in str(caught.value).partition("it has: ")[2]


def test_a_column_that_is_there_and_of_no_use_is_not_said_to_be_missing(tmp_path):
    file = write_rows(tmp_path / "c.jsonl", [{"prompt": "p", "response": r, "judge": None} for r in "ab"])
    with pytest.raises(DataError) as caught:
        read_pools([file], ["judge"], READ)
    assert "has no column" not in str(caught.value)


def test_rewards_that_are_not_finite_are_left_out_and_counted():
    pools = [pool([1, 2, 3], base=[0.5, 0.3, 0.2]), pool([1, 2], number=1), pool([1, 2], number=2)]
    rewards = [np.array([0.1, np.nan, 0.3]), np.array([np.nan, 1.0]), np.array([2.0, 2.0])]
    kept, kept_rewards, left_out = without_unscored(pools, rewards)
    assert [len(r) for r in kept_rewards] == [2, 2]
    assert kept[0].gold_JK.tolist() == [[1, 3]]
    assert kept[0].base_K == pytest.approx([0.5 / 0.7, 0.2 / 0.7])
    assert len(kept[0].group.responses) == 2
    assert excluded(left_out) == {
        "an answer without a finite reward": 2,
        "a prompt with fewer than two scored answers": 1,
        "kept: a prompt whose answers all have the same reward": 1,
    }


def test_equal_rewards_everywhere_leave_nothing_to_optimise():
    with pytest.raises(DataError, match="nothing to optimise"):
        without_unscored([pool([1, 2])], [np.array([3.0, 3.0])])
