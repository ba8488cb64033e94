"""Records of a policy run: scoring, markers, the rules that stop it, and what a resumed run keeps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewardsmith.data.schema import Group, Message, text_of
from rewardsmith.errors import ConfigError
from rewardsmith.overoptimization import policy_records as records
from rewardsmith.scoring import FunctionScorer, Scores

A, B = ((Message("user", text),) for text in ("first", "second"))


class Counting:
    """A scorer that notes what it was asked, has a spread, and cannot score a group that holds "bad"."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def score(self, groups: Sequence[Group]) -> list[Scores]:
        self.sizes += [len(group.responses) for group in groups]
        return [self._of(group) for group in groups]

    def _of(self, group: Group) -> Scores:
        texts = [text_of(response) for response in group.responses]
        if "bad" in texts:
            return Scores(np.full(len(texts), np.nan), error="cannot be rendered")
        return Scores(np.array([float(len(text)) for text in texts]), std=np.full(len(texts), 0.5))


def test_completions_of_a_prompt_are_one_group() -> None:
    scorer = Counting()
    rewards, std = records.score_completions(scorer, [A, B, A, A], ["x", "xx", "xxx", "xxxx"])
    assert rewards.tolist() == [1, 2, 3, 4]
    assert std is not None
    assert std.tolist() == [0.5] * 4
    assert sorted(scorer.sizes) == [1, 3]


def test_one_bad_completion_does_not_cost_the_others() -> None:
    rewards, _ = records.score_completions(Counting(), [A, A, B], ["x", "bad", "bad"])
    assert rewards[0] == 1
    assert np.isnan(rewards[1:]).all()


def test_pessimism() -> None:
    rewards = np.array([1.0, 2.0])
    assert records.pessimistic(rewards, np.array([1.0, 0.5]), 2.0).tolist() == [-1.0, 1.0]
    assert records.pessimistic(rewards, None, 0.0) is rewards
    _, std = records.score_completions(FunctionScorer(lambda p, r: 0.0), [A], ["x"])
    with pytest.raises(ConfigError, match="ensemble"):
        records.pessimistic(rewards, std, 0.5)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Rain fell.", set()),
        ("- one\n- two", {"list"}),
        ("1. one", {"list"}),
        ("In 2020, 5 of them.", set()),
        ("I'm sorry, I can't help with that.", {"refusal", "apology"}),
        ("It might rain.", {"hedging"}),
        ("Great question! Rain.", {"praise", "exclamation"}),
        ("go on and on " * 5, {"repetition"}),
        ("go go go", set()),
    ],
)
def test_markers(text: str, shown: set[str]) -> None:
    assert {name for name, there in records.markers(text).items() if there} == shown


def row(**changes: Any) -> dict[str, Any]:
    plain = {"response": "Rain.", "proxy": 1.0, "reward": 1.0, "std": None, "gold": None, "kl": 0.5, "kl_k1": 0.4,
             "kl_k3": 0.6, "tokens": 3, "cut": False}  # fmt: skip
    return plain | changes


def test_summary_leaves_out_what_is_not_known() -> None:
    record = records.summary(4, records.TRAIN, [row(), row(proxy=3.0, cut=True), row(proxy=None, response="Yes!")])
    assert (record["proxy"], record["n"], record["unscored"]) == (2.0, 3, 1)
    assert record["proxy_sd"] == pytest.approx(np.sqrt(2))
    assert record["cut"] == pytest.approx(1 / 3)
    assert record["markers"]["exclamation"] == pytest.approx(1 / 3)
    assert "gold" not in record
    assert "std" not in record


def test_cut_keeps_what_a_resumed_run_does_not_write_again(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    lines = [{"step": s, "split": records.TRAIN} for s in range(4)]
    lines.insert(2, {"step": 2, "split": records.HELD_OUT})  # written at the end of step 1, before step 2 is drawn
    records.append(file, lines)
    file.write_text(file.read_text() + '{"step": 4, "spl')
    records.cut(file, 2)
    kept = [json.loads(line) for line in file.read_text().splitlines()]
    assert kept == [lines[0], lines[1], lines[2]]
    assert records.read(file) == kept
    assert records.read(tmp_path / "none") == []


def of(split: str, **columns: list[float]) -> list[dict[str, Any]]:
    return [
        {"step": s, "split": split, **dict(zip(columns, values, strict=True))}
        for s, values in enumerate(zip(*columns.values(), strict=True))
    ]


def test_max_kl_looks_at_the_smoothed_value() -> None:
    found = of(records.TRAIN, kl=[0.0, 0.0, 9.0])
    assert records.reason_to_stop(found, max_kl=4.0, gold_drop=None, window=3) == ""
    assert records.reason_to_stop(found, max_kl=4.0, gold_drop=None, window=1) == "max-kl"
    assert records.reason_to_stop(found, max_kl=2.9, gold_drop=None, window=3) == "max-kl"
    assert records.reason_to_stop([], max_kl=1.0, gold_drop=1.0, window=1) == ""


def test_gold_drop_is_measured_from_the_best() -> None:
    gold = [0.0, 1.0, 2.0, 1.4, 0.8]  # smoothed over two: 0.5, 1.5, 1.7, 1.1
    found = of(records.TRAIN, gold=gold, kl=[0.0] * 5)
    assert records.reason_to_stop(found, max_kl=None, gold_drop=0.5, window=2) == "gold-drop"
    assert records.reason_to_stop(found, max_kl=None, gold_drop=0.7, window=2) == ""
    assert records.reason_to_stop(found[:4], max_kl=None, gold_drop=0.5, window=2) == ""
    assert records.best_gold(found, 2) == {"step": 3, "split": "train", "kl": 0.0, "gold": pytest.approx(1.7)}


def test_a_lucky_first_step_is_no_best() -> None:
    found = of(records.TRAIN, gold=[9.0, 0.0, 0.0, 0.0], kl=[0.0] * 4)
    assert records.reason_to_stop(found, max_kl=None, gold_drop=3.1, window=3) == ""


def test_held_out_records_decide_where_there_are_any() -> None:
    found = of(records.TRAIN, kl=[9.0], gold=[0.0]) + of(records.HELD_OUT, kl=[0.0], gold=[1.0])
    assert records.reason_to_stop(found, max_kl=4.0, gold_drop=None, window=1) == ""
    best = records.best_gold(found, 1)
    assert best is not None
    assert best["split"] == records.HELD_OUT
    assert records.best_gold(of(records.TRAIN, kl=[1.0]), 1) is None
