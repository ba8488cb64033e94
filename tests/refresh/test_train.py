"""Training of rounds: found again, gone on with, on one scale; each variant learns from what it says it does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rewardsmith.adjustment import AdjustedScorer, of_artifact
from rewardsmith.errors import ConfigError, DataError, TrainingError
from rewardsmith.model.meta import read_meta
from rewardsmith.refresh import anchor as anchoring
from rewardsmith.refresh.anchor import anchor
from rewardsmith.refresh.releases import digest_of, file_hashes
from rewardsmith.refresh.train import Rounds, VariantOptions, mixed, train_rounds
from rewardsmith.scorers import load_scorer
from rewardsmith.training.config import TrainConfig
from tests.refresh.tiny_policy import asked, policy, template

__all__ = ["policy", "template"]  # fixtures

REFERENCE = [asked(i) for i in range(200, 208)]
ROUNDS = Rounds(groups=[asked(i) for i in range(24)], round_G=[0] * 12 + [1] * 12, reference=REFERENCE)


def rewards(folder: str | Path, *, adjusted: bool = False) -> np.ndarray:
    scorer = load_scorer(str(folder))
    if adjusted:
        scorer = AdjustedScorer(scorer, of_artifact(read_meta(folder)), instead=True)
    return np.concatenate([scores.rewards for scores in scorer.score(REFERENCE)])


def test_trained_once_and_on_the_scale_of_the_reference(tmp_path: Path, template: TrainConfig) -> None:
    found = train_rounds(tmp_path, ROUNDS, VariantOptions(), template, quiet=True)
    assert found["trained"]
    assert found["weights"]["shares"] == {0: 0.5, 1: 0.5}
    assert rewards(found["path"]).std() == pytest.approx(1.0, abs=1e-4)
    anchored = rewards(found["path"], adjusted=True)
    assert (anchored.mean(), anchored.std()) == (pytest.approx(0.0, abs=1e-4), pytest.approx(1.0, abs=1e-4))
    meta = read_meta(found["path"])
    assert meta["normalisation"]["applied"] == "anchored"
    assert meta["normalisation"]["reference"]["mean"] == pytest.approx(rewards(found["path"]).mean(), abs=1e-4)
    assert {file.name for file in tmp_path.iterdir()} == {found["key"]}  # nothing is left beside it
    before = file_hashes(found["path"])
    again = train_rounds(tmp_path, ROUNDS, VariantOptions(), template, quiet=True)
    assert (again["trained"], again["path"], file_hashes(again["path"])) == (False, found["path"], before)
    other = train_rounds(tmp_path, ROUNDS, VariantOptions(), replace(template, seed=1), quiet=True)
    assert other["trained"]
    assert other["path"] != found["path"]


def test_killed_before_the_scale_was_taken(
    tmp_path: Path, template: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_rounds(tmp_path / "whole", ROUNDS, VariantOptions(), template, quiet=True)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(anchoring, "_scaled_meta", killed)  # in the middle of writing the anchored folder
        with pytest.raises(KeyboardInterrupt):
            train_rounds(tmp_path / "cut", ROUNDS, VariantOptions(), template, quiet=True)
    assert not (tmp_path / "cut" / whole["key"]).exists()
    found = train_rounds(tmp_path / "cut", ROUNDS, VariantOptions(), template, quiet=True)
    weights = "model.safetensors"
    assert file_hashes(found["path"])[weights] == file_hashes(whole["path"])[weights]


def test_variants_learn_from_what_they_say(tmp_path: Path, template: TrainConfig) -> None:
    whole = train_rounds(tmp_path, ROUNDS, VariantOptions(), template, quiet=True)
    last = train_rounds(tmp_path, ROUNDS, VariantOptions(variant="last"), template, quiet=True)
    alone = replace(ROUNDS, groups=ROUNDS.groups[12:], round_G=[1] * 12)
    only = train_rounds(tmp_path, alone, VariantOptions(), template, quiet=True)
    assert (last["groups"], last["rounds"], whole["groups"]) == (12, [1], 24)
    assert np.allclose(rewards(last["path"]), rewards(only["path"]))
    with pytest.raises(ConfigError, match="nothing is released"):
        train_rounds(tmp_path, ROUNDS, VariantOptions(variant="warm"), template, quiet=True)
    still = replace(template, learning_rate=1e-12)
    warm = train_rounds(tmp_path, ROUNDS, VariantOptions(variant="warm"), still, released=whole["path"], quiet=True)
    assert np.allclose(rewards(warm["path"]), rewards(whole["path"]), atol=1e-4)  # it began there, and stayed


def test_importance_weights_go_into_the_data_file() -> None:
    ratios = [np.log([3.0, 1.0])] * 6 + [np.zeros(2)] * 18
    rounds = replace(ROUNDS, log_ratio_GK=ratios)
    found = mixed(rounds, VariantOptions(variant="importance", replay_floor=0.0))
    assert found.groups[0].weight / found.groups[6].weight == pytest.approx(3.0)
    assert found.report["importance"]["effective"] < 12
    estimated = mixed(ROUNDS, VariantOptions(variant="importance", replay_floor=0.0))
    assert estimated.report["importance"]["n_old"] == 12


def test_an_ensemble_is_anchored_by_its_mean(tmp_path: Path, template: TrainConfig) -> None:
    found = train_rounds(tmp_path, ROUNDS, VariantOptions(), replace(template, members=2), quiet=True)
    assert rewards(found["path"]).std() == pytest.approx(1.0, abs=1e-4)
    meta = read_meta(found["path"])
    members = load_scorer(found["path"]).score(REFERENCE)
    spread = np.concatenate([scores.members.mean(axis=0) for scores in members])
    assert spread.std() == pytest.approx(1.0, abs=1e-4)
    assert len(meta["member_means"]) == 2


def test_the_temperature_moves_with_the_scale(tmp_path: Path, template: TrainConfig) -> None:
    many = Rounds(groups=[asked(i) for i in range(80)], round_G=[0] * 80, reference=REFERENCE)
    found = train_rounds(tmp_path, many, VariantOptions(), template, quiet=True)
    assert found["held_out"]["n_pairs"] > 0
    raw = tmp_path / "again"
    meta = read_meta(found["path"])
    assert meta["calibration"]["n_pairs"] == found["held_out"]["n_pairs"]
    if meta["calibration"]["temperature"] is not None:
        once_more = anchor(found["path"], raw, REFERENCE[:3])
        ratio = once_more["calibration"]["temperature"] / meta["calibration"]["temperature"]
        assert ratio == pytest.approx(once_more["normalisation"]["factor"])


def test_mistakes_are_named(tmp_path: Path, template: TrainConfig) -> None:
    with pytest.raises(DataError, match="no round has a label"):
        train_rounds(tmp_path, Rounds(groups=[], round_G=[], reference=REFERENCE), VariantOptions(), template)
    with pytest.raises(DataError, match="no reference answers"):
        train_rounds(tmp_path, replace(ROUNDS, reference=[]), VariantOptions(), template)
    with pytest.raises(ConfigError, match="replay-floor"):
        VariantOptions(replay_floor=1.0)
    found = train_rounds(tmp_path, ROUNDS, VariantOptions(), template, quiet=True)
    with pytest.raises(TrainingError, match="all have the same reward"):
        anchor(
            found["path"],
            tmp_path / "flat",
            [replace(REFERENCE[0], responses=REFERENCE[0].responses[:1], preferences=(), id="")],
        )
    assert digest_of({"b": "2", "a": "1"}) == digest_of({"a": "1", "b": "2"})
    assert json.loads((Path(found["path"]) / "refresh.json").read_text())["variant"] == "all"
