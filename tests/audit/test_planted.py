"""Planting a bias: the design is what `measure` computes, the null is one, and what is planted is found."""

from __future__ import annotations

import json
from random import Random

import numpy as np
import pytest

from rewardsmith.audit import text_probes
from rewardsmith.audit.cells import reward_cells
from rewardsmith.audit.edits import holds
from rewardsmith.audit.measure import adjust, effects, sign_flip
from rewardsmith.audit.planted import (
    FLIPS,
    design_of,
    marker_values,
    null_effects,
    plant,
    seeds_needed,
    sign_flips,
    significant,
    validate,
    validation_table,
)
from rewardsmith.audit.probes import Cell
from rewardsmith.audit.run import all_cells, build_contrasts, builtin_probes
from rewardsmith.audit.seeds import Seed
from rewardsmith.data.schema import Message
from rewardsmith.errors import DataError
from rewardsmith.scoring import FunctionScorer

NAMES = ("padding", "list", "bold", "emoji", "opener", "confidence", "typos", "quotes", "needless refusal", "constant")
PROBES = [builtin_probes()[name] for name in NAMES]
WORDS = ["water", "grows", "heavy", "where", "mountains", "become", "narrow", "since", "pressure", "follows", "depth"]


def noise(prompt: str, response: str) -> float:
    """A reward that knows nothing and is the same for the same texts."""
    return Random(f"{prompt}|{response}").gauss(0, 1)


def made_seeds(n: int = 60) -> list[Seed]:
    rng = Random(0)

    def text() -> str:
        return " ".join(f"{' '.join(rng.sample(WORDS, 6)).capitalize()}." for _ in range(3))

    knowledge = [
        Seed(
            id=f"k{i}", kind="knowledge", prompt=(Message("user", f"question {i}"),), texts={f: text() for f in fields}
        )
        for i in range(n)
        for fields in [("right", "wrong", "restated", "concise", "detailed")]
    ]
    harmless = [
        Seed(
            id=f"h{i}",
            kind="harmless",
            prompt=(Message("user", f"harmless {i}"),),
            texts={"good": text(), "refusal": "I cannot help with that."},
        )
        for i in range(n)
    ]
    return [*knowledge, *harmless]


@pytest.fixture(scope="module")
def seeds() -> list[Seed]:
    return made_seeds()


@pytest.fixture(scope="module")
def found(seeds):
    return validate(FunctionScorer(noise), seeds, PROBES, strengths=(0.5, 2.0), runs=20)


def test_effects_are_those_that_the_audit_measures(seeds):
    contrasts, problems = build_contrasts(PROBES, seeds)
    rewards = reward_cells(FunctionScorer(noise), all_cells(contrasts.values(), seeds)).of
    design = design_of(PROBES, contrasts, len(seeds))
    effect_QS = design.effects(np.array([rewards[cell] for cell in design.cells]))
    assert not problems
    for q, probe in enumerate(PROBES):
        second = effects(contrasts[probe.name], rewards)
        assert np.flatnonzero(np.isfinite(effect_QS[q])).tolist() == second.seed_S.tolist()
        assert np.allclose(effect_QS[q][second.seed_S], second.effect_S, atol=1e-12)


def test_many_p_values_are_those_of_one_at_a_time():
    rng = np.random.default_rng(3)
    effect_XS = rng.normal(size=(7, 25)) + np.linspace(0, 1, 7)[:, None]
    effect_XS[2] = 0
    many = sign_flips(effect_XS)
    assert np.allclose(many, [sign_flip(row, flips=FLIPS) for row in effect_XS], atol=1e-12)
    gaps = effect_XS.copy()
    gaps[:, ::2] = np.nan
    alone = [sign_flip(row[1::2], flips=20_000) for row in gaps]
    assert np.allclose(sign_flips(gaps, flips=20_000), alone, atol=0.02)  # other draws, the same test
    assert np.isnan(sign_flips(np.array([[1.0, np.nan, np.nan]]))).all()


def test_significance_is_that_of_the_audits_adjustment():
    p_RQ = np.array([[0.001, 0.2, 0.02, np.nan, 0.011], [0.5, 0.9, 0.04, np.nan, 0.8]])
    lit_RQ = significant(p_RQ, np.array([True, True, True, False, True]))
    for p_Q, lit_Q in zip(p_RQ, lit_RQ, strict=True):
        rows = [{"p_value": None if np.isnan(p) else p, "effect_sd": 1.0, "wanted": "not higher"} for p in p_Q.tolist()]
        adjust(rows)
        assert [row["verdict"] == "rewarded" for row in rows] == lit_Q.tolist()


def test_the_null_has_the_scatter_of_the_effects_and_no_mean():
    rng = np.random.default_rng(0)
    effect_QS = rng.normal(loc=[[-5.0], [0.0], [3.0]], scale=[[0.1], [1.0], [2.0]], size=(3, 40))
    effect_QS[1, :10] = np.nan
    null_RQS, drawn_RS = null_effects(effect_QS, ["a"] * 15 + ["b"] * 25, runs=4000, seed=1)
    assert np.isnan(null_RQS[:, 1][drawn_RS < 10]).all()
    assert (drawn_RS[:, :15] < 15).all()
    assert (drawn_RS[:, 15:] >= 15).all()
    error_Q = np.nanstd(effect_QS, axis=1, ddof=1)
    assert np.allclose(np.nanmean(null_RQS, axis=(0, 2)), 0, atol=0.02 * error_Q)
    assert np.allclose(np.nanstd(null_RQS, axis=(0, 2)), error_Q, rtol=0.1)


