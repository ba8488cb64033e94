"""What a training run can be told. The field texts are the command line's help."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rewardsmith.data.options import ReadOptions
from rewardsmith.errors import ConfigError
from rewardsmith.text.render import RenderConfig
from rewardsmith.training.loss_config import LossConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a reward model from preferences.

    Example: rewardsmith train --data prefs.jsonl --model HuggingFaceTB/SmolLM2-135M-Instruct --output rm
    """

    data: tuple[str, ...]
    """Preference files, folders or hub data sets. Their shape is recognised; the options below name it where not."""
    model: str
    """What to start from: a hub name, a folder (language model, or reward model whose head is kept), or gguf:PATH."""
    output: str
    """Folder for the reward model. It appears there when it is complete; the run's state lies beside it until then."""
    eval_data: tuple[str, ...] = ()
    """Preference files to evaluate on while training, and to keep the best model by."""
    eval_fraction: float = 0.0
    """Without --eval-data: hold out about this share of the prompts (no prompt on both sides)."""
    data_weights: tuple[float, ...] = ()
    """One weight per --data file: how much each of its groups counts in the loss."""
    limit: int | None = None
    """Use only the first N groups of the training data."""

    epochs: int = 1
    """Passes over the data."""
    batch_size: int = 16
    """Groups (prompts with all their responses) per optimiser step."""
    tokens_per_batch: int | None = None
    """Most distinct tokens computed at once: memory, not results, depends on it. A step is made of such batches.
    Default: 2048 on a CPU, 16384 on a GPU, where it is halved while memory does not suffice."""
    learning_rate: float = 2e-5
    """Peak learning rate."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the rate falls after the warm-up."""
    warmup_ratio: float = 0.1
    """Share of the steps over which the rate rises."""
    weight_decay: float = 0.0
    """AdamW's decay of weight matrices."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 switches it off."""
    seed: int = 0
    """Seed of the head, the order of the data and dropout. The same seed gives the same model."""

    teacher: str | None = None
    """Distil: labels become the mean probability that the members of this reward model give them (a folder, an ensemble
    best, or a server's address). Ties stay ties; groups of answers without labels get labels for all their pairs."""
    teacher_weight: float = 1.0
    """Share of the teacher's probability in each label; the rest is the data's own."""

    pooling: Literal["auto", "last", "cls", "mean"] = "auto"
    """Where the reward is read: the last token (decoders), the first or the mean over all (encoders). auto chooses
    last or cls; mean over a BERT-style encoder is served by this package only, and is said so when it is saved."""
    train_layers: int | None = None
    """Train only the top N layers (and the final norm and head); the rest stays as it is. With --lora-rank: adapters
    in the top N layers only. Default: all."""
    token_cache: bool = True
    """Keep tokenised data in ~/.cache/rewardsmith/tokens (up to 2 GB), so that the next run starts at once."""
    trunk_cache_gb: float = 4.0
    """With --train-layers: disk space for what the frozen layers compute, so that they run once for all epochs,
    members and later runs on the same data (in ~/.cache/rewardsmith/trunk). 0: off."""
    members: int = 1
    """Train an ensemble of N reward models that share every layer which is not trained, in one pass over the data
    (needs --train-layers or --lora-rank). score then gives their mean, and their spread as std."""
    lora_rank: int = 0
    """Train LoRA adapters of this rank instead of the weights (the head is always trained). 0: off."""
    lora_alpha: int = 32
    """LoRA's scale."""
    quantize: Literal["none", "4bit", "8bit"] = "none"
    """Load the frozen trunk in 4 or 8 bits (QLoRA; needs --lora-rank and bitsandbytes)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute in this type, on float32 master weights. auto: bfloat16 where the device is fast at it."""
    shard: bool = False
    """Several processes: split weights, gradients and optimiser state among them (FSDP2) instead of a copy each."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes a GPU where there is one."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless asked."""

    eval_every: int = 0
    """Evaluate every N steps; 0: at the end of each epoch."""
    keep_best: bool = True
    """Keep the weights of the best evaluation (by accuracy, then loss) rather than the last ones."""
    early_stopping: int = 0
    """Stop after N evaluations without a better one; 0: never."""
    save_every: int = 100
    """Save the run's state every N steps, so that a killed run goes on from there."""
    resume: bool = False
    """Go on where an interrupted run with this --output stopped."""
    overwrite: bool = False
    """Replace --output where it exists, and drop the state of an interrupted run."""
    tracker: Literal["none", "tensorboard", "trackio", "wandb", "mlflow"] = "none"
    """Also log to this tracker."""

    read: ReadOptions = field(default_factory=ReadOptions)
    render: RenderConfig = field(default_factory=RenderConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("--data: give at least one preference file")
        if self.data_weights and len(self.data_weights) != len(self.data):
            raise ConfigError(f"--data-weights: {len(self.data_weights)} weights for {len(self.data)} files")
        lowest = {
            "epochs": 1, "batch_size": 1, "tokens_per_batch": 16, "save_every": 1, "limit": 1, "eval_every": 0,
            "early_stopping": 0, "lora_rank": 0, "seed": 0, "weight_decay": 0, "max_grad_norm": 0, "train_layers": 0,
            "members": 1, "trunk_cache_gb": 0,
        }  # fmt: skip
        for name, low in lowest.items():
            value = getattr(self, name)
            if value is not None and not (value >= low):
                raise ConfigError(f"--{name.replace('_', '-')} {value}: give at least {low}")
        if not Path(self.output).name:
            raise ConfigError(f"--output {self.output!r}: give a folder of its own")
        if not self.learning_rate > 0:
            raise ConfigError(f"--learning-rate {self.learning_rate}: give a number above 0")
        if not 0 <= self.warmup_ratio < 1:
            raise ConfigError(f"--warmup-ratio {self.warmup_ratio}: give a share in [0, 1)")
        if not 0 <= self.eval_fraction < 1:
            raise ConfigError(f"--eval-fraction {self.eval_fraction}: give a share in [0, 1)")
        if self.eval_data and self.eval_fraction:
            raise ConfigError("--eval-data and --eval-fraction exclude each other")
        if self.quantize != "none" and not self.lora_rank:
            raise ConfigError("--quantize needs --lora-rank: weights of 4 or 8 bits are not trained themselves")
        if self.lora_rank and self.train_layers == 0:
            raise ConfigError("--train-layers 0 leaves no layer for --lora-rank to adapt")
        if self.shard and (self.members > 1 or self.quantize != "none" or self.precision == "float16"):
            raise ConfigError("--shard goes with one member, whole weights, and float32 or bfloat16")
        if self.shard and (self.loss.odin or self.loss.text_regularisation):
            raise ConfigError(
                "--shard does not go with --odin or --text-regularisation, which have weights of their own"
            )
        if not 0 < self.teacher_weight <= 1:
            raise ConfigError(f"--teacher-weight {self.teacher_weight}: give a share in (0, 1]")
        if self.teacher is None and self.teacher_weight != 1:
            raise ConfigError("--teacher-weight needs --teacher")
        if self.members > 1 and not self.lora_rank and self.train_layers is None:
            raise ConfigError("--members needs --train-layers N or --lora-rank N: what each member has of its own")
        if self.early_stopping and not (self.eval_data or self.eval_fraction):
            raise ConfigError("--early-stopping needs --eval-data or --eval-fraction")

    @property
    def run_folder(self) -> Path:
        """Where the run's state lies until the artifact is complete."""
        output = Path(self.output)
        return output.with_name(f".{output.name}.run")
