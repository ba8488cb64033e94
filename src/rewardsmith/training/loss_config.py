"""Which losses are mixed, and how: options without tensors, so that a command line can offer them at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rewardsmith.errors import ConfigError

Objective = Literal["bradley-terry", "plackett-luce", "none"]
Ties = Literal["soft", "rao-kupper", "davidson", "drop"]


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What the rewards are trained on. The terms are added: objective + centring + regression."""

    objective: Objective = "bradley-terry"
    """bradley-terry: all pairs; plackett-luce: rankings (pairs where labels are not one); none: ratings."""

    ties: Ties = "soft"
    """Pairs of probability 0.5. soft: equal rewards; rao-kupper, davidson: a third outcome; drop: none."""

    label_smoothing: float = 0.0
    """Share s in [0, 1) of each label given to chance: probability p becomes p (1 - s) + s / 2."""

    use_margins: bool = False
    """Ask for a reward gap larger by each preference's margin, where the data has margins."""

    centring: float = 0.0
    """Weight of (chosen reward + rejected reward)^2, which holds rewards about zero; 0.01 is usual."""

    regression: float = 0.0
    """Weight of the squared error against the data's ratings, which are used as they are, not rescaled."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ConfigError(f"label smoothing {self.label_smoothing} is not in [0, 1); 0.1 is usual")
        for name in ("centring", "regression"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} {value} is not a finite weight >= 0")
        if self.objective == "none" and self.regression == 0:
            raise ConfigError("objective none with regression 0 trains on nothing: set a regression weight")
        if self.objective == "plackett-luce" and (self.use_margins or self.label_smoothing):
            raise ConfigError(
                "plackett-luce has no margins or label smoothing: drop them, or use objective bradley-terry"
            )
