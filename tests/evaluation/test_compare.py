"""Two scorers on cases worked by hand, against brute force over all signs, and with the names exchanged."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, false_discovery_control

from rewardsmith.errors import ConfigError, DataError
from rewardsmith.evaluation.compare import (
    FEWEST,
    benjamini_hochberg,
    compare_rows,
    disagreements,
    mcnemar,
    paired_difference,
    sign_flip_test,
    smallest_detectable,
)
from rewardsmith.evaluation.evaluate import PairRows

unhurried = settings(deadline=None, max_examples=30)
# Of each pair: margin of A, margin of B, label, prompt, whether it is in the slice.
compared = st.lists(
    st.tuples(
        st.integers(-3, 3), st.integers(-3, 3), st.sampled_from([0.0, 0.5, 0.8, 1.0]), st.integers(0, 6), st.booleans()
    ),
    min_size=1,
    max_size=30,
)


def rows_of(margin: Any, probability: Any, prompt: Any) -> PairRows:
    n = len(margin)
    columns = (np.array(x, float) for x in (margin, probability))
    return PairRows(*columns, np.array(prompt, np.int64), np.arange(n), np.ones(n), np.ones(n))


def both(rows: Any) -> tuple[PairRows, PairRows, dict[str, np.ndarray]]:
    a, b, label, prompt, inside = zip(*rows)
    return rows_of(a, label, prompt), rows_of(b, label, prompt), {"in": np.array(inside), "out": ~np.array(inside)}


def simulated(n_prompts: int, per_prompt: int, seed: int = 0, better: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Differences of right and wrong that go together within a prompt."""
    rng = np.random.default_rng(seed)
    lean = rng.normal(better, 1.0, n_prompts)[:, None] + rng.normal(0, 1, (n_prompts, per_prompt))
    return (np.sign(lean) * (np.abs(lean) > 1.5)).ravel(), np.repeat(np.arange(n_prompts), per_prompt)


# By hand -------------------------------------------------------------------------------------------


def test_by_hand() -> None:
    label, prompt = [1, 1, 1, 0.8, 0.1, 0.5, 1, 1], [0, 0, 1, 1, 2, 2, 3, 4]
    a = [1, 1, 1, 1, -1, 1, 0, 1]  # right but for a score tie at 6
    b = [-1, 1, 0, -1, 1, 1, 1, 1]  # wrong at 0, 3, 4 and by a score tie at 2
    found = compare_rows(rows_of(a, label, prompt), rows_of(b, label, prompt), {"first": np.arange(8) < 4})
    json.dumps(found, allow_nan=False)
    assert (found["n_pairs"], found["n_prompts"], found["label_ties"]) == (8, 5, 1)
    assert found["a"]["accuracy"]["value"] == pytest.approx(6 / 7)
    assert found["b"]["accuracy"]["value"] == pytest.approx(3 / 7)
    assert (found["a"]["score_ties"], found["b"]["score_ties"]) == (1, 1)
    assert found["discordant"] == {"only_a": 4, "only_b": 1}
    assert found["difference"]["value"] == pytest.approx(3 / 7)
    assert found["mcnemar_p"] == pytest.approx(12 / 32)  # 0, 1, 4 or 5 heads of five
    # Sums by prompt: 1, 2, 1, -1, 0. Of 16 signs, |sum| is at least 3 for 5 and 3: 1 + 3 each side.
    assert found["p_value"] == pytest.approx(8 / 16)
    assert found["smallest_detectable"] is None  # five prompts
    (part,) = found["slices"]
    assert (part["slice"], part["n"]) == ("first", 4)
    assert part["difference"] == pytest.approx(3 / 4)
    assert part["p_value"] == part["p_adjusted"] == pytest.approx(2 / 4)  # sums 1 and 2


