"""Several reward models as one folder, and the posterior of a single one's last layer.

    <output>/reward_model.json     what a single artifact says, and "members": the folders below
    <output>/member-0/ ...         each a complete artifact that other tools load by itself

Members come out of one training on one trunk, or are joined afterwards, then with trunks and tokenizers of their own
if need be. Weights that members of one training have alike are one file on the disk, and joined ones are the files of
their first folders (hard links; a copy where the file system has none). Layers that are equal up to the first one
that differs are computed once per batch.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rewardsmith.data.schema import Group
from rewardsmith.errors import ConfigError, ModelError
from rewardsmith.last_layer import fit_laplace, write_posterior
from rewardsmith.model.artifact import PROBE, replacing, save_reward_model, writing_tensors
from rewardsmith.model.meta import FORMAT, META, read_meta, write_note
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scorers import ModelScorer, load_scorer
from rewardsmith.scoring import Scorer
from rewardsmith.statistics import Floats
from rewardsmith.text.render import Encoded, Renderer

WHOLE = "model.safetensors"
OF_A_MODEL = ("pooling", "path", "path_reason", "render", "dtype")  # what a joined folder says of its first member
UNEVEN = 2.0  # times as wide a spread: one member's scale decides then
COMMON, OWN = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def save_ensemble(
    models: Sequence[RewardModel],
    renderer: Renderer,
    output: str | Path,
    *,
    member_means: Sequence[float],
    meta: dict[str, Any] | None = None,
    probe: Sequence[Encoded] = (),
    overwrite: bool = False,
    extra: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    """Write an ensemble folder and return its metadata. Arguments as of `save_reward_model`.

    `member_means` are the members' mean rewards of the same responses: the constants that their spread is taken
    without.
    """
    names = [f"member-{m}" for m in range(len(models))]
    # The temperature is that of the mean of all members, which is not as sure of itself as one of them.
    of_a_member = {**(meta or {}), "calibration": None}
    with replacing(output, overwrite=overwrite) as folder:
        written = [
            save_reward_model(model, renderer, folder / name, meta=of_a_member, probe=probe)
            for name, model in zip(names, models, strict=True)
        ]
        share_equal_weights([folder / name for name in names])
        if extra is not None:
            extra(folder)
        whole = {
            **written[0],
            "calibration": (meta or {}).get("calibration"),
            "members": names,
            "member_means": list(member_means),
        }
        if probe:
            whole["parity"] = _worst([m["parity"] for m in written])
        (folder / META).write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return whole


def _worst(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The members' parity figures as one: the largest difference of each way."""
    ways = {way: max(f["max_difference"][way] for f in figures) for way in figures[0]["max_difference"]}
    spread = min(f["reward_spread"] for f in figures)
    return {**figures[0], "reward_spread": spread, "max_difference": ways, "tolerance": max(ways.values())}


def share_equal_weights(folders: Sequence[Path]) -> None:
    """Split each folder's weights in two files: what all have alike, one file under several names, and its own.

    Folders whose weights are in several files already (very large models) stay as they are.
    """
    if not all((folder / WHOLE).is_file() for folder in folders):
        return
    files = [safe_open(folder / WHOLE, "pt") for folder in folders]
    names = [name for name in files[0].keys() if all(_same(files[0], file, name) for file in files[1:])]  # noqa: SIM118
    if not names:
        return
    with writing_tensors(folders[0]):
        save_file({name: files[0].get_tensor(name) for name in names}, folders[0] / COMMON, {"format": "pt"})
    for folder, file in zip(folders, files, strict=True):
        if folder is not folders[0]:
            link_or_copy(folders[0] / COMMON, folder / COMMON)
        own = {name: file.get_tensor(name) for name in file.keys() if name not in set(names)}  # noqa: SIM118
        with writing_tensors(folder):
            save_file(own, folder / OWN, {"format": "pt"})
        total = sum((folder / part).stat().st_size for part in (COMMON, OWN))
        where = {**dict.fromkeys(names, COMMON), **dict.fromkeys(own, OWN)}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / f"{WHOLE}.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    del files
    for folder in folders:
        (folder / WHOLE).unlink()


def _same(first: Any, other: Any, name: str) -> bool:
    return torch.equal(first.get_tensor(name), other.get_tensor(name))


def link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


# -- joining ------------------------------------------------------------------------------------------------


