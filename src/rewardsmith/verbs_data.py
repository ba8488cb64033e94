"""The verbs `data augment`, `data balance` and `data select`: options, calls into the library, and what people see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rewardsmith.data.options import ReadOptions, ReadReport
from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import Group
from rewardsmith.errors import ConfigError
from rewardsmith.progress import Bar
from rewardsmith.verbs_common import Files, at_least, dropped_lines, say_warnings

if TYPE_CHECKING:
    from rewardsmith.cli import Common


NOTABLE = 0.01  # by how much the surface baseline has to rise to be pointed out


def new_file(output: str, overwrite: bool) -> None:
    """ConfigError where `output` may not be written, before any work is done for it."""
    from rewardsmith.data.convert import check_suffix

    check_suffix(Path(output))
    if Path(output).is_dir():
        raise ConfigError(f"output {output!r} is a folder; give a file")
    if Path(output).exists() and not overwrite:
        raise ConfigError(f"output {output!r} exists; give another name, or --overwrite")


def all_groups(files: Sequence[str], read: ReadOptions, common: Common) -> tuple[list[Group], ReadReport]:
    """The groups of all files, with a progress bar."""
    report = ReadReport()

    def counted(bar: Bar) -> Iterator[Group]:
        for group in read_groups(files, read, report=report):
            bar.advance()
            yield group

    with Bar("reading groups", quiet=common.quiet) as bar:
        groups = list(counted(bar))
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
    for the edited answer. Kinds: padding, restating, list, bold, praise, belief, refusal, other, concise. Default: all
    that suit the data, at 0.02 to 0.1 each."""
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

        new_file(self.output, self.overwrite)
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
        lines += [f"  {kind:<10}left out: {why}" for kind, why in result["left_out"].items()]
        baseline = result["surface_baseline"]
        lines.append(baseline_line(baseline["before"], baseline["after"]))
        before, after = (baseline[side]["logistic_accuracy"]["value"] for side in ("before", "after"))
        if before is not None and after is not None and after > before + NOTABLE:
            lines.append("warning: the surface predicts more of the labels than before; state ties (KIND=SHARE:tie)")
        return "\n".join([*lines, *dropped_lines(result["dropped"])])
