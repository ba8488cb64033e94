"""The verbs of a project's models, one after the other as a person calls them: train, gate, release, rollback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rewardsmith.cli import main
from rewardsmith.data.convert import convert
from rewardsmith.refresh.models import frozen_tests, reference_answers
from rewardsmith.refresh.project import open_project
from rewardsmith.refresh.sides import is_test, labelled
from tests.refresh.tiny_policy import asked, policy

__all__ = ["policy"]  # a fixture

SETTINGS = """
[train]
train_layers = 1
batch_size = 8
learning_rate = 1e-2
max_length = 96
device = "cpu"
precision = "float32"

[gate]
margin = 0.9
max_ece = 1.0
"""


def call(capsys: pytest.CaptureFixture, *words: Any, code: int = 0) -> Any:
    """What a verb printed as JSON, or its error where it ends with 2."""
    assert main(["refresh", *map(str, words), "--json", "--quiet"]) == code
    said = capsys.readouterr()
    return said.err.strip() if code == 2 else json.loads(said.out)


@pytest.fixture
def project(tmp_path: Path, policy: str, capsys: pytest.CaptureFixture) -> Path:
    folder, file = tmp_path / "project", tmp_path / "prefs.jsonl"
    convert([asked(i) for i in range(40)], "rewardsmith", file)
    call(capsys, "init", folder)
    with (folder / "refresh.toml").open("a") as settings:
        settings.write(SETTINGS.replace("[train]", f'[train]\nmodel = "{policy}"'))
    call(capsys, "ingest", folder, file, "--policy", "base", "--labels-by", "ann")
    return folder


def test_train_gate_release_rollback(project: Path, capsys: pytest.CaptureFixture) -> None:
    first = call(capsys, "train", project)
    assert first["trained"]
    assert call(capsys, "train", project)["name"] == first["name"]
    assert "not tried yet" in call(capsys, "release", project, code=2)
    tried = call(capsys, "gate", project, code=1)  # eight tests say little: a first model is not shown to be good
    assert tried["verdict"] == "block"
    assert call(capsys, "gate", project, code=1)["again"]
    assert "the gate blocks" in call(capsys, "release", project, code=2)
    assert call(capsys, "release", project, "--force", "--note", "to begin with")["release"] == 1
    assert "is what is released" in call(capsys, "gate", project, code=2)
    second = call(capsys, "train", project, "--variant", "warm")
    assert second["name"] != first["name"]
    tried = call(capsys, "gate", project, "--new-pairs", "skip")
    assert tried["verdict"] == "pass"
    call(capsys, "gate", project, "--new-pairs", "skip", "--margin", "0", code=1)
    assert "the gate blocks" in call(capsys, "release", project, code=2)
    again = call(capsys, "gate", project, "--new-pairs", "skip")
    assert (again["verdict"], again["again"]) == ("pass", True), "release goes by it"
    assert [check["name"] for check in tried["checks"]][:3] == ["frozen tests", "slices", "new pairs"]
    released = call(capsys, "release", project)
    assert (released["release"], released["new"]) == (2, True)
    assert call(capsys, "release", project)["new"] is False
    back = call(capsys, "rollback", project, "--why", "a test")
    assert (back["release"], back["model"], back["entry"]) == (1, first["name"], 3)
    with open_project(project).open() as store:
        kept = [(r.seq, r.model, r.note) for r in store.releases()]
        parents = {m.name: m.parent for m in store.models()}
    assert kept == [
        (1, first["name"], "release 1: to begin with (forced past the gate)"),
        (2, second["name"], "release 2"),
        (3, first["name"], "rollback 1: a test"),
    ]
    assert parents == {first["name"]: None, second["name"]: first["name"]}
    assert "rollback" in call(capsys, "release", project, "--name", second["name"], code=2)
    with open_project(project).open() as store:
        store.add_gate(second["name"], passed=True, figures={"verdict": "pass", "released": 2}, at=1.0)
    assert "was not tried against release 1" in call(capsys, "release", project, "--name", second["name"], code=2)
    shown = json.loads((project / "releases/0002/release.json").read_text())
    assert shown["gate"]["verdict"] == "pass"


def test_no_prompt_is_on_both_sides_and_tests_stay(project: Path, capsys: pytest.CaptureFixture) -> None:
    with open_project(project).open() as store:
        sides = labelled(store)
        train, test = ({group.prompt_id for group, _ in side} for side in (sides.train, sides.test))
        assert not train & test
        assert len(train) + len(test) == 40
        assert all(is_test(group.prompt) for group, _ in sides.test)
        before = [group.id for group in frozen_tests(project, store)]
        assert {group.prompt_id for group in frozen_tests(project, store)} == test
        assert sum(len(group.responses) for group in reference_answers(project, store)) > 40
    more = project.parent / "more.jsonl"
    convert([asked(i) for i in range(40, 60)], "rewardsmith", more)
    call(capsys, "ingest", project, more, "--policy", "base", "--labels-by", "ann")
    with open_project(project).open() as store:
        assert [group.id for group in frozen_tests(project, store)] == before
    frozen = project / "tests/frozen.jsonl"
    frozen.write_text(frozen.read_text() + "\n")
    assert "is not the file that was written first" in call(capsys, "train", project, code=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "--variant", "warm"), "nothing is released"),
        (("train", "--replay-floor", "1"), "--replay-floor"),
        (("gate",), "no model is trained yet"),
        (("release", "--name", "x"), "no model is named 'x'"),
        (("rollback",), "nothing is released"),
    ],
)
def test_mistakes_are_one_line(project: Path, words: Any, message: str, capsys: pytest.CaptureFixture) -> None:
    said = call(capsys, words[0], project, *words[1:], code=2)
    assert message in said
    assert "\n" not in said


def test_a_store_that_missed_a_pointer_catches_up(project: Path, capsys: pytest.CaptureFixture) -> None:
    """Killed between the files and the store."""
    from rewardsmith.refresh import releases

    trained = call(capsys, "train", project)
    releases.release(project, trained["path"], note="by hand")
    assert call(capsys, "release", project, "--force")["new"] is False
    with open_project(project).open() as store:
        assert [(r.seq, r.model) for r in store.releases()] == [(1, trained["name"])]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("epochs = 0", "--epochs 0"),
        ('output = "x"', "output is no option"),
        ("nonsense = 1", "nonsense is no option"),
        ('variant = "other"', "variant = 'other' has not the type"),
        ('replay_floor = "x"', "has not the type"),
    ],
)
def test_settings_of_train_are_checked(project: Path, line: str, message: str, capsys: pytest.CaptureFixture) -> None:
    file = project / "refresh.toml"
    file.write_text(file.read_text().replace("train_layers = 1", f"train_layers = 1\n{line}"))
    assert message in call(capsys, "train", project, code=2)
