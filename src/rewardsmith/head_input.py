"""What a reward model's head reads: one vector per answer, whose product with the head's weights is the reward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from rewardsmith.data.schema import Group
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scoring import CHUNK, ModelScorer
from rewardsmith.text.pack import pack, plan_batches


class _Through(nn.Module):
    """A head that gives its input back."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.weight = head.weight

    def forward(self, pooled_RH: torch.Tensor) -> torch.Tensor:
        return pooled_RH


@contextmanager
def _headless(model: RewardModel) -> Iterator[None]:
    head = model.value_head
    model.value_head = _Through(head)  # type: ignore[assignment]
    try:
        yield
    finally:
        model.value_head = head


def head_inputs(
    scorer: ModelScorer, groups: Sequence[Group], progress: Callable[[int], object] | None = None
) -> list[np.ndarray]:
    """[K, H] float32 of each group, in order; NaN where one cannot be rendered. Of an ensemble, the first member's."""
    found = []
    for start in range(0, len(groups), CHUNK):
        part = groups[start : start + CHUNK]
        found += _of_chunk(scorer, part)
        if progress is not None:
            progress(len(part))
    return found


@torch.inference_mode()
def _of_chunk(scorer: ModelScorer, groups: Sequence[Group]) -> list[np.ndarray]:
    model = scorer.models[0]
    device, width = model.value_head.weight.device, model.value_head.weight.shape[1]
    encoded = scorer.renderer.encode(groups)
    known: dict[int, np.ndarray] = {}
    half = scorer.precision == "bfloat16"
    with _headless(model), torch.autocast(device.type, torch.bfloat16, enabled=half):
        for members in plan_batches([item.token_ids for item in encoded], scorer.tokens_per_batch):
            batch = pack([encoded[i] for i in members]).to(device)
            pooled_RH = model(batch=batch).float().cpu().numpy()
            for i, first in zip(members, batch.first_row_G, strict=True):
                known[id(encoded[i].group)] = pooled_RH[first : first + len(encoded[i].token_ids)]
    return [known.get(id(group), np.full((len(group.responses), width), np.nan, np.float32)) for group in groups]
