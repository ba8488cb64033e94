"""Terms of the loss that are no sum over rows: what they want of each row, from the rewards of a whole step.

odin         the correlations of both heads' rewards with length (see `losses.odin`)
consistency  the gaps of edits over the spread of rewards (see `losses.consistency`)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rewardsmith.losses import consistency, odin
from rewardsmith.text.render import Encoded
from rewardsmith.training.loss_config import LossConfig
from rewardsmith.training.objective import LossOutput
from rewardsmith.training.sides import Found
from rewardsmith.training.twins import twins_of


class StepRows:
    """The rows of a whole step, whatever its batches: of each its length and its group, and which are edits of which.

    `starts[g]` is where the answers of items[g] begin: a row's length is the logarithm of the tokens behind it. An
    edit's weight is its group's over the group's number of edits; all weights sum to 1.
    """

    def __init__(
        self, items: Sequence[Encoded], starts: Sequence[int], config: LossConfig, device: torch.device
    ) -> None:
        self.config = config
        self.first = np.cumsum([0, *(len(item.token_ids) for item in items)])
        rows = [(g, len(ids) - start) for g, (item, start) in enumerate(zip(items, starts)) for ids in item.token_ids]
        self.group_R = torch.tensor([g for g, _ in rows], device=device)
        self.log_length_R = torch.tensor([math.log(max(n, 1)) for _, n in rows], device=device)
        twins: list[tuple[int, int]] = []
        weights: list[float] = []
        for first, group in zip(self.first[:-1].tolist(), (item.group for item in items), strict=True):
            of_group = twins_of(group)
            twins += [(first + answer, first + edit) for answer, edit in of_group]
            weights += [group.weight / len(of_group) for _ in of_group]
        self.twin_2E = torch.tensor(twins, dtype=torch.int64, device=device).reshape(-1, 2).T
        weight_E = torch.tensor(weights, dtype=torch.float64, device=device)
        self.weight_E = weight_E / weight_E.sum()

    def rows(self, members: Sequence[int]) -> Tensor:
        """Where the rows of a batch of these groups stand among those of the step."""
        places = [np.arange(self.first[g], self.first[g + 1]) for g in members]
        return torch.from_numpy(np.concatenate(places)).to(self.group_R.device)

    def pull(self, rewards_2R: Tensor) -> Pull:
        """What the step's terms want of each row's rewards, the quality head's and the length head's; exact, whatever
        batch the row is in."""
        rewards_2R = rewards_2R.detach().double().requires_grad_()
        with torch.enable_grad():
            value, terms = self._value(*rewards_2R)
            (wanted_2R,) = torch.autograd.grad(value, [rewards_2R])
        return Pull(value.detach().float(), wanted_2R.float(), {name: term.detach() for name, term in terms.items()})

    def _value(self, quality_R: Tensor, length_R: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(the weighted sum of the terms, each figure for the log)."""
        parts: list[Tensor] = []
        terms: dict[str, Tensor] = {}
        if self.config.odin:
            quality, length = odin(quality_R, length_R, self.log_length_R, self.group_R)
            parts.append(self.config.odin * (quality.abs() - length))
            terms |= {"length_correlation": quality, "length_head_correlation": length}
        if self.config.consistency:
            ratio = consistency(quality_R, self.twin_2E, self.weight_E, self.group_R)
            parts.append(self.config.consistency * ratio.log1p())
            terms["consistency"] = ratio
        return torch.stack(parts).sum(), terms


@dataclass(frozen=True)
class Pull:
    """The terms of a step: their sum, its gradient by the two rewards of each row, and the figures for the log."""

    value: Tensor
    wanted_2R: Tensor
    terms: dict[str, Tensor]


def with_pull(output: LossOutput, found: Found, pull: Pull, rows: Tensor) -> LossOutput:
    """The batch's part of the step's loss with the step's terms: its rows' part of the gradient, and of the value."""
    share = len(rows) / pull.wanted_2R.shape[1]
    given_2R = found.rewards_2R
    moved = (pull.wanted_2R[:, rows] * (given_2R - given_2R.detach())).sum()  # 0, with the step's gradient
    terms = {name: share * term for name, term in pull.terms.items()}
    return replace(output, loss=output.loss + moved + share * pull.value, terms=output.terms | terms)
