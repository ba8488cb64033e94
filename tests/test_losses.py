"""Every loss by a second route: closed forms in Python floats, finite differences, enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rewardsmith.data.schema import Group, Message, Preference
from rewardsmith.errors import ConfigError
from rewardsmith.losses import (
    bradley_terry,
    centring,
    consistency,
    davidson,
    flipped_bradley_terry,
    odin,
    pair_weights,
    plackett_luce,
    rao_kupper,
    regression,
    smooth,
    unflip,
    within_correlation,
)
from rewardsmith.training.loss_config import LossConfig
from rewardsmith.training.objective import (
    PairBatch,
    PreferenceLoss,
    StepWeight,
    make_pair_batch,
    ranking_of,
    step_weight,
)

unhurried = settings(deadline=None, max_examples=50)  # a busy machine is no failure
rewards = st.floats(-30, 30)
probabilities = st.floats(0, 1)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def text(content: str) -> tuple[Message, ...]:
    return (Message("assistant", content),)


def group(name: str, k: int, *preferences: Preference, **more: Any) -> Group:
    return Group(
        prompt=text(name),
        responses=tuple(text(f"{name} {i}") for i in range(k)),
        preferences=preferences,
        **more,
    )


def prefer(chosen: int, rejected: int, **more: Any) -> Preference:
    return Preference(chosen=chosen, rejected=rejected, **more)


def all_pairs(k: int) -> list[Preference]:
    return [prefer(a, b) for a, b in itertools.combinations(range(k), 2)]


def rows_of(groups: Sequence[Group]) -> list[int]:
    return [0, *np.cumsum([len(g.responses) for g in groups])[:-1].tolist()]


def batch_of(groups: Sequence[Group], config: LossConfig, total: StepWeight | None = None) -> PairBatch:
    total = total or step_weight(groups, config)
    return make_pair_batch(groups, rows_of(groups), total, config, dtype=torch.float64)


def loss_of(groups: Sequence[Group], rewards_R: Tensor, config: LossConfig) -> float:
    return PreferenceLoss(config)(rewards_R, batch_of(groups, config)).loss.item()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


# Bradley-Terry -------------------------------------------------------------------------------------


@given(rewards, rewards, st.floats(0, 3), probabilities)
@unhurried
def test_bradley_terry_is_the_cross_entropy_of_its_definition(w: float, l: float, m: float, p: float) -> None:  # noqa: E741
    d = w - l - m
    expected = -p * math.log(sigmoid(d)) - (1 - p) * math.log(sigmoid(-d))
    assert bradley_terry(f64(w), f64(l), f64(m), f64(p)).item() == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("d", "loss", "slope"), [(-1e4, 1e4, -1.0), (1e4, 0.0, 0.0), (-120.0, 120.0, -1.0)])
def test_bradley_terry_is_finite_with_the_right_gradient_far_out(
    dtype: torch.dtype, d: float, loss: float, slope: float
) -> None:
    chosen = torch.tensor([d], dtype=dtype, requires_grad=True)
    value = bradley_terry(chosen, torch.zeros(1, dtype=dtype))
    value.sum().backward()
    assert value.item() == chosen.item() * slope  # exactly 120 at -120; 1e4 as bf16 rounds it
    assert value.item() == pytest.approx(loss, rel=4e-3)
    assert chosen.grad is not None
    assert chosen.grad.item() == slope


def test_the_naive_form_fails_where_the_docstring_says() -> None:
    d = torch.tensor([-120.0])
    assert torch.isinf(-torch.log(torch.sigmoid(d))).item()
    assert bradley_terry(d, torch.zeros(1)).item() == 120.0


def test_soft_labels_far_out_have_no_nan() -> None:
    d = torch.tensor([1e4, -1e4, 0.0], requires_grad=True)
    loss = bradley_terry(d, torch.zeros(3), probability_P=torch.tensor([0.75, 1.0, 0.5]))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([2500.0, 1e4, math.log(2)])
    assert d.grad is not None
    assert d.grad.tolist() == pytest.approx([0.25, -1.0, 0.0])


@given(rewards, rewards, probabilities, rewards)
@unhurried
def test_bradley_terry_ignores_a_shift_and_turns_round(w: float, l: float, p: float, c: float) -> None:  # noqa: E741
    loss = bradley_terry(f64(w), f64(l), None, f64(p)).item()
    assert bradley_terry(f64(w + c), f64(l + c), None, f64(p)).item() == pytest.approx(loss, abs=1e-9)
    assert bradley_terry(f64(l), f64(w), None, f64(1 - p)).item() == pytest.approx(loss, abs=1e-9)


@given(st.floats(0.01, 0.99))
@unhurried
def test_a_soft_label_is_least_at_its_logit(p: float) -> None:
    d = torch.tensor([math.log(p / (1 - p))], dtype=torch.float64, requires_grad=True)
    bradley_terry(d, f64(0.0), None, f64(p)).sum().backward()
    assert d.grad is not None
    assert d.grad.item() == pytest.approx(0, abs=1e-12)


def test_bf16_rewards_are_computed_in_float32() -> None:
    a, b = torch.tensor([3.0], dtype=torch.bfloat16), torch.tensor([1.0], dtype=torch.bfloat16)
    for loss in (
        bradley_terry(a, b),
        rao_kupper(a, b, torch.ones(1), 0.5),
        davidson(a, b, torch.ones(1), 0.0),
        centring(a, b),
        regression(a, b, torch.ones(1, dtype=torch.bool)),
        plackett_luce(torch.cat([a, b]), torch.tensor([[0, 1]])),
    ):
        assert loss.dtype == torch.float32


# Ties ----------------------------------------------------------------------------------------------


TIE_LOSSES = [
    pytest.param(rao_kupper, 0.3, id="rao-kupper"),
    pytest.param(rao_kupper, 5.0, id="rao-kupper-wide"),
    pytest.param(davidson, -0.4, id="davidson"),
    pytest.param(davidson, 2.0, id="davidson-wide"),
]


@pytest.mark.parametrize(("tie_loss", "parameter"), TIE_LOSSES)
@given(d=rewards)
@unhurried
def test_win_tie_and_loss_sum_to_one(tie_loss: Callable[..., Tensor], parameter: float, d: float) -> None:
    three = tie_loss(f64(d, d, d), f64(0, 0, 0), f64(1.0, 0.5, 0.0), parameter)
    assert three.neg().exp().sum().item() == pytest.approx(1, abs=1e-12)


@given(st.floats(-10, 10), st.floats(0.01, 3))
@unhurried
def test_rao_kupper_is_its_definition(d: float, eta: float) -> None:
    win, lose = sigmoid(d - eta), sigmoid(-d - eta)
    expected = [-math.log(win), -math.log(1 - win - lose), -math.log(lose)]
    found = rao_kupper(f64(d, d, d), f64(0, 0, 0), f64(1.0, 0.5, 0.0), eta)
    assert found.tolist() == pytest.approx(expected, rel=1e-6)  # the definition cancels, the code does not


@given(rewards, rewards, st.floats(-3, 3))
@unhurried
def test_davidson_is_its_definition(w: float, l: float, log_nu: float) -> None:  # noqa: E741
    win, lose, tie = math.exp(w), math.exp(l), math.exp(log_nu + (w + l) / 2)
    expected = [-math.log(x / (win + lose + tie)) for x in (win, tie, lose)]
    found = davidson(f64(w, w, w), f64(l, l, l), f64(1.0, 0.5, 0.0), log_nu)
    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_both_are_bradley_terry_where_no_tie_is_possible() -> None:
    d, p = f64(-3, 0.2, 4), f64(1.0, 0.8, 0.7)
    expected = bradley_terry(d, torch.zeros_like(d), None, p)
    torch.testing.assert_close(rao_kupper(d, torch.zeros_like(d), p, 0.0), expected)
    torch.testing.assert_close(davidson(d, torch.zeros_like(d), p, -80.0), expected)


@pytest.mark.parametrize("tie_loss", [rao_kupper, davidson])
@pytest.mark.parametrize("parameter", [0.0, 1e-30, 0.7, 80.0])
def test_tie_losses_are_finite_for_any_gap_and_parameter(tie_loss: Callable[..., Tensor], parameter: float) -> None:
    d = torch.tensor([-1e4, -120.0, 0.0, 120.0, 1e4] * 3, requires_grad=True)
    p = torch.tensor([0.5] * 5 + [1.0] * 5 + [0.8] * 5)
    learnt = torch.tensor(parameter, requires_grad=True)
    loss = tie_loss(d, torch.zeros(15), p, learnt)
    loss[5:].sum().backward()  # the ties have no part in this: their branch must not leak NaN
    assert loss.isfinite().all()
    assert d.grad is not None
    assert learnt.grad is not None
    assert d.grad.isfinite().all()
    assert learnt.grad.isfinite()


def test_a_tie_at_eta_zero_costs_what_the_docstring_says() -> None:
    tie = rao_kupper(torch.zeros(1), torch.zeros(1), torch.tensor([0.5]), 0.0)
    assert round(tie.item()) == 88


def test_a_soft_label_is_a_mix_of_wins_and_losses_and_a_tie_is_another_event() -> None:
    d, zero = f64(0.4), f64(0)
    for tie_loss in (rao_kupper, davidson):
        win, lose, mixed, near, tie = (
            tie_loss(d, zero, f64(p), 1.5).item() for p in (1.0, 0.0, 0.75, 0.5 + 1e-12, 0.5)
        )
        assert mixed == pytest.approx(0.75 * win + 0.25 * lose)
        assert near == pytest.approx((win + lose) / 2)
        assert abs(near - tie) > 0.1


def test_tie_parameters_start_at_a_third() -> None:
    """As the docstring of PreferenceLoss says: eta = log 2, nu = 1."""
    for tie_loss, parameter in ((rao_kupper, math.log(2)), (davidson, 0.0)):
        assert tie_loss(f64(0), f64(0), f64(0.5), parameter).neg().exp().item() == pytest.approx(1 / 3)
    for ties in ("rao-kupper", "davidson"):
        loss = PreferenceLoss(LossConfig(ties=ties))
        groups = [group("x", 2, prefer(0, 1, probability=0.5))]
        value = loss(torch.zeros(2, dtype=torch.float64), batch_of(groups, loss.config)).loss
        assert value.item() == pytest.approx(math.log(3), rel=1e-6)
        value.backward()
        assert loss.tie_raw is not None
        assert loss.tie_raw.dtype == torch.float32
        assert loss.tie_raw.grad is not None
        assert loss.tie_raw.grad < 0  # a tie asks for more ties


def test_smoothing() -> None:
    assert smooth(f64(1.0, 0.5, 0.8), 0.1).tolist() == pytest.approx([0.95, 0.5, 0.77])


@given(st.floats(0, 0.99))
@unhurried
def test_smoothing_keeps_a_tie_exactly_a_tie(s: float) -> None:
    assert smooth(torch.tensor([0.5]), s).item() == 0.5


# Rankings ------------------------------------------------------------------------------------------


@given(st.lists(rewards, min_size=2, max_size=5))
@unhurried
def test_probabilities_of_all_rankings_sum_to_one(r: list[float]) -> None:
    orders = torch.tensor(list(itertools.permutations(range(len(r)))))
    total = plackett_luce(f64(*r), orders).neg().exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-10)


def test_plackett_luce_is_successive_choice() -> None:
    r = [0.3, -1.0, 2.0, 0.5]
    order = (2, 0, 3, 1)
    expected = -sum(math.log(math.exp(r[i]) / sum(math.exp(r[j]) for j in order[k:])) for k, i in enumerate(order))
    assert plackett_luce(f64(*r), torch.tensor([order])).item() == pytest.approx(expected)


def test_a_partial_ranking_is_the_sum_over_its_completions() -> None:
    r = f64(0.3, -1.0, 2.0, 0.5)
    completions = torch.tensor([[2, *rest] for rest in itertools.permutations([0, 1, 3])])
    partial = plackett_luce(r, torch.tensor([[2, 0, 1, 3]]), torch.tensor([1]))
    assert partial.neg().exp().item() == pytest.approx(plackett_luce(r, completions).neg().exp().sum().item())


def test_two_responses_are_bradley_terry_and_padding_changes_nothing() -> None:
    r = f64(0.3, -1.0, 2.0)
    loss = plackett_luce(r, torch.tensor([[0, 1, -1], [2, 0, 1]]), torch.tensor([1, 2]))
    assert loss[0].item() == pytest.approx(bradley_terry(r[:1], r[1:2]).item())
    assert loss[1].item() == pytest.approx(plackett_luce(r, torch.tensor([[2, 0, 1]])).item())


def test_plackett_luce_is_finite_far_out() -> None:
    r = torch.tensor([-1e4, 1e4, 0.0], requires_grad=True)
    loss = plackett_luce(r, torch.tensor([[0, 1, 2], [1, -1, -1], [1, 2, -1]]))
    loss.sum().backward()
    assert loss.tolist() == [2e4, 0, 0]
    assert r.grad is not None
    assert r.grad.tolist() == [-1, 1, 0]


@pytest.mark.parametrize(
    ("preferences", "expected"),
    [
        (all_pairs(4), ((0, 1, 2, 3), 3)),
        ([prefer(2, 0), prefer(0, 1)], ((2, 0, 1), 2)),  # a chain says the third pair too
        ([prefer(3, 0), prefer(3, 1)], ((3, 0, 1), 1)),  # best against the rest
        ([prefer(0, 1), prefer(1, 2), prefer(1, 3), prefer(0, 2), prefer(0, 3)], ((0, 1, 2, 3), 2)),
        ([prefer(1, 0)], ((1, 0), 1)),
        ([prefer(0, 1), prefer(0, 1)], ((0, 1), 1)),
        ([prefer(0, 1), prefer(1, 2), prefer(2, 0)], None),  # a cycle
        ([prefer(0, 1), prefer(1, 0)], None),
        ([prefer(0, 1), prefer(2, 3)], None),  # two pairs, no order between them
        ([prefer(0, 1), prefer(0, 2), prefer(0, 3), prefer(1, 2)], None),  # 3 has no place beside 1 > 2
        ([prefer(0, 2), prefer(1, 2)], None),  # worst against the rest
        ([prefer(0, 1), prefer(1, 2, probability=0.8)], None),
        ([prefer(0, 1), prefer(1, 2, weight=2.0)], None),
        ([], None),
    ],
)
def test_which_preferences_are_one_ranking(preferences: list[Preference], expected: object) -> None:
    assert ranking_of(preferences) == expected


@given(st.permutations(range(5)), st.data())
@unhurried
def test_a_ranking_is_found_from_its_pairs_in_any_order(order: list[int], data: st.DataObject) -> None:
    pairs = [prefer(a, b) for a, b in itertools.combinations(order, 2)]
    assert ranking_of(data.draw(st.permutations(pairs))) == (tuple(order), 4)


# Averages ------------------------------------------------------------------------------------------


def test_pair_weights_average_over_pairs_then_prompts() -> None:
    group_of_P = torch.tensor([0, 0, 0, 2])  # group 1 has no pair and does not count
    weight_P, loss_P = f64(1, 1, 1, 1), f64(1, 2, 6, 10)
    weights = pair_weights(group_of_P, weight_P)
    assert (weights * loss_P).sum().item() == pytest.approx((3 + 10) / 2)
    weights = pair_weights(group_of_P, f64(2, 1, 0, 5), f64(1, 9, 3))
    assert weights.tolist() == pytest.approx([1 / 6, 1 / 12, 0, 3 / 4])
    assert pair_weights(group_of_P, weight_P, None, 4.0).sum().item() == pytest.approx(0.5)
    assert pair_weights(group_of_P[:0], weight_P[:0]).tolist() == []
    assert pair_weights(group_of_P, torch.zeros(4)).tolist() == [0, 0, 0, 0]


def test_k_wise_loss_by_hand() -> None:
    groups = [group("a", 3, *all_pairs(3)), group("none", 2), group("b", 2, prefer(1, 0), weight=3.0)]
    r = [0.5, 0.1, -0.2, 7.0, 8.0, 0.3, 0.9]
    first = sum(-math.log(sigmoid(r[a] - r[b])) for a, b in ((0, 1), (0, 2), (1, 2))) / 3
    expected = (first + 3 * -math.log(sigmoid(r[6] - r[5]))) / 4
    assert loss_of(groups, f64(*r), LossConfig()) == pytest.approx(expected)


def test_a_ranked_prompt_counts_once_whatever_its_k() -> None:
    config = LossConfig(objective="plackett-luce")
    groups = [group("a", 4, *all_pairs(4)), group("b", 2, prefer(0, 1))]
    r = f64(1, 0.5, 0, -1, 2, 0)
    ranking = plackett_luce(r, torch.tensor([[0, 1, 2, 3]])).item()
    expected = (ranking / 3 + -math.log(sigmoid(2))) / 2
    assert loss_of(groups, r, config) == pytest.approx(expected)


def test_labels_that_are_no_ranking_are_compared_by_pair() -> None:
    groups = [group("a", 3, prefer(0, 1), prefer(1, 2), prefer(2, 0))]
    r = f64(1, 0.5, 0)
    by_pair = loss_of(groups, r, LossConfig())
    assert loss_of(groups, r, LossConfig(objective="plackett-luce")) == pytest.approx(by_pair)


def test_a_pair_is_the_same_under_both_objectives() -> None:
    groups = [group(str(i), 2, prefer(i % 2, 1 - i % 2)) for i in range(4)]
    r = torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = loss_of(groups, r, LossConfig())
    assert loss_of(groups, r, LossConfig(objective="plackett-luce")) == pytest.approx(expected)


def test_centring_and_regression_by_hand() -> None:
    assert centring(f64(2), f64(1)).item() == 9
    mask = torch.tensor([True, False])
    assert regression(f64(2, 5), f64(4, math.nan), mask).tolist() == [4, 0]
    config = LossConfig(objective="none", centring=0.1, regression=0.5)
    groups = [
        group("a", 3, prefer(0, 1), ratings=(4.0, None, 1.0)),
        group("unrated", 2, prefer(0, 1)),
        group("unpaired", 1, ratings=(2.0,)),
    ]
    r = f64(3, 1, 0, 2, -1, 5)
    mse = ((1 + 1) / 2 + 9) / 2  # over the ratings of a prompt, then over the prompts that have some
    centre = (16 + 1) / 2
    assert loss_of(groups, r, config) == pytest.approx(0.5 * mse + 0.1 * centre)


def test_unrated_responses_get_no_gradient() -> None:
    r = torch.zeros(2, requires_grad=True)
    regression(r, torch.tensor([3.0, math.nan]), torch.tensor([True, False])).sum().backward()
    assert r.grad is not None
    assert r.grad.tolist() == [-6, 0]


def test_margins_apply_where_asked_and_never_to_ties() -> None:
    groups = [
        group("a", 2, prefer(0, 1, margin=1.5)),
        group("b", 2, prefer(0, 1, margin=3.0, probability=0.5)),
    ]
    r = f64(2, 0, 1, 0)
    tie = math.log(2 * math.cosh(0.5))  # (softplus(1) + softplus(-1)) / 2
    with_margin = (-math.log(sigmoid(0.5)) + tie) / 2
    assert loss_of(groups, r, LossConfig(use_margins=True)) == pytest.approx(with_margin)
    assert loss_of(groups, r, LossConfig()) == pytest.approx((-math.log(sigmoid(2)) + tie) / 2)


def test_dropped_ties_and_zero_weights_leave_the_divisor_too() -> None:
    tie, unweighted = prefer(0, 1, probability=0.5), prefer(1, 0, weight=0.0)
    groups = [
        group("a", 2, prefer(0, 1), unweighted),
        group("b", 2, tie),
        group("c", 2, prefer(0, 1), weight=0.0),
    ]
    config = LossConfig(ties="drop")
    assert step_weight(groups, config) == StepWeight(pairs=1.0, ratings=0.0)
    r = torch.ones(6, dtype=torch.float64)
    r[0] = 2
    assert loss_of(groups, r, config) == pytest.approx(-math.log(sigmoid(1)))


# The module ----------------------------------------------------------------------------------------


def mixed_groups() -> list[Group]:
    return [
        group("a", 4, *all_pairs(4), ratings=(4.0, 3.0, None, 1.0), weight=2.0),
        group("b", 2, prefer(1, 0, probability=0.75, margin=0.5)),
        group("c", 3, prefer(0, 1, probability=0.5), prefer(2, 1, weight=3.0), ratings=(1.0, 2.0, 3.0)),
        group("d", 2),
        group("e", 3, prefer(0, 1), prefer(0, 2), weight=0.5),
        group("f", 1, ratings=(5.0,)),
        group("g", 3, prefer(0, 1), prefer(1, 2), prefer(2, 0)),
    ]


CONFIGS = [
    LossConfig(),
    LossConfig(use_margins=True, label_smoothing=0.1, centring=0.01, regression=0.3),
    LossConfig(ties="rao-kupper", centring=0.01),
    LossConfig(ties="davidson", use_margins=True),
    LossConfig(ties="drop"),
    LossConfig(objective="plackett-luce", centring=0.01, regression=0.2),
    LossConfig(objective="plackett-luce", ties="rao-kupper"),
    LossConfig(objective="none", regression=1.0),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_gradients_by_finite_differences(config: LossConfig) -> None:
    groups = mixed_groups()
    loss, batch = PreferenceLoss(config).double(), batch_of(groups, config)
    r = torch.randn(18, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    learnt = [] if loss.tie_raw is None else [loss.tie_raw]
    assert torch.autograd.gradcheck(lambda rewards_R, *_: loss(rewards_R, batch).loss, [r, *learnt], fast_mode=True)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("cuts", [(0, 3, 7), (0, 1, 2, 3, 4, 5, 6, 7)])
def test_micro_batches_add_up_to_the_step(config: LossConfig, cuts: tuple[int, ...]) -> None:
    groups, total = mixed_groups(), step_weight(mixed_groups(), config)
    r = torch.randn(18, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    loss = PreferenceLoss(config)
    full = loss(r, batch_of(groups, config))
    rows = [*rows_of(groups), 18]
    parts = [loss(r[rows[a] : rows[b]], batch_of(groups[a:b], config, total)) for a, b in itertools.pairwise(cuts)]
    for name in ("loss", "margin", "correct", "decided", "n_ties", "n_label_ties", "n_pairs"):
        added = sum(getattr(part, name).item() for part in parts)
        assert added == pytest.approx(getattr(full, name).item(), rel=1e-14, abs=1e-15), name
    together = torch.cat([part.group_loss_G for part in parts])
    torch.testing.assert_close(together, full.group_loss_G, rtol=1e-14, atol=1e-15)
    assert full.group_loss_G.sum().item() == pytest.approx(full.loss.item(), rel=1e-14)
    assert not full.group_loss_G.requires_grad


def test_a_micro_batch_without_any_statement_still_has_a_gradient() -> None:
    for config in CONFIGS:
        r = torch.zeros(2, requires_grad=True)
        batch = make_pair_batch([group("d", 2)], [0], StepWeight(1.0, 1.0), config)
        loss = PreferenceLoss(config)(r, batch).loss
        loss.backward()
        assert loss.item() == 0
        assert r.grad is not None
        assert r.grad.tolist() == [0, 0]


def test_a_nan_reward_names_its_group() -> None:
    for config in CONFIGS:
        r = torch.zeros(18)
        r[0] = math.nan
        groups = mixed_groups()
        batch = make_pair_batch(groups, rows_of(groups), step_weight(groups, config), config)
        out = PreferenceLoss(config)(r, batch)
        assert out.loss.isnan()
        assert out.group_loss_G.isnan().nonzero().flatten().tolist() == [0]


def test_figures_by_hand() -> None:
    groups = [
        group("a", 2, prefer(0, 1)),
        group("b", 2, prefer(0, 1)),
        group("c", 2, prefer(0, 1, probability=0.5)),
        group("d", 2, prefer(1, 0, probability=0.6), weight=3.0),
    ]
    out = PreferenceLoss(LossConfig())(f64(3, 1, 2, 2, 5, 0, 0, 1), batch_of(groups, LossConfig()))
    assert out.margin.item() == pytest.approx((2 + 0 + 5 + 3 * 1) / 6)
    assert out.correct.item() / out.decided.item() == pytest.approx((1 + 3) / 5)
    assert (out.n_ties.item(), out.n_label_ties.item(), out.n_pairs.item()) == (1, 1, 4)


def test_a_shift_per_prompt_changes_nothing_without_centring_or_ratings() -> None:
    groups, rows = mixed_groups(), rows_of(mixed_groups())
    r = torch.randn(18, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    shifted = r.clone()
    for g, (row, item) in enumerate(zip(rows, groups)):
        shifted[row : row + len(item.responses)] += 10.0 * g
    for config in (LossConfig(), LossConfig(objective="plackett-luce", ties="davidson")):
        assert loss_of(groups, shifted, config) == pytest.approx(loss_of(groups, r, config))


def test_a_batch_moves_and_keeps_its_values() -> None:
    groups, config = mixed_groups(), LossConfig(objective="plackett-luce")
    batch = make_pair_batch(groups, rows_of(groups), 6.5, config)
    moved = batch.to("meta")
    assert moved.chosen_P.device.type == moved.ranking_NK.device.type == "meta"
    assert moved.n_groups == 7
    assert batch.chosen_P.dtype == torch.int64
    assert batch.ratings_R.isnan().sum() == 18 - 7
    assert batch.group_of_R.tolist() == [0] * 4 + [1] * 2 + [2] * 3 + [3] * 2 + [4] * 3 + [5] + [6] * 3


@pytest.mark.parametrize(
    "options",
    [
        {"label_smoothing": 1.0},
        {"label_smoothing": -0.1},
        {"centring": -1.0},
        {"regression": math.nan},
        {"objective": "none"},
        {"objective": "plackett-luce", "use_margins": True},
        {"objective": "plackett-luce", "label_smoothing": 0.1},
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        LossConfig(**options)


# -- labels with flips, edits, correlations ---------------------------------------------------------------------------


@unhurried
@given(rewards, rewards, st.floats(0.01, 0.45))
def test_unbiased_labels_give_the_clean_loss_on_average(a: float, b: float, flip_rate: float) -> None:
    """E over flips of the corrected loss, by enumeration of the two outcomes, is the loss on the clean label."""
    high, low = f64(a), f64(b)
    right, wrong = (
        bradley_terry(*sides, probability_P=unflip(f64(1.0), flip_rate)) for sides in ((high, low), (low, high))
    )
    mean = (1 - flip_rate) * right + flip_rate * wrong
    assert torch.allclose(mean, bradley_terry(high, low), atol=1e-9)
    natarajan = ((1 - flip_rate) * bradley_terry(high, low) - flip_rate * bradley_terry(low, high)) / (
        1 - 2 * flip_rate
    )
    assert torch.allclose(right, natarajan, atol=1e-9)


@pytest.mark.parametrize("probability", [0.5, 0.6, 0.9, 1.0])
def test_unflip_undoes_smoothing(probability: float) -> None:
    assert unflip(smooth(f64(probability), 0.3), 0.15).item() == pytest.approx(probability)
    assert unflip(f64(0.5), 0.4).item() == 0.5


@pytest.mark.parametrize("true", [-1.5, 0.3, 2.0])
@pytest.mark.parametrize("flip_rate", [0.1, 0.3])
def test_flipped_likelihood_is_least_at_the_gap_that_made_the_clean_labels(true: float, flip_rate: float) -> None:
    clean = 1 / (1 + math.exp(-true))
    seen = (1 - flip_rate) * clean + flip_rate * (1 - clean)  # the share of labels that say "first" after flips
    gap = torch.linspace(true - 1, true + 1, 2001, dtype=torch.float64)
    cost = flipped_bradley_terry(gap, torch.zeros_like(gap), f64(seen), flip_rate)
    assert gap[cost.argmin()].item() == pytest.approx(true, abs=1e-3)
    # Bradley-Terry alone would settle for the gap of the labels as they are.
    plain = bradley_terry(gap, torch.zeros_like(gap), probability_P=f64(seen))
    assert abs(gap[plain.argmin()].item()) < abs(true)


@pytest.mark.parametrize("gap", [-100.0, -3.0, 0.0, 2.0, 100.0])
def test_flipped_likelihood_in_closed_form_bounded_and_with_the_right_gradient(gap: float) -> None:
    d = f64(gap).requires_grad_()
    cost = flipped_bradley_terry(d, f64(0.0), f64(1.0), 0.2)
    chance = 0.2 + 0.6 / (1 + math.exp(-gap))
    assert cost.item() == pytest.approx(-math.log(chance), rel=1e-9)
    assert cost.item() <= -math.log(0.2) + 1e-9
    cost.sum().backward()
    step = 1e-5
    up, down = (flipped_bradley_terry(f64(gap + s), f64(0.0), f64(1.0), 0.2).item() for s in (step, -step))
    assert d.grad is not None
    assert d.grad.item() == pytest.approx((up - down) / (2 * step), abs=1e-6)
    assert math.isfinite(flipped_bradley_terry(d.detach().float(), torch.zeros(1), torch.ones(1), 0.2).item())


def test_within_correlation_is_numpys_after_each_group_is_centred() -> None:
    rng = np.random.default_rng(0)
    group_R = np.repeat(np.arange(6), [3, 2, 4, 1, 5, 2])
    x_R, y_R = rng.normal(size=(2, 17)) + 3.0 * group_R  # the groups' means go together: that must not count
    centred = [v - np.array([v[group_R == g].mean() for g in group_R]) for v in (x_R, y_R)]
    found = within_correlation(torch.from_numpy(x_R), torch.from_numpy(y_R), torch.from_numpy(group_R))
    assert found.item() == pytest.approx(np.corrcoef(*centred)[0, 1], abs=1e-9)
    assert abs(found.item() - np.corrcoef(x_R, y_R)[0, 1]) > 0.1


def test_correlation_of_what_does_not_vary_is_zero_with_zero_gradient() -> None:
    flat = torch.ones(4, dtype=torch.float64, requires_grad=True)
    found = within_correlation(flat, f64(1.0, 2.0, 3.0, 4.0), torch.tensor([0, 0, 1, 1]))
    found.backward()
    assert found.item() == 0.0
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()


def test_gradients_of_both_correlations_by_finite_differences() -> None:
    rng = torch.Generator().manual_seed(0)
    quality, head, length = torch.randn(3, 8, generator=rng, dtype=torch.float64)
    group_R = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])

    def cost(q: Tensor, h: Tensor) -> Tensor:
        first, second = odin(q, h, length, group_R)
        return first.abs() - second

    assert torch.autograd.gradcheck(cost, (quality.requires_grad_(), head.requires_grad_()))


def edits_of(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rewards, twins, weights and groups of 2, 3 and 1 answers; an edit of one of each of the first two."""
    rewards_R = torch.randn(8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rewards_R, torch.tensor([[1, 3], [2, 6]]), f64(0.25, 0.75), torch.tensor([0, 0, 0, 1, 1, 1, 1, 2])


def test_edits_cost_their_squared_gap_over_the_variance_within_groups() -> None:
    """By numpy, group by group."""
    rewards_R, twin_2E, weight_E, group_R = edits_of()
    r = rewards_R.numpy()
    gaps = 0.25 * (r[1] - r[2]) ** 2 + 0.75 * (r[3] - r[6]) ** 2
    first, second = r[[0, 1]], r[[3, 4, 5]]
    variance = (first.var(ddof=1) * 1 + second.var(ddof=1) * 2) / 3
    assert consistency(rewards_R, twin_2E, weight_E, group_R).item() == pytest.approx(gaps / variance)


def test_the_scale_of_rewards_does_not_change_what_edits_cost() -> None:
    """Nor has the gradient a part along them: nothing is gained by making all rewards smaller."""
    rewards_R, twin_2E, weight_E, group_R = edits_of()
    rewards_R.requires_grad_()
    ratio = consistency(rewards_R, twin_2E, weight_E, group_R)
    (gradient_R,) = torch.autograd.grad(ratio, rewards_R)
    assert ratio.item() == pytest.approx(consistency(1e-3 * rewards_R + 5, twin_2E, weight_E, group_R).item(), rel=1e-5)
    assert (gradient_R @ rewards_R.detach()).abs() < 1e-9 < gradient_R.abs().max()
    assert torch.autograd.gradcheck(lambda r: consistency(r, twin_2E, weight_E, group_R), rewards_R)


@pytest.mark.parametrize(
    ("twins", "groups"),
    [([[], []], [0, 0, 1, 1]), ([[0, 2], [1, 3]], [0, 0, 1, 1])],
    ids=["no edits", "no two answers"],
)
def test_edits_without_anything_to_measure_them_by_cost_nothing(twins: list, groups: list) -> None:
    rewards_R = f64(0.3, -1.0, 2.0, 4.0).requires_grad_()
    twin_2E = torch.tensor(twins, dtype=torch.int64)
    ratio = consistency(rewards_R, twin_2E, torch.full((twin_2E.shape[1],), 0.5), torch.tensor(groups))
    (gradient_R,) = torch.autograd.grad(ratio, rewards_R)
    assert ratio == 0
    assert (gradient_R == 0).all()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"flip_rate": 0.5}, "labels say nothing"),
        ({"flip_rate": -0.1}, "is not in"),
        ({"flip_rate": 0.1, "label_smoothing": 0.1}, "opposite sides"),
        ({"flip_rate": 0.1, "ties": "davidson"}, "ties soft or drop"),
        ({"flip_rate": 0.1, "use_margins": True}, "no margins"),
        ({"flip_rate": 0.1, "objective": "plackett-luce"}, "bradley-terry"),
        ({"odin": -1.0}, "odin"),
        ({"consistency": float("nan")}, "consistency"),
        ({"consistency": 1.0, "consistency_kinds": ()}, "needs --consistency-kinds"),
        ({"text_regularisation": 1.0}, "0.05 is a start"),
    ],
)
def test_new_options_that_make_no_sense(options: dict[str, Any], found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        LossConfig(**options)
