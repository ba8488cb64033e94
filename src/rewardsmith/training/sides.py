"""What training adds to a reward model and the artifact leaves out: a length head (ODIN), a reading of its text (GRM).

    odin                 two heads read the same hidden state. Their sum is trained on the labels; the value head, which
                         is served, must not follow the answer's length, and the length head must
    text_regularisation  the base model's own head, frozen, reads what the trained trunk makes of the best answers, and
                         must still find the next token likely

Neither runs, or exists, unless it is asked for. Shape suffixes as in `rewardsmith.losses`; N places where a next token
is asked for, T tokens of the line, H hidden size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rewardsmith.data.schema import Group
from rewardsmith.errors import ConfigError
from rewardsmith.model.load import Base, token_logits
from rewardsmith.model.reward_model import RewardModel, read_head
from rewardsmith.text.pack import PackedBatch, row_paths
from rewardsmith.text.render import Encoded
from rewardsmith.training.config import TrainConfig
from rewardsmith.training.loss_config import LossConfig
from rewardsmith.training.objective import LossOutput, usable_preferences

LOGITS_AT_ONCE = 1 << 25  # 134 MB in float32; computed again in the backward pass


class Sides(nn.Module):
    """The parts of one member beside its model: `length_head` is trained, `lm_head` is not. Empty unless the loss asks
    for them; a language-model head that is the trunk's embeddings is read there."""

    def __init__(self, model: RewardModel, config: LossConfig, *, lm_head: nn.Parameter | None, seed: int) -> None:
        super().__init__()
        self.length_head: nn.Linear | None = None
        self.lm_head = lm_head
        if config.odin:
            self.length_head = nn.Linear(model.value_head.in_features, 1, bias=False, dtype=torch.float32)
            chance = torch.Generator().manual_seed(seed)  # of its own: the model's randomness stays what it was
            std = (model.value_head.in_features + 1) ** -0.5
            nn.init.normal_(self.length_head.weight, std=std, generator=chance)


class Text(NamedTuple):
    """Where the language model is asked for the next token, what it is, and each one's share of the step's mean."""

    at_N: Tensor
    next_N: Tensor
    weight_N: Tensor

    def to(self, device: torch.device) -> Text:
        return Text(*(tensor.to(device, non_blocking=True) for tensor in self))


class Found(NamedTuple):
    """What one pass gives. length_R: the length head's part of the reward. text: this batch's part of the mean
    -log p per token of the best answers; both None unless asked for."""

    quality_R: Tensor
    length_R: Tensor | None
    text: Tensor | None

    @property
    def compared_R(self) -> Tensor:
        """What the labels are about."""
        return self.quality_R if self.length_R is None else self.quality_R + self.length_R

    @property
    def rewards_2R(self) -> Tensor:
        """Both heads' rewards, zeros for a head that is not there."""
        return torch.stack(
            [self.quality_R, torch.zeros_like(self.quality_R) if self.length_R is None else self.length_R]
        )


