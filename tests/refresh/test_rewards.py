"""Rewards of the store's answers: worked out once, gone on with after an interruption."""

from __future__ import annotations

import json

import pytest

from rewardsmith.errors import ModelError
from rewardsmith.refresh.project import init_project
from rewardsmith.refresh.rewards import PROMPTS_AT_ONCE, find_or_add_model, path_of, score_missing, temperature_of
from rewardsmith.scoring import FunctionScorer
from tests.refresh.conftest import fill


@pytest.fixture
def project(tmp_path):
    return init_project(tmp_path / "project")[0]


class Counting:
    """A scorer that counts what it is asked, and fails at a group."""

    def __init__(self, function, fail_at=None):
        self.scorer, self.fail_at, self.asked = FunctionScorer(function), fail_at, 0

    def score(self, groups):
        self.asked += sum(len(group.responses) for group in groups)
        if self.fail_at is not None and self.asked > self.fail_at:
            raise KeyboardInterrupt
        return self.scorer.score(groups)


def test_answers_are_scored_once(project):
    n = PROMPTS_AT_ONCE + 5
    with project.open() as store:
        fill(store, n)
        store.add_model("m", path="models/m", artifact_hash="h", round=0, at=1.0)
        ids = [r.id for r in store.responses()]
        broken = Counting(lambda prompt, response: float(len(prompt)), fail_at=2 * PROMPTS_AT_ONCE)
        with pytest.raises(KeyboardInterrupt):
            score_missing(store, "m", lambda: broken, ids)
        assert len(store.scores("m")) == 2 * PROMPTS_AT_ONCE, "what was scored is kept"
        rest = Counting(lambda prompt, response: float(len(prompt)))
        counts = score_missing(store, "m", lambda: rest, ids)
        assert counts == {"scored": 10, "known": 2 * PROMPTS_AT_ONCE, "unscored": 0}
        assert rest.asked == 10
        prompts = {p.id: len(p.messages[0].content) for p in store.prompts()}
        assert store.scores("m") == {r.id: (float(prompts[r.prompt_id]), None) for r in store.responses()}
        score_missing(store, "m", lambda: pytest.fail("nothing is missing, so no model is loaded"), ids)


def test_what_cannot_be_scored_is_counted_and_asked_again(project):
    with project.open() as store:
        fill(store, 2)
        store.add_model("m", path="models/m", artifact_hash="h", round=0, at=1.0)
        ids = [r.id for r in store.responses()]
        odd = Counting(lambda prompt, response: float("nan") if response.endswith("x") else 1.0)
        assert score_missing(store, "m", lambda: odd, ids)["unscored"] == 2
        assert score_missing(store, "m", lambda: odd, ids) == {"scored": 0, "known": 2, "unscored": 2}


def test_models_by_name_release_and_address(project):
    with project.open() as store:
        assert find_or_add_model(project, store, None, 1.0) is None
        model = store.add_model("m", path="models/m", artifact_hash="h", round=0, at=1.0)
        store.add_release("m", manifest_hash="x", at=1.0)
        assert find_or_add_model(project, store, None, 1.0) == find_or_add_model(project, store, "m", 1.0) == model
        assert path_of(project, model) == str(project.folder / "models/m")
        server = find_or_add_model(project, store, "http://127.0.0.1:8000", 1.0)
        assert path_of(project, server) == "http://127.0.0.1:8000"
        with pytest.raises(ModelError, match="no model of this project has this name"):
            find_or_add_model(project, store, "nowhere", 1.0)
    assert temperature_of("nowhere") == 1.0


def test_a_model_that_was_trained_anew_in_its_place_is_another(project, tmp_path):
    folder = tmp_path / "rm"
    folder.mkdir()
    (folder / "reward_model.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"one")
    with project.open() as store:
        first = find_or_add_model(project, store, str(folder), 1.0)
        assert find_or_add_model(project, store, str(folder), 2.0) == first
        (folder / "model.safetensors").write_bytes(b"two")
        second = find_or_add_model(project, store, str(folder), 3.0)
        assert (second.path, second.name == first.name) == (first.path, False)
        assert find_or_add_model(project, store, str(folder), 4.0) == second


def test_the_temperature_is_the_artifacts(tmp_path):
    (tmp_path / "reward_model.json").write_text(json.dumps({"calibration": {"temperature": 2.5}}))
    assert temperature_of(str(tmp_path)) == 2.5
    (tmp_path / "reward_model.json").write_text("{")
    assert temperature_of(str(tmp_path)) == 1.0
