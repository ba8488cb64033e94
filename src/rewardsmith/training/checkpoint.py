"""The state of a run on disk: everything that decides the numbers to come, and nothing else.

    <run>/state-00000123/     tensors.safetensors (trained weights, optimiser, random state), state.json
    <run>/metrics.jsonl       one line per step; cut back to the state's step on resume
    <run>/best-00000120.safetensors    trained weights of the best evaluation, by its step

A state folder is written under another name, flushed and renamed, then older ones go: whenever the process
dies, one whole state is there.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rewardsmith.errors import TrainingError
from rewardsmith.model.artifact import writing_tensors
from rewardsmith.training.parallel import full, like

PREFIX = "state-"


def trained_weights(modules: dict[str, nn.Module]) -> dict[str, torch.Tensor]:
    """name -> whole weight of all that is trained (frozen weights are the base model's and are not saved).

    Collective, as `tensors_of` is: where weights are split among processes, each gives its part.
    """
    return {
        f"{key}/{name}": full(parameter.detach()).cpu().contiguous()
        for key, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


@torch.no_grad()
def load_weights(modules: dict[str, nn.Module], tensors: dict[str, torch.Tensor]) -> None:
    """Copy saved weights back in place."""
    for key, module in modules.items():
        for own_name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            name = f"{key}/{own_name}"
            if name not in tensors or tensors[name].shape != parameter.shape:
                raise TrainingError(f"the saved state has no fitting {name}: it is of another model or other options")
            parameter.copy_(like(tensors[name], parameter))


def tensors_of(modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """What a state holds: trained weights, optimiser state, random state."""
    tensors = {f"weight/{name}": t for name, t in trained_weights(modules).items()}
    tensors |= {f"optimizer/{name}": t for name, t in _optimizer_tensors(optimizer).items()}
    tensors["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    return tensors


def save_state(run: Path, step: int, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
    """Write state-<step> and remove older ones."""
    final = run / f"{PREFIX}{step:08d}"
    writing = run / f".writing-{step:08d}"
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    with writing_tensors(writing):
        save_file(tensors, writing / "tensors.safetensors")
    (writing / "state.json").write_text(json.dumps({"step": step, **state}))
    for file in writing.iterdir():
        flush(file)
    remove(final)
    os.rename(writing, final)
    for old in states(run)[:-1]:
        remove(old)


def load_state(run: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Restore the newest state into modules, optimiser and random generators; None where there is none."""
    found = states(run)
    if not found:
        return None
    tensors = load_file(found[-1] / "tensors.safetensors")
    parts: dict[str, dict[str, torch.Tensor]] = {"weight": {}, "optimizer": {}, "random": {}}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        parts[kind][rest] = tensor
    load_weights(modules, parts["weight"])
    _restore_optimizer(optimizer, parts["optimizer"])
    torch.set_rng_state(parts["random"]["cpu"])
    if torch.cuda.is_available() and "cuda" in parts["random"]:
        torch.cuda.set_rng_state(parts["random"]["cuda"])
    return json.loads((found[-1] / "state.json").read_text())


def states(run: Path) -> list[Path]:
    """Whole states, oldest first."""
    return sorted(run.glob(f"{PREFIX}*"))


def save_best(run: Path, step: int, weights: dict[str, torch.Tensor]) -> None:
    """Keep the trained weights of the best evaluation so far, and those of the one before until a state knows."""
    known = sorted(run.glob("best-*.safetensors"))
    for old in known[:-1]:
        old.unlink()
    writing = run / ".best.writing"
    with writing_tensors(run):
        save_file(weights, writing)
    flush(writing)
    os.replace(writing, run / f"best-{step:08d}.safetensors")


def load_best(run: Path, step: int, modules: dict[str, nn.Module]) -> None:
    """Put the weights of the best evaluation, that of `step`, back."""
    load_weights(modules, load_file(run / f"best-{step:08d}.safetensors"))


def cut_metrics(file: Path, step: int) -> None:
    """Drop the lines of steps after `step` (they will be computed again) and a half-written last line."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue
    writing = file.with_suffix(".writing")
    writing.write_text("".join(kept), encoding="utf-8")
    os.replace(writing, file)


def remove(folder: Path) -> None:
    """Delete a folder so that it is never seen half deleted under its name."""
    if folder.exists():
        trash = folder.with_name(f".trash-{folder.name}")
        shutil.rmtree(trash, ignore_errors=True)
        os.rename(folder, trash)
        shutil.rmtree(trash, ignore_errors=True)


def flush(file: Path) -> None:
    """Wait until the file is on the disk, not only in the machine's memory."""
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{index}/{name}": full(value).cpu().contiguous()
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition("/")
        parameter = parameters[int(index)]
        whole = tensor.shape == parameter.shape and name != "step"
        state.setdefault(int(index), {})[name] = like(tensor, parameter) if whole else tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
