"""The laws against curves that follow them, against scipy and lstsq, and against a bootstrap written as a loop."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy.optimize import curve_fit

from rewardsmith.errors import ConfigError
from rewardsmith.overoptimization.laws import FORMS, fit_laws, gain_of
from rewardsmith.statistics import Floats

KL_S = np.array([0.0, 0.19, 0.64, 1.2, 1.83, 2.5, 3.2])
BASE = 0.3


def pool(seed: int = 0, prompts: int = 30) -> tuple[Floats, Floats, Floats]:
    """A noisy curve whose KL differs between prompts."""
    rng = np.random.default_rng(seed)
    kl_PS = KL_S * rng.uniform(0.7, 1.0, (prompts, 1))
    base_P = rng.normal(BASE, 0.2, prompts)
    gold_PS = base_P[:, None] + gain_of("bon", np.sqrt(kl_PS), 0.4, 0.2) + rng.normal(0, 0.1, kl_PS.shape)
    gold_PS[:, 0] = base_P
    return kl_PS, gold_PS, base_P


def row(form: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    [found] = [row for row in rows if row["form"] == form]
    return found


def loop_fit(form: str, kl_S: Floats, gain_S: Floats) -> tuple[Floats, float, float]:
    """(alpha, beta), R^2 and peak KL by lstsq, one curve at a time."""
    d = np.sqrt(kl_S[kl_S > 0])
    y = gain_S[kl_S > 0]
    x = np.stack([d, -(d**2) if form == "bon" else -d * np.log(d)], axis=1)
    found = np.linalg.lstsq(x, y, rcond=None)[0]
    r2 = 1 - ((y - x @ found) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    alpha, beta = found
    peak = (alpha / (2 * beta) if form == "bon" else np.exp(alpha / beta - 1)) if beta > 0 else np.inf
    return found, float(r2), float(peak**2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.2), (0.1, 0.3), (2.0, 0.01)])
def test_a_curve_that_follows_the_law_gives_it_back(form: str, alpha: float, beta: float) -> None:
    kl_PS = np.tile(KL_S, (4, 1))
    gold_PS = BASE + gain_of(form, np.sqrt(kl_PS), alpha, beta)
    found = row(form, fit_laws(kl_PS, gold_PS, np.full(4, BASE), draws=20))
    assert found["alpha"] == pytest.approx(alpha, rel=1e-8)
    assert found["beta"] == pytest.approx(beta, rel=1e-8)
    assert found["r2"] == pytest.approx(1, abs=1e-12)
    assert (found["n_points"], found["n_excluded"], found["n_prompts"]) == (6, 1, 4)
    assert found["extrapolation"]["rmse"] < 1e-10
    assert found["extrapolation"]["r2"] == pytest.approx(1, abs=1e-9)
    # The peak, looked for on a grid.
    d = np.linspace(1e-6, max(10.0, 1.1 * found["peak_d"]), 200_001)
    gain = gain_of(form, d, alpha, beta)
    if found["peak_d"] < 1e6:
        assert d[gain.argmax()] == pytest.approx(found["peak_d"], abs=2 * (d[1] - d[0]))
        assert gain.max() == pytest.approx(found["gain_at_peak"], rel=1e-6)
    assert found["peak_kl"] == pytest.approx(found["peak_d"] ** 2)
    assert found["peak_within"] == (found["peak_kl"] <= KL_S[-1])


@pytest.mark.parametrize("form", FORMS)
def test_fit_agrees_with_scipy(form: str) -> None:
    kl_PS, gold_PS, base_P = pool()
    found = row(form, fit_laws(kl_PS, gold_PS, base_P, draws=0))
    kl_S, gain_S = kl_PS.mean(0)[1:], (gold_PS - base_P[:, None]).mean(0)[1:]
    expected, _ = curve_fit(lambda d, a, b: gain_of(form, d, a, b), np.sqrt(kl_S), gain_S)
    assert [found["alpha"], found["beta"]] == pytest.approx(list(expected), rel=1e-6)
    assert found["r2"] == pytest.approx(loop_fit(form, kl_S, gain_S)[1], rel=1e-9)
    assert found["alpha_interval"] == {"value": found["alpha"], "low": None, "high": None}


@pytest.mark.parametrize("form", FORMS)
def test_intervals_agree_with_a_loop(form: str) -> None:
    kl_PS, gold_PS, base_P = pool(prompts=25)
    found = row(form, fit_laws(kl_PS, gold_PS, base_P, draws=4000, seed=1))
    rng = np.random.default_rng(2)
    draws = []
    for _ in range(4000):
        at = rng.integers(0, 25, 25)
        (alpha, beta), r2, peak = loop_fit(form, kl_PS[at].mean(0), (gold_PS - base_P[:, None])[at].mean(0))
        draws.append([alpha, beta, r2, peak])
    for key, drawn in zip(("alpha", "beta", "r2", "peak_kl"), np.array(draws).T, strict=True):
        low, high = np.quantile(drawn, [0.025, 0.975])
        found_low, found_high = (found[f"{key}_interval"][end] for end in ("low", "high"))
        assert found_low == pytest.approx(low, abs=0.12 * (high - low)), key
        assert found_high == pytest.approx(high, abs=0.12 * (high - low)), key
    assert found["peak_share"] == 1.0


def test_a_peak_at_infinity_leaves_the_interval_open() -> None:
    rng = np.random.default_rng(0)
    kl_PS = np.tile(KL_S, (20, 1))
    base_P = np.zeros(20)
    gold_PS = gain_of("bon", np.sqrt(kl_PS), 0.4, 0.02) + rng.normal(0, 0.3, (20, 1)) * kl_PS
    found = row("bon", fit_laws(kl_PS, gold_PS, base_P, draws=500))
    assert 0.2 < found["peak_share"] < 0.975
    assert found["peak_kl_interval"]["low"] is not None
    assert found["peak_kl_interval"]["high"] is None
    assert all(found[f"{key}_interval"][end] is not None for key in ("alpha", "beta") for end in ("low", "high"))


def test_a_rising_and_a_falling_curve_have_no_peak_and_one_at_the_start() -> None:
    kl_PS = np.tile(KL_S, (3, 1))
    rising = row("bon", fit_laws(kl_PS, kl_PS, np.zeros(3), draws=10))
    assert rising["peak_kl"] is rising["peak_d"] is rising["gain_at_peak"] is None
    assert "no peak" in rising["reason"]
    falling = row("bon", fit_laws(kl_PS, -np.sqrt(kl_PS) - kl_PS, np.zeros(3), draws=10))
    assert falling["peak_kl"] == falling["gain_at_peak"] == 0.0
    assert falling["reason"] is None


def test_extrapolation_predicts_what_it_has_not_seen() -> None:
    kl_PS, gold_PS, base_P = pool()
    kl_S, gain_S = kl_PS.mean(0), (gold_PS - base_P[:, None]).mean(0)
    found = row("rl", fit_laws(kl_PS, gold_PS, base_P, fit_until=float(kl_S[4]), draws=200))["extrapolation"]
    assert (found["n_fitted"], found["n_held_out"]) == (4, 2)
    (alpha, beta), _, _ = loop_fit("rl", kl_S[:5], gain_S[:5])
    error = gain_of("rl", np.sqrt(kl_S[5:]), alpha, beta) - gain_S[5:]
    assert found["rmse"] == pytest.approx(np.sqrt((error**2).mean()))
    assert found["largest_error"] == pytest.approx(np.abs(error).max())
    still = gain_S[4] - gain_S[5:]
    assert found["constant"]["rmse"] == pytest.approx(np.sqrt((still**2).mean()))
    assert found["rmse_less_constant"]["value"] == pytest.approx(found["rmse"] - found["constant"]["rmse"])
    assert found["rmse_less_constant"]["low"] < found["rmse_less_constant"]["high"]
    by_default = row("rl", fit_laws(kl_PS, gold_PS, base_P, draws=0))["extrapolation"]
    assert by_default["fit_until"] == pytest.approx(kl_S[-1] / 2)
    assert by_default["n_fitted"] == 3


def test_prompts_that_lack_a_strength_are_left_out_of_it() -> None:
    kl_PS, gold_PS, base_P = pool()
    kl_PS[:10, -1] = np.nan
    gold_PS[:10, -1] = np.nan
    found = row("bon", fit_laws(kl_PS, gold_PS, base_P, draws=50))
    kl_S, gain_S = np.nanmean(kl_PS, 0), np.nanmean(gold_PS - base_P[:, None], 0)
    assert found["alpha"] == pytest.approx(loop_fit("bon", kl_S, gain_S)[0][0])
    kl_PS[:, -1] = np.nan
    assert row("bon", fit_laws(kl_PS, gold_PS, base_P, draws=5))["n_excluded"] == 2


@pytest.mark.parametrize(
    ("kl_S", "gold_S", "reason"),
    [
        ([0.0, 0.0], [0.1, 0.1], "no point lies away"),
        ([], [], "no point lies away"),
        ([0.0, 1.0], [0.1, 0.3], "one point"),
        ([1.0, 1.0, 1.0], [0.1, 0.2, 0.3], "the same KL"),
        ([2.0, 2.0, 2.0], [0.1, 0.2, 0.3], "the same KL"),
        ([0.5, 2.0], [0.1, 0.2], "two points"),
        ([0.5, 1.0, 2.0], [0.1, 0.1, 0.1], "gold is the same"),
        ([0.5, 1.0, 2.0], [0.0, 0.0, 0.0], "gold is the same"),
    ],
)
def test_what_cannot_be_fitted_is_null_with_a_reason(kl_S: list[float], gold_S: list[float], reason: str) -> None:
    kl_PS, gold_PS = np.tile(kl_S, (5, 1)), np.tile(gold_S, (5, 1))
    base_P = np.full(5, 0.1 if reason != "gold is the same" else 0.0)
    for found in fit_laws(kl_PS, gold_PS, base_P, draws=20):
        assert reason in found["reason"]
        assert found["r2"] is None
        json.dumps(found, allow_nan=False)
        if "two points" not in reason and "gold is" not in reason:
            assert found["alpha"] is found["beta"] is found["peak_kl"] is None


def test_few_prompts_and_odd_shapes() -> None:
    kl_PS, gold_PS, base_P = pool(prompts=1)
    [found, _] = fit_laws(kl_PS, gold_PS, base_P)
    assert found["alpha"] is not None
    assert found["alpha_interval"]["low"] is None
    assert found["peak_share"] is None
    json.dumps(fit_laws(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0)), allow_nan=False)
    with pytest.raises(ConfigError, match="do not fit"):
        fit_laws(kl_PS, gold_PS[:, 1:], base_P)
    with pytest.raises(ConfigError, match="no law"):
        gain_of("gao", 1.0, 1.0, 1.0)


def test_same_seed_same_numbers_in_any_order_of_points() -> None:
    kl_PS, gold_PS, base_P = pool()
    first = fit_laws(kl_PS, gold_PS, base_P, draws=100, seed=3)
    assert first == fit_laws(kl_PS, gold_PS, base_P, draws=100, seed=3)
    turned = fit_laws(kl_PS[:, ::-1], gold_PS[:, ::-1], base_P, draws=100, seed=3)
    assert [row["alpha"] for row in turned] == pytest.approx([row["alpha"] for row in first])
