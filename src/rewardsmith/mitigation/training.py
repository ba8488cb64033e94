"""The options of the run that a reward model came from, with changes: what it is trained with again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rewardsmith.data.options import ReadOptions
from rewardsmith.errors import ConfigError
from rewardsmith.text.render import RenderConfig
from rewardsmith.training.config import TrainConfig
from rewardsmith.training.loss_config import LossConfig

NESTED: dict[str, type] = {"read": ReadOptions, "render": RenderConfig, "loss": LossConfig}
# What belongs to the other run, or to the machine that it ran on.
NOT_KEPT = ("data", "data_weights", "output", "eval_data", "eval_fraction", "limit", "resume", "overwrite", "tracker",
            "tokens_per_batch", "trust_remote_code", "device", *NESTED)  # fmt: skip


def recorded(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The options that an artifact was trained with; {} where it says nothing (another tool's, or a joined one)."""
    found = meta.get("config")
    return dict(found) if isinstance(found, dict) else {}


def recorded_read(meta: Mapping[str, Any]) -> ReadOptions:
    return _rebuilt(ReadOptions, recorded(meta).get("read") or {})


def start_of(meta: Mapping[str, Any], model: str | None) -> str:
    """The trunk to start from: `--model`, or the one that the artifact was trained from. ConfigError where there is
    none, or it is not here."""
    start = model or recorded(meta).get("model") or meta.get("base_model")
    if not start:
        raise ConfigError("the artifact does not say what it was trained from; name the language model with --model")
    start = str(start)
    place = Path(start.removeprefix("gguf:"))
    if model is None and place.is_absolute() and not place.exists():
        raise ConfigError(f"{start}, which the model was trained from, is not here; name it with --model")
    return start


def other_data(meta: Mapping[str, Any], files: Sequence[str]) -> list[str]:
    """A warning where the files are not, byte for byte, what the artifact says that it was trained on."""
    side = (meta.get("data") or {}).get("train") or {}
    known = {row.get("sha256") for row in side.get("files") or ()} - {None}
    if not known or {sha256(Path(file)) for file in files} == known:
        return []
    return ["the model was trained on other files than --data: before and after differ in that too"]


def sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def config_of(
    meta: Mapping[str, Any], changes: Mapping[str, Any], *, model: str, data: str, output: str,
    eval_data: Sequence[str] = (), device: str = "auto", trust_remote_code: bool = False,
) -> TrainConfig:  # fmt: skip
    """The recorded options with `changes` by field name (of the run, its loss or its rendering), on our own data.

    Raises ConfigError for a change that names no option, or has a value of another type. A run that has nothing held
    out cannot stop early as the recorded one did, and does not.
    """
    old = recorded(meta)
    known = {f.name for f in fields(TrainConfig)}
    kept = {k: _tuples(v) for k, v in old.items() if k in known and k not in NOT_KEPT and k != "model"}
    render = _rebuilt(RenderConfig, old.get("render") or {})
    loss = _rebuilt(LossConfig, old.get("loss") or {})
    top: dict[str, Any] = {}
    if not eval_data:
        kept.pop("early_stopping", None)
    types = get_type_hints(TrainConfig) | get_type_hints(LossConfig) | get_type_hints(RenderConfig)
    of_loss: dict[str, Any] = {}
    for name, given in changes.items():
        value = _tuples(given)
        if value is None and name in types and fits("none", types[name]):
            value = "none"  # the word itself, for an option that has no value of None
        if name in types and not fits(value, types[name]):
            word = f"{name.replace('_', '-')}={json.dumps(given)}"
            raise ConfigError(f"--train {word}: not a value of that option (see train --help)")
        if name in known - set(NESTED) - {"data", "output", "model", "resume", "overwrite"}:
            top[name] = value
        elif name in {f.name for f in fields(LossConfig)}:
            of_loss[name] = value
        elif name in {f.name for f in fields(RenderConfig)}:
            render = replace(render, **{name: value})
        else:
            raise ConfigError(f"--train {name}: no option of train that can be changed here")
    loss = replace(loss, **of_loss)  # at once: some go together only with others
    base = {"device": device, "trust_remote_code": trust_remote_code, "eval_data": tuple(eval_data)}
    return TrainConfig(
        data=(data,), model=model, output=output, resume=True, render=render, loss=loss, **(kept | base | top)
    )


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type: numbers, words of a Literal, tuples, unions."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(one, inner[0]) for one in value)
    if origin is not None:
        return any(fits(value, one) for one in inner)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


def changes_of(words: Sequence[str]) -> dict[str, Any]:
    """`epochs=2`, `learning-rate=1e-5` -> values by field name; ConfigError for a word that is no such pair."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"--train {word}: give OPTION=VALUE; example: epochs=2")
        try:
            found[name.replace("-", "_")] = json.loads(value)
        except ValueError:
            found[name.replace("-", "_")] = None if value == "none" else value
    return found


def _rebuilt(cls: type, values: Mapping[str, Any]) -> Any:
    """An options class from what JSON kept of it; fields that this version does not have are left out."""
    known = {f.name for f in fields(cls)}
    return cls(**{k: _tuples(v) for k, v in values.items() if k in known})


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
