"""One reward model from the mean of several ones' weights (WARM), and what lies on the line between them.

Averaging works where the members came from one pre-trained trunk and stayed in one valley of the loss: then the loss
along the straight line between two of them does not rise above the line between its ends. How far it does is the
barrier, and it is measured, not assumed.

Source: Rame et al. (2401.12187) for WARM; Frankle et al. (1912.05671) for the barrier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scoring import ModelScorer
from rewardsmith.statistics import clustered_mean
from rewardsmith.text.render import Renderer

STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
PAIRS_UP_TO = 3  # members; with more, the lines go from each to the average
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
    progress: Callable[[], None] | None = None,
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
    squares = np.zeros(3)
    for name in names:
        x, y = a[name].double(), b[name].double()
        squares += [float(((x - y) ** 2).sum()), float((x**2).sum()), float((y**2).sum())]
    return float(np.sqrt(squares[0]) / (squares[1] * squares[2]) ** 0.25)


def mean_of(states: Sequence[State], weights: Sequence[float] | None = None) -> State:
    """The (weighted) mean of weights, added up in float64 and given in the type of the first; what is no float must be
    the same in all."""
    weights = weights or [1.0] * len(states)
    found = {}
    for name, first in states[0].items():
        if not first.is_floating_point():
            assert all(torch.equal(first, state[name]) for state in states), name
            found[name] = first
            continue
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
    progress: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Accuracy and loss along the straight lines between members (up to three), or from each to the average.

    {"n_pairs", "lines": [{"a", "b", "points": [{"t", "accuracy", "loss"}], "loss_barrier", "accuracy_barrier"}],
    "average": {"accuracy", "loss"}}. A barrier is the most by which a point is worse than the straight line between
    the figures of the ends: 0 or below where there is none. Intervals are clustered by prompt. `model` is used to hold
    the weights of each point; `progress` is called after each.
    """
    ends = list(combinations(members, 2)) if len(members) <= PAIRS_UP_TO else [(member, mean) for member in members]
    known: dict[str, dict[str, Any]] = {}

    def measured(state: State) -> dict[str, Any]:
        found = figures(model, renderer, state, groups, seed)
        if progress is not None:
            progress()
        return found

    def at(a: Member, b: Member, t: float) -> dict[str, Any]:
        if t not in (0.0, 1.0):
            return measured(mean_of([a.state, b.state], [1 - t, t]))
        end = a if t == 0 else b
        if end.name not in known:
            known[end.name] = measured(end.state)
        return known[end.name]

    lines = []
    for a, b in ends:
        points = [{"t": t, **at(a, b, t)} for t in STEPS]
        rises = {
            key: [
                point[key]["value"] - (1 - t) * points[0][key]["value"] - t * points[-1][key]["value"]
                for t, point in zip(STEPS, points, strict=True)
            ]
            for key in ("accuracy", "loss")
        }
        lines.append(
            {
                "a": a.name,
                "b": b.name,
                "points": points,
                "loss_barrier": max(rises["loss"][1:-1]),
                "accuracy_barrier": max(-rise for rise in rises["accuracy"][1:-1]),
            }
        )
    of_mean = at(mean, mean, 0.0)
    return {"n_pairs": of_mean["n_pairs"], "lines": lines, "average": of_mean}


def figures(
    model: RewardModel, renderer: Renderer, state: State, groups: Sequence[Group], seed: int = 0
) -> dict[str, Any]:
    """Accuracy (decided pairs, a tie in reward is wrong) and Bradley-Terry loss of the model with these weights."""
    model.load_state_dict(state)
    scored = ModelScorer(model, renderer).score(groups)
    rows = [
        (scores.rewards[p.chosen] - scores.rewards[p.rejected], p.probability, group.prompt_id)
        for group, scores in zip(groups, scored, strict=True)
        if not scores.error
        for p in group.preferences
    ]
    if not rows:
        raise DataError("no pair could be scored: the line between the members cannot be measured")
    margin_P, probability_P = np.array([row[:2] for row in rows], np.float64).T
    prompt_P = np.array([row[2] for row in rows])
    loss_P = probability_P * np.logaddexp(0, -margin_P) + (1 - probability_P) * np.logaddexp(0, margin_P)
    decided_P = probability_P > 0.5
    accuracy = clustered_mean((margin_P > 0)[decided_P], prompt_P[decided_P], seed=seed)
    loss = clustered_mean(loss_P, prompt_P, seed=seed)
    return {"n_pairs": len(rows), "accuracy": accuracy.to_json(), "loss": loss.to_json()}


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
