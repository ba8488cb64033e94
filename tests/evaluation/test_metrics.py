"""Every metric on a small case worked by hand, and the bootstrap on simulated clusters."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from rewardsmith.evaluation.metrics import (
    Interval,
    accuracy,
    brier,
    calibration_error_by_chance,
    clustered_bootstrap,
    clustered_mean,
    expected_calibration_error,
    is_correct,
    length_matched,
    log_loss,
    longer_wins,
    rank_correlation_within_prompt,
)

unhurried = settings(deadline=None, max_examples=50)  # a busy machine is no failure
pairs = st.lists(st.tuples(st.floats(-40, 40), st.floats(0, 1)), min_size=1, max_size=40)


# Intervals -----------------------------------------------------------------------------------------


def test_nothing_and_one_cluster_have_no_interval() -> None:
    assert clustered_mean([], []) == Interval(None, None, None)
    assert clustered_mean([1, 0, 1, 1], ["a"] * 4) == Interval(0.75, None, None)
    assert Interval(0.5).to_json() == {"value": 0.5, "low": None, "high": None}


def test_weighted_mean() -> None:
    assert clustered_mean([1, 0], [0, 1], [3, 1]).value == pytest.approx(0.75)


def test_equal_rows_have_an_interval_of_no_width() -> None:
    assert clustered_mean([1, 1, 1], [0, 1, 2]) == Interval(1.0, 1.0, 1.0)


def test_order_of_rows_and_names_of_clusters_play_no_part() -> None:
    rng = np.random.default_rng(0)
    values, clusters = rng.normal(size=60), rng.integers(0, 20, 60)
    shuffled = rng.permutation(60)
    found = clustered_mean(values, clusters)
    again = clustered_mean(values[shuffled], [f"prompt {99 - c}" for c in clusters[shuffled]])
    assert [found.value, found.low, found.high] == pytest.approx([again.value, again.low, again.high], abs=0.02)
    assert clustered_mean(values, clusters) == found
    assert clustered_mean(values, clusters, seed=1) != found


def test_counting_kinds_of_cluster_is_the_plain_bootstrap() -> None:
    """Clusters drawn one at a time give the same interval, up to the draws' own noise."""
    rng = np.random.default_rng(1)
    correct, n = rng.binomial(4, 0.6, 80), np.full(80, 4)
    drawn = rng.integers(0, 80, size=(20_000, 80))
    plain = np.quantile(correct[drawn].sum(1) / n[drawn].sum(1), [0.025, 0.975])
    found = clustered_bootstrap(np.stack([correct, n], 1), np.arange(80), draws=20_000)
    assert [found.low, found.high] == pytest.approx(plain.tolist(), abs=0.005)


def test_any_statistic_of_sums() -> None:
    """A difference of two ratios, with draws that leave one of them undefined."""
    rows = [[1, 2, 0, 0], [0, 0, 1, 1], [2, 2, 0, 0], [0, 0, 0, 1]]

    def difference(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3])

    found = clustered_bootstrap(rows, range(4), difference)
    assert found.value == pytest.approx(3 / 4 - 1 / 2)
    assert found.low is not None
    assert found.low == pytest.approx(-0.5)


def test_a_statistic_that_is_never_defined_is_none() -> None:
    assert clustered_mean([1, 1], [0, 1], [0, 0]) == Interval(None)


def holds(interval: Interval, truth: float) -> bool:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low <= truth <= interval.high


def test_coverage_on_clustered_data() -> None:
    """The clustered interval holds the truth about 95% of the time; one that ignores clusters does not."""
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(60), 5)
    clustered = naive = 0
    for trial in range(200):
        p = rng.beta(1.0, 1.0, size=60)  # pairs of a prompt go together; the mean is one half
        values = rng.random(300) < p[clusters]
        kept = clustered_mean(values, clusters, draws=400, seed=trial)
        plain = clustered_mean(values, np.arange(300), draws=400, seed=trial)
        clustered += holds(kept, 0.5)
        naive += holds(plain, 0.5)
    assert 0.89 <= clustered / 200 <= 0.99
    assert naive / 200 < 0.87


