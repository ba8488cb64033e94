"""The loss of one (micro-)batch of groups: from labels to index tensors to one number.

`make_pair_batch` turns the statements of groups into a `PairBatch`; `PreferenceLoss` mixes the functions of
`rewardsmith.losses` over it as a `LossConfig` says. Shape suffixes as in `rewardsmith.losses`.

What is averaged. Over an optimiser step, with group weights W_g and preference weights w_p,

    loss = sum_g W_g / W * sum_{p in g} w_p / w_g * loss_p,   w_g = sum_{p in g} w_p,   W = sum_g W_g

is the average over the pairs of a prompt, then over prompts (InstructGPT, 2203.02155, section 3.5).
W counts only groups that have a pair to learn from, so that a group without one does not thin out the
others; ratings have a W of their own by the same rule. W belongs to the whole step (`step_weight`), so
the losses of micro-batches, and of processes, add up to the loss of the step: sum them, never average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rewardsmith.data.schema import TIE, Group, Preference
from rewardsmith.losses import (
    NO_RESPONSE,
    bradley_terry,
    centring,
    davidson,
    flipped_bradley_terry,
    pair_weights,
    plackett_luce,
    rao_kupper,
    regression,
    smooth,
    unflip,
)
from rewardsmith.training.loss_config import LossConfig


class StepWeight(NamedTuple):
    """Divisors of one optimiser step: weights of its groups that have pairs, and that have ratings."""

    pairs: float
    ratings: float


@dataclass(frozen=True)
class PairBatch:
    """The statements of one (micro-)batch as tensors, indexing into rewards_R.

    chosen_P, rejected_P   int64 rows
    probability_P          P(chosen is better) in [0.5, 1], as labelled (smoothing comes later)
    margin_P               wanted reward gap beyond zero; zero for ties and where margins are not used
    weight_P               the pair's share of the step: the step's loss is sum(weight_P * loss_P)
    ranked_P               True where the pair is spoken for by a ranking, and so has no loss of its own
    group_of_P             group within the batch
    ranking_NK             int64 rows, best first, padded with -1
    n_choices_N            how many leading places are known
    ranking_weight_N       the ranking's share of the step
    group_of_N             group within the batch
    ratings_R              rating as labelled, NaN where there is none
    rating_weight_R        the rating's share of the step, 0 where there is none
    group_of_R             group within the batch; -1 for rows that belong to none
    n_groups               G
    """

    chosen_P: Tensor
    rejected_P: Tensor
    probability_P: Tensor
    margin_P: Tensor
    weight_P: Tensor
    ranked_P: Tensor
    group_of_P: Tensor
    ranking_NK: Tensor
    n_choices_N: Tensor
    ranking_weight_N: Tensor
    group_of_N: Tensor
    ratings_R: Tensor
    rating_weight_R: Tensor
    group_of_R: Tensor
    n_groups: int

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PairBatch:
        """The same batch on `device`."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: value.to(device, non_blocking=non_blocking) for name, value in tensors.items()}
        return replace(self, **moved)


def step_weight(groups: Sequence[Group], config: LossConfig) -> StepWeight:
    """The divisors for an optimiser step over `groups`; those of several processes add up."""
    return StepWeight(
        pairs=math.fsum(group.weight for group in groups if usable_preferences(group, config)),
        ratings=math.fsum(group.weight for group in groups if _n_rated(group)),
    )


def make_pair_batch(
    groups: Sequence[Group],
    first_row: Sequence[int],
    total_weight: StepWeight | float,
    config: LossConfig,
    *,
    dtype: torch.dtype = torch.float32,
) -> PairBatch:
    """The statements of `groups`, whose responses are rows first_row[g], first_row[g] + 1, ... of rewards_R.

    `total_weight` is `step_weight` of all groups of the optimiser step, not only of these; a float is
    taken for both divisors. Preferences of weight zero, and ties where config.ties is "drop", are left
    out. A margin on a tie means nothing and is ignored. On the CPU; use `.to(device)`.
    """
    assert len(groups) == len(first_row)
    divisor = total_weight if isinstance(total_weight, StepWeight) else StepWeight(total_weight, total_weight)
    found = [(g, p) for g, group in enumerate(groups) for p in usable_preferences(group, config)]
    assert divisor.pairs > 0 or not found, "total_weight is that of the whole step, these groups included"
    rankings = _rankings(groups, config)
    group_of_P = _ints(g for g, _ in found)
    group_weight_G = torch.tensor([group.weight for group in groups], dtype=torch.float64)
    within_P = torch.tensor([p.weight for _, p in found], dtype=torch.float64)
    margins = [p.margin if config.use_margins and not p.is_tie else 0.0 for _, p in found]
    return PairBatch(
        chosen_P=_ints(first_row[g] + p.chosen for g, p in found),
        rejected_P=_ints(first_row[g] + p.rejected for g, p in found),
        probability_P=torch.tensor([p.probability for _, p in found], dtype=dtype),
        margin_P=torch.tensor(margins, dtype=dtype),
        weight_P=pair_weights(group_of_P, within_P, group_weight_G, divisor.pairs).to(dtype),
        ranked_P=torch.tensor([g in rankings for g, _ in found], dtype=torch.bool),
        group_of_P=group_of_P,
        **_ranking_tensors(groups, first_row, rankings, divisor.pairs, dtype),
        **_rating_tensors(groups, first_row, divisor.ratings, dtype),
        n_groups=len(groups),
    )


