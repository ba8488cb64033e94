"""Several reward models that share the lower part of one trunk.

    <output>/reward_model.json     what a single artifact says, and "members": the folders below
    <output>/member-0/ ...         each a complete artifact that other tools load by itself

What is equal in all members is one file on the disk (hard links; a copy where the file system has none), and is
computed once per batch: the layers up to the first one that differs.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rewardsmith.model.artifact import META, replacing, save_reward_model, writing_tensors
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.text.render import Encoded, Renderer

WHOLE = "model.safetensors"
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
