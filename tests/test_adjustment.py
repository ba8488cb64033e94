"""Adjusted rewards: length is found and taken out, bounds hold and keep the order, and rows show them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from rewardsmith.adjustment import (
    AdjustedScorer,
    Adjustment,
    Bound,
    Length,
    characters,
    fit_bound,
    fit_length,
    of_artifact,
)
from rewardsmith.data.schema import Group, Message
from rewardsmith.errors import DataError, ModelError
from rewardsmith.scoring import ROW_KEYS, FunctionScorer, Reading, rows_of_group

RNG = np.random.default_rng(0)
LINES = Length(0.5, np.log1p(100.0), (4.0, 6.0), (0.25, -1.0))


def pairs(n, f, seed=0):
    """(margins, labels, lengths of both sides): the reward gap is 1 for the better side, plus f's gap, plus noise."""
    rng = np.random.default_rng(seed)
    chosen_P, rejected_P = (np.exp(rng.normal(5, 1, n)).round() for _ in range(2))
    margin_P = 1.0 + f(chosen_P) - f(rejected_P) + rng.normal(0, 0.5, n)
    return margin_P, np.ones(n), chosen_P, rejected_P


def test_a_planted_slope_is_found_and_none_is_made_up():
    planted = fit_length(*pairs(300, lambda x: 0.8 * np.log1p(x)))
    assert planted.slope == pytest.approx(0.8, abs=0.1)
    assert planted.knots == ()
    assert fit_length(*pairs(300, lambda x: 0 * x)).slope == pytest.approx(0, abs=0.1)


def test_a_planted_curve_is_found():
    def curve(x):
        return np.minimum(np.log1p(x), 5.0)

    found = fit_length(*pairs(5000, curve))
    at = np.array([30.0, 60.0, 150.0, 400.0, 1000.0])
    gap = np.diff(found(at)) - np.diff(curve(at))
    assert np.abs(gap).max() < 0.12
    assert len(found.knots) == 3


def test_what_longer_answers_earn_by_being_better_is_left_to_them():
    """Rewards that follow the label and never look at length, where the better answer is usually longer."""
    rng = np.random.default_rng(1)
    n = 4000
    long_P, short_P = np.exp(rng.normal(6, 0.5, n)), np.exp(rng.normal(5, 0.5, n))
    right_P = rng.random(n) < 0.8
    label_P = np.where(right_P, 1.0, 0.0)
    margin_P = 2.0 * (2 * label_P - 1) + rng.normal(0, 0.3, n)
    found = fit_length(margin_P, label_P, long_P, short_P)
    assert abs(found(600)[()] - found(100)[()]) < 0.1
    without = np.polyfit(np.log1p(long_P) - np.log1p(short_P), margin_P, 1)[0]
    assert abs(without) + np.mean(margin_P) > 1, "without the label, length would get the credit"


def test_f_is_its_definition_and_zero_at_the_median():
    assert LINES(100.0) == pytest.approx(0)
    slope = (LINES(np.expm1(5.0)) - LINES(np.expm1(4.5))) / 0.5
    assert slope == pytest.approx(0.75)
    far = (LINES(np.expm1(9.0)) - LINES(np.expm1(8.0))) / 1.0
    assert far == pytest.approx(-0.25), "straight on beyond the last knot"


def test_a_share_of_f_is_as_much_lower():
    at = np.array([0.0, 30.0, 100.0, 3000.0])
    np.testing.assert_allclose(LINES.times(0.25)(at), 0.25 * LINES(at), atol=1e-12)


@pytest.mark.parametrize("temperature", [2.0, None, float("inf")])
@pytest.mark.parametrize("name", ["sigmoid", "tanh", "clip"])
def test_bounds_hold_and_keep_the_order(name, temperature):
    rewards_R = RNG.normal(3, 5, 500)
    bound = fit_bound(name, rewards_R, temperature)
    far = np.concatenate([np.sort(rewards_R), [1e3, 1e6]])
    values = bound(far)
    assert np.all(np.diff(values) >= 0)
    low, high = {"sigmoid": (0, 1), "tanh": (-1, 1), "clip": (bound.low, bound.high)}[name]
    assert low <= values.min()
    assert values.max() <= high
    if name == "sigmoid":
        assert bound(np.median(rewards_R)) == pytest.approx(0.5)
        r = rewards_R[0]
        assert bound(r) == pytest.approx(1 / (1 + np.exp(-(r - bound.centre) / bound.scale)))
    assert bound.scale == (2.0 if temperature == 2.0 else pytest.approx(rewards_R.std()))


def test_length_comes_out_before_the_bound():
    adjustment = Adjustment(LINES, Bound("tanh", 0.0, 1.0, -1, 1))
    rewards_K, characters_K = np.array([1.0, 2.0]), np.array([50.0, 900.0])
    np.testing.assert_allclose(
        adjustment(rewards_K, characters_K), np.tanh((rewards_K - LINES(characters_K)) / 2), atol=1e-12
    )
    np.testing.assert_array_equal(Adjustment()(rewards_K, characters_K), rewards_K)


def test_an_adjustment_survives_the_artifact():
    import json

    adjustment = Adjustment(LINES, fit_bound("clip", [1.0, 2.0, 3.0], None))
    assert of_artifact({"adjustment": json.loads(json.dumps(adjustment.to_json()))}) == adjustment
    assert of_artifact({}) is None
    assert of_artifact({"adjustment": None}) is None
    with pytest.raises(ModelError, match="run calibrate again"):
        of_artifact({"adjustment": {"length": {"slope": 1.0}}})


def test_what_cannot_be_fitted_is_said():
    with pytest.raises(DataError, match="3 pairs are too few"):
        fit_length(*(column[:3] for column in pairs(10, np.log1p)))
    ones = np.ones(30)
    with pytest.raises(DataError, match="equally long"):
        fit_length(ones, ones, ones, ones)
    with pytest.raises(DataError, match="all rewards are the same"):
        fit_bound("tanh", [1.0, 1.0], None)


def test_rows_show_adjusted_rewards_beside_plain_ones():
    group = Group(
        prompt=(Message("user", "q"),),
        responses=((Message("assistant", "short"),), (Message("assistant", "long " * 80),)),
    )
    plain = FunctionScorer(lambda prompt, response: float(len(response)))
    adjustment = Adjustment(LINES)
    expected = adjustment([5.0, 400.0], characters(group))
    rows = rows_of_group(group, AdjustedScorer(plain, adjustment).score([group])[0])
    assert [row["reward"] for row in rows] == [5.0, 400.0]
    assert [row["adjusted"] for row in rows] == pytest.approx(expected.tolist())
    assert "adjusted" in ROW_KEYS
    assert "adjusted" not in rows_of_group(group, plain.score([group])[0])[0]
    [instead] = AdjustedScorer(plain, adjustment, instead=True).score([group])
    np.testing.assert_array_equal(instead.rewards, expected)
    assert AdjustedScorer(plain, adjustment).function is plain.function


def test_an_ensemble_is_adjusted_by_its_aggregate():
    answers = tuple((Message("assistant", "x" * n),) for n in (5, 400))
    group = Group(prompt=(Message("user", "q"),), responses=answers)
    plain = Reading(aggregate="mean-var").scores(np.array([[1.0, 2.0], [3.0, 7.0]]))
    [found] = AdjustedScorer(SimpleNamespace(score=lambda groups: [plain]), Adjustment(LINES)).score([group])
    np.testing.assert_allclose(found.adjusted, plain.rewards - LINES(characters(group)))
    assert found.members is plain.members
    assert found.std is plain.std