def test_the_promised_keys() -> None:
    found = compare_rows(rows_of([1], [1], [0]), rows_of([1], [1], [0]), {"s": np.array([True])})
    assert set(found) == {
        "n_pairs", "n_prompts", "label_ties", "a", "b", "difference", "p_value", "mcnemar_p", "smallest_detectable",
        "discordant", "slices",
    }  # fmt: skip
    assert set(found["a"]) == set(found["b"]) == {"accuracy", "score_ties"}
    assert set(found["slices"][0]) == {"slice", "n", "difference", "low", "high", "p_value", "p_adjusted"}


def test_nothing_to_compare() -> None:
    ties = rows_of([1, 2], [0.5, 0.5], [0, 1])
    for rows in (rows_of([], [], []), ties):
        found = compare_rows(rows, rows, {"none": np.zeros(len(rows), bool)})
        json.dumps(found, allow_nan=False)
        assert found["difference"] == {"value": None, "low": None, "high": None}
        assert found["p_value"] is found["mcnemar_p"] is found["smallest_detectable"] is None
        assert found["slices"][0]["p_value"] is found["slices"][0]["p_adjusted"] is None


def test_an_empty_slice_is_no_test() -> None:
    """Adjusted over the slices that have pairs."""
    difference, prompt = simulated(60, 2, better=0.6)
    a, b = rows_of(difference, np.ones(120), prompt), rows_of(-difference, np.ones(120), prompt)
    masks = {"none": np.zeros(120, bool), "half": np.arange(120) < 60, "rest": np.arange(120) >= 60}
    none, half, rest = compare_rows(a, b, masks)["slices"]
    assert (none["n"], none["p_adjusted"]) == (0, None)
    expected = false_discovery_control([half["p_value"], rest["p_value"]])
    assert [half["p_adjusted"], rest["p_adjusted"]] == pytest.approx(expected)


# Properties ----------------------------------------------------------------------------------------


@given(compared)
@unhurried
def test_exchanging_the_names_negates_the_difference(rows: Any) -> None:
    a, b, masks = both(rows)
    first, second = compare_rows(a, b, masks, draws=5), compare_rows(b, a, masks, draws=5)
    for key in ("p_value", "mcnemar_p", "smallest_detectable"):
        assert first[key] == (None if second[key] is None else pytest.approx(second[key]))
    assert (first["a"], first["b"]) == (second["b"], second["a"])
    assert first["discordant"] == {
        "only_a": second["discordant"]["only_b"], "only_b": second["discordant"]["only_a"]
    }  # fmt: skip
    for one, other in [(first["difference"], second["difference"])] + [
        ({"value": s["difference"]}, {"value": t["difference"]}) for s, t in zip(first["slices"], second["slices"])
    ]:
        assert one["value"] == (None if other["value"] is None else pytest.approx(-other["value"]))
    for one, other in zip(first["slices"], second["slices"]):
        assert one["p_adjusted"] == (None if other["p_adjusted"] is None else pytest.approx(other["p_adjusted"]))


@given(compared, st.integers(0, 2**30 - 1))
@unhurried
def test_turning_pairs_round_changes_nothing(rows: Any, which: int) -> None:
    a, b, masks = both(rows)
    turned = np.array([bool(which >> i & 1) for i in range(len(a))])

    def round_(rows: PairRows) -> PairRows:
        margin, label = np.where(turned, -rows.margin_P, rows.margin_P), rows.probability_P
        return replace(rows, margin_P=margin, probability_P=np.where(turned, 1 - label, label))

    assert compare_rows(round_(a), round_(b), masks, draws=5) == compare_rows(a, b, masks, draws=5)
    assert disagreements(round_(a), round_(b)).tolist() == disagreements(a, b).tolist()


def test_swapped_interval_is_the_mirror_image() -> None:
    difference, prompt = simulated(200, 3)
    first, second = paired_difference(difference, prompt), paired_difference(-difference, prompt)
    assert (first.low, first.high) == (pytest.approx(-second.high, abs=0.01), pytest.approx(-second.low, abs=0.01))


# The sign-flip test --------------------------------------------------------------------------------


def brute_force(sums: list[int]) -> float:
    """The share of all 2^C signs whose |sum| is at least the one found."""
    totals = [abs(sum(s * d for s, d in zip(signs, sums))) for signs in itertools.product([-1, 1], repeat=len(sums))]
    return sum(total >= abs(sum(sums)) for total in totals) / len(totals)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
