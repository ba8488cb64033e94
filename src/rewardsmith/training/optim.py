"""What is trained, by which optimiser, along which schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rewardsmith.errors import ConfigError
from rewardsmith.model.artifact import build
from rewardsmith.model.layers import depth, final_norms, layers_of, with_own_top
from rewardsmith.model.load import Base
from rewardsmith.model.meta import read_meta
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.training.config import TrainConfig
from rewardsmith.training.objective import PreferenceLoss

TIE_RATE = 1e-2  # of the learnt tie parameter


def make_members(base: Base, config: TrainConfig) -> tuple[list[RewardModel], list[str]]:
    """(models, notes for the user). Several share all that is not trained, and differ in what is: copies of the
    trained layers or adapters of their own, and a head drawn with another seed."""
    pooling = read_meta(config.model).get("pooling") if config.pooling == "auto" else config.pooling
    if config.members > 1 and base.head is not None:
        raise ConfigError(f"--members: {config.model} has a head, which all members would start from; give its trunk")
    trunks = [base.trunk]
    for _ in range(config.members - 1):
        own = depth(base.trunk) if config.train_layers is None else config.train_layers
        _check_train_layers(base.trunk, own)
        trunks.append(with_own_top(base.trunk, own, own_weights=not config.lora_rank))
    models, notes = [], []
    for m, trunk in enumerate(trunks):
        torch.manual_seed(config.seed + m)
        model = build(replace(base, trunk=trunk), pooling=pooling)
        notes = choose_parameters(model, config, seed=config.seed + m)
        if config.gradient_checkpointing:
            model.trunk.gradient_checkpointing_enable({"use_reentrant": False})
        models.append(model)
    return models, notes + ([f"{len(models)} members on one trunk"] if len(models) > 1 else [])


def choose_parameters(model: RewardModel, config: TrainConfig, seed: int) -> list[str]:
    """Set requires_grad as the config asks; returns notes for the user. LoRA replaces `model.trunk`."""
    if config.train_layers is not None:
        _check_train_layers(model.trunk, config.train_layers)
    if config.lora_rank:
        return [add_lora(model, config, seed)]
    if config.train_layers is None:
        return []
    layers, n = layers_of(model.trunk), config.train_layers
    model.trunk.requires_grad_(False)
    for layer in layers[len(layers) - n :]:
        layer.requires_grad_(True)
    for norm in final_norms(model.trunk, layers):
        norm.requires_grad_(True)
    return [f"training the top {n} of {len(layers)} layers"]


def _check_train_layers(trunk: PreTrainedModel, n: int) -> None:
    if not 0 <= n <= depth(trunk):
        raise ConfigError(f"--train-layers {n}: the model has {depth(trunk)} layers")


def add_lora(model: RewardModel, config: TrainConfig, seed: int) -> str:
    """Wrap the trunk with LoRA on all linear layers, or on those of the top layers. The value head stays outside
    and is trained in full."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    path = model.path
    if config.quantize != "none":
        model.trunk = prepare_model_for_kbit_training(model.trunk, use_gradient_checkpointing=False)
    torch.manual_seed(seed)
    target: str | list[str] = "all-linear"
    where = "all linear layers"
    if config.train_layers is not None:
        layers = layers_of(model.trunk)
        chosen = {id(module) for layer in layers[len(layers) - config.train_layers :] for module in layer.modules()}
        linear = (torch.nn.Linear, Conv1D)
        target = [n for n, m in model.trunk.named_modules() if id(m) in chosen and isinstance(m, linear)]
        where = f"the linear layers of the top {config.train_layers} of {len(layers)}"
    lora = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=target, lora_dropout=0.0)
    model.trunk = get_peft_model(model.trunk, lora)  # type: ignore[assignment]
    model._use(path)
    return f"LoRA of rank {config.lora_rank} on {where}"


def make_optimizer(
    models: Sequence[torch.nn.Module], losses: Sequence[PreferenceLoss], config: TrainConfig
) -> torch.optim.AdamW:
    """AdamW, fused where the device has it; decay on weight matrices only.

    "peak" is each group's highest rate. The tie parameter is one number that starts at a guess: at a trunk's
    rate it would hardly move in a run.
    """
    trained = [p for model in models for p in model.parameters() if p.requires_grad]
    peak, decay = config.learning_rate, config.weight_decay
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay, "peak": peak},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0, "peak": peak},
        {"params": [p for loss in losses for p in loss.parameters()], "weight_decay": 0.0, "peak": max(peak, TIE_RATE)},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=peak, fused=True)


def rate_factor(step: int, total: int, config: TrainConfig) -> float:
    """The share of the peak rate at `step` (0-based) of `total`: warm-up, then linear, cosine or constant."""
    warmup = math.ceil(config.warmup_ratio * total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return 1.0
    done = (step - warmup) / max(total - warmup, 1)
    return 1.0 - done if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def resolve_precision(precision: str, device: torch.device) -> str:
    """accelerate's name for the compute type. auto: bfloat16 on GPUs and CPUs that multiply it natively."""
    names = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
    if precision == "float16" and device.type == "cpu":
        raise ConfigError("--precision float16 needs a GPU; use bfloat16 or float32 on a CPU")
    if precision != "auto":
        return names[precision]
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bf16" if native else "no"
    return "no"
