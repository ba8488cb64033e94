"""What `rewardsmith rl` is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rewardsmith.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Optimise a language model against a reward model by policy gradients, and record reward, KL, length, gold and
    the audit's markers at every step. Needs TRL: pip install 'rewardsmith[rl]'.

    Example: rewardsmith rl rm --policy HuggingFaceTB/SmolLM2-135M-Instruct --prompts prompts.jsonl --output run
    Example: rewardsmith rl rm --policy model --prompts prompts.txt --output run --gold rm-other --kl 0.2 --max-kl 20
    """

    rm: str
    """The reward model that is optimised: an artifact or ensemble folder."""
    policy: str
    """The language model to begin with: a hub name, a folder, or gguf:PATH."""
    prompts: tuple[str, ...]
    """Files of prompts: rows with "prompt", a .txt with one a line, or any preference file."""
    output: str
    """Folder for policy, records and rows."""
    algorithm: Literal["grpo", "rloo"] = "grpo"
    """TRL's trainer."""
    kl: float = 0.05
    """Coefficient of the KL divergence from the start, in units of reward per nat. 0: none."""
    steps: int = 40
    """Updates of the policy."""
    gold: str | None = None
    """Another reward model that judges every completion and is never optimised."""
    pessimism: float = 0.0
    """Optimise reward - K * std, with the spread of an ensemble's members."""
    prompts_per_step: int = 4
    """Prompts in a step."""
    completions: int = 4
    """Completions of each of them."""
    max_tokens: int = 48
    """Longest completion; what is longer is cut and scored as it is."""
    temperature: float = 1.0
    """Of the samples; KL is that of the distributions at this temperature."""
    learning_rate: float = 1e-5
    """Constant, of AdamW."""
    scale_rewards: Literal["none", "group"] = "none"
    """group: GRPO divides each prompt's rewards by their spread (TRL's default); --kl is then in units of that."""
    rows_at_once: int = 16
    """Completions in one forward and backward pass; has to divide those of a step."""
    limit: int | None = None
    """Use the first N prompts only."""
    held_out: int = 0
    """Keep the first N prompts from training and measure on them: the same prompts and random numbers every time."""
    held_out_every: int = 10
    """Steps between two measurements on held-out prompts; also at the start and the end."""
    max_kl: float | None = None
    """Stop where the smoothed KL is above this."""
    gold_drop: float | None = None
    """Stop where the smoothed gold reward has fallen by this much from its best."""
    smooth: int = 3
    """Records whose mean these two rules look at: held-out ones where there are any."""
    save_every: int = 10
    """Steps between two checkpoints."""
    resume: bool = False
    """Go on where an interrupted run with this --output stopped."""
    overwrite: bool = False
    """Replace --output where it exists, and drop an interrupted run."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes a GPU where there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the matrix products of all models. auto: bfloat16 where the processor multiplies it natively."""
    trust_remote_code: bool = False
    """Run Python code that comes with a model. Off unless asked."""
    seed: int = 0
    """Of the order of prompts and of the samples."""

    def __post_init__(self) -> None:
        low = {
            "steps": 1, "prompts_per_step": 1, "completions": 2, "max_tokens": 1, "rows_at_once": 1, "limit": 1,
            "held_out": 0, "held_out_every": 1, "smooth": 1, "save_every": 1, "kl": 0, "pessimism": 0, "seed": 0,
            "max_kl": 0, "gold_drop": 0,
        }  # fmt: skip
        for name, least in low.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: give at least {least}")
        for name in ("temperature", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}: give a number above 0")
        batch = self.prompts_per_step * self.completions
        if batch % min(self.rows_at_once, batch):
            raise ConfigError(f"--rows-at-once {self.rows_at_once} does not divide the {batch} completions of a step")
        if self.gold_drop is not None and self.gold is None:
            raise ConfigError("--gold-drop without --gold: nothing would be looked at")

    @property
    def run_folder(self) -> Path:
        output = Path(self.output)
        return output.with_name(f".{output.name}.run")
