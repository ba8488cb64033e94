"""What is trained, by which optimiser, along which schedule."""

from __future__ import annotations

import math

import torch

from rewardsmith.errors import ConfigError
from rewardsmith.model.layers import final_norms, layers_of
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.training.config import TrainConfig
from rewardsmith.training.objective import PreferenceLoss

TIE_RATE = 1e-2  # of the learnt tie parameter


def choose_parameters(model: RewardModel, config: TrainConfig) -> list[str]:
    """Set requires_grad as the config asks; returns notes for the user. LoRA replaces `model.trunk`."""
    if config.lora_rank:
        return [add_lora(model, config)]
    if config.train_layers is None:
        return []
    layers = layers_of(model.trunk)
    n = config.train_layers
    if not 0 <= n <= len(layers):
        raise ConfigError(f"--train-layers {n}: the model has {len(layers)} layers")
    model.trunk.requires_grad_(False)
    for layer in layers[len(layers) - n :]:
        layer.requires_grad_(True)
    for norm in final_norms(model.trunk, layers):
        norm.requires_grad_(True)
    return [f"training the top {n} of {len(layers)} layers"]


def add_lora(model: RewardModel, config: TrainConfig) -> str:
    """Wrap the trunk with LoRA on all linear layers. The value head stays outside and is trained in full."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    path = model.path
    if config.quantize != "none":
        model.trunk = prepare_model_for_kbit_training(model.trunk, use_gradient_checkpointing=False)
    torch.manual_seed(config.seed)
    lora = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules="all-linear", lora_dropout=0.0)
    model.trunk = get_peft_model(model.trunk, lora)  # type: ignore[assignment]
    model._use(path)
    return f"LoRA of rank {config.lora_rank} on all linear layers"


def make_optimizer(model: RewardModel, loss: PreferenceLoss, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW, fused where the device has it; decay on weight matrices only.

    "peak" is each group's highest rate. The tie parameter is one number that starts at a guess: at a trunk's
    rate it would hardly move in a run.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    peak, decay = config.learning_rate, config.weight_decay
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay, "peak": peak},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0, "peak": peak},
        {"params": list(loss.parameters()), "weight_decay": 0.0, "peak": max(peak, TIE_RATE)},
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
