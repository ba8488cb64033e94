"""How fast a run is, in units that compare: arithmetic per token, what the machine can do, memory.

MFU (model FLOP utilisation, 2204.02311) is the arithmetic of the weight products over the distinct tokens,
divided by what the machine's matrix product reaches when it does nothing else. Attention's own products,
norms, and the optimiser do not count as arithmetic: they are what keeps MFU below 1.
"""

from __future__ import annotations

import ctypes
import resource
import sys
import time

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from rewardsmith.model.layers import layers_of, plain
from rewardsmith.model.reward_model import RewardModel

PEAK_SECONDS = 0.4  # of matrix products to find the peak
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
ALWAYS = 2**31 - 1


def flops_per_token(model: RewardModel, *, training: bool, given: bool = False) -> float:
    """Floating-point operations of the weight products per distinct token.

    Two per weight forward. In training two more for the gradient of a trained weight, and two for the gradient
    of the products' input in every layer at or above the first trained one. `given`: the layers below the split
    are not run. What the last layer leaves out is left out.
    """
    layers = layers_of(plain(model.trunk))
    start = model.parts.n_lower if given and model.parts is not None else 0
    skipped = _narrowed_weights(model, layers[-1])
    total = 0.0
    reaches = False  # whether gradients flow through this layer
    for i, layer in enumerate(layers):
        reaches = reaches or any(p.requires_grad for p in layer.parameters())
        if i < start:
            continue
        for weight in _product_weights(layer):
            if id(weight) in skipped:
                continue
            factor = 2.0
            if training and reaches:
                factor += 2.0 + 2.0 * weight.requires_grad
            total += factor * weight.numel()
    return total


def _product_weights(module: nn.Module) -> list[torch.Tensor]:
    return [m.weight for m in module.modules() if isinstance(m, nn.Linear | Conv1D)]


def _narrowed_weights(model: RewardModel, last: nn.Module) -> set[int]:
    if model.narrowed is None:
        return set()
    return {id(weight) for weight in _product_weights(model.narrowed.feed_forward)}


@torch.no_grad()
def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of this machine's matrix product in `dtype`: the best of several, at a size that fills it."""
    size = 512
    best = 0.0
    spent = 0.0
    while spent < PEAK_SECONDS:
        a = torch.randn(size, size, device=device).to(dtype)  # constants draw less power, and run faster than real data
        a @ a  # the first product of a size pays for its plan
        seconds = _time(lambda a=a: a @ a, device)
        best = max(best, 2.0 * size**3 / seconds)
        spent += seconds
        if seconds < PEAK_SECONDS / 8 and size < 8192:
            size *= 2
    return best


def _time(work: object, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()  # type: ignore[operator]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return max(time.perf_counter() - started, 1e-9)


def peak_memory(device: torch.device) -> int:
    """Most bytes in use so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used


def keep_freed_memory() -> bool:
    """Let this process keep large blocks that it frees, rather than give them back to the system; whether it can.

    A step frees and asks for the same gigabytes again and again, and the system clears every page that it hands out.
    glibc alone has this setting. What a process had in use at most stays in its hands.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, ALWAYS) and mallopt(M_TRIM_THRESHOLD, ALWAYS))
