"""Length control by regression: closed cases, scorers whose truth is known, and scipy's optimiser."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from rewardsmith.evaluation.length import first_probability, length_controlled, logistic
from rewardsmith.evaluation.pairs import PairRows


def rows_of(margin: Any, probability: Any, gap: Any, prompt: Any = None) -> PairRows:
    margin, gap = np.asarray(margin, np.float64), np.asarray(gap, np.float64)
    n = len(margin)
    prompt = np.arange(n) if prompt is None else np.asarray(prompt)
    probability = np.broadcast_to(np.asarray(probability, np.float64), n)
    return PairRows(margin, probability, prompt, prompt, 1000 + gap, np.full(n, 1000.0))


def values(rows: PairRows, **options: Any) -> tuple[float, float]:
    found = length_controlled(rows, **options)
    return found["length_controlled_accuracy"]["value"], found["length_controlled_preference"]["value"]


def test_equal_lengths_leave_the_accuracy() -> None:
    """No gap: the regression is a constant, whose best fit is the log-odds of the accuracy."""
    found = length_controlled(rows_of([1.0] * 70 + [-1.0] * 30, 1.0, [0.0] * 100))
    assert found["length_controlled_accuracy"]["value"] == pytest.approx(0.7, abs=1e-3)
    assert found["length_controlled_accuracy"]["n"] == 100
    # Margins of +-1 and 70% right: the preference is 70% at one standard deviation, too.
    assert found["length_controlled_preference"]["value"] == pytest.approx(0.7, abs=1e-3)


def test_two_gaps_by_hand() -> None:
    """Gaps of +-1 in equal numbers: sigmoid(a + b t) = 0.9 and sigmoid(a - b t) = 0.5, so a is their midpoint."""
    right = [1] * 90 + [-1] * 10 + [1] * 50 + [-1] * 50
    midpoint = (np.log(9) + 0) / 2
    accuracy, _ = values(rows_of(right, 1.0, [1.0] * 100 + [-1.0] * 100))
    assert accuracy == pytest.approx(expit(midpoint), abs=1e-3)


def test_a_scorer_that_is_length_gets_one_half() -> None:
    draw = np.random.default_rng(0)
    gap = draw.normal(60, 200, size=3000).round()  # the longer one is labelled the better one 59% of the time
    rows = rows_of(gap, 1.0, gap)
    assert np.mean(gap > 0) > 0.58
    found = length_controlled(rows)
    assert found["length_controlled_accuracy"]["value"] == pytest.approx(0.5, abs=0.05)
    # Labels that follow length as the regression says, and a reward that is length with some noise.
    label = np.where(draw.random(3000) < expit(2 * np.tanh(gap / 209)), 1, -1)
    _, preference = values(rows_of(label * (np.tanh(gap / 209) + 0.3 * draw.normal(size=3000)), 1.0, label * gap))
    assert preference == pytest.approx(0.5, abs=0.05)


def test_a_scorer_that_does_not_see_length_keeps_its_accuracy() -> None:
    draw = np.random.default_rng(1)
    gap = draw.normal(60, 200, size=4000)
    margin = np.where(draw.random(4000) < 0.72, 1.0, -1.0)
    accuracy, preference = values(rows_of(margin, 1.0, gap))
    assert accuracy == pytest.approx(np.mean(margin > 0), abs=0.02)
    # The labels lean to the longer side whatever the reward says, so the preference is of the reward's own part.
    assert preference == pytest.approx(np.mean(margin > 0), abs=0.03)


def test_the_fit_is_scipys() -> None:
    draw = np.random.default_rng(2)
    features, outcome = draw.normal(size=(200, 3)), draw.random(200)

    def loss(coefficient: np.ndarray) -> float:
        logit = features @ coefficient
        return np.sum(np.logaddexp(0, logit) - outcome * logit) + coefficient @ coefficient / 200

    assert logistic(features, outcome) == pytest.approx(minimize(loss, np.zeros(3), tol=1e-12).x, abs=1e-5)


def test_separable_pairs_stay_finite() -> None:
    found = logistic(np.array([[1.0], [2.0]]), np.array([1.0, 1.0]))
    assert 0 < found[0] < 30


def test_the_one_step_bootstrap_is_the_whole_one() -> None:
    """Its standard error against fitting every draw anew."""
    draw = np.random.default_rng(3)
    length = draw.normal(size=400)
    features = np.stack([np.ones(400), np.tanh(length)], axis=1)
    outcome = (draw.random(400) < expit(0.8 + 0.6 * features[:, 1])).astype(float)
    cluster = np.repeat(np.arange(200), 2)
    found = first_probability(features, outcome, cluster)
    fitted = []
    for _ in range(400):
        rows = (2 * draw.integers(0, 200, 200)[:, None] + np.arange(2)).ravel()
        fitted.append(expit(logistic(features[rows], outcome[rows])[0]))
    low, high = np.quantile(fitted, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.015)
    assert found.high == pytest.approx(high, abs=0.015)


def test_the_interval_holds_the_truth() -> None:
    """40 data sets with pairs of a prompt alike: about 95% of them."""
    held = 0
    for seed in range(40):
        draw = np.random.default_rng(seed)
        gap = np.repeat(draw.normal(0, 100, size=150), 3)
        length = np.tanh(gap / np.sqrt(np.mean(gap**2)))
        right = np.repeat(draw.random(150), 3) < expit(0.9 + 0.7 * length)
        found = length_controlled(
            rows_of(np.where(right, 1.0, -1.0), 1.0, gap, np.repeat(np.arange(150), 3)), draws=400
        )["length_controlled_accuracy"]
        held += found["low"] <= expit(0.9) <= found["high"]
    assert 34 <= held <= 40


def test_turning_pairs_round_changes_no_preference() -> None:
    draw = np.random.default_rng(4)
    margin, label, gap = draw.normal(size=50), draw.random(50), draw.normal(size=50)
    _, found = values(rows_of(margin, label, gap))
    _, turned = values(rows_of(-margin, 1 - label, -gap))
    assert turned == pytest.approx(found)


@pytest.mark.parametrize("margin", [[], [1.0], [0.0, 0.0], [1.0, 2.0]])
def test_too_little_is_never_nan(margin: list[float]) -> None:
    found = length_controlled(rows_of(margin, 1.0, [5.0] * len(margin)))
    json.dumps(found, allow_nan=False)
    if not margin:
        assert found["length_controlled_accuracy"]["value"] is None
