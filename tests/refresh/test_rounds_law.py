"""What the laws say of k rounds: the closed forms, and a world in which the law is true."""

from __future__ import annotations

import numpy as np
import pytest

from rewardsmith.overoptimization.laws import fit_draws, fit_laws, gain_of
from rewardsmith.refresh.rounds_law import gain_of_rounds
from rewardsmith.refresh.simulate import Plan, simulate
from tests.refresh.test_simulate import world


@pytest.mark.parametrize("k", [1, 2, 5])
def test_k_rounds_are_the_closed_forms(k):
    d, alpha, beta = 1.3, 0.7, 0.4
    assert gain_of_rounds("bon", d, k, alpha, beta) == pytest.approx(d * (alpha - beta * d / k))
    want = d * (alpha - beta * np.log(d) + beta * np.log(k))
    assert gain_of_rounds("rl", d, k, alpha, beta) == pytest.approx(want)
    step = sum(gain_of("rl", d / k, alpha, beta) for _ in range(k))
    assert gain_of_rounds("rl", d, k, alpha, beta) == pytest.approx(step)


def test_the_best_of_k_rounds_is_k_times_as_far_and_as_high():
    alpha, beta = 0.7, 0.4
    d = np.linspace(0.01, 8, 4000)
    for k in (1, 3):
        gain = [gain_of_rounds("bon", x, k, alpha, beta) for x in d]
        assert d[np.argmax(gain)] == pytest.approx(k * alpha / (2 * beta), abs=0.01)
        assert max(gain) == pytest.approx(k * alpha**2 / (4 * beta), abs=1e-4)


@pytest.mark.parametrize("form", ["bon", "rl"])
def test_draws_of_a_fit_are_those_of_the_table(form):
    rng = np.random.default_rng(0)
    d_S = np.linspace(0.2, 1.5, 6)
    gold_PS = 0.3 + gain_of(form, d_S, 0.5, 0.2) + rng.normal(0, 0.1, (30, 6))
    base_P, kl_PS = np.full(30, 0.3), np.tile(d_S**2, (30, 1))
    alpha_D, beta_D = fit_draws(form, kl_PS, gold_PS, base_P, draws=200)
    row = next(row for row in fit_laws(kl_PS, gold_PS, base_P, draws=200) if row["form"] == form)
    assert (alpha_D[0], beta_D[0]) == pytest.approx((row["alpha"], row["beta"]))
    assert len(alpha_D) == 201
    assert np.quantile(alpha_D[1:], 0.025) == pytest.approx(row["alpha_interval"]["low"], abs=0.01)


def test_predictions_are_the_laws_of_the_table():
    result = simulate(*world(80, 12), Plan(budget=60, rounds=3, seeds=2, penalties=(3.0,)), draws=50)
    laws = {(law["of"], law["form"]): law for law in result["laws"]}
    assert len(result["predictions"]) == 2 * 5 * 3
    for row in result["predictions"]:
        law = laws[row["strategy"], row["form"]]
        k = 1 if row["strategy"] == "fixed" else row["round"]
        want = gain_of_rounds(row["form"], np.sqrt(row["kl"]), k, law["alpha"], law["beta"])
        assert row["predicted"]["value"] == pytest.approx(want)
        assert row["predicted"]["low"] < row["predicted"]["value"] < row["predicted"]["high"]
        strategy = next(of for of in result["strategies"] if of["strategy"] == row["strategy"])
        assert row["measured"]["value"] == pytest.approx(strategy["rounds"][row["round"] - 1]["gain"]["value"])
