"""Numbers with intervals as text."""

from __future__ import annotations

import pytest

from rewardsmith.statistics import Interval, interval_text


@pytest.mark.parametrize(
    ("row", "options", "text"),
    [
        (Interval(0.66549, 0.61, 0.719).to_json(), {}, "0.665 [0.610, 0.719]"),
        (Interval(-0.5, -1, 0.25).to_json(), {"form": "+.2f"}, "-0.50 [-1.00, +0.25]"),
        (Interval(0.5).to_json(), {"form": ".0%"}, "50%"),
        ({"gold": 0.5, "low": 0.25, "high": 0.75}, {"key": "gold"}, "0.500 [0.250, 0.750]"),
        ({"value": 0.5}, {}, "0.500"),
        (Interval(None).to_json(), {}, "–"),
        ({}, {"none": "no pairs"}, "no pairs"),
    ],
)
def test_interval_as_text(row, options, text):
    assert interval_text(row, **options) == text
