"""What verbs share: options of scoring, the labelled groups of files with their scores, and a few words for people."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rewardsmith.aggregation import How, check_aggregate
from rewardsmith.data.options import ReadOptions, ReadReport
from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import Group
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.progress import Bar, say

if TYPE_CHECKING:
    import numpy as np

    from rewardsmith.cli import Common
    from rewardsmith.scoring import Scorer, Scores

Files = Annotated[tuple[str, ...], tyro.conf.Positional]
Name = Annotated[str, tyro.conf.Positional]
HEAD_CHUNK = 64  # groups rendered at a time where the head's input is read


@dataclass(frozen=True, kw_only=True)
class AggregateOptions:
    """What an ensemble's reward is of its members' rewards."""

    aggregate: How = "mean"
    """An ensemble's reward: the mean over members, their minimum (WCO), mean - S variance (UWO), a soft minimum, or
    mean - S standard deviations. Members are centred on each prompt first."""
    aggregate_strength: float | None = None
    """S above, or the width of the soft minimum. Default: 0.5 for mean-var, 1 for soft-min and lower-bound."""


@dataclass(frozen=True, kw_only=True)
class ScorerOptions:
    """How a reward model is run."""

    tokens_per_batch: int = 8192
    """Most tokens computed at once."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes a GPU where there is one."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the matrix products. bfloat16 is several times faster where the processor has it, and moves rewards by about
    a hundredth of their spread (selftest says how much)."""
    trust_remote_code: bool = False
    """Run Python code that comes with a model. Off unless asked."""
    score_cache: bool = True
    """Take rewards from the disk where this model has scored these texts before."""
    adjusted: bool = False
    """Judge the adjusted rewards (calibrate --length, --bound) in the place of the plain ones."""

    def open(self, model: str, **options: Any) -> Scorer:
        """The scorer of a reward model."""
        from rewardsmith.score_cache import open_scorer

        scorer: Scorer = open_scorer(
            model,
            tokens_per_batch=self.tokens_per_batch,
            device=self.device,
            precision=self.precision,
            trust_remote_code=self.trust_remote_code,
            cache=self.score_cache,
            **options,
        )
        return adjusted_scorer(scorer, model) if self.adjusted else scorer

    def head_inputs(
        self, option: str, model: str, groups: Sequence[Group], *, quiet: bool, max_response_length: int | None = None
    ) -> list[np.ndarray]:
        """[K, H] what the head of `option`'s model reads of each group; NaN where one cannot be rendered.

        Of an ensemble it is the first member's. ConfigError where its members read different tokens, or where the
        model gives rewards only.
        """
        import numpy as np

        from rewardsmith.scorers import ModelScorer, load_scorer

        scorer = load_scorer(
            model,
            tokens_per_batch=self.tokens_per_batch,
            device=self.device,
            precision=self.precision,
            max_response_length=max_response_length,
            trust_remote_code=self.trust_remote_code,
        )
        if not isinstance(scorer, ModelScorer) or not scorer.models:
            raise ConfigError(f"{option} {model}: no head's input can be read of it; name one model's folder")
        width = scorer.models[0].value_head.in_features
        found = []
        with Bar("reading the head's input", len(groups), quiet=quiet) as bar:
            for start in range(0, len(groups), HEAD_CHUNK):
                part = groups[start : start + HEAD_CHUNK]
                for group, features_KH in zip(part, scorer.features(part), strict=True):
                    missing = np.full((len(group.responses), width), np.nan)
                    found.append(np.asarray(missing if features_KH is None else features_KH, np.float32))
                bar.advance(len(part))
        return found


def adjusted_scorer(scorer: Scorer, model: str) -> Scorer:
    """The scorer with the artifact's adjusted rewards in the place of its own; ConfigError where it has none."""
    from rewardsmith.adjustment import AdjustedScorer, of_artifact
    from rewardsmith.model.meta import read_meta
    from rewardsmith.scoring import is_address

    if is_address(model):
        raise ConfigError(
            f"--adjusted: {model} gives the rewards it was started with (serve --adjusted); name a folder"
        )
    adjustment = of_artifact(read_meta(model))
    if adjustment is None:
        raise ConfigError(
            f"--adjusted: {model} has no adjustment; fit one: rewardsmith calibrate {model} FILE --length"
        )
    return AdjustedScorer(scorer, adjustment, instead=True)


@dataclass(frozen=True, kw_only=True)
class EnsembleScorerOptions(AggregateOptions, ScorerOptions):
    """How a reward model or an ensemble is run."""

    def open(self, model: str, **options: Any) -> Scorer:
        check_aggregate(self.aggregate, self.aggregate_strength)
        return super().open(model, aggregate=self.aggregate, aggregate_strength=self.aggregate_strength, **options)


