"""Releases: which reward model was given out, when, why, and whether it is still the same bytes.

    <project>/releases/0001/release.json   the model's folder, the SHA-256 of each of its files, its parent, the gate
    <project>/releases/current.json        every pointer there was, the last one holds: {"entries": [...]}

A release is written once and never changed. What is served is the last entry of `current.json`, which is replaced
whole, so that a reader sees the old pointer or the new one. A rollback is a further entry: history is kept. Each entry
holds the SHA-256 of its release.json, and that the hashes of the artifact's files, so that `verify` notes any byte that
changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from rewardsmith.errors import ConfigError, ModelError
from rewardsmith.model.meta import META

FOLDER, RELEASE, CURRENT = "releases", "release.json", "current.json"
FORMAT = 1
Action = Literal["release", "rollback"]


@dataclass(frozen=True, kw_only=True)
class Release:
    """What release.json holds.

    model    folder of the artifact, relative to the project where it lies inside it
    files    name inside that folder -> SHA-256, of every file
    digest   SHA-256 over names and hashes: the same artifact has the same digest wherever it lies
    parent   the release that was current before; None for the first
    gate     verdict, reasons and figures of the gate that let it pass; {} where none was asked
    """

    release: int
    model: str
    files: Mapping[str, str]
    digest: str
    parent: int | None
    gate: Mapping[str, Any]
    note: str
    made_at: str


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """One entry of current.json: from `at` on, `release` is what is served. `sha256` is that of its release.json."""

    entry: int
    release: int
    sha256: str
    action: Action
    why: str
    at: str

    @property
    def label(self) -> str:
        """What a server says it serves: the release, and by which entry."""
        return f"{self.release:04d} (entry {self.entry})"


# -- reading ------------------------------------------------------------------------------------------------


def history(project: str | Path) -> list[Pointer]:
    """Every pointer there was, oldest first; [] before the first release. ModelError where the file cannot be read."""
    file = Path(project) / FOLDER / CURRENT
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["format"] > FORMAT:
            raise ModelError(f"{file} is of format {found['format']}; this version reads up to {FORMAT}: upgrade")
        return [Pointer(**entry) for entry in found["entries"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{file} cannot be read ({error}); restore it from a copy") from None


def current(project: str | Path) -> Pointer | None:
    """The pointer that holds now, or None before the first release."""
    entries = history(project)
    return entries[-1] if entries else None


def read_release(project: str | Path, number: int, sha256: str | None = None) -> Release:
    """A release's record. ModelError where it is not there, or is not what the pointer was made for."""
    file = _file_of(Path(project), number)
    try:
        raw = file.read_bytes()
        release = Release(**json.loads(raw))
    except FileNotFoundError:
        known = ", ".join(str(n) for n in numbers(project)) or "none"
        raise ModelError(f"{project} has no release {number}; there are: {known}") from None
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{file} cannot be read ({error}); restore it from a copy") from None
    if sha256 is not None and hashlib.sha256(raw).hexdigest() != sha256:
        raise ModelError(f"{file} has changed since it was released; restore it, or roll back to another release")
    return release


def numbers(project: str | Path) -> list[int]:
    """The numbers of all releases, rising."""
    folder = Path(project) / FOLDER
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit() and (p / RELEASE).is_file())


def releases(project: str | Path) -> list[Release]:
    """Every release, by number."""
    return [read_release(project, number) for number in numbers(project)]


def model_folder(project: str | Path, release: Release) -> Path:
    """Where a release's artifact lies."""
    return Path(project) / release.model  # an absolute path stays as it is


def verify(project: str | Path, release: Release) -> Path:
    """The artifact's folder, every byte of it compared. ModelError with the first file that is not the same."""
    folder = model_folder(project, release)
    found = file_hashes(folder)
    for name in sorted({*release.files, *found}):
        if found.get(name) != release.files.get(name):
            what = "is missing" if name not in found else "is new" if name not in release.files else "has changed"
            raise ModelError(
                f"release {release.release:04d}: {folder / name} {what} since it was released; restore it, or roll back"
            )
    return folder


def open_current(project: str | Path) -> tuple[Pointer, Path]:
    """(pointer, verified folder) of what is released now. ModelError where nothing is, or where it is not intact."""
    pointer = current(project)
    if pointer is None:
        raise ModelError(f"{project}: nothing is released yet; rewardsmith refresh release {project}")
    return pointer, verify(project, read_release(project, pointer.release, pointer.sha256))


def file_hashes(folder: str | Path) -> dict[str, str]:
    """Name inside the folder -> SHA-256 of every file, by name. ModelError where it is no artifact."""
    folder = Path(folder)
    if not (folder / META).is_file():
        raise ModelError(f"{folder} is no artifact: it has no {META}")
    found = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as handle:
            found[file.relative_to(folder).as_posix()] = hashlib.file_digest(handle, "sha256").hexdigest()
    return found


