"""What is known of a reward model before anything is scored: its folder, and results of other verbs in JSON files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewardsmith.errors import DataError, ModelError
from rewardsmith.model.meta import META

CURVE = "training_metrics.jsonl"


@dataclass(frozen=True)
class Artifact:
    """An artifact or ensemble folder: its metadata, and the lines of its training curve ([] where none is kept)."""

    folder: Path
    meta: Mapping[str, Any]
    curve: tuple[Mapping[str, Any], ...]


def read_artifact(folder: str | Path) -> Artifact:
    """The records of an artifact or ensemble folder; weights are not read.

    Raises ModelError where there is no artifact, or a record of it is not JSON.
    """
    folder = Path(folder)
    if not (folder / META).is_file():
        raise ModelError(f"{folder} is no artifact (no {META} there): write one with rewardsmith export")
    meta = parsed(folder / META, (folder / META).read_text(encoding="utf-8"))
    if not isinstance(meta, dict):
        raise ModelError(f"{folder / META}: not an object")
    curve = folder / CURVE
    lines = curve.read_text(encoding="utf-8").splitlines() if curve.is_file() else []
    return Artifact(folder, meta, tuple(parsed(curve, line) for line in lines if line.strip()))


def parsed(file: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ModelError(f"{file}: not JSON: {error}") from None


def read_results(files: Sequence[str]) -> list[tuple[str, Mapping[str, Any]]]:
    """(file name, object) of each JSON file. Raises DataError for what cannot be read or is no object."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for file in files:
        try:
            result = json.loads(Path(file).read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"--with {file}: {error.strerror or error}") from None
        except ValueError as error:
            raise DataError(f"--with {file}: not JSON: {error}") from None
        if not isinstance(result, dict):
            raise DataError(f"--with {file}: a list or a bare value; give the object that a verb prints with --json")
        found.append((Path(file).name, result))
    return found


def trained_on(files: Sequence[str], meta: Mapping[str, Any]) -> list[str]:
    """Those of the files whose bytes are a training file's: what is measured on them says little of other pairs."""
    train = ((meta.get("data") or {}).get("train") or {}).get("files") or []
    known = {file.get("sha256") for file in train} - {None}
    return [file for file in files if known and Path(file).is_file() and _sha256(Path(file)) in known]


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
