"""The verbs `evaluate` and `calibrate`: options, calls into the library, and how the results are shown to people."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rewardsmith.data.options import ReadOptions
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.progress import Bar
from rewardsmith.scoring import is_address
from rewardsmith.verbs_common import (
    EnsembleScorerOptions,
    Files,
    Name,
    ScorerOptions,
    at_least,
    cut_counts,
    dropped_lines,
    say_warnings,
    score_labelled,
)

if TYPE_CHECKING:
    import numpy as np

    from rewardsmith.cli import Common
    from rewardsmith.data.schema import Group

NOTABLE = 0.01  # by how much accuracy has to fall to be pointed out
BenchmarkName = Literal[
    "auto", "rewardbench", "rewardbench2", "rm-bench", "llmbar", "judgebench", "pandalm", "xstest", "ppe", "hh"
]


@dataclass(frozen=True, kw_only=True)
class Evaluate(EnsembleScorerOptions):
    """How often the reward model prefers what people preferred, with intervals and the length baseline beside it.

    Example: rewardsmith evaluate rm heldout.jsonl --json
    Example: rewardsmith evaluate rm RM-Bench/data --benchmark rm-bench
    """

    model: Annotated[Name, tyro.conf.arg(metavar="RM")]
    """A reward model: an artifact or ensemble folder, or any sequence classifier with one output."""
    files: Annotated[Files, tyro.conf.arg(metavar="FILE...")] = ()
    """Preference files, in any shape that train reads; or, with --benchmark, its file or folder."""
    benchmark: BenchmarkName | None = None
    """Score by a published benchmark's own rule, from FILE in the publisher's shape, or the hub where there is none.
    auto recognises the file."""
    prompt_blind: bool = True
    """Score a benchmark's answers once more without their prompts, as a further baseline. Twice the work."""
    limit: int | None = None
    """Use only the first N groups."""
    max_response_length: int | None = None
    """Cut every answer after this many tokens (as train can). Default: what the model was trained with."""
    most_wrong: int = 20
    """Put the N most wrong pairs with their texts into the JSON."""
    seed: int = 0
    """Seed of the bootstrap."""
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        at_least(
            limit=(self.limit, 1),
            tokens_per_batch=(self.tokens_per_batch, 16),
            max_response_length=(self.max_response_length, 1),
            most_wrong=(self.most_wrong, 0),
            seed=(self.seed, 0),
        )
        if self.benchmark is not None and self.limit is not None:
            raise ConfigError("--limit with --benchmark: a benchmark is scored whole or not at all")
        if self.benchmark is not None and len(self.files) > 1:
            raise ConfigError(f"--benchmark takes one file or folder, not {len(self.files)}")
        if self.benchmark == "auto" and not self.files:
            raise ConfigError("--benchmark auto needs a file or folder to recognise")

    def run(self, common: Common) -> dict[str, Any]:
        return self._files(common) if self.benchmark is None else self._benchmark(common)

    def _files(self, common: Common) -> dict[str, Any]:
        from rewardsmith.evaluation.evaluate import evaluate_rows, most_wrong

        scored = score_labelled(
            self,
            self.model,
            self.files,
            self.read,
            self.limit,
            quiet=common.quiet,
            max_response_length=self.max_response_length,
        )
        temperature = getattr(scored.scorer, "temperature", None)
        result = evaluate_rows(scored.groups, scored.rewards, temperature=temperature, seed=self.seed)
        say_warnings(scored.report, common)
        return result | {
            "most_wrong": most_wrong(scored.groups, scored.rewards, self.most_wrong),
            "dropped": scored.dropped,
            **cut_counts(scored.scores),
            "warnings": scored.report.warnings,
            "shapes": sorted({f.shape for f in scored.report.files if f.shape}),
        }

    def _benchmark(self, common: Common) -> dict[str, Any]:
        from rewardsmith.evaluation.benchmarks import evaluate_benchmark

        assert self.benchmark is not None
        name = None if self.benchmark == "auto" else self.benchmark
        with Bar("scoring groups", quiet=common.quiet) as bar:
            return evaluate_benchmark(
                self.files[0] if self.files else self.benchmark,
                self.open(self.model, max_response_length=self.max_response_length),
                name=name,
                prompt_blind=self.prompt_blind,
                seed=self.seed,
                progress=bar.advance,
            )

    def show(self, result: dict[str, Any]) -> str:
        if self.benchmark is not None:
            from rewardsmith.evaluation.benchmarks import benchmark_table

            return benchmark_table(result)
        from rewardsmith.evaluation.show import evaluation_table

        return "\n".join([evaluation_table(result), *dropped_lines(result["dropped"])])


