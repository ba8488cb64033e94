"""A language model with its head replaced by one number per response.

r(x, y) = w . h(x, y), where h is the trunk's last hidden state at the last real token of prompt + response and
w is the value head: no bias (a constant cancels in every comparison), float32 whatever the trunk computes in,
applied to the pooled rows only. A bfloat16 head would round rewards near 4 to multiples of 1/32.

Two paths give the same rewards (a permanent test holds them together):

    packed   tokens of all groups in one row, prefixes shared, no padding: any decoder whose attention goes
             through transformers' attention interface
    padded   one row per response: encoders, and models whose layers mix tokens by other means

Shape legend: B rows of a padded batch, L its length, T tokens of a packed one, R responses, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from rewardsmith.errors import ModelError
from rewardsmith.losses import bradley_terry
from rewardsmith.model import attention
from rewardsmith.model.layers import Split, layers_of, narrow_last, narrow_once, plain, split
from rewardsmith.text.pack import PackedBatch, pack_rows, row_paths

Pooling = Literal["last", "cls", "mean"]
Path = Literal["packed", "padded"]
PARITY_TOLERANCE = 1e-3  # float32, relative to the spread of the rewards: far above rounding, far below a wrong mask


class RewardModel(nn.Module):
    """`RewardModel(base_model)`: base_model is a transformers decoder or encoder, with or without its LM head.

    pooling  where the hidden state is read: "last" real token (decoders), "cls" or "mean" (encoders);
             None chooses "last" for decoders and "cls" for encoders
    path     "packed" or "padded"; None compares the two once on a few tokens and takes "packed" if they agree.
             `path_reason` says why the padded one was taken.
    """

    def __init__(
        self, base_model: PreTrainedModel, *, pooling: Pooling | None = None, path: Path | None = None
    ) -> None:
        super().__init__()
        self.trunk = trunk_of(base_model)
        config = self.trunk.config
        if getattr(config, "is_encoder_decoder", False):
            raise ModelError(f"{config.model_type} is an encoder-decoder: a decoder or an encoder is needed")
        # What the model was loaded with: transformers chose it (eager where SDPA lacks soft-capping or sinks).
        loaded = config._attn_implementation
        self._stock_attention = "eager" if loaded in (None, attention.NAME) else loaded
        if loaded == attention.NAME and not getattr(config.get_text_config(), "attn_logit_softcapping", None):
            self._stock_attention = "sdpa"
        self.pooling: Pooling = pooling or ("last" if is_decoder(self.trunk) else "cls")
        self.value_head = nn.Linear(hidden_size(config), 1, bias=False, dtype=torch.float32, device=self.trunk.device)
        # Stiennon et al. 2020 (2009.01325), appendix: std 1 / sqrt(hidden + 1), so that first rewards are about 1.
        nn.init.normal_(self.value_head.weight, std=(hidden_size(config) + 1) ** -0.5)
        self.path_reason = ""
        self.narrowed: narrow_last | None = None
        self.parts: Split | None = None
        self._use("padded")
        if path == "packed" or (path is None and self._packed_agrees()):
            self._use("packed")
            self._narrow_if_same()

    # -- the two paths ------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        batch: PackedBatch | None = None,
        given_TH: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """rewards_B (float32) of padded rows [B, L], left or right padded; or rewards_R of a packed `batch`.

        given_TH is what `lower` made of the same batch: then only the layers above run (after `split`).

        attention_mask is 1 at real tokens. Rows are read at their last real token wherever the padding is,
        so pad and eos may share an id.
        """
        if batch is not None:
            return self.read(self.features(batch, given_TH))
        if input_ids is None or input_ids.ndim != 2:
            raise ModelError("input_ids must be [batch, length]")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if mask.shape != input_ids.shape:
            raise ModelError(f"attention_mask {tuple(mask.shape)} does not fit input_ids {tuple(input_ids.shape)}")
        if not bool(mask.bool().any(dim=1).all()):
            raise ModelError("a row has no real token: its attention_mask is all zero")
        rows = [ids[keep.bool()].tolist() for ids, keep in zip(input_ids, mask)]
        if self.path == "packed":
            packed = pack_rows([rows]).to(input_ids.device)
            return self._forward_packed(packed)
        return self._forward_rows(rows)

    def features(self, batch: PackedBatch, given_TH: torch.Tensor | None = None) -> torch.Tensor:
        """[R, H] what the value head reads of each row of a packed batch, by either path."""
        return self._packed_features(batch, given_TH) if self.path == "packed" else self._bucket_features(batch)

    def _forward_packed(self, batch: PackedBatch) -> torch.Tensor:
        return self.read(self._packed_features(batch))

    def _packed_features(self, batch: PackedBatch, given_TH: torch.Tensor | None = None) -> torch.Tensor:
        return self.hidden(batch, given_TH).index_select(0, batch.last_R)

    def hidden(self, batch: PackedBatch, given_TH: torch.Tensor | None = None) -> torch.Tensor:
        """[T, H] last hidden states by the packed path, right where the layout's `read_U` says that they are read."""
        if given_TH is None:
            return run_packed(self.trunk, batch)
        assert self.parts is not None, "given_TH needs a split model"
        self.parts.upper.train(self.trunk.training)
        return run_packed(self.parts.upper, batch, given=given_TH.unsqueeze(0))

    def split(self, n_upper: int) -> None:
        """Let `lower` stop below the top `n_upper` layers, and `forward` start there."""
        self.parts = split(self.trunk, n_upper)

    @torch.no_grad()
    def lower(self, batch: PackedBatch) -> torch.Tensor:
        """hidden_TH below the split. Without dropout: frozen layers are what they will be when they serve."""
        assert self.parts is not None, "lower needs a split model"
        self.parts.lower.eval()
        hidden_TH = run_packed(self.parts.lower, batch)
        self.parts.lower.train(self.trunk.training)
        return hidden_TH

    def _bucket_features(self, batch: PackedBatch) -> torch.Tensor:
        """The padded path over a packed batch, one rectangle per bucket of similar lengths."""
        found: dict[int, torch.Tensor] = {}
        for rows in rows_of_buckets(batch):
            found |= zip(rows, self._row_features(list(rows.values())), strict=True)
        return torch.stack([found[last] for last in batch.last_R.tolist()])

    def _forward_rows(self, rows: list[list[int]]) -> torch.Tensor:
        return self.read(self._row_features(rows))

    def _row_features(self, rows: list[list[int]]) -> torch.Tensor:
        """One row per response, right padded: exact for causal models of every kind, and for masked encoders."""
        device = self.value_head.weight.device
        longest = max(len(row) for row in rows)
        ids_BL = torch.full((len(rows), longest), pad_id(self.trunk.config), device=device)
        mask_BL = torch.zeros((len(rows), longest), dtype=torch.long, device=device)
        for b, row in enumerate(rows):
            ids_BL[b, : len(row)] = torch.tensor(row, device=device)
            mask_BL[b, : len(row)] = 1
        output = self.trunk(input_ids=ids_BL, attention_mask=mask_BL)
        return self._pool(output, mask_BL)

    def _pool(self, output: Any, mask_BL: torch.Tensor) -> torch.Tensor:
        hidden_BLH = output.last_hidden_state
        if self.pooling == "mean":
            weights = mask_BL.unsqueeze(-1).float()
            return (hidden_BLH.float() * weights).sum(1) / weights.sum(1)
        if self.pooling == "cls":
            pooled = getattr(output, "pooler_output", None)  # BERT's own dense + tanh over [CLS]
            return hidden_BLH[:, 0] if pooled is None else pooled
        last_B = mask_BL.shape[1] - 1 - mask_BL.flip(1).argmax(1)
        return hidden_BLH[torch.arange(len(last_B), device=last_B.device), last_B]

    def head(self) -> np.ndarray:
        """[H] the value head's weights in float64."""
        return self.value_head.weight.detach()[0].double().cpu().numpy()

    def read(self, pooled_RH: torch.Tensor) -> torch.Tensor:
        """The value head, in float32 even under autocast."""
        return read_head(self.value_head, pooled_RH)

    # -- which path ---------------------------------------------------------------------------------------

    def _use(self, path: Path) -> None:
        self.path: Path = path
        name = attention.NAME if path == "packed" else self._stock_attention
        # Layers ask the config they were built with, which need not be the trunk's own object.
        configs: dict[int, Any] = {id(m.config): m.config for m in self.trunk.modules() if hasattr(m, "config")}
        for config in configs.values():
            config._attn_implementation = name

    @torch.no_grad()
    def _narrow_if_same(self) -> None:
        """Leave the last layer's unread rows out, where the rewards of a few tokens stay the same."""
        was_training = self.trunk.training
        self.trunk.eval()
        batch = pack_rows([probe_rows(self.trunk)]).to(self.value_head.weight.device)
        before = self._forward_packed(batch)
        try:
            self.narrowed = narrow_once(layers_of(plain(self.trunk))[-1])
            after = self._forward_packed(batch)
        except Exception:  # a layer built in another way: all of it is computed then
            after = before + torch.nan
        if not bool((before - after).abs().max() <= self._tolerance(before)):
            if self.narrowed is not None:
                self.narrowed.remove()
            self.narrowed = None
        self.trunk.train(was_training)

    def _tolerance(self, rewards: torch.Tensor) -> torch.Tensor:
        # A half-precision trunk rounds along both paths: eight bits are left for the comparison.
        tolerance = PARITY_TOLERANCE if self.trunk.dtype == torch.float32 else 0.1
        return tolerance * rewards.abs().mean().clamp(min=1e-3)

    @torch.no_grad()
    def _packed_agrees(self) -> bool:
        """Score three short rows, two of which share a prefix, along both paths."""
        if self.pooling != "last":
            self.path_reason = "an encoder: every token sees every other"
            return False
        rows = probe_rows(self.trunk)
        was_training = self.trunk.training
        self.trunk.eval()
        try:
            padded = self._forward_rows(rows)
            self._use("packed")
            device = self.value_head.weight.device
            packed = self._forward_packed(pack_rows([rows]).to(device))
        except Exception as error:  # any failure of a foreign model's code means: not this path
            self._use("padded")
            self.path_reason = f"the model does not take packed input ({type(error).__name__})"
            return False
        finally:
            self.trunk.train(was_training)
        self._use("padded")
        if not bool((padded - packed).abs().max() <= self._tolerance(padded)):
            self.path_reason = "packed and padded rewards differ: layers mix tokens outside attention"
            return False
        return True


