"""Load the members of an ensemble together: those that share lower layers hold them once, and compute them once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from rewardsmith.errors import ModelError
from rewardsmith.model.artifact import load_reward_model
from rewardsmith.model.layers import depth, layers_of, plain, share_lower
from rewardsmith.model.meta import read_meta
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.text.render import Renderer


@dataclass(frozen=True)
class Part:
    """Members that read the same tokens. Those that share lower layers are split there.

    index  the members' places in the ensemble
    """

    models: list[RewardModel]
    renderer: Renderer
    index: list[int]


def load_members(
    path: str, *, max_response_length: int | None = None, trust_remote_code: bool = False
) -> tuple[list[RewardModel], Renderer, dict[str, Any]]:
    """(models, renderer, metadata) of an ensemble, or of a single artifact as an ensemble of one.

    Raises ModelError for an ensemble whose members read different tokens: `load_parts` loads it.
    """
    parts, meta = load_parts(path, max_response_length=max_response_length, trust_remote_code=trust_remote_code)
    if len(parts) > 1:
        raise ModelError(f"{path}: its members have {len(parts)} tokenizers or templates; name a member of it")
    return parts[0].models, parts[0].renderer, meta


def load_parts(
    path: str, *, max_response_length: int | None = None, trust_remote_code: bool = False
) -> tuple[list[Part], dict[str, Any]]:
    """(parts, metadata) of an ensemble, or of a single artifact as one part with one member.

    A part holds the members whose tokenizer and render contract are the same. Within it, members share the modules of
    an earlier one up to the layer where their weights begin to differ, and are split there: `lower` of one serves all
    that share it.
    """
    meta = read_meta(path)
    names = meta.get("members")
    folders = [str(Path(path) / Path(name).name) for name in names] if isinstance(names, list) else [path]
    parts: list[Part] = []
    for place, folder in enumerate(folders):
        model, renderer, own_meta = load_reward_model(
            folder, max_response_length=max_response_length, trust_remote_code=trust_remote_code
        )
        part = next((p for p in parts if _same_tokens(p.renderer, renderer)), None)
        if part is None:
            part = Part([], renderer, [])
            parts.append(part)
        share_layers(part.models, model)
        part.models.append(model)
        part.index.append(place)
    for part in parts:
        split_families(part.models)
    return parts, meta if isinstance(names, list) else own_meta


def _same_tokens(a: Renderer, b: Renderer) -> bool:
    return a.contract == b.contract and a.tokenizer.get_added_vocab() == b.tokenizer.get_added_vocab()


def share_layers(models: Sequence[RewardModel], model: RewardModel) -> None:
    """Put `model` on the lower layers of the first of `models` that has the same ones; its copies are let go."""
    for other in models:
        trunk, n_upper = share_lower(other.trunk, model.trunk)
        if n_upper < depth(model.trunk):
            model.trunk = trunk
            return


def split_families(models: Sequence[RewardModel]) -> None:
    """Split models that share lower layers where the first of them parts from the others."""
    families: dict[int, list[RewardModel]] = {}
    for model in models:
        families.setdefault(id(layers_of(plain(model.trunk))[0]), []).append(model)
    for family in families.values():
        if len(family) > 1 and all(model.path == "packed" for model in family):
            stacks = [layers_of(plain(model.trunk)) for model in family]
            shared = takewhile(lambda layers: len(set(map(id, layers))) == 1, zip(*stacks, strict=True))
            n_upper = len(stacks[0]) - sum(1 for _ in shared)
            for model in family:
                model.split(n_upper)
