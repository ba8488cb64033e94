"""Releases: written once, verified byte by byte, pointed to by a file that is whole at any time."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from rewardsmith.errors import ConfigError, ModelError
from rewardsmith.refresh import releases as r


def model(project: Path, name: str, text: str) -> Path:
    """A folder that looks like an artifact: no weights are needed to hash it."""
    folder = project / "models" / name
    (folder / "member-0").mkdir(parents=True)
    (folder / "reward_model.json").write_text("{}")
    (folder / "member-0" / "model.safetensors").write_text(text)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        model(tmp_path, name, f"weights {name}")
    return tmp_path


def test_a_release_is_numbered_hashed_and_pointed_to(project: Path) -> None:
    first, new = r.release(project, project / "models/a", gate={"verdict": "pass", "reasons": []}, note="first")
    assert new
    assert (first.release, first.parent, first.model) == (1, None, "models/a")
    assert set(first.files) == {"reward_model.json", "member-0/model.safetensors"}
    second, _ = r.release(project, project / "models/b")
    assert (second.release, second.parent) == (2, 1)
    pointer, folder = r.open_current(project)
    assert (pointer.release, folder) == (2, project / "models/b")
    assert r.numbers(project) == [1, 2]
    assert json.loads((project / "releases/0001/release.json").read_text())["gate"]["verdict"] == "pass"


def test_the_same_model_again_changes_nothing(project: Path) -> None:
    r.release(project, project / "models/a")
    before = (project / "releases/current.json").read_bytes()
    again, new = r.release(project, project / "models/a")
    assert (again.release, new) == (1, False)
    assert (project / "releases/current.json").read_bytes() == before


def test_rollback_is_a_further_entry_and_history_stays(project: Path) -> None:
    for name in ("a", "b", "c"):
        r.release(project, project / "models" / name)
    pointer, moved = r.rollback(project, why="worse on code")
    assert (pointer.release, pointer.action, pointer.why, moved) == (2, "rollback", "worse on code", True)
    assert r.rollback(project, to=1)[0].release == 1
    assert r.rollback(project, to=1)[1] is False
    assert [(e.entry, e.release, e.action) for e in r.history(project)] == [
        (1, 1, "release"), (2, 2, "release"), (3, 3, "release"), (4, 2, "rollback"), (5, 1, "rollback"),
    ]  # fmt: skip
    assert r.rollback(project, to=3)[0].release == 3  # and forward again


def test_what_was_rolled_back_is_not_released_by_itself(project: Path) -> None:
    r.release(project, project / "models/a")
    r.release(project, project / "models/b")
    r.rollback(project)
    with pytest.raises(ConfigError, match=r"rollback .* --to 2"):
        r.release(project, project / "models/b")
    found, new = r.release(project, project / "models/b", force=True)
    assert (found.release, new, r.current(project).release) == (2, True, 2)


def test_rollback_has_an_end_and_needs_a_release(project: Path) -> None:
    with pytest.raises(ConfigError, match="nothing is released"):
        r.rollback(project)
    r.release(project, project / "models/a")
    with pytest.raises(ConfigError, match="is the first"):
        r.rollback(project)
    with pytest.raises(ModelError, match="no release 7; there are: 1"):
        r.rollback(project, to=7)


def test_a_blocked_model_needs_force_and_says_so(project: Path) -> None:
    gate = {"verdict": "block", "reasons": ["slices: worse on code"]}
    with pytest.raises(ConfigError, match="worse on code"):
        r.release(project, project / "models/a", gate=gate)
    assert r.current(project) is None
    forced, _ = r.release(project, project / "models/a", gate=gate, note="asked for", force=True)
    assert forced.note == "asked for (forced past the gate)"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: (f / "member-0/model.safetensors").write_text("weights x"), "has changed"),
        (lambda f: (f / "member-0/model.safetensors").unlink(), "is missing"),
        (lambda f: (f / "extra.json").write_text("{}"), "is new"),
        (lambda f: (f / "reward_model.json").write_text('{"calibration": null}'), "has changed"),
    ],
)
def test_any_other_byte_is_found(project: Path, harm, said: str) -> None:
    r.release(project, project / "models/a")
    harm(project / "models/a")
    with pytest.raises(ModelError, match=f"0001: .*{said}"):
        r.open_current(project)


def test_a_changed_record_is_found(project: Path) -> None:
    r.release(project, project / "models/a")
    file = project / "releases/0001/release.json"
    file.write_text(file.read_text().replace('"note": ""', '"note": "other"'))
    with pytest.raises(ModelError, match=r"release\.json has changed"):
        r.open_current(project)


def test_a_broken_release_is_not_gone_back_to(project: Path) -> None:
    r.release(project, project / "models/a")
    r.release(project, project / "models/b")
    (project / "models/a/reward_model.json").write_text("{ }")
    with pytest.raises(ModelError, match="has changed"):
        r.rollback(project)
    assert r.current(project).release == 2


def test_a_release_without_its_pointer_is_taken_up(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the record and the pointer: nobody saw the release, and the next try has its number."""
    r.release(project, project / "models/a")
    with monkeypatch.context() as patch:
        patch.setattr(r, "_point", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            r.release(project, project / "models/b")
    assert r.current(project).release == 1
    found, new = r.release(project, project / "models/b")
    assert (found.release, new, r.current(project).release) == (2, True, 2)


def test_a_project_can_be_moved(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    r.release(project, project / "models/a")
    moved = tmp_path_factory.mktemp("elsewhere") / "project"
    project.rename(moved)
    assert r.open_current(moved)[1] == moved / "models/a"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1, "entries": [{}]}', '{"format": 9, "entries": []}'])
def test_a_damaged_pointer_is_one_line(project: Path, content: str) -> None:
    (project / "releases").mkdir()
    (project / "releases/current.json").write_text(content)
    with pytest.raises(ModelError, match=r"current\.json"):
        r.current(project)


def _release(project: Path, name: str) -> None:
    r.release(project, project / "models" / name)


def test_writers_at_once_lose_no_entry(tmp_path: Path) -> None:
    names = [f"m{i}" for i in range(12)]
    for name in names:
        model(tmp_path, name, name)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_release, args=(tmp_path, name)) for name in names]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    assert [entry.release for entry in r.history(tmp_path)] == list(range(1, 13))
    assert sorted(release.model for release in r.releases(tmp_path)) == sorted(f"models/{name}" for name in names)
    assert [release.parent for release in r.releases(tmp_path)] == [None, *range(1, 12)]