def join(
    models: Sequence[str],
    output: str | Path,
    *,
    groups: Sequence[Group] = (),
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Write reward models that were trained apart as one ensemble folder, and return its metadata.

    A model that is an ensemble itself gives all its members. Their mean rewards of the same responses, which the
    spread is taken without, are measured on `groups`, or on a few built-in dialogues.
    """
    folders = member_folders(models)
    names = [f"member-{m}" for m in range(len(folders))]
    with replacing(output, overwrite=overwrite) as folder:
        for name, source in zip(names, folders, strict=True):
            shutil.copytree(source, folder / name, copy_function=_link_weights)
        first = read_meta(folders[0])
        whole = {
            "format": FORMAT,
            **{key: first[key] for key in OF_A_MODEL if key in first},
            "calibration": None,
            "members": names,
            "joined": [{"member": n, **_origin(f, folders)} for n, f in zip(names, folders, strict=True)],
        }
        _write_meta(folder, whole)
        scorer = load_scorer(str(folder), device="cpu", trust_remote_code=trust_remote_code)
        means_M, spread_M = _level_and_spread(scorer, groups or PROBE, names)
        whole |= {
            "member_means": means_M.tolist(),
            "member_spread": spread_M.tolist(),
            "measured_on": f"{len(groups)} groups" if groups else "built-in dialogues",
        }
        _write_meta(folder, whole)
    return whole


def member_folders(models: Sequence[str]) -> list[Path]:
    """The folders of single models, and of the members of ensembles, in order. Raises ConfigError for fewer than two
    or for one that is there twice, ModelError for what is no folder of a model."""
    found: list[Path] = []
    for model in models:
        members = read_meta(model).get("members")
        own = [Path(model) / Path(name).name for name in members] if isinstance(members, list) else [Path(model)]
        for folder in own:
            if not (folder / "config.json").is_file():
                raise ModelError(f"{folder} is no folder of a reward model (no config.json there)")
            if folder.resolve() in {other.resolve() for other in found}:
                raise ConfigError(f"{folder} is given twice")
            found.append(folder)
    if len(found) < 2:
        raise ConfigError(f"{len(found)} reward model given: name two or more, or an ensemble")
    return found


def name_of(folder: Path, folders: Sequence[Path]) -> str:
    """The folder's own name, with the one above where others have the same."""
    same = sum(other.name == folder.name for other in folders) > 1 or folder.name.startswith("member-")
    return "/".join(folder.absolute().parts[-2:]) if same else folder.absolute().name


def uneven(spread_M: Sequence[float]) -> str:
    """What to know where one member's rewards spread much wider than another's; "" where they do not."""
    widest, narrowest = int(np.argmax(spread_M)), int(np.argmin(spread_M))
    if spread_M[widest] <= UNEVEN * spread_M[narrowest]:
        return ""
    return (
        f"member-{widest}'s rewards spread {spread_M[widest] / max(spread_M[narrowest], 1e-12):.1f} times as wide as "
        f"member-{narrowest}'s: its opinion counts for more in every aggregate"
    )


def _link_weights(source: str, target: str) -> None:
    """Weights are one file under two names; what is small may be edited, and is copied."""
    if source.endswith(".safetensors"):
        link_or_copy(Path(source), Path(target))
    else:
        shutil.copy2(source, target)


def _origin(folder: Path, folders: Sequence[Path]) -> dict[str, Any]:
    meta = read_meta(folder)
    seed = (meta.get("config") or {}).get("seed")
    return {"from": name_of(folder, folders), "base_model": meta.get("base_model"), "seed": seed}


def _level_and_spread(scorer: Scorer, groups: Sequence[Group], names: Sequence[str]) -> tuple[Floats, Floats]:
    """([M] mean reward, [M] standard deviation within prompts) of each member over the same responses."""
    members = [scores.members for scores in scorer.score(groups) if scores.members is not None]
    if not members:
        raise ModelError("no member can render the responses that their means are measured on")
    level_M = np.concatenate(members, axis=1).mean(axis=1)
    if not np.isfinite(level_M).all():
        wrong = int(np.flatnonzero(~np.isfinite(level_M))[0])
        raise ModelError(f"{names[wrong]} gives rewards that are not finite")
    inner = [rewards_MK - rewards_MK.mean(axis=1, keepdims=True) for rewards_MK in members]
    return level_M, np.sqrt((np.concatenate(inner, axis=1) ** 2).mean(axis=1))


def _write_meta(folder: Path, meta: dict[str, Any]) -> None:
    (folder / META).write_text(json.dumps(meta, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# -- the last layer -----------------------------------------------------------------------------------------


def fit_posterior(
    path: str,
    scorer: Scorer,
    groups: Sequence[Group],
    *,
    prior: float | None = None,
    data: str = "",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Fit the Laplace posterior of the head of the artifact at `path`, whose scorer is given, to the preferences of
    `groups`, and keep it there: scoring then gives a std. Returns the note that is kept. See `last_layer`."""
    check_takes_posterior(path, overwrite=overwrite)
    assert isinstance(scorer, ModelScorer), "a single model"
    features = scorer.features(groups)
    known = [(group, found_KH) for group, found_KH in zip(groups, features, strict=True) if found_KH is not None]
    pairs = [found_KH[p.chosen] - found_KH[p.rejected] for group, found_KH in known for p in group.preferences]
    head_H = scorer.models[0].head()
    mean_H = np.concatenate([found_KH for _, found_KH in known]).mean(axis=0) if known else np.zeros_like(head_H)
    delta_PH = np.stack(pairs) if pairs else np.zeros((0, len(head_H)))
    posterior, note = fit_laplace(delta_PH, head_H, mean_H, prior=prior)
    note |= {"data": data, "groups_left_out": len(groups) - len(known)}
    write_posterior(posterior, Path(path))
    write_note(path, laplace=note)
    return note


def check_takes_posterior(path: str, *, overwrite: bool) -> None:
    """Raise where `path` is no single artifact, or has a posterior that may not be replaced."""
    meta = read_meta(path)
    if not meta:
        raise ModelError(
            f"{path} is no artifact (no {META} there): write one with rewardsmith export {path} --output DIR"
        )
    if meta.get("onnx"):
        raise ModelError(f"{path} is an ONNX file, which gives rewards only; name the artifact it was made from")
    if isinstance(meta.get("members"), list):
        raise ModelError(f"{path} is an ensemble, whose spread is its std; name a member: {path}/{meta['members'][0]}")
    if meta.get("laplace") and not overwrite:
        raise ConfigError(f"{path} has a Laplace posterior of its last layer; --overwrite replaces it")