def reward_model_loss(
    model: RewardModel,
    chosen_ids: torch.Tensor,
    rejected_ids: torch.Tensor,
    chosen_mask: torch.Tensor | None = None,
    rejected_mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean Bradley-Terry loss, accuracy) over B pairs of padded rows [B, L]; both scalars on the model's device.

    The loss is softplus(-(r_chosen - r_rejected)), finite at any margin. A tie in reward counts as wrong.
    """
    chosen_B = model(chosen_ids, chosen_mask)
    rejected_B = model(rejected_ids, rejected_mask)
    return bradley_terry(chosen_B, rejected_B).mean(), (chosen_B > rejected_B).float().mean()


def read_head(head: nn.Linear, pooled_RH: torch.Tensor) -> torch.Tensor:
    """[R] of a head with one output, in float32 even under autocast."""
    with torch.autocast(pooled_RH.device.type, enabled=False):
        return head(pooled_RH.float()).squeeze(-1)


def run_packed(trunk: nn.Module, batch: PackedBatch, **options: Any) -> torch.Tensor:
    """last_hidden_state [T, H] of a trunk, or of a part of one, over a packed batch."""
    output = trunk(
        input_ids=batch.token_ids_T.unsqueeze(0),
        position_ids=batch.position_ids_T.unsqueeze(0),
        use_cache=False,
        layout=batch.layout,
        **options,
    )
    return output.last_hidden_state[0]


def probe_rows(trunk: PreTrainedModel) -> list[list[int]]:
    """Three short rows, two of which share a beginning: what a self-check compares two ways on."""
    n = min(trunk.config.get_text_config().vocab_size, 97) - 1
    token = [1 + (7 * i) % n for i in range(29)]
    return [token[:9] + token[9:16], token[:9] + token[16:21], token[21:29]]


def rows_of(batch: PackedBatch) -> list[list[int]]:
    """The K rows of every group, unpacked again, in the order of the rewards."""
    return [batch.token_ids_T[torch.from_numpy(path)].tolist() for path in row_paths(batch)]


def rows_of_buckets(batch: PackedBatch) -> Iterator[dict[int, list[int]]]:
    """Of each bucket of similar lengths: position of the row's last token -> the row."""
    for bucket in batch.layout.buckets:
        # A path's padding repeats its last position.
        paths = [path[: path.index(path[-1]) + 1] for path in bucket.path_NL.tolist()]
        yield {path[-1]: batch.token_ids_T[path].tolist() for path in paths}


def trunk_of(model: PreTrainedModel) -> PreTrainedModel:
    """The model without its head: `AutoModelForCausalLM` and `AutoModel` are both welcome."""
    inner = getattr(model, "base_model", model)
    return inner if isinstance(inner, PreTrainedModel) else model


def is_decoder(trunk: PreTrainedModel) -> bool:
    """Whether tokens see only what comes before them: the model family has a causal LM and is not run as an encoder."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = trunk.config.model_type
    if getattr(trunk.config, "use_bidirectional_attention", False):
        return False
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return bool(getattr(trunk.config, "is_decoder", False))
    text_kind = trunk.config.get_text_config().model_type
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or text_kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def hidden_size(config: Any) -> int:
    """Width of the last hidden state. OPT projects its own back to the embeddings' width."""
    text = config.get_text_config()
    return int(getattr(text, "word_embed_proj_dim", None) or text.hidden_size)


def pad_id(config: Any) -> int:
    """Any id will do under a mask; the configured one where there is one."""
    pad = getattr(config.get_text_config(), "pad_token_id", None)
    return 0 if pad is None else int(pad)
