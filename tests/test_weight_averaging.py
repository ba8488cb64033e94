"""Averages of weights: exact means, lines between members, and who is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rewardsmith import weight_averaging
from rewardsmith.data.schema import Group, Message, Preference
from rewardsmith.errors import ModelError
from rewardsmith.model.artifact import load_reward_model
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scorers import ModelScorer
from rewardsmith.text.render import RenderConfig, Renderer
from rewardsmith.weight_averaging import Member, average, barrier, distance, figures, mean_of
from tests.test_verbs_ensemble import save
from tests.tiny import tiny_tokenizer, tiny_trunk

GROUPS = [
    Group(
        prompt=(Message("user", f"q{i}"),),
        responses=tuple((Message("assistant", f"{word} {i}"),) for word in ("red", "blue", "sun")),
        preferences=(Preference(chosen=0, rejected=1), Preference(chosen=2, rejected=1, probability=0.7)),
    )
    for i in range(5)
]


def member(name: str, seed: int, **shape) -> Member:
    torch.manual_seed(seed)
    return Member(name, RewardModel(tiny_trunk(seed=seed, **shape)).state_dict())


def test_the_mean_is_that_of_float64():
    states = [member("m", seed).state for seed in range(3)]
    found = mean_of(states)
    for name, value in found.items():
        if value.is_floating_point():
            wanted = np.mean([state[name].double().numpy() for state in states], axis=0)
            assert value.dtype == states[0][name].dtype
            assert torch.equal(value, torch.from_numpy(wanted).to(value.dtype)), name
    # what float32 would lose: a large weight and a small one that cancel
    big = [{"w": torch.tensor([x])} for x in (1e8, 1.0, -1e8)]
    assert mean_of(big)["w"].item() == pytest.approx(1 / 3)


def test_heads_on_one_trunk_have_no_barrier():
    """Between two heads on one trunk the loss is convex and lies below the line between its ends."""
    model = RewardModel(tiny_trunk())
    renderer = Renderer(tiny_tokenizer(), RenderConfig(max_length=64))
    own = {name: value.clone() for name, value in model.state_dict().items()}
    turned = {n: -v if n.startswith("value_head") else v for n, v in own.items()}
    mean = Member("average", mean_of([own, turned]))
    found = barrier(model, renderer, [Member("a", own), Member("b", turned)], mean, GROUPS)
    (line,) = found["lines"]
    assert line["loss_barrier"] < 0
    middle = line["points"][2]
    assert middle["loss"]["value"] == pytest.approx(np.log(2), abs=1e-6)  # the head is zero there
    assert middle == {"t": 0.5, **found["average"]}
    (quarter,) = figures(model, renderer, [mean_of([own, turned], [0.75, 0.25])], GROUPS)
    assert {"t": 0.25, **quarter} == line["points"][1]
    assert found["n_pairs"] == 10


def test_the_average_of_heads_on_one_trunk_is_the_ensembles_mean():
    model, renderer = RewardModel(tiny_trunk()), Renderer(tiny_tokenizer(), RenderConfig(max_length=64))
    states = []
    for seed in range(3):
        torch.manual_seed(seed)
        torch.nn.init.normal_(model.value_head.weight)
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    alone = []
    for state in [*states, mean_of(states)]:
        model.load_state_dict(state)
        alone.append(np.concatenate([s.rewards for s in ModelScorer(model, renderer).score(GROUPS)]))
    assert alone[-1] == pytest.approx(np.mean(alone[:3], axis=0), abs=1e-5)


def test_the_same_network_with_its_units_in_another_order_is_behind_a_barrier():
    """Two weights that are one function: the loss is the same at both ends, and not in between."""
    model = RewardModel(tiny_trunk())
    renderer = Renderer(tiny_tokenizer(), RenderConfig(max_length=64))
    own = {name: value.clone() for name, value in model.state_dict().items()}
    own["value_head.weight"] *= 5
    order = torch.arange(64).flip(0)
    turned = {
        name: value[order]
        if "gate_proj" in name or "up_proj" in name
        else value[:, order]
        if "down_proj" in name
        else value
        for name, value in own.items()
    }
    good = []  # labels that the ends get right: whatever lies between has something to lose
    for group in GROUPS:
        model.load_state_dict(own)
        rewards = ModelScorer(model, renderer).score([group])[0].rewards
        best, worst = int(rewards.argmax()), int(rewards.argmin())
        good.append(replace(group, preferences=(Preference(chosen=best, rejected=worst),)))
    mean = Member("average", mean_of([own, turned]))
    (line,) = barrier(model, renderer, [Member("a", own), Member("b", turned)], mean, good)["lines"]
    first, last = line["points"][0], line["points"][-1]
    assert first["loss"]["value"] == pytest.approx(last["loss"]["value"], abs=1e-4)
    assert line["loss_barrier"] > 0.05


def test_the_figures_are_those_of_a_loop():
    model, renderer = RewardModel(tiny_trunk()), Renderer(tiny_tokenizer(), RenderConfig(max_length=64))
    (found,) = figures(model, renderer, [model.state_dict()], GROUPS)
    losses, right = [], []
    for group in GROUPS:
        (item,) = renderer.encode([replace(group)])
        rows = [torch.tensor([ids.tolist()]) for ids in item.token_ids]
        with torch.no_grad():
            r = [float(model(row)) for row in rows]
        for p in group.preferences:
            good, bad = (1 / (1 + np.exp(-s * (r[p.chosen] - r[p.rejected]))) for s in (1, -1))
            losses.append(-p.probability * np.log(good) - (1 - p.probability) * np.log(bad))
            right.append(r[p.chosen] > r[p.rejected])
    assert found["loss"]["value"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert found["accuracy"]["value"] == pytest.approx(np.mean(right))


def test_four_members_are_compared_with_their_average(monkeypatch):
    model, renderer = RewardModel(tiny_trunk()), Renderer(tiny_tokenizer(), RenderConfig(max_length=64))
    members = [member(f"m{i}", i) for i in range(4)]
    done: list[int] = []
    average_ = Member("average", mean_of([m.state for m in members]))
    found = barrier(model, renderer, members, average_, GROUPS[:2], progress=done.append)
    assert sum(done) == 5 + 4 * 3
    # one at a time, nothing shared: the same figures
    monkeypatch.setattr(weight_averaging, "AT_ONCE_BYTES", 1)
    alone = barrier(model, renderer, members, average_, GROUPS[:2])
    for one, other in zip(found["lines"], alone["lines"], strict=True):
        assert one["loss_barrier"] == pytest.approx(other["loss_barrier"], abs=1e-5)
    assert [(line["a"], line["b"]) for line in found["lines"]] == [(f"m{i}", "average") for i in range(4)]


def test_distance_tells_fine_tunings_from_strangers(tmp_path):
    a, b = member("a", 0), member("b", 1)
    assert distance(a.state, a.state) == 0
    assert distance(a.state, b.state) > 1
    for seed in (1, 2):
        save(tmp_path / f"rm{seed}", seed=seed, noise=1e-3)
    meta = average([str(tmp_path / "rm1"), str(tmp_path / "rm2")], tmp_path / "warm")
    assert 0 < meta["distance"] < 0.05
    assert meta["calibration"] is None
    one, two, mean = (load_reward_model(str(tmp_path / name))[0].state_dict() for name in ("rm1", "rm2", "warm"))
    assert all(torch.equal(mean[name], mean_of([one, two])[name]) for name in mean)
    save(tmp_path / "far", seed=7)
    with pytest.raises(ModelError, match=r"rm1 and far differ by 1\.\d+ of their size"):
        average([str(tmp_path / "rm1"), str(tmp_path / "far")], tmp_path / "no")
