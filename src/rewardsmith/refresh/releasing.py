"""Releases of a project's models, with the store's copy of the pointers. Light to import: going back must be quick."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from rewardsmith.errors import ConfigError, DataError
from rewardsmith.refresh import releases
from rewardsmith.refresh.records import Model
from rewardsmith.refresh.status import TRAINED
from rewardsmith.refresh.store import Store


def candidate_of(store: Store, name: str | None) -> Model:
    """A registered model by name; None: the one that was trained last. DataError where there is none."""
    if name is not None:
        return store.model(name)
    trained = store.value(TRAINED)
    if trained is None:
        raise DataError("no model is trained yet; rewardsmith refresh train")
    return store.model(json.loads(trained)["model"])


def release_model(
    project: Path, store: Store, model: str | None, *, note: str = "", force: bool = False
) -> dict[str, Any]:
    """Release a model that its last gate let pass; {"release", "model", "new"}. ConfigError where it did not."""
    candidate = candidate_of(store, model)
    trials = store.gates(candidate.name)
    if not trials and not force:
        raise ConfigError(f"{candidate.name} was not tried yet: rewardsmith refresh gate, or --force")
    gate = trials[-1].figures if trials else {}
    pointer = releases.current(project)
    if pointer is not None and "released" in gate and not force and gate["released"] != pointer.release:
        now = releases.read_release(project, pointer.release)
        if now.digest != candidate.artifact_hash:
            raise ConfigError(
                f"{candidate.name} was not tried against release {pointer.release}, which is current now: "
                "rewardsmith refresh gate, or --force"
            )
    told = {key: gate[key] for key in ("verdict", "reasons", "checks", "options") if key in gate}
    sync(project, store)
    made, new = releases.release(project, project / candidate.path, gate=told, note=note, force=force)
    sync(project, store)
    return {"release": made.release, "model": candidate.name, "new": new, "digest": made.digest}


def rollback_model(project: Path, store: Store, *, to: int | None = None, why: str = "") -> dict[str, Any]:
    """Point to an earlier release; {"release", "model", "new", "entry"}."""
    sync(project, store)
    pointer, moved = releases.rollback(project, to=to, why=why)
    sync(project, store)
    return {
        "release": pointer.release, "model": released_name(project, store), "new": moved, "entry": pointer.entry,
    }  # fmt: skip


def sync(project: Path, store: Store) -> None:
    """Bring the store's copy of the pointers up to date: the files are what counts, and a kill may fall in between."""
    entries = releases.history(project)
    there = {release.seq for release in store.releases()}
    for pointer in (entry for entry in entries if entry.entry not in there):
        name = _name_of(project, store, releases.read_release(project, pointer.release))
        note = f"{pointer.action} {pointer.release}" + (f": {pointer.why}" if pointer.why else "")
        store.add_release(name, manifest_hash=pointer.sha256, at=_seconds(pointer.at), note=note, seq=pointer.entry)


def _name_of(project: Path, store: Store, release: releases.Release) -> str:
    """The registered name of a release's artifact."""
    folder = releases.model_folder(project, release).resolve()
    for model in store.models():
        if model.artifact_hash == release.digest or (project / model.path).resolve() == folder:
            return model.name
    raise DataError(f"release {release.release} is of {release.model}, which the store does not know")


def released_name(project: Path, store: Store) -> str | None:
    pointer = releases.current(project)
    return None if pointer is None else _name_of(project, store, releases.read_release(project, pointer.release))


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
