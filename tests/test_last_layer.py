"""The last layer's uncertainty: against the Hessian by finite differences, in closed form, and free of the gauge."""

from __future__ import annotations

import numpy as np
import pytest

from rewardsmith.errors import ConfigError, DataError, ModelError
from rewardsmith.last_layer import (
    FILE,
    FOLDER,
    HeadDropout,
    check_dropout,
    fit_laplace,
    read_posterior,
    write_posterior,
)

RNG = np.random.default_rng(0)
H = 4
HEAD_H = RNG.normal(size=H)
CHOSEN_PH, REJECTED_PH = RNG.normal(size=(2, 30, H))
MEAN_H = np.concatenate([CHOSEN_PH, REJECTED_PH]).mean(axis=0)
ANSWERS_KH = RNG.normal(size=(3, H))


def loss(head_H: np.ndarray, prior: float) -> float:
    """What the posterior is the curvature of: the pairs' Bradley-Terry losses and the prior's."""
    return float(np.logaddexp(0, -(CHOSEN_PH - REJECTED_PH) @ head_H).sum() + prior / 2 * head_H @ head_H)


def test_the_precision_is_the_losss_hessian():
    posterior, note = fit_laplace(CHOSEN_PH - REJECTED_PH, HEAD_H, MEAN_H, prior=0.3)
    step = 1e-4
    steps = step * np.eye(H)
    hessian = [
        [
            sum(s * t * loss(HEAD_H + s * a + t * b, 0.3) for s in (1, -1) for t in (1, -1)) / (4 * step**2)
            for b in steps
        ]
        for a in steps
    ]
    assert posterior.precision_HH == pytest.approx(np.array(hessian), abs=1e-4)
    assert note["prior_from"] == "given"
    assert 0 < note["effective_parameters"] < H


def test_std_is_that_of_the_difference_to_the_mean_answer():
    posterior, _ = fit_laplace(CHOSEN_PH - REJECTED_PH, HEAD_H, MEAN_H)
    covariance = np.linalg.inv(posterior.precision_HH)
    for answers_KH, reference in ((ANSWERS_KH, ANSWERS_KH.mean(axis=0)), (ANSWERS_KH[:1], MEAN_H)):
        wanted = [np.sqrt((h - reference) @ covariance @ (h - reference)) for h in answers_KH]
        assert posterior.std(answers_KH) == pytest.approx(wanted, rel=1e-9)
    drawn_DH = np.random.default_rng(1).multivariate_normal(HEAD_H, covariance, 40_000)
    drawn = drawn_DH @ (ANSWERS_KH - ANSWERS_KH.mean(axis=0)).T
    assert posterior.std(ANSWERS_KH) == pytest.approx(drawn.std(axis=0), rel=0.02)


def test_a_constant_feature_on_all_answers_of_a_prompt_changes_nothing():
    posterior, _ = fit_laplace(CHOSEN_PH - REJECTED_PH, HEAD_H, MEAN_H)
    per_prompt_PH = RNG.normal(size=(30, H)) * 10
    moved_PH = (CHOSEN_PH + per_prompt_PH) - (REJECTED_PH + per_prompt_PH)
    moved, _ = fit_laplace(moved_PH, HEAD_H, MEAN_H + 5)
    assert moved.precision_HH == pytest.approx(posterior.precision_HH)
    assert moved.std(ANSWERS_KH + 17) == pytest.approx(posterior.std(ANSWERS_KH))
    assert moved.std(ANSWERS_KH[:1] + 5) == pytest.approx(posterior.std(ANSWERS_KH[:1]))
    # turned pairs carry the same curvature
    turned, _ = fit_laplace(REJECTED_PH - CHOSEN_PH, HEAD_H, MEAN_H)
    assert turned.precision_HH == pytest.approx(posterior.precision_HH)


