"""The verbs `data augment`, `data balance` and `data select`: options, calls into the library, and what people see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rewardsmith.data.file_reader import UNLABELLED
from rewardsmith.data.options import ReadOptions, ReadReport
from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import Group
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.progress import Bar
from rewardsmith.verbs_common import (
    Files,
    ScorerOptions,
    at_least,
    check_place,
    dropped_lines,
    say_warnings,
    score_all,
    unscored,
)

if TYPE_CHECKING:
    import numpy as np

    from rewardsmith.cli import Common
    from rewardsmith.data.select import Pool

NOTABLE = 0.01  # by how much the surface baseline has to rise to be pointed out


def new_file(output: str, overwrite: bool, inputs: Sequence[str] = ()) -> None:
    """ConfigError where `output` may not be written, before any work is done for it; nor may what is read."""
    from rewardsmith.data.convert import check_suffix

    check_suffix(Path(output))
    if Path(output).is_dir():
        raise ConfigError(f"output {output!r} is a folder; give a file")
    if Path(output).exists() and not overwrite:
        raise ConfigError(f"output {output!r} exists; give another name, or --overwrite")
    if any(Path(output).resolve() == Path(name).resolve() for name in inputs):
        raise ConfigError(f"output {output!r} is a file that is read; give another name")
    check_place("output", output)


def all_groups(
    files: Sequence[str], read: ReadOptions, common: Common, *, labels: bool = True
) -> tuple[list[Group], ReadReport]:
    """The groups of all files, with a progress bar; without `labels` a file is not warned of for having none."""
    report = ReadReport()

    def counted(bar: Bar) -> Iterator[Group]:
        for group in read_groups(files, read, report=report):
            bar.advance()
            yield group

    with Bar("reading groups", quiet=common.quiet) as bar:
        groups = list(counted(bar))
    if not labels:
        report.warnings[:] = [warning for warning in report.warnings if not warning.endswith(UNLABELLED)]
    say_warnings(report, common)
    return groups, report


def read_facts(report: ReadReport) -> dict[str, Any]:
    return {"warnings": report.warnings, "dropped": [row._asdict() for row in report.dropped]}


def baseline_line(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The surface baseline on both sides of a change, in one line."""

    def shown(baseline: dict[str, Any], key: str) -> str:
        interval = baseline[key]
        if interval["value"] is None:
            return "unknown"
        low, high = interval["low"], interval["high"]
        return f"{interval['value']:.1%}" + ("" if low is None else f" ({100 * low:.1f} to {100 * high:.1f})")

    return "; ".join(
        f"{name} predicts {shown(before, key)} of labels before, {shown(after, key)} after"
        for name, key in (("the longer answer", "length_accuracy"), ("the surface model", "logistic_accuracy"))
    )


@dataclass(frozen=True, kw_only=True)
class DataAugment:
    """Add counterfactual groups made from the file's own answers: padded, listed, praised, refused, off topic and more,
    each stated to be a tie or to lose. Augment training files only, after they were split.

    Example: rewardsmith data augment train.jsonl --output more.jsonl --kinds padding=0.1 other=0.1 list=0.05:tie
    """

    files: Annotated[Files, tyro.conf.arg(metavar="FILE...")]
    """Preference files, folders or hub data sets."""
    output: str
    """The file to write, in our own shape: .jsonl, .jsonl.gz, .jsonl.zst or .parquet."""
    kinds: tuple[str, ...] = ()
    """What to make: KIND, KIND=SHARE or KIND=SHARE:VERDICT, with new groups per group of the data and tie or rejected
    for the edited answer. Kinds: padding, restating, list, bold, praise, ornament, broken, careless, reference, appeal,
    belief, refusal, other, concise. Default: those that suit the data, at 0.02 to 0.1 each, but for ornament, broken,
    careless, reference and appeal, which answer faults that an audit must show first."""
    only_new: bool = False
    """Write the new groups without those of the files."""
    seed: int = 0
    """Seed of every draw."""
    overwrite: bool = False
    """Replace OUTPUT where it exists."""
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        from rewardsmith.data.augment import parse_kinds

        at_least(seed=(self.seed, 0))
        parse_kinds(self.kinds)

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.data.augment import augment, parse_kinds
        from rewardsmith.data.convert import convert

        new_file(self.output, self.overwrite, self.files)
        groups, report = all_groups(self.files, self.read, common)
        made = augment(groups, parse_kinds(self.kinds) or None, seed=self.seed)
        written = convert([*([] if self.only_new else groups), *made.groups], "rewardsmith", self.output)
        return {"output": self.output, "written": written.groups, **made.report, **read_facts(report)}

    def show(self, result: dict[str, Any]) -> str:
        lines = [f"{self.output}: {result['written']} groups, {result['made']} of them new"]
        for row in result["kinds"]:
            verdict = f", stated as {row['verdict']}" if row["verdict"] else ""
            lines.append(
                f"  {row['kind']:<10}{row['made']:>6} of {row['wanted']} wanted{verdict}; refused: "
                f"{row['conflicts']} that contradict a label, {row['repeats']} that repeat one; "
                f"{row['not_applicable']} did not apply"
            )
            if row["made"] < row["wanted"]:
                lines += [f"{'':<12}{n} because {why}" for why, n in row["reasons"].items()]
        if not result["made"]:
            few = all(row["wanted"] == 0 for row in result["kinds"])
            advice = f": of {result['groups']} groups these shares are none; give larger ones (--kinds padding=0.5)"
            lines.append("warning: nothing was made" + (advice if few else ""))
        lines += [f"  {kind:<10}left out: {why}" for kind, why in result["left_out"].items()]
        baseline = result["surface_baseline"]
        lines.append(baseline_line(baseline["before"], baseline["after"]))
        before, after = (baseline[side]["logistic_accuracy"]["value"] for side in ("before", "after"))
        if before is not None and after is not None and after > before + NOTABLE:
            lines.append("warning: the surface predicts more of the labels than before; state ties (KIND=SHARE:tie)")
        return "\n".join([*lines, *dropped_lines(result["dropped"])])


