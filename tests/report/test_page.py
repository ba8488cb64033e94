"""Numbers as words, and the head that every page shares."""

from __future__ import annotations

import pytest

from rewardsmith.report.page import bounds, with_bounds

ROW = {"value": -0.0124, "low": -0.0301, "high": 0.005, "gold": 0.75}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (bounds(ROW), "−0.030 to 0.005"),
        (bounds(ROW, "+.2f"), "−0.03 to +0.01"),
        (bounds({"value": 0.5, "low": None, "high": None}), "no interval"),
        (bounds(None), "no interval"),
        (with_bounds(ROW, "+.3f"), "−0.012 (−0.030 to +0.005)"),
        (with_bounds(ROW, key="gold"), "0.750 (−0.030 to 0.005)"),
        (with_bounds({"value": 0.5, "low": None, "high": None}), "0.500"),
        (with_bounds({"value": float("nan"), "low": 0.0, "high": 1.0}), "–"),
        (with_bounds(None), "–"),
    ],
)
def test_numbers_with_their_bounds(text, expected):
    assert text == expected
