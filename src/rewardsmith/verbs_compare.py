"""The verbs `compare` and `selftest`: options, calls into the library, and how the results are shown to people."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rewardsmith.data.options import ReadOptions
from rewardsmith.data.readers import read_groups
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.verbs_common import EnsembleScorerOptions, Files, Name, at_least, labelled_groups, score_all, unscored

if TYPE_CHECKING:
    from rewardsmith.cli import Common

SHOWN = 300  # characters of a text in the terminal; the JSON has all


@dataclass(frozen=True, kw_only=True)
class Compare(EnsembleScorerOptions):
    """Which of two reward models is better on the same pairs, and how small a difference these pairs could show.

    Example: rewardsmith compare rm-new rm-old heldout.jsonl --disagreements 5
    """

    a: Annotated[Name, tyro.conf.arg(metavar="RM_A")]
    """A reward model: an artifact or ensemble folder, or any sequence classifier with one output."""
    b: Annotated[Name, tyro.conf.arg(metavar="RM_B")]
    """The one it is compared with. Differences are A minus B."""
    files: Annotated[Files, tyro.conf.arg(metavar="FILE...")]
    """Preference files, in any shape that train reads."""
    limit: int | None = None
    """Use only the first N groups."""
    disagreements: int = 3
    """Show the N pairs on which they disagree most."""
    seed: int = 0
    """Seed of the bootstrap."""
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        at_least(
            limit=(self.limit, 1),
            disagreements=(self.disagreements, 0),
            tokens_per_batch=(self.tokens_per_batch, 16),
            seed=(self.seed, 0),
        )

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.evaluation.compare import compare_rows, disagreements
        from rewardsmith.evaluation.pairs import character_lengths, pair_rows, pair_texts, pairs_of
        from rewardsmith.evaluation.slices import pair_slices

        groups, report, dropped = labelled_groups(self.files, self.read, self.limit)
        scored = [
            score_all(self.open(model), groups, f"scoring with {model}", quiet=common.quiet)
            for model in (self.a, self.b)
        ]
        kept = []
        for g, group in enumerate(groups):
            error = next((scores[g].error for scores in scored if scores[g].error), "")
            if error:
                dropped.append(unscored(group, error))
            else:
                kept.append(g)
        if not kept:
            raise DataError(f"no group could be scored by both; the first: {dropped[0]['reason']}")
        groups = [groups[g] for g in kept]
        lengths = [character_lengths(group) for group in groups]
        rows_a, rows_b = (pair_rows(groups, [scores[g].rewards for g in kept], lengths) for scores in scored)
        result = compare_rows(rows_a, rows_b, pair_slices(groups, rows_a), seed=self.seed)
        widest = disagreements(rows_a, rows_b, self.disagreements).tolist() if self.disagreements else []
        pairs = pairs_of(groups)
        shown = [
            {
                **pair_texts(*pairs[p]),
                "margin_a": float(rows_a.margin_P[p]),
                "margin_b": float(rows_b.margin_P[p]),
            }
            for p in widest
        ]
        return result | {"disagreements": shown, "dropped": dropped, "warnings": report.warnings}

    def show(self, result: dict[str, Any]) -> str:
        from rewardsmith.evaluation.show import comparison_table

        lines = [comparison_table(result, self.a, self.b)]
        for pair in result["disagreements"]:
            right, wrong = ("A", "B") if pair["margin_a"] > pair["margin_b"] else ("B", "A")
            lines += [
                "",
                f"{right} is right, {wrong} is wrong: {pair['source']}   "
                f"(chosen minus rejected: A {pair['margin_a']:+.2f}, B {pair['margin_b']:+.2f})",
                *(f"  {name:<9}{_short(pair[name])}" for name in ("prompt", "chosen", "rejected")),
            ]
        if result["dropped"]:
            lines.append(
                f"{len(result['dropped'])} rows were not compared; the first: {result['dropped'][0]['reason']}"
            )
        return "\n".join(lines)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "\u2026"


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """Score the same rows in ways that must not change a reward, and in ways that may: what moves, and which
    decisions flip. Exit status 1 where something moved that must not.

    Example: rewardsmith selftest rm heldout.jsonl
    """

    model: Annotated[Name, tyro.conf.arg(metavar="RM")]
    """A reward model: an artifact folder, or any sequence classifier with one output."""
    files: Annotated[Files, tyro.conf.arg(metavar="FILE...")]
    """Files with prompts and responses, in any shape that train reads."""
    limit: int = 16
    """Use the first N groups."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes a GPU where there is one."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless asked."""
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        at_least(limit=(self.limit, 1))

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.evaluation.selftest import selftest
        from rewardsmith.scorers import JointScorer, OnnxScorer, load_scorer

        groups = list(islice(read_groups(self.files, self.read), self.limit))
        scorer = load_scorer(self.model, device=self.device, trust_remote_code=self.trust_remote_code)
        if isinstance(scorer, OnnxScorer):
            raise ConfigError(f"{self.model}: an ONNX file has one way to its rewards; compare it with its artifact")
        if isinstance(scorer, JointScorer):
            raise ConfigError(f"{self.model}: its members read different tokens; test each: {self.model}/member-0, ...")
        result = selftest(scorer, groups)
        return result | {"exit_code": 0 if result["ok"] else 1}

    def show(self, result: dict[str, Any]) -> str:
        from rewardsmith.evaluation.show import selftest_table

        return selftest_table(result)
