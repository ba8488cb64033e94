"""Attention as two matrix products, which bfloat16 on a CPU takes, against SDPA in float32."""

from __future__ import annotations

import pytest
import torch

from rewardsmith.model import attention
from rewardsmith.model.attention import attend_gathered, packed_attention
from rewardsmith.text.pack import pack_rows

ROWS = [[[5, *range(20, 50)], [5, *range(20, 45), 7, 8]], [[5, 9, 9, 9], [6, 6]], [list(range(10, 30))] * 2]


@pytest.fixture
def given():
    generator = torch.Generator().manual_seed(0)
    layout = pack_rows(ROWS).layout
    n_tokens = len(layout.end_T)
    shapes = [(1, heads, n_tokens, 16) for heads in (6, 2, 2)]
    return [torch.randn(shape, generator=generator) for shape in shapes], layout


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_products_are_attention(given, monkeypatch, window, scaling):
    rows, layout = given
    found = []
    for way in (False, True):
        monkeypatch.setattr(attention, "_as_products", lambda *_, way=way: way)
        leaves = [t.clone().requires_grad_() for t in rows]
        out = attend_gathered(*leaves, layout, scaling, window, None)
        found.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for sdpa, products in zip(*found, strict=True):
        torch.testing.assert_close(products, sdpa, atol=1e-5, rtol=1e-5)


def test_bfloat16_on_a_cpu_takes_products_and_long_paths_do_not(given, monkeypatch):
    (query, key, _), _ = given
    half = [t.bfloat16() for t in (query, key)]
    assert attention._as_products(*half, 0.0)
    assert not attention._as_products(query, key, 0.0)
    assert not attention._as_products(*half, 0.1)
    monkeypatch.setattr(attention, "LONGEST_PRODUCT", 8)
    assert not attention._as_products(*half, 0.0)


def test_under_autocast_float32_heads_are_rounded_once_and_agree_with_float32(given):
    rows, layout = given
    module = torch.nn.Module().eval()
    exact, _ = packed_attention(module, *rows, None, layout=layout)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = packed_attention(module, *rows, None, layout=layout)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, atol=0.05, rtol=0.05)