# Accuracy ------------------------------------------------------------------------------------------


def test_accuracy_by_hand() -> None:
    margin = [2.0, -1.0, 0.0, 0.5, 3.0, 0.0]
    probability = [1.0, 1.0, 0.8, 0.2, 0.5, 0.5]  # right, wrong, score tie, wrong, two label ties
    found = accuracy(margin, probability, [0, 0, 1, 1, 2, 2])
    assert found.interval.value == pytest.approx(1 / 4)
    assert (found.n, found.score_ties, found.label_ties) == (4, 1, 2)


def test_a_constant_scorer_gets_nothing() -> None:
    found = accuracy(np.zeros(3), np.ones(3), np.arange(3))
    assert (found.interval, found.score_ties) == (Interval(0.0, 0.0, 0.0), 3)


def test_accuracy_of_nothing() -> None:
    found = accuracy([], [], [])
    assert (found.interval, found.n) == (Interval(None), 0)
    assert accuracy([1.0], [0.5], [0]).interval == Interval(None)


@given(pairs)
@unhurried
def test_turning_pairs_round_changes_nothing(rows: list[tuple[float, float]]) -> None:
    margin, probability = np.array(rows).T
    assert is_correct(margin, probability).tolist() == is_correct(-margin, 1 - probability).tolist()
    assert log_loss(margin, probability) == pytest.approx(log_loss(-margin, 1 - probability))
    assert brier(margin, probability) == pytest.approx(brier(-margin, 1 - probability))
    found = expected_calibration_error(margin, probability)
    assert found == pytest.approx(expected_calibration_error(-margin, 1 - probability))


# Calibration ---------------------------------------------------------------------------------------


def test_log_loss_and_brier_by_hand() -> None:
    margin = math.log(3)  # sigmoid = 0.75
    assert log_loss([margin], [1.0]).tolist() == pytest.approx([-math.log(0.75)])
    assert log_loss([margin], [0.6]).tolist() == pytest.approx([-0.6 * math.log(0.75) - 0.4 * math.log(0.25)])
    assert log_loss([0.0], [1.0]).tolist() == pytest.approx([math.log(2)])
    assert log_loss([-1e4, 1e4], [1.0, 1.0]).tolist() == [1e4, 0.0]
    assert brier([margin, 0.0, margin], [1.0, 1.0, 0.75]).tolist() == pytest.approx([0.0625, 0.25, 0])


def test_a_soft_label_is_least_at_its_entropy() -> None:
    p = 0.7
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    grid = log_loss(np.linspace(-5, 5, 10_001), np.full(10_001, p))
    assert grid.min() == pytest.approx(entropy, abs=1e-6)


def test_calibration_error_by_hand() -> None:
    a, b = math.log(3), math.log(9)  # confidence 0.75 and 0.9
    margin, probability = [a, a, -a, -a, b, b], [1, 1, 1, 0, 1, 0.5]
    # Bin of 0.75: right, right, wrong, right = 0.75, no gap. Bin of 0.9: right and a label tie = 0.75.
    assert expected_calibration_error(margin, probability, n_bins=2) == pytest.approx(2 / 6 * 0.15)
    assert expected_calibration_error([], []) is None
    assert expected_calibration_error([a], [1]) == pytest.approx(0.25)
    assert expected_calibration_error([0.0, 0.0], [1, 0]) == pytest.approx(0)


def test_bins_have_equal_mass() -> None:
    """Twenty distinct confidences in ten bins of two, against the plain loop."""
    margin = np.linspace(0.1, 4, 20)
    probability = np.random.default_rng(3).integers(0, 2, 20)
    confidence = 1 / (1 + np.exp(-margin))
    bins = np.split(np.arange(20), 10)
    expected = sum(abs(confidence[b].mean() - probability[b].mean()) * 2 / 20 for b in bins)
    assert expected_calibration_error(margin, probability) == pytest.approx(expected)