@unhurried
def test_sign_flips_by_brute_force(sums: list[int]) -> None:
    prompt = np.repeat(np.arange(len(sums)), [max(1, abs(d)) for d in sums])
    difference = np.concatenate([np.full(max(1, abs(d)), np.sign(d)) for d in sums])
    assert sign_flip_test(difference, prompt) == pytest.approx(brute_force(sums))


def test_sign_flips_by_drawing_them() -> None:
    """Too many prompts to enumerate: (k + 1) / (n + 1) over drawn signs."""
    difference, prompt = simulated(150, 4, seed=3, better=0.15)
    sums = np.bincount(prompt, weights=difference)
    signs = np.random.default_rng(0).choice([-1, 1], size=(20_000, 150))
    drawn = (1 + (np.abs(signs @ sums) >= abs(sums.sum())).sum()) / 20_001
    found = sign_flip_test(difference, prompt)
    assert found is not None
    assert 0.005 < found < 0.5
    assert found == pytest.approx(drawn, abs=0.012)


def test_one_pair_a_prompt_is_mcnemar() -> None:
    for only_a, only_b in ((0, 0), (3, 0), (9, 2), (40, 60), (700, 900)):
        difference = [1] * only_a + [-1] * only_b + [0] * 7
        assert sign_flip_test(difference, range(len(difference))) == pytest.approx(mcnemar(only_a, only_b))


def test_clustered_pairs_are_no_separate_witnesses() -> None:
    """Eight prompts of ten pairs, all for A in six and for B in two: nothing, though 60 to 20 by pair."""
    difference = np.repeat([1, 1, 1, 1, 1, 1, -1, -1], 10)
    p_value = sign_flip_test(difference, np.repeat(np.arange(8), 10))
    assert p_value == pytest.approx(2 * binom.cdf(2, 8, 0.5))
    assert mcnemar(60, 20) < 1e-4 < p_value


def test_sign_flips_of_a_large_sample_stay_exact() -> None:
    difference, prompt = simulated(20_000, 5, seed=1, better=0.02)
    sums = np.bincount(prompt, weights=difference)
    z = sums.sum() / np.sqrt(sums @ sums)
    assert sign_flip_test(difference, prompt) == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), rel=0.02)


def test_sign_flips_of_soft_verdicts_are_refused() -> None:
    with pytest.raises(DataError, match="whole numbers"):
        sign_flip_test([0.5, 1], [0, 1])


# What could be shown -------------------------------------------------------------------------------


def test_smallest_detectable_is_the_formula() -> None:
    """One pair a prompt: 2.80 standard errors of a mean."""
    difference, _ = simulated(400, 1)
    error = difference.std(ddof=1) / 20
    assert smallest_detectable(difference, np.arange(400)) == pytest.approx((1.959964 + 0.841621) * error, rel=1e-6)


def test_clusters_that_go_together_show_less() -> None:
    difference, _ = simulated(400, 1)
    whole = smallest_detectable(np.repeat(difference, 5), np.repeat(np.arange(400), 5))
    apart = smallest_detectable(np.repeat(difference, 5), np.arange(2000))
    assert whole == pytest.approx(smallest_detectable(difference, np.arange(400)))
    assert whole == pytest.approx(math.sqrt(5) * (apart or 0), rel=0.01)


def test_six_is_the_fewest_prompts_that_show_anything() -> None:
    assert (sign_flip_test([1] * (FEWEST - 1), range(FEWEST - 1)) or 0) > 0.05
    assert (sign_flip_test([1] * FEWEST, range(FEWEST)) or 1) < 0.05


@pytest.mark.parametrize("n_prompts", [6, 50, 1000])
def test_without_discordance_six_prompts_have_to_differ(n_prompts: int) -> None:
    """The share at which six or more of the prompts differ in four samples of five; pairs a prompt play no part."""
    for pairs in (1, 4):
        found = smallest_detectable(np.zeros(pairs * n_prompts), np.repeat(np.arange(n_prompts), pairs))
        assert found is not None
        assert binom.sf(FEWEST - 1, n_prompts, found) == pytest.approx(0.8)


