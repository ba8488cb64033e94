"""Attention over a packed line on CUDA: one FlexAttention kernel for the whole line, blocks without a pair skipped.

In the line of `text.pack` what follows a token is what continues it, up to the end of its subtree. So the whole tree
of shared beginnings is two comparisons: the token at `query` sees the one at `key` where

    key <= query < end[key]

The same bounds, taken over blocks of 128 tokens, say which blocks hold no pair and which hold nothing but pairs; no
matrix of tokens is ever made, and no prompt is copied to its responses.

Shape legend: T tokens, S tokens rounded up to whole blocks, B blocks, H query heads, J key heads, D head size.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad

from rewardsmith.text.pack import Layout

BLOCK = 128
TOLERANCE = 0.02  # relative to the largest output: above bfloat16's rounding, far below a wrong mask


def attend(
    query_1HTD: torch.Tensor,
    key_1JTD: torch.Tensor,
    value_1JTD: torch.Tensor,
    layout: Layout,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """[1, H, T, D]. Compiled on CUDA; on the CPU torch's own slow reference, for tests."""
    n_tokens = query_1HTD.shape[2]
    rest = -n_tokens % BLOCK  # whole blocks: fewer shapes to compile for, and pytorch/pytorch#153799
    query, key, value = (pad(t, (0, 0, 0, rest)) for t in (query_1HTD, key_1JTD, value_1JTD))
    repeats = query.shape[1] // key.shape[1]
    if repeats & (repeats - 1):  # the kernel groups heads by powers of two only (pytorch/pytorch#143117)
        key, value = (t.repeat_interleave(repeats, dim=1) for t in (key, value))
        repeats = 1
    run = _compiled() if query.is_cuda else flex_attention
    out_1HSD: Any = run(
        query,
        key,
        value,
        score_mod=None if softcap is None else _softcapped(softcap),
        block_mask=_block_mask(layout, window),
        scale=scaling,
        enable_gqa=repeats > 1,
    )
    return out_1HSD[:, :, :n_tokens]


def _block_mask(layout: Layout, window: int | None) -> BlockMask:
    """Made once for a batch, used in every layer."""
    key = ("flex", window)
    if key not in layout.made:
        layout.made[key] = make_block_mask(layout, window)
    return layout.made[key]


def make_block_mask(layout: Layout, window: int | None) -> BlockMask:
    """Which of the B x B blocks have any pair, which have all, and the rule within the others."""
    n_tokens = len(layout.end_T)
    rest = -n_tokens % BLOCK
    line_S = torch.arange(n_tokens + rest, device=layout.end_T.device)
    end_S = torch.cat([layout.end_T, line_S[n_tokens:] + 1])  # padding sees itself
    place_S = pad(layout.place_T, (0, rest))
    end_BS = end_S.view(-1, BLOCK)
    block_B = torch.arange(len(end_BS), device=end_S.device)
    query_B, key_B = block_B[:, None], block_B[None, :]
    # A token's subtree begins at itself, so the queries that see a block of keys are one run from that block on.
    any_BB = (query_B >= key_B) & (query_B * BLOCK < end_BS.amax(1)[None, :])
    all_BB = (query_B > key_B) & ((query_B + 1) * BLOCK <= end_BS.amin(1)[None, :])
    if window is not None:
        all_BB = torch.zeros_like(all_BB)

    def seen(batch: Any, head: Any, query: Any, key: Any) -> Any:
        inside = (query >= key) & (query < end_S[key])
        return inside if window is None else inside & (place_S[query] - place_S[key] < window)

    return BlockMask.from_kv_blocks(*_numbered(any_BB & ~all_BB), *_numbered(all_BB), BLOCK_SIZE=BLOCK, mask_mod=seen)


def _numbered(mask_BB: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(how many, which) blocks of keys each block of queries has, as the kernel wants them."""
    which_BB = mask_BB.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    return mask_BB.sum(1).to(torch.int32)[None, None], which_BB.to(torch.int32)[None, None].contiguous()


@cache
def _softcapped(softcap: float) -> Any:
    def capped(score: torch.Tensor, *_: Any) -> torch.Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention)


@cache
def usable(device: torch.device, dtype: torch.dtype, n_heads: int, n_key_heads: int, head_size: int) -> bool:
    """Whether this device's kernel gives what gathered attention gives on a few tokens, forward and backward.

    Asked once for each shape of head; where it does not, or does not compile, one warning says so.
    """
    from rewardsmith.model.attention import attend_gathered
    from rewardsmith.text.pack import pack_rows

    token = [1 + (7 * i) % 89 for i in range(420)]
    try:
        found = []
        # Asked in the middle of a forward pass, which may be one without gradients or under autocast.
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            layout = pack_rows([[token[:300], token[:170] + token[300:]], [token[150:160]]]).to(device).layout
            sizes = [(1, n, len(layout.end_T), head_size) for n in (n_heads, n_key_heads, n_key_heads)]
            for way in (attend, attend_gathered):
                generator = torch.Generator(device).manual_seed(0)
                query, key, value = given = [
                    torch.randn(s, device=device, dtype=dtype, generator=generator, requires_grad=True) for s in sizes
                ]
                out = way(query, key, value, layout, None, None, None)
                found.append([out, *torch.autograd.grad(out.float().square().sum(), given)])
        agree = all(bool((a - b).abs().max() <= TOLERANCE * b.abs().max()) for a, b in zip(*found, strict=True))
        reason = "its results differ from gathered attention's"
    except Exception as error:  # any failure of a compiler or driver means: the other way
        agree, reason = False, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    if not agree:
        warnings.warn(
            f"FlexAttention is not used on {device} ({reason}); gathered attention runs instead", stacklevel=2
        )
    return agree
