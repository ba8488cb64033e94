"""The verb `refresh drift`: options, calls into the library, and how the result is shown to people."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rewardsmith.data.options import ReadOptions
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.progress import Bar
from rewardsmith.verbs_common import EnsembleScorerOptions, Files, PageOptions, at_least, dropped_lines, score_all

if TYPE_CHECKING:
    from rewardsmith.cli import Common
    from rewardsmith.refresh.drift import Sample


@dataclass(frozen=True, kw_only=True)
class Drift(PageOptions, EnsembleScorerOptions):
    """Is a refresh due? New policy outputs, without labels, against the answers that the reward model was trained on:
    can they be told apart, are they farther away, longer, rewarded otherwise, or does the model disagree with itself?

    Example: rewardsmith refresh drift --project project
    Example: rewardsmith refresh drift outputs.jsonl --reference train.jsonl --model rm --page drift.html
    Example: rewardsmith refresh drift --scores new-rows.jsonl --reference-scores train-rows.jsonl
    """

    files: Annotated[Files, tyro.conf.arg(metavar="[NEW...]")] = ()
    """Files of the new policy's outputs: a prompt and one answer or several, in any shape that score reads."""
    reference: tuple[str, ...] = ()
    """Files that the reward model was trained on, or others of what it is known to judge well."""
    model: str | None = None
    """A reward model or an ensemble: both sides are scored by it. With --project also the name of one of its models."""
    project: str | None = None
    """A refresh project, in the place of files: its last round is held against its training data, by the rewards of the
    released model where there is one (or of --model)."""
    round: int | None = None
    """With --project: look at this round. Default: the last."""
    against: Literal["training", "rounds"] = "training"
    """With --project: hold it against the labelled answers of earlier rounds that are trained on, or against all
    answers of earlier rounds."""
    scores: str | None = None
    """Rows that `score` wrote for the new outputs (.jsonl), in the place of texts."""
    reference_scores: str | None = None
    """Rows that `score` wrote for the reference (.jsonl)."""
    level: float = 0.05
    """Chance of an alarm where nothing has changed."""
    least: float = 0.3
    """Smallest change, in standard deviations, that calls for a refresh."""
    permutations: int = 999
    """Deals behind each p-value."""
    check_on_splits: int = 0
    """Also ask so many times of a random part of the reference itself, and say how often it is alarmed."""
    fail_when_due: bool = False
    """Exit with 1 where a refresh is due, for a scheduled check."""
    limit: int | None = None
    """Use only the first N prompts of each side."""
    seed: int = 0
    """Seed of draws and deals."""
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        at_least(
            permutations=(self.permutations, 19), check_on_splits=(self.check_on_splits, 0), limit=(self.limit, 1),
            seed=(self.seed, 0), tokens_per_batch=(self.tokens_per_batch, 16), least=(self.least, 0),
        )  # fmt: skip
        if not 0 < self.level < 1:
            raise ConfigError(f"--level {self.level:g}: give a chance between 0 and 1")
        if bool(self.scores) != bool(self.reference_scores):
            raise ConfigError("--scores and --reference-scores belong together: rows of both sides")
        if self.scores and (self.files or self.reference or self.model):
            raise ConfigError("--scores stands in the place of texts; leave out the files, --reference and --model")
        if self.project is not None and (self.files or self.reference or self.scores):
            raise ConfigError("--project stands in the place of files; leave out the files, --reference and --scores")
        if self.project is not None and (self.aggregate != "mean" or self.aggregate_strength is not None):
            raise ConfigError("--project keeps a model's rewards in its store, as they are: leave out --aggregate")
        if self.project is None and self.round is not None:
            raise ConfigError("--round is a round of a --project")
        if self.project is None and not self.scores and not (self.files and self.reference):
            raise ConfigError(
                "name files of new outputs and --reference FILE..., or --scores and --reference-scores, or --project"
            )
        self.check_page()

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.refresh.drift import drift, false_alarms
        from rewardsmith.report.drift_page import write_drift_page

        new, reference, about = self._samples(common)
        options: dict[str, Any] = {"level": self.level, "least": self.least, "permutations": self.permutations}
        result = drift(new, reference, seed=self.seed, **options)
        if self.check_on_splits:
            with Bar("asking splits of the reference", self.check_on_splits, quiet=common.quiet) as bar:
                result["on_splits"] = false_alarms(
                    reference, len(new), self.check_on_splits, progress=lambda: bar.advance(), seed=self.seed, **options
                )
        result |= {"model": self.model, "dropped": []} | about
        if self.page is not None:
            write_drift_page(result, self.page)
        return result | {"page": self.page, "exit_code": int(self.fail_when_due and result["verdict"] == "due")}

    def _samples(self, common: Common) -> tuple[Sample, Sample, dict[str, Any]]:
        """Both sides, and what else the result says of them."""
        from rewardsmith.refresh.drift import sample_groups, sample_rows
        from rewardsmith.verbs_data import all_groups

        if self.project is not None:
            return self._of_project(self.project, common)
        if self.scores and self.reference_scores:
            new, reference = (sample_rows(score_rows(file)[: self.limit], self.seed) for file in self._row_files)
            return new, reference, {}
        sides, dropped = [], []
        for files in (self.files, self.reference):
            groups, report = all_groups(files, self.read, common)
            sides.append(groups[: self.limit])
            dropped += [row._asdict() for row in report.dropped]
        scores: list[Any] = [None, None]
        if self.model is not None:
            scorer = self.open(self.model)
            scores = [score_all(scorer, side, "scoring prompts", quiet=common.quiet) for side in sides]
        samples = [sample_groups(side, of, self.seed) for side, of in zip(sides, scores, strict=True)]
        return samples[0], samples[1], {"dropped": dropped}

    def _of_project(self, folder: str, common: Common) -> tuple[Sample, Sample, dict[str, Any]]:
        from rewardsmith.refresh import watch
        from rewardsmith.refresh.drift import sample_groups
        from rewardsmith.refresh.project import open_project
        from rewardsmith.refresh.rewards import find_or_add_model, path_of

        project = open_project(folder)
        with project.open() as store:
            round, new = watch.new_answers(store, self.round, project.base_policy, self.seed)
            sides = [new, watch.reference_answers(store, round, self.against, self.seed)]
            sides = [dict(sorted(side.items())[: self.limit]) for side in sides]
            model = find_or_add_model(project, store, self.model, time.time())
            scores: list[Any] = [None, None]
            if model is not None:
                path = path_of(project, model)
                with Bar("scoring answers", sum(map(len, sides)), quiet=common.quiet) as bar:
                    scores = [
                        watch.scores_of(store, model.name, lambda: self.open(path), side, bar.advance) for side in sides
                    ]
            samples = [
                sample_groups(watch.groups_of(store, side), of, self.seed)
                for side, of in zip(sides, scores, strict=True)
            ]
        about = {"round": round, "against": self.against, "model": None if model is None else model.name}
        return samples[0], samples[1], about

    @property
    def _row_files(self) -> tuple[str, str]:
        return self.scores or "", self.reference_scores or ""

    def show(self, result: dict[str, Any]) -> str:
        of = "" if self.project is None else f"round {result['round']}: "
        lines = [
            f"{of}{result['n_new']:,} new prompts against {result['n_reference']:,} of the reference, one answer each",
            f"{'':<42}{'shift in SD, or AUC':<26}{'effect, SD':>11}{'p':>8}{'seen from':>11}",
            *map(signal_line, result["signals"]),
        ]
        if "on_splits" in result:
            found = result["on_splits"]
            lines.append(
                f"asked of {found['splits']} splits of the reference itself, it was alarmed {found['alarms']} times "
                f"(at most {self.level:.0%} is what it promises)"
            )
        return "\n".join([*lines, *dropped_lines(result["dropped"]), result["text"], *self.page_line()])


def signal_line(row: dict[str, Any]) -> str:
    """One signal in a line; what raises an alarm is marked."""
    of, sign = (row["auc"], "") if "auc" in row else (row["shift"], "+")
    bounds = "" if of["low"] is None else f" [{of['low']:{sign}.2f}, {of['high']:{sign}.2f}]"
    mark = "!" if row["alarm"] else " "
    return (
        f"{mark} {row['meaning']:<40}{of['value']:{sign}.2f}{bounds:<21} {row['effect_sd']:>11.2f}"
        f"{row['p_adjusted']:>8.3f}{row['detectable_sd']:>11.2f}"
    )


def score_rows(path: str) -> list[dict[str, Any]]:
    """The rows of a file that `score` wrote. DataError where it cannot be read as such."""
    from rewardsmith.data.files import read_rows

    rows = []
    for raw in read_rows(path):
        if raw.value is None or "reward" not in raw.value:
            why = raw.reason or "no row with a reward"
            raise DataError(f"{path}:{raw.line}: {why}; give what `rewardsmith score` wrote")
        rows.append(raw.value)
    return rows
