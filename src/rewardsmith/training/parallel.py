"""Several processes: who computes which batch, and weights that are split among them.

Plain data parallel is accelerate's business. With `--shard`, weights, gradients and optimiser state are split by
PyTorch's `fully_shard` (FSDP2): layer by layer, gathered where a layer runs. Its forward and backward passes are
collective, so every process runs the same number of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from rewardsmith.model.layers import layers_of, plain
from rewardsmith.model.reward_model import RewardModel

T = TypeVar("T")


def shard(model: RewardModel, device: torch.device, n_processes: int) -> None:
    """Split the model's weights among the processes, in place. The head stays in float32, as without."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (n_processes,))
    for part in (*layers_of(plain(model.trunk)), model.value_head, model):
        fully_shard(part, mesh=mesh)


def dealt(batches: Sequence[T], rank: int, n_processes: int) -> list[tuple[T, bool]]:
    """(batch, whether it counts) for one process: as many for each. One without work repeats a batch for nothing."""
    rounds = -(-len(batches) // n_processes)
    places = range(rank, rounds * n_processes, n_processes)
    return [(batches[min(place, len(batches) - 1)], place < len(batches)) for place in places]


def full(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor that may be split. Collective: every process calls it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(whole: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """A whole tensor, split as `model` is. Collective."""
    if not isinstance(model, DTensor):
        return whole
    return distribute_tensor(whole.to(model.device), model.device_mesh, model.placements)


@torch.no_grad()
def clip(parameters: Iterable[nn.Parameter], limit: float) -> torch.Tensor:
    """Scale the gradients down to a common norm of at most `limit`; returns the norm before."""
    trained = [p for p in parameters if p.grad is not None]
    kinds = [[p for p in trained if isinstance(p.grad, DTensor) is split] for split in (False, True)]
    norms = [
        full(torch.nn.utils.get_total_norm([p.grad for p in kind if p.grad is not None])) for kind in kinds if kind
    ]
    norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    for kind in kinds:
        torch.nn.utils.clip_grads_with_norm_(kind, limit, norm)
    return norm
