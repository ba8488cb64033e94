"""Strengths, weaknesses and next steps: claimed where an interval allows it, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from rewardsmith.report.outlook import of_content, outlook, short_slice, side_of
from rewardsmith.report.run_length import length_gap
from rewardsmith.report.verdict import LengthRule, rows_of
from rewardsmith.statistics import Interval
from tests.report.test_run_page import CASES

ABOVE = LengthRule("longer", 0.6, Interval(0.1, 0.05, 0.15))


def slice_of(value: float, half: float, n: int = 40, name: str = "tag=x") -> dict[str, Any]:
    return {"slice": name, "n": n, "accuracy": value, "low": value - half, "high": value + half}


def evaluation(*slices: dict[str, Any], accuracy: tuple[float, float, float] = (0.7, 0.65, 0.75)) -> dict[str, Any]:
    value, low, high = accuracy
    return {"accuracy": {"value": value, "low": low, "high": high}, "n_prompts": 100, "slices": list(slices)}


@pytest.mark.parametrize(
    ("row", "n_slices", "side"),
    [
        (slice_of(0.7, 0.15), 1, 1),
        (slice_of(0.7, 0.15), 20, 0),  # 1.54 times as wide for twenty slices: 0.2 is not beyond 0.23
        (slice_of(0.3, 0.1), 1, -1),
        (slice_of(0.55, 0.1), 1, 0),
        (slice_of(1.0, 0.0, n=5), 1, 0),
        (slice_of(1.0, 0.0, n=30), 1, 1),
        ({"slice": "a=b", "n": 0, "accuracy": None, "low": None, "high": None}, 1, 0),
    ],
)
def test_a_slice_is_claimed_where_its_widened_interval_is_on_one_side(
    row: dict[str, Any], n_slices: int, side: int
) -> None:
    assert side_of(row, 0.5, n_slices) == side


def test_strong_and_weak_slices_are_named() -> None:
    rows = (slice_of(0.9, 0.05, name="t=code"), slice_of(0.5, 0.1, name="t=poems"), slice_of(0.2, 0.1, name="t=maths"))
    found = outlook(evaluation(*rows), ABOVE)
    assert "code (90.0%)" in " ".join(found.good)
    assert "Worse than a coin in maths (20.0%)" in " ".join(found.weak)
    assert "Below its own average in poems (50.0%)" in " ".join(found.weak)
    assert "for maths, poems" in " ".join(found.next_steps)


def test_nothing_measured_is_said() -> None:
    found = outlook({}, None)
    assert found.good == found.weak == ("Not known: nothing was measured.",)
    assert "report RM heldout.jsonl" in found.next_steps[0]


def test_a_temperature_is_asked_for_where_none_is_stored() -> None:
    assert any("calibrate" in step for step in outlook(evaluation(), ABOVE).next_steps)
    assert not any("calibrate" in step for step in outlook(evaluation(), ABOVE, temperature=2.0).next_steps)
    over = Interval(0.1, 0.05, 0.15)
    found = outlook(evaluation(), ABOVE, temperature=2.0, overconfidence=over)
    assert any("anew" in step for step in found.next_steps)
    assert any("too high by 10.0 points" in line for line in found.weak)


def test_length_gap_is_the_difference_of_two_accuracies() -> None:
    import numpy as np

    groups, rewards = CASES["below"]
    found = length_gap(rows_of(groups, [np.array(row) for row in rewards]))
    longer = [len(g.responses[0][0].content) > len(g.responses[1][0].content) for g in groups]
    right = [row[0] > row[1] for row in rewards]
    shares = [sum(r for r, x in zip(right, longer) if x == side) / longer.count(side) for side in (True, False)]
    assert found.value == pytest.approx(shares[0] - shares[1])


def test_slices_by_length_are_no_subject_and_one_file_is_none() -> None:
    def row(name: str) -> dict[str, object]:
        return {"slice": name, "n": 90, "accuracy": 0.9, "low": 0.85, "high": 0.95}

    names = [
        "longer=chosen",
        "length gap=at most 10%",
        "label strength=P over 0.9",
        "source=a.jsonl",
        "turns=2",
        "x=code",
    ]
    kept = [str(found["slice"]) for found in of_content({"slices": [row(name) for name in names]})]
    assert kept == ["turns=2", "x=code"]
    assert [short_slice(name) for name in kept] == ["2 turns", "code"]
    assert short_slice("turns=1") == "1 turn"
    assert len(of_content({"slices": [row("source=a"), row("source=b")]})) == 2
