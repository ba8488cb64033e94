"""A project's folder and its settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from rewardsmith.errors import ConfigError
from rewardsmith.refresh.project import fits, init_project, open_project


@dataclass(frozen=True, kw_only=True)
class Step:
    budget: int = 5
    share: float = 0.5
    kinds: tuple[str, ...] = ()
    how: Literal["x", "y"] = "x"
    model: str | None = None


def settings(project, text):
    (project.folder / "refresh.toml").write_text(text)
    return open_project(project.folder)


def test_a_project_is_made_once(tmp_path):
    folder = tmp_path / "new" / "project"
    project, is_new = init_project(folder, base_policy="sft")
    assert (is_new, project.base_policy) == (True, "sft")
    assert {p.name for p in folder.iterdir()} >= {"refresh.toml", "store.sqlite", "models", "releases", "sampled"}
    (folder / "refresh.toml").write_text((folder / "refresh.toml").read_text() + "# mine\n")
    again, is_new = init_project(folder)
    assert (is_new, again.base_policy) == (False, "sft")
    assert "# mine" in (folder / "refresh.toml").read_text()
    with pytest.raises(ConfigError, match="base_policy is 'sft' there, not 'other'"):
        init_project(folder, base_policy="other")


def test_an_interrupted_init_is_made_again(tmp_path):
    project, _ = init_project(tmp_path / "p")
    (project.folder / "refresh.toml").unlink()
    assert init_project(project.folder)[1]


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        init_project(tmp_path)
    with pytest.raises(ConfigError, match="is a file"):
        init_project(tmp_path / "notes.txt")
    with pytest.raises(ConfigError, match="no refresh project is there"):
        open_project(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb"])
def test_names_that_toml_would_read_otherwise_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="no quotes"):
        init_project(tmp_path / "p", base_policy=name)


def test_options_come_from_the_command_line_then_the_table_then_the_defaults(tmp_path):
    project, _ = init_project(tmp_path / "p")
    assert project.options("step", Step) == Step()
    project = settings(project, '[step]\nbudget = 7\nshare = 1\nkinds = ["a", "b"]\nhow = "y"\nmodel = "m"\n')
    expected = Step(budget=9, share=1.0, kinds=("a", "b"), how="y", model="m")
    assert project.options("step", Step, {"budget": 9, "share": None}) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[step]\nbudgets = 7", "budgets is no option"),
        ('[step]\nbudget = "7"', "budget = '7' has not the type"),
        ("[step]\nbudget = true", "has not the type"),
        ('[step]\nhow = "z"', "has not the type"),
        ("[step]\nkinds = [1]", "has not the type"),
        ("step = 1", "is no table"),
    ],
)
def test_settings_that_are_none(tmp_path, text, said):
    project, _ = init_project(tmp_path / "p")
    with pytest.raises(ConfigError, match=said):
        settings(project, text).options("step", Step)


def test_settings_that_cannot_be_read(tmp_path):
    project, _ = init_project(tmp_path / "p")
    with pytest.raises(ConfigError, match="cannot be read"):
        settings(project, "store = ")


def test_a_variable_of_the_environment_in_the_store(tmp_path, monkeypatch):
    project, _ = init_project(tmp_path / "p")
    project = settings(project, 'store = "postgresql://me:${SECRET_OF_STORE}@host/x"')
    with pytest.raises(ConfigError, match="not set"):
        _ = project.store_location
    monkeypatch.setenv("SECRET_OF_STORE", "abc")
    assert project.store_location == "postgresql://me:abc@host/x"


def test_fits():
    assert fits(1, float)
    assert fits(1, int | None)
    assert not fits(1.5, int)
    assert not fits(True, float)