class Trained(nn.Module):
    """A reward model and its sides as one module, so that processes average all gradients of a pass."""

    def __init__(self, model: RewardModel, sides: Sides) -> None:
        super().__init__()
        self.model, self.sides = model, sides

    def forward(self, *, batch: PackedBatch, given_TH: Tensor | None = None, text: Text | None = None) -> Found:
        loss = None
        if text is None and self.sides.length_head is None:
            return Found(self.model(batch=batch, given_TH=given_TH), None, None)
        if text is None:
            features_RH = self.model.features(batch, given_TH)
        else:
            hidden_TH = self.model.hidden(batch, given_TH)
            features_RH = hidden_TH.index_select(0, batch.last_R)
            loss = self._text_loss(hidden_TH, text)
        head = self.sides.length_head
        length_R = None if head is None else read_head(head, features_RH)
        return Found(self.model.read(features_RH), length_R, loss)

    def _text_loss(self, hidden_TH: Tensor, text: Text) -> Tensor:
        """sum_N weight_N (-log p(next_N)), a chunk of logits at a time."""
        embeddings: Any = self.model.trunk.get_input_embeddings()
        # Detached where it is the trunk's own embeddings: the head is what hidden states are held to.
        head_VH = embeddings.weight.detach() if self.sides.lm_head is None else self.sides.lm_head
        config = self.model.trunk.config

        def part(hidden_NH: Tensor, next_N: Tensor, weight_N: Tensor) -> Tensor:
            logits_NV = token_logits(hidden_NH, head_VH, config)
            return (F.cross_entropy(logits_NV.float(), next_N, reduction="none") * weight_N).sum()

        size = max(LOGITS_AT_ONCE // head_VH.shape[0], 1)
        chunks = zip(*(tensor.split(size) for tensor in (hidden_TH.index_select(0, text.at_N), *text[1:])), strict=True)
        parts = [checkpoint(part, *chunk, use_reentrant=False) for chunk in chunks]
        return torch.stack(parts).sum()


def make_sides(models: Sequence[RewardModel], base: Base, config: TrainConfig) -> list[Sides]:
    """The sides of each member. Raises ConfigError for what cannot be served."""
    if config.loss.text_regularisation and models[0].path == "padded":
        raise ConfigError(f"--text-regularisation needs the packed path; here: {models[0].path_reason}")
    lm_head = None
    if base.lm_head is not None and base.lm_head is not base.trunk.get_input_embeddings().weight:
        lm_head = nn.Parameter(base.lm_head.detach(), requires_grad=False)
    return [Sides(model, config.loss, lm_head=lm_head, seed=config.seed + m) for m, model in enumerate(models)]


# -- text ---------------------------------------------------------------------------------------------------


def best_answers(group: Group, config: LossConfig) -> list[int]:
    """Responses that some label prefers and none puts second."""
    decided = [p for p in usable_preferences(group, config) if not p.is_tie]
    return sorted({p.chosen for p in decided} - {p.rejected for p in decided})


def text_weight(groups: Sequence[Group], config: LossConfig) -> float:
    """The divisor for a step: the weights of its groups that have a best answer."""
    return math.fsum(group.weight for group in groups if best_answers(group, config))


def text_of_batch(
    items: Sequence[Encoded], batch: PackedBatch, starts: Sequence[int], total_weight: float, config: LossConfig
) -> tuple[PackedBatch, Text]:
    """The tokens of the best answers of a batch that was packed from `items`, and the batch with these places among
    those that its last layer is computed for. On the CPU. `starts[g]` is where the answers of items[g] begin.

    An answer's weight is its group's over the number of the group's best answers and over `total_weight`, shared out
    evenly among its tokens.
    """
    paths = row_paths(batch)
    token_T = batch.token_ids_T.numpy()
    places, tokens, weights = [], [], []
    for item, first, start in zip(items, batch.first_row_G, starts, strict=True):
        best = best_answers(item.group, config)
        for k in best:
            path = paths[first + k]
            begin = max(start, 1)  # nothing comes before the first token
            n = len(path) - begin
            places.append(path[begin - 1 : -1])
            tokens.append(token_T[path[begin:]])
            weights.append(np.full(n, item.group.weight / len(best) / total_weight / max(n, 1), dtype=np.float32))
    empty = [np.empty(0, dtype=np.int64)]
    at_N, next_N = (torch.from_numpy(np.concatenate(empty + parts)) for parts in (places, tokens))
    text = Text(at_N, next_N, torch.from_numpy(np.concatenate([empty[0].astype(np.float32), *weights])))
    read_U = torch.cat([batch.layout.read_U, at_N]).unique()
    return replace(batch, layout=replace(batch.layout, read_U=read_U)), text


def overlap(model: RewardModel, sides: Sides) -> Tensor:
    """|cos| of the two heads' weights; in place of ODIN's |w_q . w_l|, which depends on how large rewards are."""
    assert sides.length_head is not None, "sides without a length head"
    return F.cosine_similarity(model.value_head.weight[0], sides.length_head.weight[0], dim=0).abs()


def with_text(output: LossOutput, text: Tensor, share: float) -> LossOutput:
    """(1 - w) of all else and w of the text's loss. Source: GRM (2406.10216), whose released code has the same mix.

    Its loss is -log sigmoid(beta log p(answer)) with beta 0.1. For an answer of more than a few dozen tokens that is
    beta (-log p(answer)) within a thousandth: the plain loss of a language model, scaled by the answer's length. Here
    it is the plain loss per token, so that long answers do not count more; GRM's w = 0.01 at 200 tokens is w = 0.17.
    """
    return replace(
        output,
        loss=(1.0 - share) * output.loss + share * text,
        group_loss_G=(1.0 - share) * output.group_loss_G,
        terms=output.terms | {"text_loss": text.detach()},
    )
