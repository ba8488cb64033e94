"""The verbs `refresh ...`: options, calls into the library, and how the results are shown to people."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rewardsmith.verbs_common import Name

if TYPE_CHECKING:
    from rewardsmith.cli import Common

Folder = Annotated[Name, tyro.conf.arg(metavar="PROJECT")]


@dataclass(frozen=True, kw_only=True)
class RefreshInit:
    """Make a refresh project: a folder with settings and a store of answers, pairs, labels and models.

    Example: rewardsmith refresh init project
    Example: rewardsmith refresh init project --store postgresql://me@localhost/refresh
    """

    project: Folder
    """The folder; one that is a project already stays as it is."""
    store: str = "store.sqlite"
    """A file in the folder (SQLite), or postgresql://USER@HOST/NAME. ${VARIABLE} stands for a variable of the
    environment: a password belongs in one."""
    base_policy: str = "base"
    """The name of the policy that everything started from."""

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.refresh.project import init_project

        project, is_new = init_project(self.project, store=self.store, base_policy=self.base_policy)
        with project.open() as store:
            return {"folder": str(project.folder), "store": store.where, "new": is_new}

    def show(self, result: dict[str, Any]) -> str:
        state = "a new project" if result["new"] else "was a project already, nothing was changed"
        return f"{result['folder']}: {state}; its store: {result['store']}"


@dataclass(frozen=True, kw_only=True)
class RefreshStatus:
    """Where a project stands: answers, pairs, labels, models, and the step that comes next.

    Example: rewardsmith refresh status project
    """

    project: Folder
    """The project's folder."""

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.refresh.project import open_project
        from rewardsmith.refresh.status import status

        project = open_project(self.project)
        with project.open() as store:
            return status(project, store, time.time())

    def show(self, result: dict[str, Any]) -> str:
        pairs = f"{result['comparisons']} pairs, {result['labelled']} labelled, {result['open']} open"
        lines = [
            f"{result['folder']} ({result['store']})",
            f"{result['prompts']} prompts, {result['responses']} answers; {pairs}, {result['flagged']} flagged",
        ]
        lines += [
            f"round {row['round']}: {row['responses']} answers of policy {row['policy']}" for row in result["policies"]
        ]
        lines += [
            f"round {round}: {n['comparisons']} pairs proposed, {n['labelled']} labelled, {n['open']} open"
            for round, n in result["rounds"].items()
        ]
        for name, said in result["annotators"].items():
            lines.append(f"{name}: " + ", ".join(f"{n} {verdict}" for verdict, n in said.items() if n))
        if result["leases"]:
            lines.append(f"{result['leases']} pairs are being looked at")
        for model in result["registered"]:
            gate = {None: "not tried", True: "passed its gate", False: "blocked by its gate"}[model["gate"]]
            lines.append(f"model {model['name']} (round {model['round']}): {gate}")
        release = result["release"]
        lines.append("nothing is released" if release is None else f"release {release['seq']}: {release['model']}")
        return "\n".join([*lines, f"next: {result['next']}"])
