"""Before the first step: processes, devices, and what must fit before hours are spent."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, GradientAccumulationPlugin

from rewardsmith.errors import ConfigError, TrainingError
from rewardsmith.model.load import Base, first_line
from rewardsmith.training.config import TrainConfig


def start_accelerator(config: TrainConfig, precision: str, cpu: bool) -> Accelerator:
    AcceleratorState._reset_state()  # accelerate keeps the last run's precision for the whole process
    trackers = None if config.tracker == "none" else [config.tracker]
    try:
        accelerator = Accelerator(
            mixed_precision=precision,
            cpu=cpu,
            log_with=trackers,
            project_dir=f"{config.output}.logs" if trackers else None,
            # A step's batches are added up here; a launcher's setting must not do it a second time.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        )
    except (ImportError, ValueError) as error:
        raise ConfigError(f"accelerate cannot start: {first_line(error)}") from None
    if trackers and not accelerator.log_with:
        raise ConfigError(f"--tracker {config.tracker} is not installed: pip install {config.tracker}")
    served = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
    if accelerator.distributed_type not in served:
        raise ConfigError(f"{accelerator.distributed_type.value} is not supported: start with plain data parallel")
    return accelerator


def check_length(max_length: int, base: Base) -> None:
    """Refuse a length beyond a table of positions. Rotary positions have no table, only a length they know."""
    tables = ("position_embeddings", "wpe", "embed_positions")
    if any(name.split(".")[-2] in tables for name, _ in base.trunk.named_parameters() if "." in name):
        limit = int(base.trunk.config.get_text_config().max_position_embeddings)
        if max_length > limit:
            raise ConfigError(f"--max-length {max_length}: the model has {limit} positions; give --max-length {limit}")


def tokens_at_once(config: TrainConfig, device: torch.device) -> int:
    """The budget of a batch: as asked, or what suits the device.

    On two cores, SmolLM2-135M: 512, 1024, 2048 and 4096 tokens cost 11.2, 12.4, 11.8 and 13.7 ms of CPU time each, and
    2.5, 3.4, 4.1 and 5.7 GB.
    """
    return config.tokens_per_batch or (16384 if device.type == "cuda" else 2048)


def lacks_memory(error: Exception) -> bool:
    """Whether a device had no room: CUDA says so by its own error, the CPU's allocator by a sentence."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error)


def out_of_memory(config: TrainConfig, tokens: int) -> TrainingError:
    """The one line for it."""
    more = "" if config.gradient_checkpointing else ", or add --gradient-checkpointing"
    return TrainingError(f"out of memory with --tokens-per-batch {tokens}: lower it{more}")
