"""Preference files to groups: `read_groups` is the one door, whatever the file and whatever the shape.

    report = ReadReport()
    for group in read_groups(["prefs.jsonl.gz"], report=report):
        ...
    report.files[0].shape, report.dropped

The shape is recognised from the first rows, or named with `ReadOptions(shape=...)`; where two shapes fit, or
none, the reader asks instead of guessing. Rows stream: memory does not grow with the file, except for the
`scored` shape (one row per response), whose **rows are held until the file ends** because those of one prompt
may lie apart, for .json arrays, and for the ids that sources give (about 100 bytes a group, to tell repeats).

No row vanishes: each is used in a group or named in `ReadReport.dropped` with its line and reason, and
`FileReport.rows == FileReport.rows_used + FileReport.rows_dropped` holds for every file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from rewardsmith.data.file_reader import FileReader
from rewardsmith.data.files import data_files
from rewardsmith.data.options import Dropped, FileReport, ReadOptions, ReadReport
from rewardsmith.data.schema import Group
from rewardsmith.errors import ConfigError, DataError

__all__ = ["Dropped", "FileReport", "ReadOptions", "ReadReport", "read_groups"]


def read_groups(
    paths: str | Path | Sequence[str | Path],
    options: ReadOptions | None = None,
    *,
    weights: Sequence[float] | None = None,
    report: ReadReport | None = None,
) -> Iterator[Group]:
    """Groups of all files, one after the other, read while they are iterated.

    paths    files, folders (every supported file inside, sorted) or hub names ("owner/name")
    weights  one number >= 0 per path, which multiplies `Group.weight`
    report   filled on the way; complete when the iteration ends

    Raises DataError at once where a path does not exist; while iterating, where a file cannot be read, its
    shape is not clear, or none of its rows is usable. ConfigError where weights do not fit.
    """
    options = options or ReadOptions()
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given:
        raise DataError("no data file was given")
    shares = check_weights(given, weights)
    files = [(file, share) for path, share in zip(given, shares, strict=True) for file in data_files(path)]
    return _read_files(files, options, report if report is not None else ReadReport())


def check_weights(paths: Sequence[str | Path], weights: Sequence[float] | None) -> list[float]:
    """One finite weight >= 0 per path, 1 where none are given."""
    if weights is None:
        return [1.0] * len(paths)
    if len(weights) != len(paths):
        raise ConfigError(f"{len(weights)} weights for {len(paths)} data files; give one a file")
    for weight in weights:
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"weight {weight} of a data file is not a finite number >= 0")
    return list(weights)


def _read_files(files: list[tuple[str, float]], options: ReadOptions, report: ReadReport) -> Iterator[Group]:
    seen_ids: set[str] = set()
    for path, weight in files:
        yield from FileReader(path, weight, options, report, seen_ids).groups()
