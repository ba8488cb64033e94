"""Temperature against a grid, bins against the calibration error, Brier's parts against the score itself."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardsmith.errors import ConfigError, DataError
from rewardsmith.evaluation import metrics
from rewardsmith.evaluation.calibration import (
    BrierParts,
    Temperature,
    brier_parts,
    calibrated,
    calibration_report,
    fit_temperature,
    length_slices,
    reliability,
)
from rewardsmith.evaluation.evaluate import PairRows

unhurried = settings(deadline=None, max_examples=50)
# Margins on a lattice, so that ties of both kinds and equal confidences are common.
margins, labels = st.integers(-30, 30).map(lambda i: i / 4), st.sampled_from([0.0, 0.2, 0.5, 0.75, 1.0])
pairs = st.lists(st.tuples(margins, labels), min_size=1, max_size=40)
LOG3 = math.log(3)  # sigmoid = 0.75


def simulated(n: int = 2000, scale: float = 3.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Margins `scale` times too large, and labels."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 1.5, n)
    return scale * true, (rng.random(n) < 1 / (1 + np.exp(-true))).astype(float)


def rows_of(margin: Any, probability: Any, prompt: Any = None, chosen: Any = None, rejected: Any = None) -> PairRows:
    n = len(margin)
    return PairRows(
        margin_P=np.array(margin, float),
        probability_P=np.array(probability, float),
        prompt_P=np.arange(n) if prompt is None else np.array(prompt),
        group_P=np.arange(n),
        chosen_length_P=np.full(n, 10.0) if chosen is None else np.array(chosen, float),
        rejected_length_P=np.full(n, 10.0) if rejected is None else np.array(rejected, float),
    )


# Temperature ---------------------------------------------------------------------------------------


def test_temperature_by_hand() -> None:
    """Right three times out of four at a margin of 2: sigmoid(2 / T) = 3/4."""
    found = fit_temperature([2, 2, -2, -2], [1, 1, 0, 1])
    assert (found.status, found.n) == ("fitted", 4)
    assert found.value == pytest.approx(2 / LOG3, rel=1e-12)
    soft = fit_temperature([2.0], [0.75])
    assert soft.value == pytest.approx(2 / LOG3, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-9, 0.3, 1.0, 3.0, 1e9])
def test_temperature_against_a_grid(scale: float) -> None:
    margin, probability = simulated(400, scale)
    grid = scale * np.exp(np.linspace(-2, 2, 4001))
    losses = [metrics.log_loss(margin / t, probability).mean() for t in grid]
    found = fit_temperature(margin, probability)
    assert found.value == pytest.approx(grid[np.argmin(losses)], rel=1e-3)
    assert metrics.log_loss(margin / found.value, probability).mean() <= min(losses)


def test_temperature_finds_the_scale() -> None:
    assert fit_temperature(*simulated(20_000, 3.0)).value == pytest.approx(3.0, rel=0.05)


@pytest.mark.parametrize(
    ("margin", "probability", "status", "value"),
    [
        ([], [], "empty", None),
        ([0, 0], [1, 0], "constant", None),
        ([1, 2, -3], [1, 1, 0], "separable", None),
        ([1, 0], [1, 0], "separable", None),  # a score tie has no say
        ([1, 1e-8, -1e-10], [1, 1, 1], "separable", None),  # wrong by nothing
        ([1, 2], [0, 0], "uninformative", math.inf),
        ([1, 1], [1, 0], "uninformative", math.inf),
        ([0.1, 0.1, 0.1], [0.5, 0.5, 0.5], "uninformative", math.inf),
    ],
)
def test_why_there_is_no_temperature(
    margin: list[float], probability: list[float], status: str, value: float | None
) -> None:
    found = fit_temperature(margin, probability)
    assert found == Temperature(value, status, len(margin))  # type: ignore[arg-type]
    assert found.to_json()["value"] is None
    if value is None:
        with pytest.raises(DataError, match=status):
            calibrated([1.0], found)
    else:
        assert calibrated([1.0, -9.0], found).tolist() == [0.5, 0.5]


def test_separable_but_for_one_soft_label() -> None:
    found = fit_temperature([1, 2, 3], [1, 1, 0.99])
    assert found.status == "fitted"


@given(pairs, st.randoms(use_true_random=False), st.sampled_from([0.125, 7.0]))
@unhurried
def test_temperature_keeps_its_symmetries(rows: list[tuple[float, float]], random: Any, scale: float) -> None:
    """Turned round, in another order, twice each: the same. In other units: T in those."""
    margin, probability = np.array(rows).T
    first = fit_temperature(margin, probability)
    shuffled = rows.copy()
    random.shuffle(shuffled)
    for again, unit in (
        (fit_temperature(-margin, 1 - probability), 1.0),
        (fit_temperature(*np.array(shuffled).T), 1.0),
        (fit_temperature(np.tile(margin, 2), np.tile(probability, 2)), 1.0),
        (fit_temperature(scale * margin, probability), scale),
    ):
        assert again.status == first.status
        assert again.value == (None if first.value is None else pytest.approx(unit * first.value, rel=1e-8))


def test_calibrated() -> None:
    assert calibrated([[2 * LOG3, 0.0]], 2.0).tolist() == [[pytest.approx(0.75), 0.5]]
    assert calibrated(LOG3, Temperature(1.0, "fitted", 9)) == pytest.approx(0.75)
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="not positive"):
            calibrated([1.0], wrong)


# Bins ----------------------------------------------------------------------------------------------


def test_reliability_by_hand() -> None:
    a, b = LOG3, math.log(9)  # confidence 0.75 and 0.9
    found = reliability([a, a, -a, -a, b, b], [1, 1, 1, 0, 1, 0.5], [0, 1, 2, 3, 4, 5], n_bins=2)
    assert [x.n for x in found] == [4, 2]
    assert [x.confidence for x in found] == pytest.approx([0.75, 0.9])
    assert [x.correctness.value for x in found] == [0.75, 0.75]
    assert (found[1].low, found[1].high) == (pytest.approx(0.9), pytest.approx(0.9))
    assert found[0].correctness.low is not None
    assert reliability([], [], []) == []


@given(pairs, st.integers(1, 12))
@unhurried
def test_bins_are_those_of_the_calibration_error(rows: list[tuple[float, float]], n_bins: int) -> None:
    margin, probability = np.array(rows).T
    found = reliability(margin, probability, np.arange(len(rows)), n_bins, draws=5)
    assert sum(x.n for x in found) == len(rows)
    assert len(found) <= n_bins
    error = sum(x.n * abs(x.confidence - (x.correctness.value or 0)) for x in found) / len(rows)
    assert error == pytest.approx(metrics.expected_calibration_error(margin, probability, n_bins), abs=1e-12)


def test_intervals_of_bins_go_by_cluster() -> None:
    margin, probability = np.tile(np.linspace(0.1, 3, 40), 10), np.repeat(np.tile([1.0, 0.0], 20), 10)
    by_pair = reliability(margin, probability, np.arange(400), n_bins=1)[0].correctness
    by_prompt = reliability(margin, probability, np.repeat(np.arange(40), 10), n_bins=1)[0].correctness
    assert by_pair.value == by_prompt.value == 0.5
    widths = [(x.high or 0) - (x.low or 0) for x in (by_pair, by_prompt)]
    assert widths[1] > 2.5 * widths[0]


# Brier's parts -------------------------------------------------------------------------------------


@given(pairs, st.integers(1, 12))
@unhurried
def test_parts_add_up_to_the_brier_score(rows: list[tuple[float, float]], n_bins: int) -> None:
    margin, probability = np.array(rows).T
    found, turned = brier_parts(margin, probability, n_bins), brier_parts(-margin, 1 - probability, n_bins)
    assert found is not None
    assert turned is not None
    assert found.brier == pytest.approx(metrics.brier(margin, probability).mean(), abs=1e-14)
    assert vars(found) == pytest.approx(vars(turned), abs=1e-14)
    assert min(found.reliability, found.resolution, found.uncertainty) >= -1e-15


def test_parts_by_hand() -> None:
    """Two confidences, each in a bin of its own: nothing is hidden within bins."""
    a, b = LOG3, math.log(9)
    found = brier_parts([a] * 4 + [-b] * 4, [1, 1, 0, 0, 0, 0, 0, 0], n_bins=2)
    assert found == BrierParts(
        reliability=pytest.approx((0.25**2 + 0.1**2) / 2),
        resolution=pytest.approx(0.25**2),
        uncertainty=pytest.approx(0.75 * 0.25),
        within_bins=pytest.approx(0),
    )
    assert brier_parts([], []) is None


def test_a_score_tie_counts_half_from_either_side() -> None:
    assert brier_parts([0.0], [1.0]) == BrierParts(0.0, 0.0, 0.25, 0.0)
    assert brier_parts([0.0, LOG3], [1.0, 1.0], n_bins=1) == BrierParts(
        reliability=pytest.approx(0.125**2),
        resolution=pytest.approx(0),
        uncertainty=pytest.approx(0.75 * 0.25),
        within_bins=pytest.approx(0.125**2 - 2 * 0.125 * 0.25),
    )


# Report --------------------------------------------------------------------------------------------


def test_report() -> None:
    margin, probability = simulated(600)
    rng = np.random.default_rng(1)
    rows = rows_of(margin, probability, np.arange(600) // 3, rng.integers(5, 90, 600), rng.integers(5, 90, 600))
    masks = {"even": np.arange(600) % 2 == 0, "nothing": np.zeros(600, bool)}
    found = json.loads(json.dumps(calibration_report(rows, masks, draws=100), allow_nan=False))
    assert (found["n_pairs"], found["n_prompts"], found["score_ties"], found["label_ties"]) == (600, 200, 0, 0)
    assert found["temperature"] == {
        "value": fit_temperature(margin, probability).value, "status": "fitted", "n": 600, "fitted_here": True
    }  # fmt: skip
    for key in ("nll", "brier", "ece"):
        assert found["after"][key] < found["before"][key]
    assert found["before"]["overconfidence"]["low"] > 0.05
    assert abs(found["after"]["overconfidence"]["value"]) < 0.05
    assert found["before"]["nll"] == pytest.approx(metrics.log_loss(margin, probability).mean())
    parts = found["after"]["brier_parts"]
    total = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within_bins"]
    assert total == pytest.approx(found["after"]["brier"])
    assert sum(b["n"] for b in found["before"]["bins"]) == 600
    even, nothing = found["slices"]
    assert (even["slice"], even["n"], even["n_prompts"], even["temperature"]["status"]) == ("even", 300, 200, "fitted")
    assert even["before"]["brier"] == pytest.approx(metrics.brier(margin[::2], probability[::2]).mean())
    nowhere = {"nll": None, "brier": None, "ece": None, "overconfidence": {"value": None, "low": None, "high": None}}
    assert nothing == {
        "slice": "nothing", "n": 0, "n_prompts": 0, "temperature": {"value": None, "status": "empty", "n": 0},
        "before": nowhere, "after": nowhere,
    }  # fmt: skip


def test_a_temperature_from_elsewhere() -> None:
    margin, probability = simulated(300)
    rows = rows_of(margin, probability)
    given_here = calibration_report(rows, temperature=2.0, draws=20)
    assert given_here["temperature"] == {"value": 2.0, "status": "given", "n": None, "fitted_here": False}
    assert given_here["after"]["nll"] == pytest.approx(metrics.log_loss(margin / 2, probability).mean())
    fitted = fit_temperature(*simulated(300, seed=9))
    found = calibration_report(rows, temperature=fitted, draws=20)
    assert found["temperature"] == {**fitted.to_json(), "fitted_here": False}
    with pytest.raises(ConfigError, match="not positive"):
        calibration_report(rows, temperature=0.0)


@pytest.mark.parametrize(
    ("margin", "probability", "status", "nll"),
    [
        ([], [], "empty", None),
        ([0, 0], [1, 1], "constant", None),
        ([1, 2], [1, 1], "separable", None),
        ([1, 2], [0, 0], "uninformative", math.log(2)),
    ],
)
def test_report_where_the_data_cannot_say(margin: Any, probability: Any, status: str, nll: float | None) -> None:
    found = calibration_report(rows_of(margin, probability), {"all": np.ones(len(margin), bool)}, draws=20)
    json.dumps(found, allow_nan=False)
    assert (found["temperature"]["status"], found["temperature"]["value"]) == (status, None)
    assert found["after"]["nll"] == (None if nll is None else pytest.approx(nll))
    if nll is None:
        assert (found["after"]["brier_parts"], found["after"]["bins"]) == (None, [])


def test_length_slices_by_hand() -> None:
    rows = rows_of(
        [1, -1, 1, 0, 2, 1], [1, 1, 1, 1, 0.5, 0.2], None, [10, 50, 0, 8, 30, 90], [5, 100, 0, 10, 27, 100]
    )  # gaps 0.5, 0.5, 0, 0.2, 0.1, 0.1
    found = {name: np.flatnonzero(mask).tolist() for name, mask in length_slices(rows).items()}
    assert found == {
        "length gap, lowest third": [2, 4, 5],
        "length gap, middle third": [3],
        "length gap, highest third": [0, 1],
        "scorer prefers the longer": [0, 1, 4],
        "scorer prefers the shorter": [5],
        "equal lengths or a score tie": [2, 3],
        "chosen is longer": [0, 5],
        "chosen is shorter": [1, 3],
        "equal lengths or a label tie": [2, 4],
    }
    with pytest.raises(DataError, match="length"):
        length_slices(rows_of([1], [1], None, [math.nan], [1]))


@given(pairs, st.data())
@unhurried
def test_every_way_to_cut_by_length_holds_every_row_once(rows: list[tuple[float, float]], data: st.DataObject) -> None:
    lengths = st.lists(st.integers(0, 4), min_size=len(rows), max_size=len(rows))
    a, b = data.draw(lengths), data.draw(lengths)
    margin, probability = np.array(rows).T
    found = list(length_slices(rows_of(margin, probability, None, a, b)).values())
    turned = list(length_slices(rows_of(-margin, 1 - probability, None, b, a)).values())
    assert np.array_equal(found, turned)
    assert np.array_equal(np.add.reduceat(np.array(found, int), [0, 3, 6]), np.ones((3, len(rows))))


# Bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("margin", "probability", "message"),
    [
        ([1, math.nan], [1, 1], "pair 1: the margin"),
        ([math.inf], [1], "pair 0: the margin"),
        ([None], [1], "pair 0: the margin"),
        ([1, 1], [1, 1.01], "pair 1: the probability"),
        ([1], [math.nan], "pair 0: the probability"),
        ([1, 2], [1], "shape"),
        ([[1.0]], [[1.0]], "shape"),
        (["a"], [1], "not one number"),
    ],
)
def test_what_cannot_be_used_is_named(margin: Any, probability: Any, message: str) -> None:
    for function in (fit_temperature, brier_parts, lambda m, p: reliability(m, p, np.zeros(len(m)))):
        with pytest.raises(DataError, match=message):
            function(margin, probability)


def test_bad_options() -> None:
    with pytest.raises(ConfigError, match="n_bins"):
        reliability([1.0], [1.0], [0], n_bins=0)
    with pytest.raises(DataError, match="clusters"):
        reliability([1.0], [1.0], [0, 1])
    for mask in ([True], [0, 1], ["a", "b"]):
        with pytest.raises(DataError, match="slice 'x'"):
            calibration_report(rows_of([1, 2], [1, 1]), {"x": mask}, draws=5)
    with pytest.raises(DataError, match="pair 1"):
        calibration_report(rows_of([1, math.nan], [1, 1]))
