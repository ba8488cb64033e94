"""Parts of a trunk: together they are the trunk; the last layer leaves out only what nobody reads."""

from __future__ import annotations

import pytest
import torch

from rewardsmith.model.layers import layers_of, with_own_top
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.text.pack import pack_rows
from tests.model.test_reward_model import random_groups
from tests.tiny import DECODERS, tiny_trunk

DEPTH = {"gpt2": {"n_layer": 4}}


def deep_trunk(family: str, seed: int = 0):
    return tiny_trunk(family, seed, **DEPTH.get(family, {"num_hidden_layers": 4}))


@pytest.fixture(params=sorted(DECODERS))
def model(request) -> RewardModel:
    torch.manual_seed(1)
    return RewardModel(deep_trunk(request.param)).eval()


def gradients(model: RewardModel, rewards: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    (rewards * torch.linspace(-1, 1, len(rewards))).sum().backward()
    return [p.grad.clone() for p in layers_of(model.trunk)[-1].parameters() if p.grad is not None]


@pytest.mark.parametrize("n_upper", [1, 3])
def test_lower_and_upper_part_are_the_trunk(model, n_upper):
    batch = pack_rows(random_groups())
    names = set(model.state_dict())
    whole = model(batch=batch)
    expected = gradients(model, whole)
    model.split(n_upper)
    given_TH = model.lower(batch)
    parts = model(batch=batch, given_TH=given_TH)
    assert not given_TH.requires_grad
    assert torch.equal(parts, whole)
    for a, b in zip(gradients(model, parts), expected, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    lower = {id(p) for layer in layers_of(model.trunk)[: 4 - n_upper] for p in layer.parameters()}
    assert all(p.grad is None for p in model.parameters() if id(p) in lower)
    assert set(model.state_dict()) == names, "the parts are views, not further weights"


def test_the_last_layer_feeds_forward_only_what_is_read():
    model = RewardModel(deep_trunk("llama")).eval()
    assert model.narrowed is not None
    batch = pack_rows(random_groups())
    seen = []
    for layer in layers_of(model.trunk)[-2:]:
        layer.mlp.gate_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    rewards = model(batch=batch)
    assert seen == [batch.n_tokens, len(set(batch.last_R.tolist()))]
    expected = gradients(model, rewards)
    model.narrowed.remove()
    whole = model(batch=batch)
    assert torch.allclose(rewards, whole, atol=1e-6)
    for a, b in zip(gradients(model, whole), expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_two_forward_passes_before_one_backward_pass_with_checkpointing():
    """What a hook remembers belongs to one call: the layer is computed again for the first batch after the second."""
    model = RewardModel(deep_trunk("llama")).train()
    first, second = pack_rows(random_groups(1)), pack_rows(random_groups(2)[:3])
    expected = gradients(model, torch.cat([model(batch=first), model(batch=second)]))
    model.trunk.gradient_checkpointing_enable({"use_reentrant": False})
    found = gradients(model, torch.cat([model(batch=first), model(batch=second)]))
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("family", sorted(DECODERS))
def test_members_share_what_is_below_and_own_what_is_on_top(family):
    trunk = deep_trunk(family)
    other = with_own_top(trunk, 2)
    mine, theirs = layers_of(trunk), layers_of(other)
    assert [a is b for a, b in zip(mine, theirs)] == [True, True, False, False]
    torch.manual_seed(3)
    a, b = RewardModel(trunk).eval(), RewardModel(other).eval()
    b.value_head = a.value_head
    batch = pack_rows(random_groups())
    with torch.no_grad():
        assert torch.equal(a(batch=batch), b(batch=batch))
        for parameter in layers_of(b.trunk)[3].parameters():
            parameter.add_(0.3)
        assert not torch.allclose(a(batch=batch), b(batch=batch), atol=1e-3)