def test_far_from_the_data_it_is_less_sure_and_more_data_make_it_surer():
    posterior, _ = fit_laplace(CHOSEN_PH - REJECTED_PH, HEAD_H, MEAN_H, prior=1.0)
    more, _ = fit_laplace(np.tile(CHOSEN_PH - REJECTED_PH, (4, 1)), HEAD_H, MEAN_H, prior=1.0)
    assert (more.std(ANSWERS_KH) < posterior.std(ANSWERS_KH)).all()
    assert posterior.std(3 * ANSWERS_KH) == pytest.approx(3 * posterior.std(ANSWERS_KH))


def test_the_prior_has_the_largest_evidence():
    delta_PH = CHOSEN_PH - REJECTED_PH
    _, note = fit_laplace(delta_PH, HEAD_H, MEAN_H)
    curvature = fit_laplace(delta_PH, HEAD_H, MEAN_H, prior=1e-12)[0].precision_HH

    def evidence(prior: float) -> float:
        _, determinant = np.linalg.slogdet(curvature + prior * np.eye(H))
        return H / 2 * np.log(prior) - prior / 2 * HEAD_H @ HEAD_H - determinant / 2

    grid = np.exp(np.linspace(np.log(note["prior"]) - 3, np.log(note["prior"]) + 3, 301))
    assert max(grid, key=evidence) == pytest.approx(note["prior"], rel=0.03)


def test_dropout_has_the_closed_forms_spread_and_depends_on_the_seed_alone():
    delta_KH = ANSWERS_KH - ANSWERS_KH.mean(axis=0)
    dropout = HeadDropout(HEAD_H, n=40_000, rate=0.2, seed=3)
    wanted = np.sqrt(0.2 / 0.8 * ((HEAD_H * delta_KH) ** 2).sum(axis=1))
    assert dropout.std(ANSWERS_KH) == pytest.approx(wanted, rel=0.03)
    assert np.array_equal(dropout.std(ANSWERS_KH), HeadDropout(HEAD_H, n=40_000, rate=0.2, seed=3).std(ANSWERS_KH))
    assert not np.array_equal(HeadDropout(HEAD_H, 9, seed=1).std(ANSWERS_KH), HeadDropout(HEAD_H, 9).std(ANSWERS_KH))
    assert HeadDropout(HEAD_H, 9).std(ANSWERS_KH + 4) == pytest.approx(HeadDropout(HEAD_H, 9).std(ANSWERS_KH))


def test_the_file_gives_the_same_bits_and_a_wrong_one_is_one_line(tmp_path):
    posterior, _ = fit_laplace(CHOSEN_PH - REJECTED_PH, HEAD_H, MEAN_H)
    write_posterior(posterior, tmp_path)
    assert [f.name for f in (tmp_path / FOLDER).iterdir()] == [FILE]
    again = read_posterior(tmp_path, H)
    assert np.array_equal(again.std(ANSWERS_KH), posterior.std(ANSWERS_KH))
    with pytest.raises(ModelError, match="another size than 5"):
        read_posterior(tmp_path, 5)
    (tmp_path / FOLDER / FILE).write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="cannot be read"):
        read_posterior(tmp_path, H)
    with pytest.raises(ModelError, match="cannot be read"):
        read_posterior(tmp_path / "elsewhere", H)


def test_mistakes_are_one_line():
    with pytest.raises(DataError, match="no pair has two answers"):
        fit_laplace(np.zeros((3, H)), HEAD_H, MEAN_H)
    with pytest.raises(DataError, match="no pair has two answers"):
        fit_laplace(np.full((3, H), np.nan), HEAD_H, MEAN_H)
    with pytest.raises(ConfigError, match="--prior -1: give a number above 0"):
        fit_laplace(CHOSEN_PH, HEAD_H, MEAN_H, prior=-1)
    with pytest.raises(ConfigError, match="at least 2 passes"):
        check_dropout(1, 0.1)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        check_dropout(5, 1.0)
