"""Agreement with annotators: against the libraries, and on votes counted by hand."""

from __future__ import annotations

import math

import krippendorff
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from rewardsmith.data.schema import Group, Message, preference_between
from rewardsmith.evaluation.agreement import (
    agreement_report,
    among_annotators,
    cohen_kappa,
    full_agreement,
    krippendorff_alpha,
)


def voted(name: str, *votes: float) -> Group:
    """Two answers; votes for the first one: 1, 0, or 0.5 for a tie."""
    return Group(
        prompt=(Message("user", name),),
        responses=((Message("assistant", f"{name} a"),), (Message("assistant", f"{name} b"),)),
        preferences=(preference_between(0, 1, float(np.mean(votes)), votes=votes),),
    )


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_alpha_is_the_librarys(missing: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, (80, 1)) + (draw.random((80, 4)) < 0.3)
    labels = np.where(draw.random((80, 4)) < missing, math.nan, labels.astype(float))
    exact = krippendorff.alpha(reliability_data=labels.T, level_of_measurement="nominal")
    assert krippendorff_alpha(labels, range(80), draws=50).value == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_kappa_is_the_librarys(seed: int) -> None:
    draw = np.random.default_rng(seed)
    first = draw.integers(0, 3, 120)
    second = np.where(draw.random(120) < 0.5, first, draw.integers(0, 3, 120))
    exact = cohen_kappa_score(first, second)
    assert cohen_kappa(first, second, range(120), draws=50).value == pytest.approx(exact, abs=1e-12)


def test_votes_by_hand() -> None:
    """Scorer: first, second, first, equal. Votes: 2 of 3 with it, 1 of 1 (two ties), 0 of 2 (a tie), 0 of 3."""
    groups = [voted("a", 1, 1, 0), voted("b", 0.5, 0, 0.5), voted("c", 0, 0.5, 0), voted("d", 1, 1, 1)]
    rewards = [np.array(r) for r in ([1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [1.0, 1.0])]
    found = agreement_report(groups, rewards)
    assert found is not None
    assert (found["n_pairs"], found["n_annotators"]) == (4, 3)
    assert found["scorer_with_annotator"]["value"] == pytest.approx(3 / 9)
    # Pairs of votes that are no tie, in both orders: a 2 of 6, b none, c 2 of 2, d 6 of 6.
    assert found["annotator_with_annotator"]["value"] == pytest.approx(10 / 14)
    assert found["all_agree"]["value"] == 0.25
    labels = np.array([[1, 1, 2], [0, 2, 0], [2, 0, 2], [1, 1, 1]])
    said = [1, 2, 1, 0]
    for a in range(3):
        exact = cohen_kappa_score(labels[:, a], said)
        assert found["kappa_with_annotator"][f"annotator{a + 1}"]["value"] == pytest.approx(exact)
    alpha = krippendorff.alpha(reliability_data=labels.T, level_of_measurement="nominal")
    assert found["among"]["Krippendorff's alpha"]["value"] == pytest.approx(alpha)
    assert set(found["among"]) == {
        "kappa, annotator1 and annotator2", "kappa, annotator1 and annotator3", "kappa, annotator2 and annotator3",
        "Fleiss' kappa", "Krippendorff's alpha",
    }  # fmt: skip


def test_different_numbers_of_votes_leave_alpha() -> None:
    groups = [voted("a", 1, 1, 0), voted("b", 0, 1), voted("c", 0, 0), voted("d", 1)]
    found = agreement_report(groups, [np.array([1.0, 0.0])] * 4)
    assert found is not None
    assert found["n_pairs"] == 3  # one vote is no agreement
    assert found["kappa_with_annotator"] == {}
    assert list(found["among"]) == ["Krippendorff's alpha"]
    assert found["all_agree"]["value"] == pytest.approx(1 / 3)
    assert found["scorer_with_annotator"]["value"] == pytest.approx(3 / 7)


def test_nobody_voted() -> None:
    assert agreement_report([voted("a", 1)], [np.array([1.0, 0.0])]) is None
    assert agreement_report([], []) is None


def test_missing_labels() -> None:
    labels = np.array([[1, 1, math.nan], [1, 2, math.nan]])
    assert full_agreement(labels) == [1.0, 0.0]
    assert list(among_annotators(labels, ["a", "b", "c"], [0, 1])) == ["Krippendorff's alpha"]
