"""Which losses are mixed, and how: options without tensors, so that a command line can offer them at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from rewardsmith.errors import ConfigError

Objective = Literal["bradley-terry", "plackett-luce", "none"]
Ties = Literal["soft", "rao-kupper", "davidson", "drop"]
EditKind = Literal["padding", "restating", "list", "bold", "praise"]


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What the rewards are trained on. The terms are added: objective + centring + regression + consistency + odin;
    text_regularisation weighs their sum against a language model's loss."""

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

    flip_rate: float = 0.0
    """Share e in [0, 0.5) of the labels that is thought to be turned round. Label smoothing hedges every label; this
    undoes the flips: rewards are those of clean labels, if e is right."""

    flip_correction: Literal["bounded", "unbiased"] = "bounded"
    """With --flip-rate. bounded: likelihood of labels with flips, at most -log e each; unbiased: a loss whose mean over
    flips is that on clean labels, and whose single values are unbounded."""

    consistency: float = 0.0
    """Weight of log(1 + ratio): squared gaps between an answer and the same after an edit that leaves its content
    alone, over the variance of rewards within a prompt. One answer of each group is edited, which makes one more row of
    it. 0.2 is a start."""

    consistency_kinds: tuple[EditKind, ...] = ("padding", "list", "bold", "praise")
    """With --consistency: sentences that say nothing, the answer twice over, bullets, bold words, a compliment."""

    odin: float = 0.0
    """Weight of ODIN's terms: a second head that takes what length explains, and a quality head, which is kept, that
    does not follow length. Their sum is trained on the labels. 1 is usual."""

    text_regularisation: float = 0.0
    """Share w in [0, 1) of the language model's own loss on the best answers (per token); 1 - w is left to all else.
    Keeps the hidden states those of a language model (GRM). 0.05 is a start."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ConfigError(f"label smoothing {self.label_smoothing} is not in [0, 1); 0.1 is usual")
        for name in ("centring", "regression", "consistency", "odin"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} {value} is not a finite weight >= 0")
        if self.objective == "none" and self.regression == 0:
            raise ConfigError("objective none with regression 0 trains on nothing: set a regression weight")
        if self.objective == "plackett-luce" and (self.use_margins or self.label_smoothing):
            raise ConfigError(
                "plackett-luce has no margins or label smoothing: drop them, or use objective bradley-terry"
            )
        if not 0.0 <= self.text_regularisation < 1.0:
            raise ConfigError(f"text regularisation {self.text_regularisation} is not in [0, 1); 0.05 is a start")
        if self.consistency and not self.consistency_kinds:
            raise ConfigError(f"--consistency needs --consistency-kinds: {', '.join(get_args(EditKind))}")
        self._check_flips()

    def _check_flips(self) -> None:
        if not 0.0 <= self.flip_rate < 0.5:
            raise ConfigError(f"flip rate {self.flip_rate} is not in [0, 0.5): at one half labels say nothing")
        if not self.flip_rate:
            return
        if self.label_smoothing:
            raise ConfigError("flip rate and label smoothing draw labels to opposite sides: give one of them")
        if self.use_margins or self.objective != "bradley-terry" or self.ties not in ("soft", "drop"):
            raise ConfigError("flip rate goes with objective bradley-terry, ties soft or drop, and no margins")

    @property
    def has_side_terms(self) -> bool:
        """Whether a step's loss has terms beside the comparisons: a head for length, edits, the text itself."""
        return bool(self.odin or self.consistency or self.text_regularisation)
