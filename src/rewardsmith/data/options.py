"""How preference files are read, and what is reported about them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from rewardsmith.errors import ConfigError

SHAPE_NAMES = (
    "rewardsmith",
    "trl",
    "hh",
    "ultrafeedback",
    "scored",
    "nemo",
    "ms-swift",
    "llama-factory",
    "axolotl",
    "openrlhf",
    "pairwise",
    "rm-bench",
)
# HelpSteer's K completions are UltraFeedback's; its one row per response is `scored`.
ALIASES = {
    "helpsteer": "ultrafeedback",
    "swift": "ms-swift",
    "llamafactory": "llama-factory",
    "arena": "pairwise",
}


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How preference files are read. Nothing needs to be given where a file's shape is unambiguous."""

    shape: str = "auto"
    """Shape of the rows: auto, rewardsmith, trl, hh, ultrafeedback (helpsteer), scored, nemo, ms-swift,
    llama-factory, axolotl, openrlhf, pairwise or rm-bench."""
    prompt_key: str | None = None
    """Column that holds the prompt, where it has another name."""
    chosen_key: str | None = None
    """Column that holds the preferred response."""
    rejected_key: str | None = None
    """Column that holds the other response."""
    response_key: str | None = None
    """Column that holds the response, in files with one response a row."""
    responses_key: str | None = None
    """Column that holds the list of responses or completions, in files with several a row."""
    rating_key: str | None = None
    """Column (or key of each completion) that holds the score; higher is better."""
    system_key: str | None = None
    """Column that holds the system prompt."""
    id_key: str | None = None
    """Column that holds the row's id (id, prompt_id and idx are found without it)."""
    margin_key: str | None = None
    """Column that holds how much better the chosen response is, a number >= 0."""
    tag_keys: tuple[str, ...] = ()
    """Further columns to slice results by (subset, source, category, slice, section and type always are)."""
    winner_labels: tuple[str, ...] = ()
    """What the winner column says for: first response, second response, tie. Example: 0 1 2."""
    rating_gap: float = 0.0
    """Ratings that differ by no more than this are not a preference."""
    max_responses: int | None = None
    """Keep at most this many responses of a group, drawn at random, and the preferences among them."""
    subsample_seed: int = 0
    """Seed of that draw: the same seed keeps the same responses, whatever the order of the file."""

    def __post_init__(self) -> None:
        if self.shape != "auto" and ALIASES.get(self.shape, self.shape) not in SHAPE_NAMES:
            raise ConfigError(f"--shape {self.shape}: not one of auto, {', '.join((*SHAPE_NAMES, *ALIASES))}")
        if self.max_responses is not None and self.max_responses < 2:
            raise ConfigError(f"--max-responses {self.max_responses}: a comparison needs at least 2")
        if not (math.isfinite(self.rating_gap) and self.rating_gap >= 0):
            raise ConfigError(f"--rating-gap {self.rating_gap}: not a finite number >= 0")
        if len(self.winner_labels) not in (0, 2, 3):
            raise ConfigError("--winner-labels: give the labels of the first, the second and (if any) a tie")

    @property
    def renamed(self) -> dict[str, str]:
        """The columns that shapes read under their own name -> the user's name."""
        names = {
            "prompt": self.prompt_key,
            "chosen": self.chosen_key,
            "rejected": self.rejected_key,
            "response": self.response_key,
            "system": self.system_key,
            "id": self.id_key,
            "margin": self.margin_key,
        }
        return {ours: theirs for ours, theirs in names.items() if theirs and theirs != ours}


# What a file leaves open, as `FileReport.defaulted` counts it.
NO_PROMPT = "no prompt"
NO_PREFERENCE = "no preference in the group"
REPEATS = "ids that repeat"


class Dropped(NamedTuple):
    """A row that is in no group: the 1-based line (jsonl, csv) or row number (json, parquet), and why."""

    file: str
    line: int
    reason: str


@dataclass
class FileReport:
    """What was seen in one file.

    rows = rows_used + rows_dropped once the file is read. `defaulted` counts what the rows left open ("no
    prompt", "ids that repeat"), `unknown_keys` the rows that hold a key nobody reads.
    """

    path: str
    shape: str = ""
    rating_key: str = ""
    rows: int = 0
    rows_used: int = 0
    rows_dropped: int = 0
    groups: int = 0
    pairs: int = 0
    subsampled_groups: int = 0
    responses_left_out: int = 0
    defaulted: Counter[str] = field(default_factory=Counter)
    unknown_keys: Counter[str] = field(default_factory=Counter)


@dataclass
class ReadReport:
    """What was seen in all files; filled while `read_groups` is iterated.

    `warnings` has one line for whatever a person should know of a file beside its dropped rows; the lines of a
    file are there once it is read to its end.
    """

    files: list[FileReport] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
