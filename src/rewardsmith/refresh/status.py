"""Where a project stands: what is in its store, and which step comes next."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rewardsmith.refresh.project import Project
from rewardsmith.refresh.records import Counts
from rewardsmith.refresh.store import Store

TRAINED = "trained"  # the value that says which model the last training made, and of how many labels


def status(project: Project, store: Store, now: float) -> dict[str, Any]:
    """Ready for JSON: counts (as of `Counts`), policies, models, the release, and what comes next in words."""
    counts = store.counts(now)
    policies = store.policies()
    release = store.current_release()
    models = store.models()
    gates = {gate.model: gate.passed for gate in store.gates()}
    return {
        "folder": str(project.folder),
        "store": store.where,
        "base_policy": project.base_policy,
        "round": max((row["round"] for row in policies), default=None),
        **asdict(counts),
        "policies": policies,
        "registered": [
            {"name": m.name, "round": m.round, "parent": m.parent, "gate": gates.get(m.name)} for m in models
        ],
        "release": None if release is None else asdict(release),
        "next": next_step(project, store, counts, policies),
    }


def label_mark(counts: Counts) -> list[int]:
    """What changes with every label that is given or taken back."""
    return [counts.labels, counts.undone]


def next_step(project: Project, store: Store, counts: Counts, policies: Sequence[Mapping[str, Any]]) -> str:
    """What is to be done next, with its command."""
    folder = shlex.quote(str(project.folder))

    def command(verb: str, more: str = "") -> str:
        return f"rewardsmith refresh {verb} {folder}{more}"

    ingest = command("ingest", " FILE --policy NAME")
    if not counts.responses:
        return f"ingest what the policy said: {ingest}"
    last = max(row["round"] for row in policies)
    propose = command("propose", " --budget N")
    if last not in counts.rounds:
        return f"choose pairs of round {last} to label: {propose}"
    trained = json.loads(store.value(TRAINED) or "{}")
    is_trained = trained.get("labels") == label_mark(counts)
    if waiting := store.waiting():
        also = "" if is_trained or not counts.labelled else f"; or train on those that have some: {command('train')}"
        return f"pairs wait for labels ({waiting}): {command('label')}{also}"
    if not counts.labelled:
        return f"no pair has a label that counts: propose others: {propose}"
    if not is_trained:
        more = f"; or have the {counts.open} that want one more labelled: {command('label')}" if counts.open else ""
        return f"train a model on the labels: {command('train')}{more}"
    release = store.current_release()
    trials = store.gates(trained["model"])
    if release is not None and release.model == trained["model"]:
        return f"ingest the next round's answers: {ingest}"
    if any(known.model == trained["model"] for known in store.releases()):
        return f"{trained['model']} was rolled back: label more pairs: {propose}"
    if not trials:
        return f"try the new model: {command('gate')}"
    if trials[-1].passed:
        return f"release the model that passed its gate: {command('release')}"
    return f"the gate blocks {trained['model']}: label more pairs: {propose}, or ingest the next round's answers"