def test_hardly_any_discordance_is_no_precision() -> None:
    """One discordant prompt of 300: 2.8 standard errors are 0.009, but nothing under six prompts can be shown."""
    found = smallest_detectable([1.0] + [0.0] * 299, range(300))
    assert binom.sf(FEWEST - 1, 300, found) == pytest.approx(0.8)


def test_too_little_to_show_anything() -> None:
    assert smallest_detectable([], []) is None
    assert smallest_detectable([0.0] * 50, [0] * 50) is None
    assert smallest_detectable([1, 0, 0, 0, 0], range(5)) is None
    assert smallest_detectable([1, -1, 1, -1, 1, -1], range(6)) is None  # 1.2 would be needed


def test_interval_without_discordance() -> None:
    """No discordant prompt of 100: the share of them is at most 3.6%, with 97.5% confidence."""
    found = paired_difference(np.zeros(200), np.repeat(np.arange(100), 2))
    assert found.value == 0
    assert found.high == pytest.approx(-(found.low or 0))
    assert binom.pmf(0, 100, found.high) == pytest.approx(0.025)
    assert paired_difference(np.zeros(3), np.zeros(3)).low is None


# Slices and disagreements --------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@unhurried
def test_benjamini_hochberg_is_scipys(p_values: list[float]) -> None:
    assert benjamini_hochberg(p_values) == pytest.approx(false_discovery_control(p_values))


def test_benjamini_hochberg_by_hand() -> None:
    assert benjamini_hochberg([0.04, 0.01, 0.9, 0.02]).tolist() == pytest.approx([0.16 / 3, 0.04, 0.9, 0.04])
    assert benjamini_hochberg([]).tolist() == []


def test_disagreements_by_hand() -> None:
    label = [1, 1, 1, 1, 0.5, 1]
    a = rows_of([1, -1, 2, 3, 9, 1], label, range(6))
    b = rows_of([-20, 10, 20, -10, -90, 0], label, range(6))  # other units; right at 1 and 2, a score tie at 5
    scale_a, scale_b = math.sqrt(97 / 6), math.sqrt((400 + 100 + 400 + 100 + 8100) / 6)
    width = [abs(x / scale_a - y / scale_b) for x, y in zip(a.margin_P, b.margin_P)]
    expected = sorted([0, 1, 3, 5], key=lambda i: -width[i])
    assert disagreements(a, b).tolist() == expected
    assert disagreements(b, a, 2).tolist() == expected[:2]
    assert disagreements(a, a).tolist() == []
    assert disagreements(a, rows_of(np.zeros(6), label, range(6))).tolist() == [3, 2, 0, 5]  # a constant scorer
    with pytest.raises(ConfigError, match="n is 0"):
        disagreements(a, b, 0)


# Bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (([1, 2], [1, 1], [0, 1]), ([1], [1], [0]), "A has 2 pairs and B 1"),
        (([1, 2], [1, 1], [0, 1]), ([1, 2], [1, 0.5], [0, 1]), r"pair 1 of A .*probability"),
        (([1, 2], [1, 1], [0, 1]), ([1, 2], [1, 1], [0, 0]), r"pair 1 of A .*prompt"),
        (([1, 2], [1, 1], [0, 1]), ([1, math.nan], [1, 1], [0, 1]), "B: pair 1: the margin"),
    ],
)
def test_rows_that_do_not_fit(a: Any, b: Any, message: str) -> None:
    for function in (compare_rows, disagreements):
        with pytest.raises(DataError, match=message):
            function(rows_of(*a), rows_of(*b))


def test_masks_that_do_not_fit() -> None:
    rows = rows_of([1, 2], [1, 1], [0, 1])
    with pytest.raises(DataError, match="slice 'odd'"):
        compare_rows(rows, rows, {"odd": np.array([True])})
