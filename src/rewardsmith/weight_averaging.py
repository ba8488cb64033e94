"""One reward model from the mean of several ones' weights (WARM), and what lies on the line between them.

Averaging works where the members came from one pre-trained trunk and stayed in one valley of the loss: then the loss
along the straight line between two of them does not rise above the line between its ends. How far it does is the
barrier, and it is measured, not assumed.

Source: Rame et al. (2401.12187) for WARM; Frankle et al. (1912.05671) for the barrier.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rewardsmith.data.schema import Group
from rewardsmith.ensemble import member_folders, name_of
from rewardsmith.errors import DataError, ModelError
from rewardsmith.model.artifact import PROBE, load_reward_model, save_reward_model
from rewardsmith.model.members import share_layers, split_families
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scorers import ModelScorer
from rewardsmith.statistics import Floats, clustered_mean
from rewardsmith.text.render import Renderer

STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
PAIRS_UP_TO = 3  # members; with more, the lines go from each to the average
AT_ONCE_BYTES = 2e9  # of weights that differ between the points of a line, held at a time
UNRELATED = 0.5  # relative distance: trunks that were drawn apart are at about 1.4, fine-tunings of one far below 0.1
State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Member:
    """A member's name for people, and all its weights."""

    name: str
    state: State


def average(
    models: Sequence[str],
    output: str | Path,
    *,
    groups: Sequence[Group] = (),
    overwrite: bool = False,
    device: str = "cpu",
    seed: int = 0,
    trust_remote_code: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Write the reward model whose weights are the mean of the members', and return its metadata, with "barrier" where
    labelled `groups` are given. Raises ModelError for members without one architecture, tokenizer and trunk."""
    folders = member_folders(models)
    model, renderer, meta = load_reward_model(str(folders[0]), trust_remote_code=trust_remote_code)
    members = [Member(name_of(folders[0], folders), {k: v.clone() for k, v in model.state_dict().items()})]
    for folder in folders[1:]:
        other, own, _ = load_reward_model(str(folder), trust_remote_code=trust_remote_code)
        refuse_strangers(members[0], Member(name_of(folder, folders), other.state_dict()), model, other)
        if own.contract != renderer.contract:
            raise ModelError(f"{folder} renders otherwise than {folders[0]} (template, tokenizer or lengths)")
        members.append(Member(name_of(folder, folders), other.state_dict()))
    mean = Member("average", mean_of([member.state for member in members]))
    note: dict[str, Any] = {
        "averaged": [member.name for member in members],
        "distance": max(distance(members[0].state, member.state) for member in members[1:]),
        "base_model": meta.get("base_model"),
        "calibration": None,
    }
    if groups:
        note["barrier"] = barrier(model.to(device), renderer, members, mean, groups, seed=seed, progress=progress)
    model.to("cpu").load_state_dict(mean.state)
    return save_reward_model(model, renderer, output, meta=note, probe=renderer.encode(PROBE), overwrite=overwrite)


def refuse_strangers(first: Member, other: Member, model: RewardModel, other_model: RewardModel) -> None:
    """Raise ModelError where two members have no common architecture or no common origin."""
    kinds = [type(m.trunk).__name__ for m in (model, other_model)]
    if kinds[0] != kinds[1] or model.pooling != other_model.pooling:
        raise ModelError(f"{first.name} is a {kinds[0]} and {other.name} a {kinds[1]}: their weights have no average")
    shapes = [{key: tuple(value.shape) for key, value in m.state.items()} for m in (first, other)]
    if shapes[0] != shapes[1]:
        key = min(set(shapes[0].items()) ^ set(shapes[1].items()))[0]
        found = [shape.get(key, "missing") for shape in shapes]
        raise ModelError(f"{key} is {found[0]} in {first.name} and {found[1]} in {other.name}: no average of the two")
    if (apart := distance(first.state, other.state)) > UNRELATED:
        raise ModelError(
            f"the weights of {first.name} and {other.name} differ by {apart:.2f} of their size: they were not trained "
            "from one pre-trained trunk, and their average would be neither; join them instead"
        )


def distance(a: State, b: State) -> float:
    """|a - b| / sqrt(|a| |b|) over the trunk's weights."""
    names = [name for name, value in a.items() if value.is_floating_point() and not name.startswith("value_head.")]
    norms = np.array([[_norm(a[name] - b[name]), _norm(a[name]), _norm(b[name])] for name in names])
    apart, of_a, of_b = np.sqrt((norms**2).sum(axis=0))
    return float(apart / np.sqrt(of_a * of_b))


def _norm(weights: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(weights, dtype=torch.float64))


def mean_of(states: Sequence[State], weights: Sequence[float] | None = None) -> State:
    """The (weighted) mean of weights, added up in float64 and given in the type of the first; what is no float must be
    the same in all."""
    weights = weights or [1.0] * len(states)
    found = {}
    for name, first in states[0].items():
        if all(torch.equal(first, state[name]) for state in states[1:]):  # most of it, where top layers were trained
            found[name] = first
            continue
        assert first.is_floating_point(), f"{name}: a mean of what is no number"
        total = torch.zeros_like(first, dtype=torch.float64)
        for weight, state in zip(weights, states, strict=True):
            total += weight * state[name].double()
        found[name] = (total / sum(weights)).to(first.dtype)
    return found


# -- the line between ---------------------------------------------------------------------------------------


def barrier(
    model: RewardModel,
    renderer: Renderer,
    members: Sequence[Member],
    mean: Member,
    groups: Sequence[Group],
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Accuracy and loss along the straight lines between members (up to three), or from each to the average.

    {"n_pairs", "lines": [{"a", "b", "points": [{"t", "accuracy", "loss"}], "loss_barrier", "accuracy_barrier"}],
    "average": {"accuracy", "loss"}}. A barrier is the most by which a point is worse than the straight line between
    the figures of the ends: 0 or below where there is none. Intervals are clustered by prompt. `model` is
    copied for each point, and `progress` called with the number of points that were measured.
    """
    lines = list(combinations(members, 2)) if len(members) <= PAIRS_UP_TO else [(member, mean) for member in members]
    ends = {member.name: member for member in (*members, mean)}
    points = [*ends, *((a.name, b.name, t) for a, b in lines for t in STEPS[1:-1])]
    known: dict[Any, dict[str, Any]] = {}
    for part in in_parts(points, [member.state for member in members]):
        states = [
            ends[point].state
            if isinstance(point, str)
            else mean_of([ends[point[0]].state, ends[point[1]].state], [1 - point[2], point[2]])
            for point in part
        ]
        known |= zip(part, figures(model, renderer, states, groups, seed), strict=True)
        if progress is not None:
            progress(len(part))
    return {
        "n_pairs": known[mean.name]["n_pairs"],
        "lines": [_line(a, b, known) for a, b in lines],
        "average": known[mean.name],
    }


def _line(a: Member, b: Member, known: Mapping[Any, dict[str, Any]]) -> dict[str, Any]:
    inner = [{"t": t, **known[(a.name, b.name, t)]} for t in STEPS[1:-1]]
    points = [{"t": STEPS[0], **known[a.name]}, *inner, {"t": STEPS[-1], **known[b.name]}]

    def rises(key: str) -> list[float]:
        first, last = points[0][key]["value"], points[-1][key]["value"]
        return [point[key]["value"] - (1 - point["t"]) * first - point["t"] * last for point in inner]

    return {
        "a": a.name,
        "b": b.name,
        "points": points,
        "loss_barrier": max(rises("loss")),
        "accuracy_barrier": max(-rise for rise in rises("accuracy")),
    }


def in_parts(points: Sequence[Any], states: Sequence[State]) -> Iterator[Sequence[Any]]:
    """The points in parts whose own weights, those that differ between the members, fit into AT_ONCE_BYTES."""
    own = sum(
        value.nbytes for name, value in states[0].items() if not all(torch.equal(value, s[name]) for s in states[1:])
    )
    size = max(1, int(AT_ONCE_BYTES // max(own, 1)))
    for start in range(0, len(points), size):
        yield points[start : start + size]


def figures(
    model: RewardModel, renderer: Renderer, states: Sequence[State], groups: Sequence[Group], seed: int = 0
) -> list[dict[str, Any]]:
    """Accuracy (decided pairs; a tie in reward is wrong) and Bradley-Terry loss of the model with each of the weights.

    Layers that they have in common are computed once.
    """
    models: list[RewardModel] = []
    for state in states:
        one = copy.deepcopy(model)
        one.load_state_dict(state)
        share_layers(models, one)
        models.append(one)
    split_families(models)
    scored = [s for s in zip(groups, ModelScorer(models, renderer).score(groups), strict=True) if not s[1].error]
    pairs = [
        ((np.atleast_2d(s.rewards) if s.members is None else s.members)[:, [p.chosen, p.rejected]], p, group)
        for group, s in scored
        for p in group.preferences
    ]
    if not pairs:
        raise DataError("no pair could be scored: the line between the members cannot be measured")
    margin_NP = np.stack([two_N2[:, 0] - two_N2[:, 1] for two_N2, _, _ in pairs], axis=1)
    probability_P = np.array([p.probability for _, p, _ in pairs])
    prompt_P = np.array([group.prompt_id for _, _, group in pairs])
    return [_figures(margin_P, probability_P, prompt_P, seed) for margin_P in margin_NP]


def _figures(margin_P: Floats, probability_P: Floats, prompt_P: Any, seed: int) -> dict[str, Any]:
    loss_P = probability_P * np.logaddexp(0, -margin_P) + (1 - probability_P) * np.logaddexp(0, margin_P)
    decided_P = probability_P > 0.5
    accuracy = clustered_mean((margin_P > 0)[decided_P], prompt_P[decided_P], seed=seed)
    loss = clustered_mean(loss_P, prompt_P, seed=seed)
    return {"n_pairs": len(margin_P), "accuracy": accuracy.to_json(), "loss": loss.to_json()}


def barrier_table(found: Mapping[str, Any]) -> str:
    """The lines as text for people."""
    lines = [f"{found['n_pairs']} pairs; t runs from the first to the second"]
    for line in found["lines"]:
        lines.append(f"  {line['a']} to {line['b']}")
        lines += [
            f"    t {point['t']:.2f}  accuracy {point['accuracy']['value']:.4f}  loss {point['loss']['value']:.4f}"
            for point in line["points"]
        ]
        lines.append(f"    barrier: loss {line['loss_barrier']:+.4f}, accuracy {line['accuracy_barrier']:+.4f}")
    mean = found["average"]
    low, high = mean["accuracy"]["low"], mean["accuracy"]["high"]
    between = "" if low is None else f" [{low:.3f}, {high:.3f}]"
    lines.append(f"  the average: accuracy {mean['accuracy']['value']:.4f}{between}, loss {mean['loss']['value']:.4f}")
    return "\n".join(lines)