@dataclass(frozen=True, kw_only=True)
class DataBalance(ScorerOptions):
    """Weight pairs so that length and other surface features no longer predict which answer was preferred, and list
    labels that look wrong.

    Example: rewardsmith data balance train.jsonl --output balanced.jsonl --review doubtful.jsonl
    """

    files: Annotated[Files, tyro.conf.arg(metavar="FILE...")]
    """Preference files, folders or hub data sets."""
    output: str
    """The file to write, in our own shape: .jsonl, .jsonl.gz, .jsonl.zst or .parquet."""
    cap: float = 5.0
    """Largest weight of a pair, times the mean."""
    resample: bool = False
    """Keep each pair with a chance in proportion to its weight, instead of weighting it: for tools without weights."""
    review: str | None = None
    """Write the labels that look wrong here (.jsonl), with texts and reason, the most doubtful first."""
    review_most: int = 500
    """Most rows of the review list."""
    model: str | None = None
    """A reward model to doubt labels with, best one that did not learn from them. Default: a model of surface and
    words, fitted to the other prompts' labels."""
    seed: int = 0
    """Seed of folds and draws."""
    overwrite: bool = False
    """Replace OUTPUT and the review list where they exist."""
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        at_least(
            seed=(self.seed, 0),
            cap=(self.cap, 1),
            review_most=(self.review_most, 1),
            tokens_per_batch=(self.tokens_per_batch, 16),
        )
        if self.model is not None and self.review is None:
            raise ConfigError("--model is what labels are doubted with: say where the list goes with --review FILE")
        if self.review is not None and Path(self.review).resolve() == Path(self.output).resolve():
            raise ConfigError(f"--review {self.review}: give another name than --output has")
        if self.review is not None and not self.review.endswith(".jsonl"):
            raise ConfigError(f"--review {self.review!r}: give a name that ends in .jsonl")

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.data.balance import balance
        from rewardsmith.data.convert import convert

        for output in filter(None, (self.output, self.review)):
            new_file(output, self.overwrite, self.files)
        groups, report = all_groups(self.files, self.read, common)
        found = balance(groups, cap=self.cap, resample=self.resample, seed=self.seed)
        review = None if self.review is None else self._review(groups, self.review, common)
        written = convert(found.groups, "rewardsmith", self.output)
        facts = {"output": self.output, "written": written.groups, **found.report, "review": review}
        read = read_facts(report)
        return {**facts, **read, "warnings": [*found.report["warnings"], *read["warnings"]]}

    def _review(self, groups: Sequence[Group], path: str, common: Common) -> dict[str, Any]:
        """Write the review list; how long it is, and how far its model can be believed."""
        from rewardsmith.data.convert import replacing
        from rewardsmith.data.noise import by_rewards, by_the_data, review
        from rewardsmith.data.payload import dumps

        if self.model is None:
            doubt = by_the_data(groups, self.seed)
        else:
            scores = score_all(self.open(self.model), groups, "scoring groups", quiet=common.quiet)
            kept = [(group, s.rewards) for group, s in zip(groups, scores, strict=True) if not s.error]
            if not kept:
                raise DataError(f"no group could be scored; the first: {scores[0].error}")
            doubt = by_rewards([group for group, _ in kept], [rewards for _, rewards in kept], self.seed)
        rows = review(doubt)
        with replacing(Path(path)) as temporary:
            lines = (dumps(row) + "\n" for row in rows[: self.review_most])
            temporary.write_text("".join(lines), encoding="utf-8")
        return {
            "file": path,
            "pairs": len(doubt.pairs),
            "doubtful": len(rows),
            "written": min(len(rows), self.review_most),
            "agreement": float((doubt.p_label_P > 0.5).mean()),
        }

    def show(self, result: dict[str, Any]) -> str:
        pairs, effective = result["pairs"], result["effective_pairs"]
        weights, imbalance = result["weights"], result["imbalance"]
        done = f"{result['kept_pairs']} of {pairs} pairs drawn" if self.resample else f"{pairs} pairs weighted"
        lines = [
            f"{self.output}: {result['written']} groups, {done}",
            f"weights {weights['lowest']:.2g} to {weights['highest']:.2g}, {weights['capped']} at the cap of "
            f"{self.cap:g}; as good as {effective:.0f} pairs of equal weight ({effective / pairs:.0%})",
            f"largest mean difference of a feature: {imbalance['before']:.3f} of its SD before, "
            f"{imbalance['after']:.3f} after",
            baseline_line(result["surface_baseline"]["before"], result["surface_baseline"]["after"])
            + " (one half of the prompts, under weights fitted to the other half)",
        ]
        lines += [f"warning: {warning}" for warning in result["warnings"]]
        review = result["review"]
        if review is not None:
            lines.append(
                f"{review['file']}: {review['written']} of {review['doubtful']} doubtful labels among "
                f"{review['pairs']}, the most doubtful first; the model that doubts agrees with "
                f"{review['agreement']:.0%} of all labels: a doubt is a reason to look, not a verdict"
            )
        return "\n".join([*lines, *dropped_lines(result["dropped"])])


