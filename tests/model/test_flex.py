"""The mask of the whole line against the paths it stands for, and its attention against gathered attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rewardsmith.model import flex
from rewardsmith.model.attention import attend_gathered
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.text.pack import PackedBatch, pack_rows, row_paths
from tests.tiny import tiny_trunk


def a_tree(seed: int, n_prompts: int = 4, longest: int = 220) -> list[list[list[int]]]:
    """Groups whose prompts continue one another, with answers that begin alike."""
    rng = np.random.default_rng(seed)
    heads: list[list[int]] = [[]]
    groups = []
    for _ in range(n_prompts):
        more = rng.integers(0, 90, size=rng.integers(1, longest)).tolist()
        heads.append(heads[rng.integers(len(heads))] + more)
        tails = [rng.integers(0, 3, size=rng.integers(1, longest)).tolist() for _ in range(rng.integers(1, 5))]
        groups.append([heads[-1] + tail for tail in tails])
    return groups


def seen_by_definition(batch: PackedBatch, window: int | None) -> torch.Tensor:
    """[T, T]: a token sees those at or before it on its own path, the last `window` of them."""
    seen = torch.zeros(batch.n_tokens, batch.n_tokens, dtype=torch.bool)
    for path in row_paths(batch):
        for place, token in enumerate(path):
            seen[token, path[: place + 1][-window if window else None :]] = True
    return seen


@pytest.mark.parametrize("window", [None, 5, 150])
@pytest.mark.parametrize("seed", range(6))
def test_blocks_hold_the_pairs_of_the_paths(seed, window):
    batch = pack_rows(a_tree(seed))
    mask = flex.make_block_mask(batch.layout, window)
    rest = -batch.n_tokens % flex.BLOCK
    size = batch.n_tokens + rest
    wanted = torch.eye(size, dtype=torch.bool)
    wanted[: batch.n_tokens, : batch.n_tokens] = seen_by_definition(batch, window)
    at = torch.arange(size)
    assert torch.equal(mask.mask_mod(0, 0, at[:, None], at[None, :]), wanted)
    blocks = wanted.view(size // flex.BLOCK, flex.BLOCK, size // flex.BLOCK, flex.BLOCK).transpose(1, 2).flatten(2)
    partial, full = (torch.zeros(blocks.shape[:2], dtype=torch.bool) for _ in range(2))
    for of, numbers, which in (
        (partial, mask.kv_num_blocks, mask.kv_indices),
        (full, mask.full_kv_num_blocks, mask.full_kv_indices),
    ):
        for query in range(len(of)):
            of[query, which[0, 0, query, : numbers[0, 0, query]].long()] = True
    assert not (partial & full).any()
    assert (blocks.any(2) <= (partial | full)).all(), "a pair lies in a block that is skipped"
    assert (full <= blocks.all(2)).all(), "a block without a rule hides a pair"
    if window is None:  # then nothing is computed in vain
        assert torch.equal(partial | full, blocks.any(2))
        assert torch.equal(full, blocks.all(2))


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("softcap", [None, 20.0])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 2)])
def test_attention_of_the_line_is_that_of_the_paths(heads, softcap, window):
    layout = pack_rows(a_tree(1)).layout
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(1, n, len(layout.end_T), 16, generator=generator) for n in (heads[0], heads[1], heads[1])]
    line = flex.attend(*given, layout, None, window, softcap)
    paths = attend_gathered(*given, layout, None, window, softcap)
    assert line.shape == paths.shape
    torch.testing.assert_close(line, paths, atol=1e-5, rtol=1e-5)


def test_a_kernel_that_fails_or_differs_is_not_used(monkeypatch):
    kind = (torch.device("cpu"), torch.float32, 4, 2, 16)
    flex.usable.cache_clear()
    monkeypatch.setattr(flex, "attend", lambda *given: attend_gathered(*given) * 1.1)
    with pytest.warns(UserWarning, match="results differ from gathered"):
        assert not flex.usable(*kind)
    flex.usable.cache_clear()

    def fails(*_):
        raise RuntimeError("no compiler\nsecond line")

    monkeypatch.setattr(flex, "attend", fails)
    with pytest.warns(UserWarning, match=r"RuntimeError: no compiler\); gathered attention runs instead"):
        assert not flex.usable(*kind)
    flex.usable.cache_clear()


@pytest.mark.parametrize("mode", ["inference", "autocast", "training"])
def test_the_question_can_be_asked_in_the_middle_of_a_pass(monkeypatch, mode):
    monkeypatch.setattr(flex, "attend", attend_gathered)
    flex.usable.cache_clear()
    modes = {"inference": torch.inference_mode(), "autocast": torch.autocast("cpu", torch.bfloat16)}
    with modes.get(mode, torch.enable_grad()):
        assert flex.usable(torch.device("cpu"), torch.float32, 4, 2, 16)
    flex.usable.cache_clear()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral"])
def test_rewards_and_gradients_on_a_gpu_are_those_of_the_cpu(family):
    found = []
    for device in ("cpu", "cuda"):
        model = RewardModel(tiny_trunk(family, head_dim=16)).to(device)
        torch.nn.init.constant_(model.value_head.weight, 0.1)
        rewards = model(batch=pack_rows(a_tree(2)).to(torch.device(device)))
        rewards.sum().backward()
        found.append([rewards, *(p.grad for p in model.parameters() if p.grad is not None)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b.cpu(), atol=1e-3, rtol=1e-2)