def usable_preferences(group: Group, config: LossConfig) -> tuple[Preference, ...]:
    """The preferences of a group that are trained on: weight > 0, and no ties where these are dropped."""
    if group.weight == 0:
        return ()
    drop_ties = config.ties == "drop"
    return tuple(p for p in group.preferences if p.weight > 0 and not (drop_ties and p.is_tie))


def ranking_of(preferences: Sequence[Preference]) -> tuple[tuple[int, ...], int] | None:
    """(responses best first, number of known places), or None where `preferences` are not one ranking.

    They are one where they are certain (p = 1), of equal weight, free of cycles, and where putting the
    responses in order says all that they say: a chain (A > B, B > C), all pairs of an order, or the best
    against an unordered rest (A > B, A > C gives ((A, B, C), 1)).
    """
    if not preferences or len({p.weight for p in preferences}) > 1:
        return None
    if any(p.probability != 1.0 for p in preferences):
        return None
    items = sorted({i for p in preferences for i in (p.chosen, p.rejected)})
    beats = _beaten(preferences, items)
    if beats.diagonal().any():  # a cycle
        return None
    n_beaten = beats.sum(1)
    order = np.argsort(-n_beaten, kind="stable")
    # Without cycles, a place is known where its response beats every response after it.
    known = n_beaten[order] == len(items) - 1 - np.arange(len(items))
    n_choices = min(int(np.cumprod(known).sum()), len(items) - 1)  # the last place is no choice
    ranking = tuple(items[i] for i in order)
    if not {p.chosen for p in preferences} <= set(ranking[:n_choices]):
        return None
    return ranking, n_choices


def _beaten(preferences: Sequence[Preference], items: Sequence[int]) -> np.ndarray:
    """beats[i, j]: items[i] is better than items[j], directly or through others (Warshall's closure)."""
    place = {item: i for i, item in enumerate(items)}
    beats = np.zeros((len(items), len(items)), dtype=bool)
    for p in preferences:
        beats[place[p.chosen], place[p.rejected]] = True
    for k in range(len(items)):
        beats |= np.outer(beats[:, k], beats[k])
    return beats


def _rankings(groups: Sequence[Group], config: LossConfig) -> dict[int, tuple[tuple[int, ...], int]]:
    """Group -> its ranking, for the groups that are one; the others are compared by pair."""
    if config.objective != "plackett-luce":
        return {}
    found = {g: ranking_of(usable_preferences(group, config)) for g, group in enumerate(groups)}
    return {g: ranking for g, ranking in found.items() if ranking is not None}


def _ranking_tensors(
    groups: Sequence[Group],
    first_row: Sequence[int],
    rankings: dict[int, tuple[tuple[int, ...], int]],
    total_weight: float,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """A ranking's weight is its group's, over its number of choices: a prompt counts once, whatever its K."""
    longest = max((len(items) for items, _ in rankings.values()), default=0)
    ranking_NK = torch.full((len(rankings), longest), NO_RESPONSE, dtype=torch.int64)
    for n, (g, (items, _)) in enumerate(rankings.items()):
        ranking_NK[n, : len(items)] = first_row[g] + _ints(items)
    weights = [groups[g].weight / n_choices / total_weight for g, (_, n_choices) in rankings.items()]
    return {
        "ranking_NK": ranking_NK,
        "n_choices_N": _ints(n_choices for _, n_choices in rankings.values()),
        "ranking_weight_N": torch.tensor(weights, dtype=dtype),
        "group_of_N": _ints(rankings),
    }


def _rating_tensors(
    groups: Sequence[Group], first_row: Sequence[int], total_weight: float, dtype: torch.dtype
) -> dict[str, Tensor]:
    """A rating's weight is its group's, over the group's number of ratings."""
    n_rows = max((row + len(g.responses) for row, g in zip(first_row, groups)), default=0)
    ratings_R = torch.full((n_rows,), math.nan, dtype=dtype)
    weight_R = torch.zeros(n_rows, dtype=torch.float64)
    group_of_R = torch.full((n_rows,), -1, dtype=torch.int64)
    for g, (row, group) in enumerate(zip(first_row, groups)):
        group_of_R[row : row + len(group.responses)] = g
        n_rated = _n_rated(group)
        for k, rating in enumerate(group.ratings or ()):
            if rating is not None and n_rated:
                ratings_R[row + k] = rating
                weight_R[row + k] = group.weight / n_rated / total_weight
    return {"ratings_R": ratings_R, "rating_weight_R": weight_R.to(dtype), "group_of_R": group_of_R}


def _n_rated(group: Group) -> int:
    return sum(rating is not None for rating in group.ratings or ()) if group.weight > 0 else 0


def _ints(values: object) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64)  # type: ignore[call-overload]


