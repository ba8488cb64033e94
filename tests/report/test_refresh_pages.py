"""The refresh pages: whole, escaped, without anything from outside."""

from __future__ import annotations

import re

import numpy as np
import pytest

from rewardsmith.refresh.drift import Sample, drift
from rewardsmith.refresh.simulate import Plan, simulate
from rewardsmith.report.drift_page import drift_page
from rewardsmith.report.figures import CSS
from rewardsmith.report.simulation_page import simulation_page
from tests.refresh.test_simulate import world
from tests.report.test_data_page import Page

ATTACK = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def simulated():
    plan = Plan(budget=40, rounds=2, seeds=2, kl=0.5, penalties=(3.0,))
    result = simulate(*world(), plan, strategies=("all_data", "replay"), draws=40)
    return result | {"gold": ATTACK, "features": "text", "excluded": [{"reason": ATTACK, "count": 3}]}


def drifted(n_new=60):
    rng = np.random.default_rng(0)
    new = Sample(tuple(f"n{i}" for i in range(n_new)), (), {"reward": rng.normal(2, 1, n_new)})
    old = Sample(tuple(f"o{i}" for i in range(80)), (), {"reward": rng.normal(0, 1, 80)})
    return drift(new, old, permutations=99) | {"dropped": [{"file": ATTACK, "line": 1, "reason": ATTACK}]}


def test_the_simulation_page_holds_its_figures_and_numbers(simulated):
    page = simulation_page(simulated)
    assert ATTACK not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", page)
    assert page.count("<svg") == 4  # rounds, over fixed, two laws
    assert not any(stand_in in page for stand_in in CSS)
    assert simulated["text"].split(":")[0] in page
    for row in simulated["strategies"]:
        assert f"{row['rounds'][-1]['gold']['value']:.3f}" in page
    assert Page(page).open == []
    assert "script" not in Page(page).tags


def test_a_result_without_a_refreshed_strategy_or_intervals_is_a_page_too():
    plan = Plan(budget=40, rounds=2, seeds=1, kl=0.5, penalties=(3.0,))
    result = simulate(*world(), plan, strategies=("fixed",), draws=0)
    assert result["best"] is None
    page = simulation_page(result | {"gold": "gold", "features": "text"})
    assert page.count("<svg") == 3
    assert "no interval" in page


def test_the_drift_page_says_what_and_why():
    result = drifted()
    page = drift_page(result | {"on_splits": {"splits": 20, "alarms": 1, "part": 40, "rate": {}}})
    assert ATTACK not in page
    assert "<h1>A refresh is due</h1>" in page
    assert "asked 20 times" in page
    assert page.count("<svg") == 1
    assert not any(stand_in in page for stand_in in CSS)
    assert Page(page).open == []
    assert "script" not in Page(page).tags
    small = drifted(1)
    assert small["signals"][0]["shift"]["low"] is None
    assert "<h1>" in drift_page(small)