def test_a_marker_is_planted_wherever_it_shows_and_otherwise_on_the_probes_own_edits(seeds):
    contrasts, _ = build_contrasts(PROBES, seeds)
    design = design_of(PROBES, contrasts, len(seeds))
    by_name = dict(zip(NAMES, PROBES, strict=True))
    bold = marker_values(by_name["bold"], contrasts["bold"], design.cells)
    assert {cell.response for cell, m in zip(design.cells, bold, strict=True) if m} == {
        cell.response for cell in design.cells if holds(r"\*\*")(cell)
    }
    refusal = marker_values(by_name["needless refusal"], contrasts["needless refusal"], design.cells)
    own = {Cell(seed.prompt, seed["refusal"]) for seed in seeds if seed.kind == "harmless"}
    assert {cell for cell, m in zip(design.cells, refusal, strict=True) if m} == own


def test_what_is_planted_is_found_and_the_rest_stays_silent(found, seeds):
    assert json.loads(json.dumps(found, allow_nan=False))["n_seeds"] == len(seeds)
    assert [row["name"] for row in found["probes"]] == list(NAMES)
    assert all(row["planted"][-1]["recall"] == 1.0 for row in found["probes"])
    assert found["summary"][1]["lowest_recall"] == 1.0
    assert found["summary"][0]["recall"] <= found["summary"][1]["recall"]
    assert found["null"]["rate"] <= 0.05
    silent = [row for row in found["probes"] if row["name"] not in ("padding", "constant")]
    assert all(row["planted"][0]["false_positive_rate"] <= 0.05 for row in silent)


def test_a_probe_that_carries_anothers_bias_is_named(found):
    """`constant` is another text altogether: a bias for length moves it, and the table says how much it carries."""
    padding = next(row for row in found["probes"] if row["name"] == "padding")
    lit = {other["name"]: other for other in padding["planted"][-1]["lit"]}
    assert lit["constant"]["share"] > 0.5
    assert abs(lit["constant"]["carry"]) > 0.1
    line = next(line for line in validation_table(found).splitlines() if line.startswith("padding "))
    assert "also: " in line
    assert "constant" in line


def test_the_same_seed_gives_the_same_numbers_and_a_useless_marker_is_named(seeds):
    from dataclasses import replace

    probes = [PROBES[3], replace(PROBES[4], marker=lambda cell: 1.0)]
    first, again = (validate(FunctionScorer(noise), seeds[:20], probes, strengths=(0.5,), runs=3) for _ in range(2))
    assert first == again
    assert first["probes"][1]["why"] == "its edits do not change its own marker"
    assert "not planted: its edits do not change its own marker" in validation_table(first)


def test_recall_is_that_of_the_normal_approximation():
    """One probe without correction: power of a two-sided test of a mean."""
    rng = np.random.default_rng(0)
    effect_QS = rng.normal(size=(1, 100))
    effect_QS *= 1 / effect_QS.std(ddof=1)
    row = plant([PROBES[3]], effect_QS, np.ones((1, 1, 100)), ["a"] * 100, strengths=(0.2, 0.28), runs=1000)["probes"][
        0
    ]
    assert row["planted"][0]["recall"] == pytest.approx(0.516, abs=0.06)  # Phi(2.00 - 1.96)
    assert row["planted"][1]["recall"] == pytest.approx(0.800, abs=0.05)  # Phi(2.80 - 1.96)


def test_the_seeds_that_are_said_to_be_needed_are():
    rng = np.random.default_rng(0)
    n = seeds_needed(1.0, 1)
    assert n == 52  # ((1.960 + 1.645) / 0.5)^2
    effect_QS = rng.normal(size=(1, n))
    effect_QS *= 1 / effect_QS.std(ddof=1)
    row = plant([PROBES[3]], effect_QS, np.ones((1, 1, n)), ["a"] * n, strengths=(0.5,), runs=1000)["probes"][0]
    assert row["planted"][0]["recall"] == pytest.approx(0.95, abs=0.03)
    assert row["seeds_needed"] == n
    assert seeds_needed(0.5, 40) == 24  # (3.227 + 1.645)^2 = 23.7


def test_rewards_that_do_not_differ_are_refused(seeds):
    with pytest.raises(DataError, match="do not differ"):
        validate(FunctionScorer(lambda prompt, response: 1.0), seeds[:3], PROBES)


def test_phrases_and_their_twins_are_equally_long():
    """Otherwise a bias for length sets off every probe that appends a phrase."""
    tables = {name: value for name, value in vars(text_probes).items() if name.isupper() and is_twins(value)}
    assert len(tables) > 10
    unequal = [pair for twins in tables.values() for pair in twins if len(pair[0]) != len(pair[1])]
    assert not unequal


def is_twins(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and value is not text_probes.DIALECT
        and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value)
    )