@dataclass(frozen=True)
class LossOutput:
    """Loss and figures of one (micro-)batch, tensors on its device. All add up over a step's micro-batches.

    loss          scalar with gradient
    group_loss_G  each group's part of `loss`, detached: NaN or infinite names the group
    margin        weighted mean of chosen minus rejected reward
    correct       weight of the pairs whose chosen reward is strictly greater, label ties apart
    decided       weight of the pairs that are no label tie: accuracy = correct / decided
    n_ties        pairs whose two rewards are equal (never correct), label ties apart
    n_label_ties  pairs labelled as ties
    n_pairs       all pairs
    terms         further figures by name, where an option asks for them
    """

    loss: Tensor
    group_loss_G: Tensor
    margin: Tensor
    correct: Tensor
    decided: Tensor
    n_ties: Tensor
    n_label_ties: Tensor
    n_pairs: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


class PreferenceLoss(torch.nn.Module):
    """The loss that a `LossConfig` describes.

    With ties "rao-kupper" or "davidson" it holds one learnt scalar `tie_raw` in float32 (else None):
    eta = softplus(tie_raw), or log nu = tie_raw. It starts where a third of equal-reward pairs tie
    (eta = log 2, nu = 1), and wants a learning rate of a head's size, without weight decay.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config
        learns_ties = config.ties in ("rao-kupper", "davidson")
        self.tie_raw = torch.nn.Parameter(torch.zeros(())) if learns_ties else None

    def forward(self, rewards_R: Tensor, batch: PairBatch) -> LossOutput:
        """The batch's part of the step's loss, without a device sync."""
        rewards_R = rewards_R.to(torch.promote_types(rewards_R.dtype, torch.float32))
        chosen_P, rejected_P = rewards_R[batch.chosen_P], rewards_R[batch.rejected_P]
        parts = [(self._pair_terms(chosen_P, rejected_P, batch) * batch.weight_P, batch.group_of_P)]
        if batch.ranking_NK.shape[0]:
            ranking_N = plackett_luce(rewards_R, batch.ranking_NK, batch.n_choices_N)
            parts.append((ranking_N * batch.ranking_weight_N, batch.group_of_N))
        if self.config.regression:
            parts.append((self._rating_terms(rewards_R, batch), batch.group_of_R.clamp_min(0)))
        loss = torch.stack([part.sum() for part, _ in parts]).sum()
        group_loss_G = loss.detach().new_zeros(batch.n_groups)
        for part, group_of in parts:
            group_loss_G.index_add_(0, group_of, part.detach())
        return _output(loss, group_loss_G, (chosen_P - rejected_P).detach(), batch)

    def _pair_terms(self, chosen_P: Tensor, rejected_P: Tensor, batch: PairBatch) -> Tensor:
        loss_P = torch.where(batch.ranked_P, 0.0, self._compare(chosen_P, rejected_P, batch))
        if self.config.centring:
            loss_P = loss_P + self.config.centring * centring(chosen_P, rejected_P)
        return loss_P

    def _compare(self, chosen_P: Tensor, rejected_P: Tensor, batch: PairBatch) -> Tensor:
        if self.config.objective == "none":
            return torch.zeros_like(chosen_P)
        flip_rate = self.config.flip_rate
        if flip_rate and self.config.flip_correction == "bounded":
            return flipped_bradley_terry(chosen_P, rejected_P, batch.probability_P, flip_rate)
        if flip_rate:
            return bradley_terry(chosen_P, rejected_P, probability_P=unflip(batch.probability_P, flip_rate))
        probability_P = smooth(batch.probability_P, self.config.label_smoothing)
        if self.tie_raw is None:
            return bradley_terry(chosen_P, rejected_P, batch.margin_P, probability_P)
        if self.config.ties == "davidson":
            return davidson(chosen_P, rejected_P, probability_P, self.tie_raw, batch.margin_P)
        return rao_kupper(chosen_P, rejected_P, probability_P, F.softplus(self.tie_raw), batch.margin_P)

    def _rating_terms(self, rewards_R: Tensor, batch: PairBatch) -> Tensor:
        assert rewards_R.shape == batch.ratings_R.shape, "one reward per response of the batch"
        squared_R = regression(rewards_R, batch.ratings_R, ~batch.ratings_R.isnan())
        return self.config.regression * squared_R * batch.rating_weight_R


def _output(loss: Tensor, group_loss_G: Tensor, gap_P: Tensor, batch: PairBatch) -> LossOutput:
    decided_P = batch.probability_P != TIE
    return LossOutput(
        loss,
        group_loss_G,
        margin=(batch.weight_P * gap_P).sum(),
        correct=(batch.weight_P * (decided_P & (gap_P > 0))).sum(),
        decided=(batch.weight_P * decided_P).sum(),
        n_ties=(decided_P & (gap_P == 0)).sum(),
        n_label_ties=(~decided_P).sum(),
        n_pairs=torch.ones_like(decided_P, dtype=torch.int64).sum(),
    )
