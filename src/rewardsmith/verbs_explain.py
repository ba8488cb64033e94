"""The verb `explain`: options, calls into the library, and how the results are shown to people."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rewardsmith.data.options import ReadOptions
from rewardsmith.data.schema import Group, Preference, text_of
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.verbs_common import (
    Files,
    Name,
    ScorerOptions,
    at_least,
    dropped_lines,
    labelled_groups,
    say_warnings,
    score_all,
    unscored,
)

if TYPE_CHECKING:
    from rewardsmith.cli import Common


@dataclass(frozen=True, kw_only=True)
class Explain(ScorerOptions):
    """What a reward model rewards, in words, and which words of one pair its rewards come from.

    Example: rewardsmith explain rm heldout.jsonl --pair 3 --html pair.html
    """

    model: Annotated[Name, tyro.conf.arg(metavar="RM")]
    """A reward model: an artifact or ensemble folder, or any sequence classifier with one output."""
    files: Annotated[Files, tyro.conf.arg(metavar="FILE...")]
    """Preference files, in any shape that train reads. Ratings (--rating-key) count as the quality to hold fixed."""
    pair: int = 1
    """Take the Nth pair of the files that is no tie apart, word by word."""
    by: Literal["word", "sentence", "gradient"] = "word"
    """What is taken apart: words or sentences left out in turn, or tokens by integrated gradients."""
    html: str | None = None
    """Also write the pair as a page, with every word marked."""
    limit: int | None = None
    """Use only the first N groups."""
    seed: int = 0
    """Seed of the bootstrap and the folds."""
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        at_least(
            limit=(self.limit, 1),
            pair=(self.pair, 1),
            tokens_per_batch=(self.tokens_per_batch, 16),
            seed=(self.seed, 0),
        )
        if self.adjusted and self.by == "gradient":
            raise ConfigError("--adjusted with --by gradient: gradients are of the plain reward; take word or sentence")

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.audit.attribution import attribute
        from rewardsmith.audit.tokens import explain
        from rewardsmith.report.heat_map import write_heat_map
        from rewardsmith.scorers import load_scorer

        groups, report, dropped = labelled_groups(self.files, self.read, self.limit)
        group, preference = self._pair(groups)
        scorer = self.open(self.model)
        scores = score_all(scorer, groups, "scoring groups", quiet=common.quiet)
        dropped += [unscored(g, s.error) for g, s in zip(groups, scores, strict=True) if s.error]
        try:
            surface, reason = attribute(groups, [s.rewards for s in scores], seed=self.seed), ""
        except DataError as error:  # one pair can still be taken apart
            surface, reason = None, str(error)
        if self.by == "gradient":
            scorer = load_scorer(self.model, device=self.device, trust_remote_code=self.trust_remote_code)
        labels = ["chosen", "rejected"]
        two = (group.responses[preference.chosen], group.responses[preference.rejected])
        pair = Group(prompt=group.prompt, responses=two, tools=group.tools, note=group.note, source=group.source)
        rows = explain(scorer, pair, by=self.by)
        if self.html is not None:
            write_heat_map(
                self.html,
                pair,
                rows,
                title=f"Pair {self.pair} of {', '.join(f.rpartition('/')[2] for f in self.files)}",
                labels=labels,
                sentences=surface["sentences"] if surface else (),
            )
        say_warnings(report, common)
        return {
            "model": self.model,
            "surface": surface,
            "surface_reason": reason,
            "pair": {
                "number": self.pair,
                "source": group.source,
                "prompt": text_of(group.prompt),
                "answers": [row | {"label": label} for row, label in zip(rows, labels, strict=True)],
            },
            "page": self.html,
            "dropped": dropped,
            "warnings": report.warnings,
        }

    def _pair(self, groups: list[Group]) -> tuple[Group, Preference]:
        pairs = [(group, p) for group in groups for p in group.preferences if not p.is_tie]
        if len(pairs) < self.pair:
            raise ConfigError(f"--pair {self.pair}: the files have {len(pairs)} pairs that are no tie")
        return pairs[self.pair - 1]

    def show(self, result: dict[str, Any]) -> str:
        from rewardsmith.audit.attribution import attribution_table
        from rewardsmith.audit.tokens import explanation_text

        surface, pair = result["surface"], result["pair"]
        lines = [
            attribution_table(surface) if surface else f"what is rewarded: {result['surface_reason']}",
            "",
            f"pair {pair['number']} ({pair['source']}): {' '.join(pair['prompt'].split())[:200]}",
            explanation_text(pair["answers"]),
        ]
        if result["page"]:
            lines.append(f"page: {result['page']}")
        return "\n".join([*lines, *dropped_lines(result["dropped"])])