@dataclass(frozen=True, kw_only=True)
class DataSelect(ScorerOptions):
    """Choose which pairs of an unlabelled pool to have labelled next: two answers to a prompt each, no near duplicates.

    Example: rewardsmith data select pool.jsonl --budget 200 --output next.jsonl --model rm
    """

    files: Annotated[Files, tyro.conf.arg(metavar="POOL...")]
    """Files with prompts and at least two answers each, in any shape that train reads."""
    budget: int
    """How many pairs to choose."""
    output: str
    """The file to write, in our own shape, best first: .jsonl, .jsonl.gz, .jsonl.zst or .parquet."""
    strategy: Literal["d-optimal", "disagreement", "margin", "coverage", "random"] = "d-optimal"
    """d-optimal: the most told about a linear reward; disagreement: where an ensemble is divided; margin: the smallest
    reward gap; coverage: far from what was chosen; random: the control."""
    model: str | None = None
    """A reward model: its head's input are the features, its gaps the margins. Default: features of surface and words.
    disagreement needs an ensemble, or a model with a Laplace posterior."""
    labelled: tuple[str, ...] = ()
    """Files of pairs that have labels already: nothing that nearly repeats them is chosen, and d-optimal and coverage
    go on behind them."""
    per_prompt: int = 1
    """Most pairs of one prompt, those of --labelled included."""
    candidates: int = 10
    """Most pairs of one group that are looked at, drawn at random."""
    seed: int = 0
    """Seed of draws."""
    overwrite: bool = False
    """Replace OUTPUT where it exists."""
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        at_least(
            budget=(self.budget, 1),
            per_prompt=(self.per_prompt, 1),
            candidates=(self.candidates, 1),
            seed=(self.seed, 0),
            tokens_per_batch=(self.tokens_per_batch, 16),
        )
        if self.strategy in ("margin", "disagreement") and self.model is None:
            raise ConfigError(f"--strategy {self.strategy} needs a reward model; add --model RM")

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.data.convert import convert
        from rewardsmith.data.select import labelled_pairs, select

        new_file(self.output, self.overwrite, (*self.files, *self.labelled))
        groups, report = all_groups(self.files, self.read, common, labels=False)
        known = labelled_pairs(all_groups(self.labelled, self.read, common, labels=False)[0]) if self.labelled else []
        if self.labelled and not known:
            raise DataError(f"--labelled {', '.join(self.labelled)}: no pair has a label; leave it out, or name labels")
        more: dict[str, Any] = {"n_labelled": len(known), "per_prompt": self.per_prompt, "seed": self.seed}
        pool, unread = self._pool([*known, *groups], common)
        found = select(pool, self.strategy, self.budget, **more)
        chosen = found.pop("groups")
        if not chosen:
            why = ", ".join(f"{count} {why}" for why, count in found["passed_over"].items() if count)
            first = f"; the first that was not read: {unread[0]['reason']}" if unread else ""
            raise DataError(f"no pair of the pool can be chosen: {why or 'it has none'}{first}; give a larger pool")
        convert(chosen, "rewardsmith", self.output)
        read = read_facts(report)
        singles = sum(len(group.responses) < 2 for group in groups)
        facts = {"output": self.output, "groups": len(groups), "labelled": len(known), **found}
        facts["single_answers"] = singles
        told = {"warnings": [*found["warnings"], *read["warnings"]], "dropped": [*read["dropped"], *unread]}
        return {**facts, **told}

    def _pool(self, groups: Sequence[Group], common: Common) -> tuple[Pool, list[dict[str, Any]]]:
        """The pool with what the strategy needs, and the groups that the model cannot read."""
        import numpy as np

        from rewardsmith.data.select import make_pool, text_features

        more: dict[str, Any] = {"most": self.candidates, "seed": self.seed}
        features: Sequence[np.ndarray] = [np.zeros((len(group.responses), 1)) for group in groups]
        make_pool(groups, features, **more)  # a pool without a pair is said before a model is paid for
        unread: list[dict[str, Any]] = []
        if self.strategy in ("d-optimal", "coverage"):
            if self.model is None:
                features = text_features(groups, self.seed)
            else:
                features = self.head_inputs("--model", self.model, groups, quiet=common.quiet)
                missing = [group for group, found in zip(groups, features) if not np.isfinite(found).all()]
                unread = [unscored(group, "cannot be read by the model") for group in missing]
        if self.model is not None and self.strategy in ("d-optimal", "margin", "disagreement"):
            rewards, unread = self._rewards(self.model, groups, common)
            more |= rewards
        return make_pool(groups, features, **more), unread

    def _rewards(
        self, model: str, groups: Sequence[Group], common: Common
    ) -> tuple[dict[str, list[np.ndarray]], list[dict[str, Any]]]:
        """Rewards in log-odds and their spread, by `make_pool`'s names, and the groups that have none."""
        import numpy as np

        from rewardsmith.data.select import NO_SPREAD

        scorer = self.open(model)
        if self.strategy == "disagreement":  # said before the whole pool is scored
            told = next((s for s in (scorer.score([group])[0] for group in groups) if not s.error), None)
            if told is not None and told.std is None:
                raise ConfigError(NO_SPREAD)
        scores = score_all(scorer, groups, "scoring groups", quiet=common.quiet)
        known = [s for s in scores if not s.error]
        temperature = getattr(scorer, "temperature", None) or 1.0
        found = {"rewards": [s.rewards / temperature for s in scores]}
        if known and all(s.members is not None for s in known):
            m = max(len(s.members) for s in known if s.members is not None)
            found["members"] = [
                np.full((m, len(s.rewards)), np.nan) if s.members is None else s.members for s in scores
            ]
        elif all(s.std is not None for s in known):
            found["stds"] = [np.full(len(s.rewards), np.nan) if s.std is None else s.std for s in scores]
        return found, [unscored(group, s.error) for group, s in zip(groups, scores) if s.error]

    def show(self, result: dict[str, Any]) -> str:
        passed = "; ".join(f"{count} {why}" for why, count in result["passed_over"].items() if count)
        lines = [
            f"{self.output}: {result['selected']} pairs of {result['candidates']} candidates in {result['groups']} "
            f"groups by {result['strategy']}" + (f"; passed over: {passed}" if passed else ""),
        ]
        if result["single_answers"]:
            lines.append(f"{result['single_answers']} groups have one answer and nothing to compare")
        lines += [f"warning: {warning}" for warning in result["warnings"]]
        return "\n".join([*lines, *dropped_lines(result["dropped"])])
