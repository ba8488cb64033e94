"""A tiny model as a scorer, for what needs weights."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def tiny_scorer():
    import torch

    from rewardsmith.model.reward_model import RewardModel
    from rewardsmith.scorers import ModelScorer
    from rewardsmith.text.render import Renderer
    from tests.tiny import tiny_tokenizer, tiny_trunk

    torch.manual_seed(0)
    return ModelScorer(RewardModel(tiny_trunk()), Renderer(tiny_tokenizer()))
