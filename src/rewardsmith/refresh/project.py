"""A refresh project: a folder with its settings, its store, its models and its releases.

    PROJECT/
      refresh.toml     settings: where the store is, and options of the steps, a table for each
      store.sqlite     the store, where refresh.toml names no other
      models/          a folder for each trained model
      releases/        a folder for each release
      sampled/         what policies said, as it was sampled

A table of refresh.toml gives the options of its step, under the names of the command line: `[propose]` with
`budget = 200` is `refresh propose --budget 200`. The command line wins.
"""

from __future__ import annotations

import os
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from rewardsmith.errors import ConfigError

if TYPE_CHECKING:
    from rewardsmith.refresh.store import Store

SETTINGS = "refresh.toml"
STORE = "store.sqlite"
FOLDERS = ("models", "releases", "sampled")
NEW = """\
# Settings of a refresh project. A table gives the options of its step under the names of the command line, which wins.

# A file in this folder, or postgresql://USER@HOST/NAME. ${{VARIABLE}} stands for a variable of the environment.
store = "{store}"
# The policy that everything started from: what new policies are compared with.
base_policy = "{base_policy}"

[propose]
# budget = 200
"""
Options = TypeVar("Options")


@dataclass(frozen=True)
class Project:
    """A project's folder and what its refresh.toml says."""

    folder: Path
    table: Mapping[str, Any]

    @property
    def base_policy(self) -> str:
        """The name of the policy that everything started from."""
        return str(self.table.get("base_policy", "base"))

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def releases(self) -> Path:
        return self.folder / "releases"

    @property
    def sampled(self) -> Path:
        return self.folder / "sampled"

    @property
    def store_location(self) -> str:
        """The path or the URL of the store. ConfigError where it names a variable that is not set."""
        stated = str(self.table.get("store", STORE))
        where = os.path.expandvars(stated)
        if "${" in where:
            raise ConfigError(f"{self.folder / SETTINGS}: store names a variable of the environment that is not set")
        return where if "://" in where else str(self.folder / where)

    def open(self, *, create: bool = False) -> Store:
        """The project's store."""
        from rewardsmith.refresh.store import open_store

        return open_store(self.store_location, create=create)

    def options(self, step: str, kind: type[Options], given: Mapping[str, Any] | None = None) -> Options:
        """A step's options: what is `given` and not None, else what the table of this name says, else the defaults.

        `kind` is a keyword-only dataclass. ConfigError for a key that is no option and a value of another type.
        """
        hints = typing.get_type_hints(kind)
        stated = self.stated(step, {field.name: hints[field.name] for field in fields(kind)})  # type: ignore[arg-type]
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in stated.items()}
        values |= {name: value for name, value in (given or {}).items() if value is not None}
        return kind(**values)

    def stated(self, step: str, hints: Mapping[str, Any]) -> dict[str, Any]:
        """What the table of a step says, by the options' names. `hints` are their types.

        ConfigError for a key that is no option and a value of another type.
        """
        table = self.table.get(step, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{self.folder / SETTINGS}: {step} is no table; write [{step}]")
        values = {}
        for key, value in table.items():
            name = key.replace("-", "_")
            if name not in hints:
                raise ConfigError(f"{self.folder / SETTINGS}: [{step}] {key} is no option of this step")
            if not fits(value, hints[name]):
                raise ConfigError(
                    f"{self.folder / SETTINGS}: [{step}] {key} = {value!r} has not the type of this option"
                )
            values[name] = value
        return values


def fits(value: object, hint: Any) -> bool:
    """Whether a TOML value can be an option of this type; a whole number is a float too."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inside)
    if origin is Literal:
        return value in inside
    if origin is tuple:
        return isinstance(value, list) and all(fits(one, inside[0]) for one in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(hint, type) and isinstance(value, hint)


def init_project(folder: str | Path, *, store: str = STORE, base_policy: str = "base") -> tuple[Project, bool]:
    """(the project, whether it is new): makes the folder, its settings and its store where they are not there.

    A project that is there stays as it is, and what is missing of it is made. ConfigError where it has other settings.
    """
    folder = Path(folder)
    file = folder / SETTINGS
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; give a folder")
    for text in (store, base_policy):
        if not text.isprintable() or '"' in text or "\\" in text:
            raise ConfigError(f"{text!r}: no quotes, backslashes or control characters")
    is_new = not file.exists()
    if is_new:
        own = {*FOLDERS, f".{SETTINGS}.writing"}  # of an interrupted init
        if folder.is_dir() and any(p.name not in own and not p.name.startswith(STORE) for p in folder.iterdir()):
            raise ConfigError(f"{folder} holds other files; give a new folder")
        folder.mkdir(parents=True, exist_ok=True)
    for name in FOLDERS:
        (folder / name).mkdir(exist_ok=True)
    if is_new:
        # Not under its name yet: a folder without settings can be made again.
        text = NEW.format(store=store, base_policy=base_policy)
        made = Project(folder, tomllib.loads(text))
        made.open(create=True).close()
        temporary = folder / f".{SETTINGS}.writing"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, file)
    project = open_project(folder)
    for name, asked, there, usual in (
        ("store", store, project.table.get("store", STORE), STORE),
        ("base_policy", base_policy, project.base_policy, "base"),
    ):
        if asked not in (there, usual):
            raise ConfigError(f"{file}: {name} is {there!r} there, not {asked!r}; change it in that file")
    project.open(create=True).close()
    return project, is_new


def open_project(folder: str | Path) -> Project:
    """The project in a folder. ConfigError where none is, or its settings cannot be read."""
    file = Path(folder) / SETTINGS
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{folder}: no refresh project is there; make one: rewardsmith refresh init {folder}"
        ) from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None
    return Project(Path(folder), table)
