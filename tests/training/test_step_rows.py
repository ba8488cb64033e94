"""The terms of a whole step, dealt out to batches in any order."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rewardsmith.data.schema import Group, Message, Preference
from rewardsmith.losses import consistency, odin
from rewardsmith.text.render import Renderer
from rewardsmith.training.loss_config import LossConfig
from rewardsmith.training.objective import PreferenceLoss, make_pair_batch
from rewardsmith.training.sides import Found
from rewardsmith.training.step_rows import StepRows, with_pull
from rewardsmith.training.twins import with_twin
from tests.tiny import tiny_tokenizer

CONFIG = LossConfig(odin=0.5, consistency=2.0)


def pair(prompt: str, weight: float) -> Group:
    answers = ("it is red, as I said", "it is not")
    return Group(
        prompt=(Message("user", prompt),),
        responses=tuple((Message("assistant", answer),) for answer in answers),
        preferences=(Preference(chosen=0, rejected=1),),
        id=prompt,
        weight=weight,
    )


@pytest.fixture
def step() -> tuple[list, StepRows]:
    groups = [
        with_twin(pair("a", 1.0), ["padding"], 0)[0],
        pair("b", 5.0),
        with_twin(pair("c", 3.0), ["padding"], 0)[0],
    ]
    items = Renderer(tiny_tokenizer()).encode(groups)
    return items, StepRows(items, [1] * 3, CONFIG, torch.device("cpu"))


def test_edits_stand_beside_their_answers_with_their_groups_weight(step):
    items, rows = step
    (a,), (c,) = items[0].group.twins, items[2].group.twins
    assert rows.twin_2E.tolist() == [[a[0], 5 + c[0]], [2, 7]]
    assert rows.weight_E.tolist() == [0.25, 0.75]
    assert rows.group_R.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert rows.rows([2, 0]).tolist() == [5, 6, 7, 0, 1, 2]


def test_the_parts_of_batches_have_the_value_and_gradient_of_the_whole(step):
    items, rows = step
    rewards_2R = torch.randn(2, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    first, second = odin(*rewards_2R, rows.log_length_R, rows.group_R)
    ratio = consistency(rewards_2R[0], rows.twin_2E, rows.weight_E, rows.group_R)
    whole = 0.5 * (first.abs() - second) + 2.0 * torch.log(1 + ratio)
    (wanted_2R,) = torch.autograd.grad(whole, rewards_2R)

    loss, found, terms = PreferenceLoss(replace(CONFIG, objective="bradley-terry")), 0.0, {}
    pull = rows.pull(rewards_2R)
    for members in ([2, 0], [1]):
        places = rows.rows(members)
        pairs = make_pair_batch([items[g].group for g in members], [0, 3][: len(members)], 9.0, CONFIG)
        quality_R, length_R = rewards_2R[:, places]
        plain = loss(quality_R, pairs)
        output = with_pull(plain, Found(quality_R, length_R, None), pull, places)
        found = found + output.loss - plain.loss
        terms = {name: terms.get(name, 0.0) + value for name, value in output.terms.items()}
    (gradient_2R,) = torch.autograd.grad(found, rewards_2R)
    assert found.item() == pytest.approx(whole.item(), abs=1e-6)
    assert torch.allclose(gradient_2R, wanted_2R, atol=1e-6)
    assert float(terms["consistency"]) == pytest.approx(ratio.item(), rel=1e-5)
    assert set(terms) == {"consistency", "length_correlation", "length_head_correlation"}
