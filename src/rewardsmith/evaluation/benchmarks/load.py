"""Benchmarks read from the publisher's own files: a file, a folder as published, or the hub.

A benchmark is read whole or not at all: the first row that cannot be used ends it, with file, line and reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rewardsmith.data.fields import Row
from rewardsmith.data.files import is_hub_name, is_supported, read_rows
from rewardsmith.data.schema import Group
from rewardsmith.errors import DataError
from rewardsmith.evaluation.benchmarks.rows import Place, xstest_completion, xstest_group

Rule = Callable[..., dict[str, Any]]
Files = Callable[[Path], list[Path]]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """How one benchmark is recognised, read and scored.

    hub       data set names ("owner/name@split") that a bare name is read from; none: it is in no hub
    origin    where people get the files
    matches   whether a row is of this benchmark, by its columns
    files     the files of a folder that belong to it
    read      files (or hub names) to groups
    rule      groups and rewards to a result
    part_tag  the tag by which `rows` counts
    rows      tag value -> number of rows as published, to tell a whole file from a slice of it
    """

    name: str
    about: str
    origin: str
    hub: tuple[str, ...] = ()
    matches: Callable[[Row], bool]
    files: Files
    read: Callable[[Sequence[str]], list[Group]]
    rule: Rule
    part_tag: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)

    def row_counts(self, groups: Sequence[Group]) -> dict[str, dict[str, int]]:
        """The parts whose number of rows here is not the published one."""
        here = {name: sum(group.tags.get(self.part_tag) == name for group in groups) for name in self.rows}
        return {name: {"here": here[name], "published": n} for name, n in self.rows.items() if here[name] != n}


def load_groups(benchmark: Benchmark, path: str | Path | None) -> tuple[list[Group], list[str]]:
    """(groups, the files they came from). Without a path, from the hub.

    Raises DataError where nothing is there, the hub cannot be reached, or a row cannot be used.
    """
    if path is None:
        if not benchmark.hub:
            raise DataError(f"{benchmark.name} is in no hub: give the path of its files ({benchmark.origin})")
        names = list(benchmark.hub)
    else:
        names = [str(file) for file in files_of(benchmark, Path(path))]
    groups = benchmark.read(names)
    if not groups:
        raise DataError(f"{path or benchmark.name}: no row of {benchmark.name} is there")
    return groups, names


def files_of(benchmark: Benchmark, path: Path) -> list[Path]:
    """The path itself, or the benchmark's files in a folder."""
    if not path.is_dir():
        return [path]
    found = benchmark.files(path)
    if not found:
        raise DataError(f"{path}: the folder holds no file of {benchmark.name} ({benchmark.origin})")
    return found


def recognise(path: Path, benchmarks: Mapping[str, Benchmark]) -> Benchmark:
    """The one benchmark whose columns the first row at `path` has, or DataError."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder, and no benchmark of that name ({', '.join(benchmarks)})")
    fits, columns = [], ""
    rows: dict[Path, Row | None] = {}
    for benchmark in benchmarks.values():
        files = benchmark.files(path) if path.is_dir() else [path]
        if files and files[0] not in rows:
            rows[files[0]] = first_row(files[0])
        row = rows[files[0]] if files else None
        columns = columns or ", ".join(sorted(row or ()))
        if row is not None and benchmark.matches(row):
            fits.append(benchmark)
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise DataError(f"{path}: fits {' and '.join(b.name for b in fits)}; name the benchmark")
    found = f"no benchmark has the columns {columns[:160]}" if columns else "no row can be read"
    raise DataError(f"{path}: {found}; known are {', '.join(benchmarks)}")


def first_row(path: Path) -> Row | None:
    """The first row that can be read, or None."""
    return next((raw.value for raw in read_rows(str(path)) if raw.value is not None), None)


# Reading -------------------------------------------------------------------------------------------


def rows_of(names: Sequence[str]) -> Iterator[tuple[Row, Place]]:
    """Every row of the files with its place; DataError at the first damaged one."""
    for name in names:
        if not Path(name).exists() and not is_hub_name(name):
            raise DataError(f"{name}: no such file")
        for raw in read_rows(name):
            if raw.value is None:
                raise DataError(f"{name}:{raw.line}: {raw.reason}; a benchmark is read whole, so get the file again")
            yield raw.value, Place(name, raw.line)


def each_row(to_group: Callable[[Row, Place], Group]) -> Callable[[Sequence[str]], list[Group]]:
    """A reader that makes one group of each row."""

    def read(names: Sequence[str]) -> list[Group]:
        return [_at(place, to_group, row, place) for row, place in rows_of(names)]

    return read


def _at(place: Place, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)`, with the place in front of whatever it refuses."""
    try:
        return function(*arguments)
    except DataError as error:
        raise DataError(f"{place.path}:{place.line}: {error}") from None


def read_xstest(names: Sequence[str]) -> list[Group]:
    """One group per prompt, with the answer of each system (file)."""
    answers: dict[str, list[dict[str, Any]]] = {}
    for row, place in rows_of(names):
        found = _at(place, xstest_completion, row, place)
        answers.setdefault(found["id"], []).append(found)
    if len(names) < 2:
        raise DataError(
            f"{', '.join(names)}: one system's completions make no pairs; give a folder with those of two or more"
        )
    for name, inner in answers.items():
        if [a["place"].path for a in inner] != list(names):
            missing = [n for n in names if n not in [a["place"].path for a in inner]]
            where = f"is not in {missing[0]}" if missing else "is twice in one file"
            raise DataError(
                f"{inner[0]['place'].path}:{inner[0]['place'].line}: '{name}' {where}; every system answers all"
            )
    return [xstest_group(inner) for inner in answers.values()]


# Folders as published ------------------------------------------------------------------------------


def folder(*, only: str = "*", prefer: str = "", inside: str = "data") -> Files:
    """Supported files of a folder, else of `inside` it.

    only    pattern that names must fit ("testset*")
    prefer  pattern of files that are taken alone, where there are any
    """

    def files(path: Path) -> list[Path]:
        for where in (path, path / inside):
            here = sorted(p for p in where.iterdir() if p.is_file() and is_supported(p.name)) if where.is_dir() else []
            here = [p for p in here if fnmatch(p.name, only)]
            if here:
                return [p for p in here if prefer and fnmatch(p.name, prefer)] or here
        return []

    return files


def deep(pattern: str, *, without: str = "") -> Files:
    """Files under a folder at any depth whose name fits `pattern`; else the folder's own files."""

    def files(path: Path) -> list[Path]:
        found = sorted(
            p for p in path.rglob(pattern) if not (without and any(w in p.parts for w in without.split("|")))
        )
        return [p for p in found if p.is_file()] or folder()(path)

    return files
