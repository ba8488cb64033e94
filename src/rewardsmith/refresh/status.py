"""Where a project stands: what is in its store, and which step comes next."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rewardsmith.refresh.project import Project
from rewardsmith.refresh.store import Store


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
        "release": None if release is None else {"seq": release.seq, "model": release.model, "at": release.at},
        "next": next_step(counts.responses, counts.comparisons, counts.open, counts.labelled, release is not None),
    }


def next_step(responses: int, comparisons: int, n_open: int, labelled: int, is_released: bool) -> str:
    """What is to be done next, with its command."""
    if not responses:
        return "ingest what the policy said: rewardsmith refresh ingest PROJECT FILE --policy NAME"
    if not comparisons:
        return "choose pairs to label: rewardsmith refresh propose PROJECT --budget N"
    if n_open:
        return f"{n_open} pairs wait for labels: rewardsmith refresh label PROJECT"
    if not labelled:
        return "no pair has a label: propose others, or look at the flagged ones"
    if not is_released:
        return "train a model on the labels: rewardsmith refresh train PROJECT"
    return "all proposed pairs are labelled: train, or ingest the next round's answers"