@dataclass(frozen=True, kw_only=True)
class Calibrate(ScorerOptions):
    """Fit the temperature at which reward gaps read as probabilities, and keep it in the artifact: `score` then says
    P(a > b). Training does this by itself where it has held-out data. With --length or --bound, `score` also writes
    adjusted rewards. Use pairs that no test will use.

    Example: rewardsmith calibrate rm dev.jsonl
    Example: rewardsmith calibrate rm dev.jsonl --length --bound sigmoid
    """

    model: Annotated[Name, tyro.conf.arg(metavar="RM")]
    """An artifact or ensemble folder. Its rewards stay as they are; reward_model.json is rewritten."""
    files: Annotated[Files, tyro.conf.arg(metavar="FILE...")]
    """Preference files, in any shape that train reads."""
    length: bool = False
    """Fit what length does to the reward among answers that people judged alike, and take it out of the adjusted
    rewards."""
    length_share: float = 1.0
    """Share of what length does that --length takes out, from 0 to 1."""
    bound: Literal["none", "sigmoid", "tanh", "clip"] = "none"
    """Bound the adjusted rewards, for reinforcement learning: sigmoid in (0, 1), tanh in (-1, 1), clip at the 5% and
    95% quantiles of FILE's answers. Without --length and --bound, an adjustment that the artifact has is taken out."""
    limit: int | None = None
    """Use only the first N groups."""
    seed: int = 0
    """Seed of the halves and of the bootstrap."""
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        at_least(limit=(self.limit, 1), tokens_per_batch=(self.tokens_per_batch, 16), seed=(self.seed, 0))
        if not 0 <= self.length_share <= 1:
            raise ConfigError(f"--length-share {self.length_share}: give a share from 0 to 1")
        if self.length_share != 1 and not self.length:
            raise ConfigError(f"--length-share {self.length_share} is the share that --length takes out: add --length")
        if is_address(self.model):
            raise ConfigError(f"{self.model} is a server: name the artifact's folder, where the calibration is kept")
        if self.adjusted:
            raise ConfigError("--adjusted with calibrate: an adjustment is fitted to the plain rewards")

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.evaluation.calibration import calibration_report
        from rewardsmith.evaluation.pairs import character_lengths, pair_rows
        from rewardsmith.model.meta import write_note
        from rewardsmith.temperature import fit_temperature, stored

        scored = score_labelled(self, self.model, self.files, self.read, self.limit, quiet=common.quiet)
        rows = pair_rows(scored.groups, scored.rewards, [character_lengths(group) for group in scored.groups])
        fit = fit_temperature(rows.margin_P, rows.probability_P)
        if fit.value is None:
            raise DataError(f"{', '.join(self.files)}: no temperature fits: the {fit.n} pairs are {fit.status}")
        names = ", ".join(file.rpartition("/")[2] for file in self.files)
        calibration = stored(rows.margin_P, rows.probability_P, names)
        found = calibration_report(rows, temperature=fit)
        adjustment = self._adjustment(scored.groups, scored.rewards, calibration["temperature"])
        kept = None if adjustment is None else adjustment["stored"]
        write_note(self.model, calibration=calibration, adjustment=kept)
        say_warnings(scored.report, common)
        keys = ("nll", "brier", "ece", "overconfidence")
        sides = {side: {key: found[side][key] for key in keys} for side in ("before", "after")}
        facts = {"model": self.model, "calibration": calibration, **sides, "adjustment": adjustment}
        return {**facts, "dropped": scored.dropped}

    def _adjustment(
        self, groups: list[Group], rewards: list[np.ndarray], temperature: float | None
    ) -> dict[str, Any] | None:
        """{"stored": for the artifact, "length": before and after on prompts that it was not fitted on}, or None."""
        import numpy as np

        from rewardsmith.adjustment import Adjustment, characters, fit_bound, of_artifact
        from rewardsmith.evaluation.adjusting import fitted_length, length_effect
        from rewardsmith.model.meta import read_meta

        before = of_artifact(read_meta(self.model))
        offset = before.offset if before is not None else 0.0  # of the reference answers: it stays
        if not self.length and self.bound == "none" and not offset:
            return None
        length = fitted_length(groups, rewards).times(self.length_share) if self.length else None
        plain = Adjustment(length, offset=offset)
        shorn = [plain(values, characters(group)) for group, values in zip(groups, rewards, strict=True)]
        bound = None if self.bound == "none" else fit_bound(self.bound, np.concatenate(shorn), temperature)
        effect = length_effect(groups, rewards, self.length_share, seed=self.seed) if self.length else None
        return {"stored": Adjustment(length, bound, offset).to_json(), "length": effect}

    def show(self, result: dict[str, Any]) -> str:
        fit, before, after = result["calibration"], result["before"], result["after"]
        value = "infinite: rewards say nothing about these labels" if fit["temperature"] is None else None
        lines = [
            f"temperature {value or format(fit['temperature'], '.3f')}, fitted on {fit['n_pairs']} pairs, "
            f"kept in {self.model}",
            *(f"{key:<6}{before[key]:.4f} -> {after[key]:.4f}" for key in ("nll", "brier", "ece")),
        ]
        adjustment = result["adjustment"]
        if adjustment is None:
            lines.append("no adjustment: score writes no adjusted rewards")
        else:
            kinds = [name for name in ("length", "bound", "offset") if adjustment["stored"][name]]
            lines.append(f"adjusted rewards ({' and '.join(kinds)}) are in the rows of score, as `adjusted`")
        if adjustment is not None and adjustment["length"] is not None:
            lines += ["on each half of the prompts, with length fitted on the other:", *_changes(adjustment["length"])]
            before, after = (adjustment["length"][side]["accuracy"] for side in ("before", "after"))
            if None not in (before["value"], after["value"]) and after["value"] < before["value"] - NOTABLE:
                lines.append(
                    "warning: accuracy falls: part of what these labels prefer is length, or goes with it; take out "
                    "less with --length-share, and judge by labels or gold that do not lean to length"
                )
        return "\n".join([*lines, *dropped_lines(result["dropped"])])


def _changes(effect: dict[str, Any]) -> list[str]:
    """One line for each number of `length_effect`."""

    def shown(interval: dict[str, Any]) -> str:
        value, low, high = (interval[key] for key in ("value", "low", "high"))
        if value is None:
            return "unknown"
        return f"{value:.3f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")

    return [
        f"  {key.replace('_', ' '):<28}{shown(effect['before'][key])} -> {shown(effect['after'][key])}"
        for key in effect["before"]
    ]
