"""The head's input: its product with the head's weights is the reward, on every path."""

from __future__ import annotations

import numpy as np
import pytest

from rewardsmith.data.schema import Group, Message
from rewardsmith.head_input import head_inputs
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scoring import ModelScorer
from rewardsmith.text.render import RenderConfig, Renderer
from tests.tiny import tiny_tokenizer, tiny_trunk

GROUPS = [
    Group(
        prompt=(Message("user", f"question {i}"),),
        responses=tuple((Message("assistant", f"answer {k} " + "x" * (i + k)),) for k in range(1 + i % 3)),
    )
    for i in range(9)
]


@pytest.mark.parametrize("family", ["llama", "mamba"])
def test_head_times_input_is_the_reward(family):
    scorer = ModelScorer(
        RewardModel(tiny_trunk(family)), Renderer(tiny_tokenizer(), RenderConfig(max_length=64)), tokens_per_batch=64
    )
    model = scorer.models[0]
    head = model.value_head
    inputs = head_inputs(scorer, GROUPS)
    assert model.value_head is head
    for found_KH, scores in zip(inputs, scorer.score(GROUPS), strict=True):
        rewards = found_KH @ head.weight.detach().numpy()[0]
        np.testing.assert_allclose(rewards, scores.rewards, atol=1e-5)