def check_place(option: str, path: str | Path) -> None:
    """ConfigError where nothing can be written at `path`, before any work is done for it."""
    above = next(place for place in Path(path).absolute().parents if place.exists())
    if not above.is_dir():
        raise ConfigError(f"{option} {path}: {above} is a file, not a folder")
    if not os.access(above, os.W_OK):
        raise ConfigError(f"{option} {path}: nothing may be written in {above}")


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """Where the page of a verb goes."""

    page: str | None = None
    """Also write a page with the result here: one HTML file."""
    overwrite: bool = False
    """Replace --page where it exists."""

    def check_page(self) -> None:
        """Raise ConfigError where the page may not be written, before any work is done for it."""
        if self.page is not None and Path(self.page).is_dir():
            raise ConfigError(f"--page {self.page}: a folder; give a file")
        if self.page is not None and Path(self.page).exists() and not self.overwrite:
            raise ConfigError(f"--page {self.page} exists; give another, or --overwrite")
        if self.page is not None:
            check_place("--page", self.page)

    def page_line(self) -> list[str]:
        """Where the page is, for people; nothing where none was asked for."""
        return [] if self.page is None else [f"page: {self.page}"]


def labelled_groups(
    files: Sequence[str], read: ReadOptions, limit: int | None = None
) -> tuple[list[Group], ReadReport, list[dict[str, Any]]]:
    """(groups, report, dropped rows) of preference files; DataError where nothing is labelled."""
    if not files:
        raise ConfigError("name at least one preference file")
    report = ReadReport()
    groups = list(islice(read_groups(files, read, report=report), limit))
    if not any(group.preferences for group in groups):
        raise DataError(f"{', '.join(files)}: no group has a preference, so there is nothing to compare with")
    return groups, report, [row._asdict() for row in report.dropped]


def score_all(scorer: Scorer, groups: Sequence[Group], what: str, *, quiet: bool) -> list[Scores]:
    """Every group's scores, in order, with a progress bar."""
    from rewardsmith.scoring import score_stream

    found = []
    with Bar(what, len(groups), quiet=quiet) as bar:
        for _, scores in score_stream(scorer, groups):
            bar.advance()
            found.append(scores)
    return found


@dataclass(frozen=True)
class Scored:
    """The groups of preference files that a model could score, with their scores; the others are among `dropped`."""

    scorer: Scorer
    groups: list[Group]
    scores: list[Scores]
    report: ReadReport
    dropped: list[dict[str, Any]]

    @property
    def rewards(self) -> list[np.ndarray]:
        return [scores.rewards for scores in self.scores]


def score_labelled(
    options: ScorerOptions,
    model: str,
    files: Sequence[str],
    read: ReadOptions,
    limit: int | None,
    *,
    quiet: bool,
    max_response_length: int | None = None,
) -> Scored:
    """Read preference files and score their groups; DataError where nothing is labelled or no group could be scored."""
    groups, report, dropped = labelled_groups(files, read, limit)
    scorer = options.open(model, max_response_length=max_response_length)
    scores = score_all(scorer, groups, "scoring groups", quiet=quiet)
    kept = [(group, s) for group, s in zip(groups, scores, strict=True) if not s.error]
    dropped += [unscored(group, s.error) for group, s in zip(groups, scores, strict=True) if s.error]
    if not kept:
        raise DataError(f"no group could be scored; the first: {dropped[0]['reason']}")
    return Scored(scorer, [group for group, _ in kept], [s for _, s in kept], report, dropped)


def unscored(group: Group, reason: str) -> dict[str, Any]:
    """A group that has no scores, as one of the dropped rows."""
    file, _, line = group.source.rpartition(":")
    return {"file": file, "line": int(line) if line.isdigit() else 0, "reason": reason, "group": group.id}


def cut_counts(scores: Sequence[Scores]) -> dict[str, int]:
    """How many prompts lost tokens to fit, and how many responses."""
    return {
        "prompts_cut": sum("prompt" in s.truncated for s in scores),
        "responses_cut": sum(s.truncated.count("response") for s in scores),
    }


def say_warnings(report: ReadReport, common: Common) -> None:
    """What the reader wants the user to know, on standard error."""
    if not common.quiet:
        for warning in report.warnings:
            say(f"warning: {warning}")


def at_least(**lowest: tuple[float | None, float]) -> None:
    """Raise ConfigError for an option below its lowest value: name=(value, lowest)."""
    for name, (value, low) in lowest.items():
        if value is not None and not value >= low:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: give at least {low:g}")


def dropped_lines(dropped: Sequence[dict[str, Any]], most: int = 5) -> list[str]:
    """The first dropped rows by name, and how many more there are."""
    lines = [
        f"dropped {d['file']}:{d['line']}: {d['reason']}" if "file" in d else f"dropped {d['source']}: {d['reason']}"
        for d in dropped[:most]
    ]
    if len(dropped) > most:
        lines.append(f"dropped {len(dropped) - most} more (all of them with --json)")
    return lines