def test_a_calibrated_scorer_has_a_small_error_and_an_overconfident_one_has_not() -> None:
    rng = np.random.default_rng(4)
    margin = rng.normal(0, 2, 20_000)
    label = (rng.random(20_000) < 1 / (1 + np.exp(-margin))).astype(float)
    good, bad = expected_calibration_error(margin, label), expected_calibration_error(3 * margin, label)
    assert good is not None
    assert bad is not None
    assert good < 0.015
    assert bad > 0.08


@given(pairs, st.randoms(use_true_random=False))
@unhurried
def test_order_of_rows_plays_no_part_in_calibration(rows: list[tuple[float, float]], random: object) -> None:
    rows = [(round(m), p) for m, p in rows]  # many equal confidences
    shuffled = rows.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = (expected_calibration_error(*np.array(r).T) for r in (rows, shuffled))
    assert first == pytest.approx(second)


# Length --------------------------------------------------------------------------------------------


def test_length_matched() -> None:
    assert length_matched([100, 100, 100, 0, 5], [90, 110, 89, 0, 6]).tolist() == [
        True,
        True,
        False,
        True,
        False,
    ]
    assert length_matched([100], [89], tolerance=0.11).tolist() == [True]


def test_longer_wins() -> None:
    assert longer_wins([5, 2, 3, 2], [1, 4, 3, 4], [1.0, 0.9, 1.0, 0.1]).tolist() == [1, 0, 0.5, 1]


def test_rank_correlation_by_hand() -> None:
    rewards = [1, 2, 3, 9, 8, 5, 5, 7, 1]
    lengths = [10, 20, 30, 1, 2, 4, 4, 6, 3]
    prompts = ["a", "a", "a", "b", "b", "constant", "constant", "one", "c"]
    found = rank_correlation_within_prompt(rewards, lengths, prompts)
    assert found.within.value == pytest.approx((1 - 1) / 2)
    assert found.n_prompts == 2
    assert found.pooled == pytest.approx(spearmanr(rewards, lengths).statistic)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30))
@unhurried
def test_rank_correlation_is_scipys_prompt_by_prompt(rows: list[tuple[int, int, int]]) -> None:
    prompts, rewards, lengths = np.array(rows).T
    defined = [
        spearmanr(rewards[prompts == p], lengths[prompts == p]).statistic
        for p in set(prompts.tolist())
        if len(set(rewards[prompts == p])) > 1 and len(set(lengths[prompts == p])) > 1
    ]
    found = rank_correlation_within_prompt(rewards, lengths, prompts, draws=10)
    assert found.n_prompts == len(defined)
    assert found.within.value == (pytest.approx(np.mean(defined), abs=1e-12) if defined else None)


def test_rank_correlation_of_too_little() -> None:
    for rewards in ([], [1.0], [1.0, 1.0]):
        found = rank_correlation_within_prompt(rewards, rewards, [0] * len(rewards))
        assert (found.within, found.n_prompts, found.pooled) == (Interval(None), 0, None)


def test_the_calibration_error_of_chance_is_that_of_a_binomial():
    """Equal confidences share one bin, whose error is |share right - p|: half-normal, 1.96 standard errors at 95%."""
    p, n = 0.8, 500
    margin = np.full(n, np.log(p / (1 - p)))
    wanted = 1.96 * np.sqrt(p * (1 - p) / n)
    assert calibration_error_by_chance(margin, draws=4000) == pytest.approx(wanted, rel=0.08)
    assert calibration_error_by_chance(-margin, draws=4000) == calibration_error_by_chance(margin, draws=4000)
    assert calibration_error_by_chance([]) is None
