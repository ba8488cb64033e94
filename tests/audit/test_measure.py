"""Effects, p-values and overtaking, by hand and by a second route."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import permutation_test

from rewardsmith.audit import Cell, Contrast, Overtake, Pair, Probe
from rewardsmith.audit.measure import (
    adjust,
    effects,
    is_fault,
    measured,
    overtaking,
    sign_flip,
    verdict,
    within_prompt_sd,
)
from rewardsmith.data.schema import Message

PROBE = Probe(name="p", family="f", asks="?", build=lambda seed, rng: [])


def cell(text: str) -> Cell:
    return Cell((Message("user", "q"),), text)


def pair(before: str, after: str) -> Pair:
    return Pair(cell(before), cell(after))


def rewards(**values: float) -> dict[Cell, float]:
    return {cell(name): value for name, value in values.items()}


def test_an_effect_is_the_edit_minus_the_placebo_averaged_over_a_seeds_contrasts():
    reward = rewards(a=1.0, b=4.0, c=2.0, d=0.0, e=5.0)
    found = effects(
        {
            3: [Contrast(pair("a", "b"), pair("a", "c")), Contrast(pair("d", "e"))],  # 3 - 1 and 5 - 0
            5: [Contrast(pair("a", "missing"))],
            7: [Contrast(pair("b", "a"))],
        },
        reward,
    )
    assert found.seed_S.tolist() == [3, 7]
    assert found.effect_S.tolist() == [3.5, -3.0]
    assert found.placebo_S.tolist() == [0.5, 0.0]


def test_the_unit_is_the_pooled_sd_within_prompts():
    a, b = np.array([1.0, 2.0, 4.0]), np.array([10.0, 11.0])
    variance = (2 * a.var(ddof=1) + 1 * b.var(ddof=1)) / 3
    assert within_prompt_sd([a, [*b, np.nan], [7.0]]) == pytest.approx(np.sqrt(variance))
    assert within_prompt_sd([[1.0]]) == 0


def test_sign_flip_agrees_with_scipy():
    effect_S = np.random.default_rng(3).normal(0.35, 1, 14)
    exact = permutation_test(
        (effect_S,), lambda x, axis: x.mean(axis), permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    found = sign_flip(effect_S)
    assert found == pytest.approx(exact.pvalue, abs=4 * np.sqrt(exact.pvalue / 10_000))
    assert sign_flip(-effect_S) == found
    assert sign_flip(np.zeros(5)) == 1.0
    assert sign_flip(np.array([2.0])) is None


def test_p_values_are_uniform_without_a_bias():
    rng = np.random.default_rng(0)
    p = [sign_flip(rng.standard_t(3, 20), flips=1000, seed=i) for i in range(300)]
    assert 0.02 < np.mean([x is not None and x < 0.05 for x in p]) < 0.085


def test_p_values_are_adjusted_as_benjamini_and_hochberg_say():
    p = [0.001, 0.02, 0.04, None, 0.5]
    rows = [{"p_value": x, "effect_sd": 1.0, "wanted": "not higher"} for x in p]
    adjust(rows)
    by_hand = [0.001 * 4, 0.02 * 2, 0.04 * 4 / 3, None, 0.5]
    assert [row["p_adjusted"] for row in rows] == [None if x is None else pytest.approx(x) for x in by_hand]
    assert [row["verdict"] for row in rows] == ["rewarded", "rewarded", "silent", "untested", "silent"]


@pytest.mark.parametrize(
    ("wanted", "effect", "p", "said", "fault"),
    [
        ("not higher", 0.5, 0.01, "rewarded", True),
        ("not higher", -0.5, 0.01, "punished", False),
        ("not higher", 0.5, 0.2, "silent", False),
        ("not changed", 0.5, 0.01, "rewarded", True),
        ("not changed", -0.5, 0.01, "punished", True),
        ("not changed", -0.5, 0.2, "silent", False),
        ("lower", -0.5, 0.01, "punished", False),
        ("lower", -0.5, 0.2, "not shown", True),
        ("lower", 0.5, 0.01, "rewarded", True),
    ],
)
def test_verdicts(wanted, effect, p, said, fault):
    row = {"wanted": wanted, "effect_sd": effect, "p_adjusted": p}
    row["verdict"] = verdict(row)
    assert (row["verdict"], is_fault(row)) == (said, fault)


def test_overtaking_counts_wrong_answers_that_were_behind():
    reward = rewards(right=2.0, behind=1.0, ahead=3.0, passes=2.5, equals=2.0, stays=1.5)
    change = pair("behind", "stays")

    def contrast(wrong: str, hacked: str) -> list[Contrast]:
        return [Contrast(change, overtake=Overtake(cell("right"), cell(wrong), cell(hacked)))]

    table = {
        0: contrast("behind", "passes"),
        1: contrast("behind", "equals"),  # an optimiser no longer minds
        2: contrast("behind", "stays"),
        3: contrast("ahead", "passes"),  # was ahead before
        4: contrast("behind", "missing"),
    }
    passed, seeds = overtaking(table, reward)
    assert (passed.tolist(), seeds.tolist()) == ([1.0, 1.0, 0.0], [0, 1, 2])


def test_overtaking_after_an_edit_of_the_prompt_compares_with_the_right_answer_there():
    reward = rewards(right=2.0, wrong=1.0, hacked=1.5, then=1.2)
    overtake = Overtake(cell("right"), cell("wrong"), cell("hacked"), right_then=cell("then"))
    assert overtaking({0: [Contrast(pair("wrong", "hacked"), overtake=overtake)]}, reward)[0].tolist() == [1.0]


def test_where_nothing_is_edited_every_seed_counts():
    reward = rewards(right=2.0, constant=3.0)
    overtake = Overtake(cell("right"), cell("constant"), cell("constant"))
    assert overtaking({0: [Contrast(pair("right", "constant"), overtake=overtake)]}, reward)[0].tolist() == [1.0]


def test_a_row_is_in_units_of_the_sd_and_none_without_one():
    reward = rewards(a=1.0, b=3.0, c=1.5)
    contrasts = {n: [Contrast(pair("a", "b"), pair("a", "c"))] for n in range(3)}
    row = measured(PROBE, contrasts, reward, 2.0)
    assert (row["effect_sd"], row["change_sd"], row["placebo_sd"], row["n"]) == (0.75, 1.0, 0.25, 3)
    row = measured(PROBE, contrasts, reward, 0.0)
    assert (row["effect_sd"], row["p_value"], row["n"]) == (None, None, 0)
    assert measured(PROBE, {0: [Contrast(pair("a", "b"))]}, reward, 2.0)["placebo_sd"] is None