def digest_of(files: Mapping[str, str]) -> str:
    """SHA-256 over the names and hashes of an artifact's files."""
    return hashlib.sha256("".join(f"{name} {files[name]}\n" for name in sorted(files)).encode()).hexdigest()


# -- writing ------------------------------------------------------------------------------------------------


def release(
    project: str | Path,
    model: str | Path,
    *,
    gate: Mapping[str, Any] | None = None,
    note: str = "",
    force: bool = False,
) -> tuple[Release, bool]:
    """Release the artifact in `model`; returns (release, whether it is new).

    A model that is current already is not released again. ConfigError for one that was rolled back, unless `force`:
    only a person should bring it back. ConfigError too where the gate blocked it, unless `force`, which the record then
    says.
    """
    project, gate = Path(project), dict(gate or {})
    if gate.get("verdict") == "block" and not force:
        raise ConfigError(f"the gate blocks {model}: {'; '.join(gate['reasons'])}")
    files = file_hashes(model)
    digest = digest_of(files)
    with _locked(project):
        entries = history(project)
        last = entries[-1] if entries else None
        known = next((old for old in releases(project) if old.digest == digest), None)
        if known is not None and last is not None and last.release == known.release:
            return known, False
        was_pointed_to = known is not None and any(entry.release == known.release for entry in entries)
        if known is not None and was_pointed_to and not force:
            raise ConfigError(
                f"{model} was release {known.release}, and {last.release if last else 'none'} is current since: "
                f"rewardsmith refresh rollback {project} --to {known.release} brings it back"
            )
        if known is None or not was_pointed_to:  # a crash before the pointer leaves a release that nobody saw
            if force and gate.get("verdict") == "block":
                note = f"{note} (forced past the gate)".strip()
            number = known.release if known is not None else max(numbers(project), default=0) + 1
            parent = last.release if last else None
            known = Release(
                release=number, model=_inside(project, Path(model)), files=files, digest=digest, parent=parent,
                gate=gate, note=note, made_at=_now(),
            )  # fmt: skip
            _write_whole(_file_of(project, number), asdict(known))
        _point(project, entries, known.release, "release", note)
        return known, True


def rollback(project: str | Path, *, to: int | None = None, why: str = "") -> tuple[Pointer, bool]:
    """Point to an earlier release; returns (pointer, whether it moved).

    `to` None: the parent of the current one. The artifact is verified first: a broken one is not gone back to.
    """
    project = Path(project)
    with _locked(project):
        entries = history(project)
        if not entries:
            raise ConfigError(f"{project}: nothing is released, so there is nothing to go back to")
        number = to if to is not None else read_release(project, entries[-1].release).parent
        if number is None:
            raise ConfigError(f"release {entries[-1].release} is the first: there is nothing before it")
        if number == entries[-1].release:
            return entries[-1], False
        verify(project, read_release(project, number, _sha256_of(entries, number)))
        return _point(project, entries, number, "rollback", why), True


def _sha256_of(entries: list[Pointer], number: int) -> str | None:
    return next((entry.sha256 for entry in reversed(entries) if entry.release == number), None)


def _point(project: Path, entries: list[Pointer], number: int, action: Action, why: str) -> Pointer:
    sha256 = hashlib.sha256(_file_of(project, number).read_bytes()).hexdigest()
    pointer = Pointer(entry=len(entries) + 1, release=number, sha256=sha256, action=action, why=why, at=_now())
    content = {"format": FORMAT, "entries": [asdict(entry) for entry in [*entries, pointer]]}
    _write_whole(project / FOLDER / CURRENT, content)
    return pointer


def _inside(project: Path, model: Path) -> str:
    """Relative to the project where it lies inside it, so that the project can be moved."""
    model, root = model.resolve(), project.resolve()
    return model.relative_to(root).as_posix() if model.is_relative_to(root) else str(model)


def _file_of(project: Path, number: int) -> Path:
    return project / FOLDER / f"{number:04d}" / RELEASE


def _write_whole(file: Path, content: Mapping[str, Any]) -> None:
    """The file is as it was, or has this content, on the disk, whatever happens on the way."""
    file.parent.mkdir(parents=True, exist_ok=True)
    writing = file.with_name(f".{file.name}.writing-{os.getpid()}")
    try:
        with writing.open("w", encoding="utf-8") as handle:
            handle.write(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(writing, file)
    finally:
        writing.unlink(missing_ok=True)


@contextmanager
def _locked(project: Path) -> Iterator[None]:
    """One writer at a time; the lock goes with the process that holds it."""
    (project / FOLDER).mkdir(parents=True, exist_ok=True)
    with (project / FOLDER / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
