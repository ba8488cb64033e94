"""One optimiser step with sides: the terms that belong to the whole step, dealt out to its batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rewardsmith.text.pack import PackedBatch, pack
from rewardsmith.text.render import Encoded
from rewardsmith.training.objective import LossOutput, PairBatch
from rewardsmith.training.sides import (
    Found,
    Pull,
    StepLengths,
    Text,
    Trained,
    text_of_batch,
    text_weight,
    with_lengths,
    with_text,
)

if TYPE_CHECKING:
    from rewardsmith.training.loop import Run


class SideStep:
    """The sides' part of one step over `items`, of which this process computes the batches `mine`.

    A correlation is no sum over rows, so that a batch needs to know of all rows of the step, on every process. Where
    there are several batches, a first pass without gradients finds the rewards of all; each batch then gets its rows'
    part of the exact gradient. With one batch nothing is computed twice.
    """

    def __init__(self, run: Run, items: Sequence[Encoded], mine: Sequence[tuple[list[int], bool]], n_batches: int):
        self.run, self.items, self.config = run, items, run.config.loss
        self.starts = [run.starts[id(item)] for item in items]
        self.text_weight = text_weight([item.group for item in items], self.config)
        self.lengths = StepLengths(items, self.starts, run.accelerator.device) if self.config.odin else None
        self.pulls: list[Pull] | None = None
        if self.lengths is not None and n_batches > 1:
            self.pulls = self._pulls(self.lengths, mine)

    def text_of(self, members: Sequence[int], packed: PackedBatch) -> tuple[PackedBatch, Text | None]:
        """The packed groups `members` with the places that the language model is asked at, and what it is asked."""
        if not self.config.text_regularisation:
            return packed, None
        part, starts = [self.items[i] for i in members], [self.starts[i] for i in members]
        packed, text = text_of_batch(part, packed, starts, self.text_weight, self.config)
        return packed, text.to(self.run.accelerator.device)

    def loss(self, member: int, members: Sequence[int], found: Found, pairs: PairBatch) -> LossOutput:
        """This batch's part of the step's loss, of one member of an ensemble."""
        run = self.run
        output: LossOutput = run.losses[member](found.compared_R, pairs, found.quality_R)
        if self.lengths is not None and found.length_R is not None:
            rows = self.lengths.rows(members)
            pull = self.pulls[member] if self.pulls is not None else self._pull_of_one(self.lengths, found, rows)
            sides, model = run.sides[member], run.models[member]
            output = with_lengths(output, found, model, sides, pull, rows, self.config.odin)
        if found.text is not None:
            output = with_text(output, found.text, self.config.text_regularisation)
        return output

    def _pull_of_one(self, lengths: StepLengths, found: Found, rows: Tensor) -> Pull:
        """The step is this batch."""
        assert found.length_R is not None
        in_order = torch.empty_like(rows).scatter_(0, rows, torch.arange(len(rows), device=rows.device))
        return lengths.pull(found.quality_R[in_order], found.length_R[in_order])

    @torch.no_grad()
    def _pulls(self, lengths: StepLengths, mine: Sequence[tuple[list[int], bool]]) -> list[Pull]:
        """Of each member, from a first pass over the batches; each process fills in its own rows."""
        accelerator, run = self.run.accelerator, self.run
        trained = [Trained(model, sides) for model, sides in zip(run.models, run.sides, strict=True)]
        rewards_M2R = torch.zeros(len(trained), 2, len(lengths.group_R), device=accelerator.device)
        for members, counts in mine:
            if not counts:
                continue
            part = [self.items[i] for i in members]
            packed = pack(part).to(accelerator.device)
            given_TH = run.given(part, packed)
            rows = lengths.rows(members)
            for m, model in enumerate(trained):
                with accelerator.autocast():
                    found = model(batch=packed, given_TH=given_TH)
                rewards_M2R[m][:, rows] = torch.stack([found.quality_R, found.length_R])
        if accelerator.num_processes > 1:
            rewards_M2R = accelerator.reduce(rewards_M2R, reduction="sum")
        return [lengths.pull(*rewards_2R) for rewards_2R in rewards_M2R]
