"""Rewards of the store's answers by a model: worked out once, kept in the store, gone on with after an interruption."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rewardsmith.data.schema import Group
from rewardsmith.errors import ModelError
from rewardsmith.refresh.connect import parts
from rewardsmith.refresh.project import Project
from rewardsmith.refresh.records import Model
from rewardsmith.refresh.store import Store
from rewardsmith.score_cache import META, model_hash
from rewardsmith.scoring import Scorer, is_address
from rewardsmith.temperature import of_artifact

PROMPTS_AT_ONCE = 32  # scored and kept together


def find_or_add_model(project: Project, store: Store, name: str | None, now: float) -> Model | None:
    """A registered model by name, else a folder or a server's address, which is registered under that name.

    Without a name: the released model, or None where nothing is released. ModelError where there is none.
    """
    if name is None:
        release = store.current_release()
        return None if release is None else store.model(release.model)
    known = next((model for model in store.models() if model.name == name), None)
    if known is not None:
        is_folder = known.details.get("from") == "outside" and not is_address(known.path)
        artifact = model_hash(Path(known.path)) if is_folder else known.artifact_hash
        if artifact in (known.artifact_hash, None):
            return known
        # Trained anew in its place: the rewards in the store are those of the model before.
        name, path = f"{name} {artifact[:8]}", known.path
        return store.add_model(name, path=path, artifact_hash=artifact, round=0, at=now, details=known.details)
    artifact = name if is_address(name) else model_hash(Path(name))
    if artifact is None:
        raise ModelError(f"{name}: no model of this project has this name, and it is no reward model's folder")
    path = name if is_address(name) else str(Path(name).resolve())
    return store.add_model(name, path=path, artifact_hash=artifact, round=0, at=now, details={"from": "outside"})


def path_of(project: Project, model: Model) -> str:
    """Where a model is: its address, or its folder, which may be given relative to the project's."""
    if is_address(model.path) or Path(model.path).is_absolute():
        return model.path
    return str(project.folder / model.path)


def temperature_of(path: str) -> float:
    """What turns a model's rewards into log-odds, as its artifact holds it; 1 where it holds none."""
    try:
        meta = json.loads((Path(path) / META).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a server, or another tool's folder; a damaged one is refused where it is loaded
        return 1.0
    return of_artifact(meta) or 1.0


def score_missing(
    store: Store,
    model: str,
    load: Callable[[], Scorer],
    response_ids: Sequence[int],
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Give these answers the rewards of a registered model that they lack; `load()` is asked where there are any.

    Answers of one prompt are scored together, and kept a few prompts at a time.
    Returns {"scored", "known", "unscored": answers that the model could not score}.
    """
    known = store.scores(model, response_ids).keys()
    missing: dict[int, list[int]] = {}
    for response in store.responses([i for i in response_ids if i not in known]):
        missing.setdefault(response.prompt_id, []).append(response.id)
    counts = {"scored": 0, "known": len(known), "unscored": 0}
    scorer = load() if missing else None
    for part in parts(sorted(missing), PROMPTS_AT_ONCE):
        assert scorer is not None
        prompts = {prompt.id: prompt for prompt in store.prompts(part)}
        said = {r.id: r for r in store.responses([i for prompt in part for i in missing[prompt]])}
        groups = [
            Group(
                prompt=prompts[p].messages,
                responses=tuple(said[i].messages for i in missing[p]),
                tools=prompts[p].tools,
                template_kwargs=prompts[p].template_kwargs,
            )
            for p in part
        ]
        found: dict[int, tuple[float, float | None]] = {}
        for prompt, scores in zip(part, scorer.score(groups), strict=True):
            for k, i in enumerate(missing[prompt]):
                if np.isfinite(scores.rewards[k]):
                    found[i] = (float(scores.rewards[k]), None if scores.std is None else float(scores.std[k]))
        store.set_scores(model, found)
        asked = sum(len(missing[p]) for p in part)
        counts["scored"] += len(found)
        counts["unscored"] += asked - len(found)
        if progress is not None:
            progress(asked)
    return counts
