"""One optimiser step with terms that belong to the whole of it, dealt out to its batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from rewardsmith.text.pack import PackedBatch, pack
from rewardsmith.text.render import Encoded
from rewardsmith.training.objective import LossOutput, PairBatch
from rewardsmith.training.sides import (
    Found,
    Text,
    overlap,
    text_of_batch,
    text_weight,
    with_text,
)
from rewardsmith.training.step_rows import Pull, StepRows, with_pull

if TYPE_CHECKING:
    from rewardsmith.training.loop import Run


class SideStep:
    """What options add to one step over `items`, of which this process computes the batches `mine`.

    A correlation or a ratio is no sum over rows: a batch needs to know of all rows of the step, on every process. Where
    there are several batches, a first pass without gradients finds the rewards of all; each batch then gets its rows'
    part of the exact gradient. With one batch nothing is computed twice.
    """

    def __init__(self, run: Run, items: Sequence[Encoded], mine: Sequence[tuple[list[int], bool]], n_batches: int):
        self.run, self.items, self.config = run, items, run.config.loss
        self.starts = [run.starts.get(id(item), 0) for item in items]
        self.text_weight = text_weight([item.group for item in items], self.config)
        self.step_rows: StepRows | None = None
        self.pulls: list[Pull] | None = None
        if self.config.odin or self.config.consistency:
            self.step_rows = StepRows(items, self.starts, self.config, run.accelerator.device)
            if n_batches > 1:
                self.pulls = self._pulls(self.step_rows, mine)

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
        output: LossOutput = run.losses[member](found.compared_R, pairs)
        if self.step_rows is not None:
            rows = self.step_rows.rows(members)
            # The step is this batch where there is no pull yet; argsort: its rows in the step's order.
            pull = self.pulls[member] if self.pulls else self.step_rows.pull(found.rewards_2R[:, rows.argsort()])
            output = with_pull(output, found, pull, rows)
            if self.config.odin:
                share = self.config.odin * len(rows) / len(self.step_rows.group_R)
                output = replace(output, loss=output.loss + share * overlap(run.models[member], run.sides[member]))
        if found.text is not None:
            output = with_text(output, found.text, self.config.text_regularisation)
        return output

    @torch.no_grad()
    def _pulls(self, step_rows: StepRows, mine: Sequence[tuple[list[int], bool]]) -> list[Pull]:
        """Of each member, from a first pass over the batches; each process fills in its own rows."""
        accelerator, run = self.run.accelerator, self.run
        rewards_M2R = torch.zeros(len(run.trained), 2, len(step_rows.group_R), device=accelerator.device)
        for members, counts in mine:
            if not (counts or run.sharded):  # passes through split weights are everybody's
                continue
            part = [self.items[i] for i in members]
            packed = pack(part).to(accelerator.device)
            given_TH = run.given(part, packed)
            rows = step_rows.rows(members)
            for m, model in enumerate(run.trained):
                with accelerator.autocast():
                    found = model(batch=packed, given_TH=given_TH)
                if counts:
                    rewards_M2R[m][:, rows] = found.rewards_2R
        if accelerator.num_processes > 1:
            rewards_M2R = accelerator.reduce(rewards_M2R, reduction="sum")
        return [step_rows.pull(rewards_2R) for rewards_2R in rewards_M2R]
