"""Attention over packed groups, registered with transformers' attention interface.

A model loaded with `attn_implementation=NAME` calls `packed_attention` in every layer. The batch's `Layout`
arrives through the model's keyword arguments (so that gradient checkpointing replays it), no modelling code
is touched, and every response attends to its group's prefix and to itself, never to a sibling.

On a GPU the whole line goes through one FlexAttention kernel (`flex`) where that agrees with what follows. On the
CPU, and where it does not, paths of similar length are gathered into a rectangle and given to one causal
`scaled_dot_product_attention`; right padding is behind every real token, so causality hides it. Where most of a path
is computed elsewhere (long prompts, many responses), its own tokens alone are queries. A path's tokens have the
positions they would have alone, which makes sliding windows, grouped queries and soft-capping work as in the unpacked
model.

In bfloat16 on a CPU, SDPA's kernel is slower than two batched matrix products with a softmax between them, whose
operands the processor multiplies directly (2 to 5 times for paths of 60 to 500 tokens, forward and backward).

Shape legend: T tokens, H query heads, J key heads, D head size, N paths in a bucket, L its longest path, Q its
most queries.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from rewardsmith.errors import ModelError
from rewardsmith.model import flex
from rewardsmith.text.pack import Layout

NAME = "rewardsmith_packed"
# Longest path whose logits are laid out in memory, Q x L a head; for longer ones SDPA's kernel holds a strip at a time.
LONGEST_PRODUCT = 1024


def packed_attention(
    module: torch.nn.Module,
    query_1HTD: torch.Tensor,
    key_1JTD: torch.Tensor,
    value_1JTD: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    layout: Layout | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Returns [1, T, H, D] (and no attention weights), as transformers' interface wants it.

    Source of the interface: transformers.AttentionInterface.
    """
    assert layout is not None, "packed attention needs the batch's layout; use RewardModel, not the bare trunk"
    if s_aux is not None:
        raise ModelError("attention sinks are not part of packed attention")
    window = sliding_window if sliding_window is not None and sliding_window < layout.longest else None
    kind = query_1HTD.device.type
    if torch.is_autocast_enabled(kind):  # rotary positions come in float32: rounded before they are gathered, not after
        query_1HTD, key_1JTD, value_1JTD = (
            t.to(torch.get_autocast_dtype(kind)) for t in (query_1HTD, key_1JTD, value_1JTD)
        )
    rows = (query_1HTD, key_1JTD, value_1JTD)
    heads = (query_1HTD.shape[1], key_1JTD.shape[1], query_1HTD.shape[3])
    # FlexAttention has no dropout.
    if query_1HTD.is_cuda and not dropout and flex.usable(query_1HTD.device, query_1HTD.dtype, *heads):
        out_1HTD = flex.attend(*rows, layout, scaling, window, softcap)
    else:
        out_1HTD = attend_gathered(*rows, layout, scaling, window, softcap, dropout)
    return out_1HTD.transpose(1, 2), None


def attend_gathered(
    query_1HTD: torch.Tensor,
    key_1JTD: torch.Tensor,
    value_1JTD: torch.Tensor,
    layout: Layout,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """[1, H, T, D], from one call to scaled_dot_product_attention for each rectangle of paths."""
    rows = [t[0].transpose(0, 1) for t in (query_1HTD, key_1JTD, value_1JTD)]
    outputs = []
    for bucket in layout.buckets:
        index = (bucket.path_NL if bucket.query_NQ is None else bucket.query_NQ, bucket.path_NL, bucket.path_NL)
        query, key, value = (gather(t, i).transpose(1, 2) for t, i in zip(rows, index, strict=True))
        within = window if window is not None and window < key.shape[2] else None
        if softcap is not None:
            out_NHQD = _softcapped(query, key, value, bucket.mask(within), scaling, dropout, softcap)
        elif _as_products(query, key, dropout):
            out_NHQD = _products(query, key, value, bucket.bias(within, query.dtype), scaling)
        else:
            mask = None if within is None and bucket.query_NQ is None else bucket.mask(within)
            out_NHQD = scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=mask,
                is_causal=mask is None,
                dropout_p=dropout,
                scale=scaling,
                enable_gqa=key.shape[1] != query.shape[1],
            )
        outputs.append(out_NHQD.transpose(1, 2).flatten(0, 1))
    flat = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return gather(flat, layout.source_T).transpose(0, 1).unsqueeze(0)


def gather(rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """rows[index] along dimension 0. As an embedding look-up, whose gradient adds up repeated rows in parallel
    and in a fixed order; index_select's runs element by element once rows repeat (measured: 8 times slower)."""
    flat = torch.nn.functional.embedding(index, rows.reshape(rows.shape[0], -1))
    return flat.view(*index.shape, *rows.shape[1:])


def _as_products(query_NHQD: torch.Tensor, key_NJLD: torch.Tensor, dropout: float) -> bool:
    """Whether two matrix products are the faster way here."""
    on_cpu = query_NHQD.device.type == "cpu"
    return on_cpu and query_NHQD.dtype == torch.bfloat16 and key_NJLD.shape[2] <= LONGEST_PRODUCT and not dropout


def _products(
    query_NHQD: torch.Tensor,
    key_NJLD: torch.Tensor,
    value_NJLD: torch.Tensor,
    bias: torch.Tensor,
    scaling: float | None,
) -> torch.Tensor:
    """Attention as product, softmax, product. The heads of a group share their keys by standing under one another as
    queries, so that nothing is repeated; the mask is what the first product is added to."""
    n, heads, n_queries, size = query_NHQD.shape
    groups, length = key_NJLD.shape[1:3]
    bias_NJHQL = bias.view(-1, 1, 1, n_queries, length).expand(n, groups, heads // groups, n_queries, length)
    query, key, value = (t.reshape(n * groups, -1, size) for t in (query_NHQD, key_NJLD, value_NJLD))
    scale = size**-0.5 if scaling is None else scaling
    bias = bias_NJHQL.reshape(n * groups, -1, length)
    weights = torch.softmax(torch.baddbmm(bias, query, key.transpose(1, 2), alpha=scale), dim=-1)
    return torch.bmm(weights, value).view(n, heads, n_queries, size)


def _softcapped(
    query_NHQD: torch.Tensor,
    key_NJLD: torch.Tensor,
    value_NJLD: torch.Tensor,
    seen: torch.Tensor,
    scaling: float | None,
    dropout: float,
    softcap: float,
) -> torch.Tensor:
    """Attention with soft-capped logits (Gemma 2), softmax in float32; SDPA has no such option."""
    repeats = query_NHQD.shape[1] // key_NJLD.shape[1]
    key_NHLD, value_NHLD = (t.repeat_interleave(repeats, dim=1) for t in (key_NJLD, value_NJLD))
    scale = query_NHQD.shape[-1] ** -0.5 if scaling is None else scaling
    logits_NHQL = torch.matmul(query_NHQD, key_NHLD.transpose(2, 3)) * scale
    logits_NHQL = softcap * torch.tanh(logits_NHQL / softcap)
    weights = torch.softmax(logits_NHQL.float().masked_fill(~seen, float("-inf")), dim=-1).to(query_NHQD.dtype)
    weights = torch.nn.functional.dropout(weights, dropout)
    return torch.matmul(weights, value_NHLD)


# No mask function is registered under this name on purpose: transformers then builds no mask at all.
AttentionInterface.register(NAME, packed_attention)
