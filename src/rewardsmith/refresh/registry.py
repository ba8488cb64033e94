"""Models with what they came from, their gates, and the registry of releases: only ever added to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rewardsmith.errors import DataError
from rewardsmith.refresh.connect import Database, insert_one
from rewardsmith.refresh.records import Gate, Model, Release, check_name
from rewardsmith.refresh.tables import gates, meta, models, releases, sa


class Registry(Database):
    """Models, gates, releases, and a few named values."""

    def add_model(
        self,
        name: str,
        *,
        path: str,
        artifact_hash: str,
        round: int,
        at: float,
        parent: str | None = None,
        data_hash: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> Model:
        """Register a model; the same one again is the one that is there. DataError where the name is another's."""
        row = {
            "name": check_name(name, "model"), "path": path, "artifact_hash": artifact_hash, "parent": parent,
            "round": round, "data_hash": data_hash, "at": at, "details": json.dumps(dict(details or {})),
        }  # fmt: skip
        with self.writing() as connection:
            self.insert_new(connection, models, [row])
            found = model_of(connection.execute(sa.select(models).where(models.c.name == row["name"])).one())
        if found.artifact_hash != artifact_hash:
            raise DataError(f"model {name!r}: another artifact has this name since {found.path}; take a new name")
        return found

    def models(self) -> list[Model]:
        """All models, the earliest first."""
        with self.reading() as connection:
            return [model_of(row) for row in connection.execute(sa.select(models).order_by(models.c.id))]

    def model(self, name: str) -> Model:
        """A model by name; DataError where there is none."""
        with self.reading() as connection:
            row = connection.execute(sa.select(models).where(models.c.name == name)).one_or_none()
        if row is None:
            raise DataError(f"{self.where}: no model is named {name!r}")
        return model_of(row)

    def add_gate(self, model: str, *, passed: bool, figures: Mapping[str, Any], at: float) -> int:
        """Keep how a model's trial went; returns its id."""
        with self.writing() as connection:
            row = {"model_id": model_id(connection, model), "passed": passed, "at": at}
            return insert_one(connection, gates, {**row, "figures": json.dumps(dict(figures))})

    def gates(self, model: str | None = None) -> list[Gate]:
        """All trials, or a model's, the earliest first."""
        chosen = sa.select(gates, models.c.name).join(models).order_by(gates.c.id)
        if model is not None:
            chosen = chosen.where(models.c.name == model)
        with self.reading() as connection:
            return [
                Gate(row.id, row.name, row.passed, json.loads(row.figures), row.at)
                for row in connection.execute(chosen)
            ]

    def add_release(
        self, model: str, *, manifest_hash: str, at: float, note: str = "", seq: int | None = None
    ) -> Release:
        """Make a model the released one: one more entry at the end of the registry, or the one numbered `seq`, which
        stays as it is where it is there.
        """
        with self.writing() as connection:
            row = {"model_id": model_id(connection, model), "manifest_hash": manifest_hash, "at": at, "note": note}
            if seq is None:
                seq = insert_one(connection, releases, row)
            else:
                self.insert_new(connection, releases, [row | {"seq": seq}])
        return Release(seq, model, manifest_hash, at, note)

    def releases(self) -> list[Release]:
        """The registry, the first release first."""
        chosen = sa.select(releases, models.c.name).join(models).order_by(releases.c.seq)
        with self.reading() as connection:
            return [Release(r.seq, r.name, r.manifest_hash, r.at, r.note) for r in connection.execute(chosen)]

    def current_release(self) -> Release | None:
        """The last release; None before the first."""
        chosen = sa.select(releases, models.c.name).join(models).order_by(releases.c.seq.desc()).limit(1)
        with self.reading() as connection:
            row = connection.execute(chosen).one_or_none()
        return None if row is None else Release(row.seq, row.name, row.manifest_hash, row.at, row.note)

    def value(self, name: str) -> str | None:
        """A named value of the project, None where it was never set."""
        with self.reading() as connection:
            return connection.execute(sa.select(meta.c.value).where(meta.c.name == f"project.{name}")).scalar()

    def set_value(self, name: str, value: str) -> None:
        """Keep a named value in the place of the one before."""
        key = f"project.{name}"
        with self.writing() as connection:
            self.insert_new(connection, meta, [{"name": key, "value": value}])
            connection.execute(sa.update(meta).where(meta.c.name == key).values(value=value))


def model_id(connection: sa.Connection, name: str) -> int:
    """The id of a registered model; DataError where there is none of that name."""
    found = connection.execute(sa.select(models.c.id).where(models.c.name == name)).scalar()
    if found is None:
        raise DataError(f"no model is named {name!r}; add it first")
    return int(found)


def model_of(row: Any) -> Model:
    return Model(
        row.id, row.name, row.path, row.artifact_hash, row.parent, row.round, row.data_hash, row.at,
        json.loads(row.details),
    )  # fmt: skip
