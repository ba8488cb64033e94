"""The verb `report`: options, calls into the library, and how the result is shown to people."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rewardsmith.data.options import ReadOptions
from rewardsmith.errors import ConfigError
from rewardsmith.verbs_common import (
    Files,
    Name,
    ScorerOptions,
    at_least,
    dropped_lines,
    say_warnings,
    score_labelled,
)

if TYPE_CHECKING:
    from rewardsmith.cli import Common


@dataclass(frozen=True, kw_only=True)
class Report(ScorerOptions):
    """One self-contained page about a reward model: what it is good for, where it is weak, what to do next, with the
    figures and the pairs behind it. With --card also a model card in Markdown.

    Example: rewardsmith report rm heldout.jsonl --output report.html
    Example: rewardsmith report rm heldout.jsonl --with audit.json --card rm/README.md
    """

    model: Annotated[Name, tyro.conf.arg(metavar="RM")]
    """An artifact or ensemble folder."""
    files: Annotated[Files, tyro.conf.arg(metavar="FILE...")] = ()
    """Preference files that the model was not trained on, in any shape that train reads. Without one the page shows
    what the artifact itself records."""
    output: str = "report.html"
    """The page. Replaced where it exists."""
    with_: Annotated[tuple[str, ...], tyro.conf.arg(name="with")] = ()
    """JSON files with results of other verbs (audit), each a section of the page."""
    card: str | None = None
    """Write a model card with the hub's metadata here, such as RM/README.md."""
    overwrite: bool = False
    """Replace the card where it exists."""
    title: str | None = None
    """Title of page and card. Default: the folder's name."""
    license: str = "unknown"
    """The model's license for the card, as the hub names it: apache-2.0, mit, ..."""
    limit: int | None = None
    """Use only the first N groups."""
    max_response_length: int | None = None
    """Cut every answer after this many tokens (as train can). Default: what the model was trained with."""
    seed: int = 0
    """Seed of the bootstrap."""
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        at_least(
            limit=(self.limit, 1),
            tokens_per_batch=(self.tokens_per_batch, 16),
            max_response_length=(self.max_response_length, 1),
            seed=(self.seed, 0),
        )
        if Path(self.output).is_dir():
            raise ConfigError(f"--output {self.output}: a folder; give a file")
        if self.card is not None and Path(self.card).exists() and not self.overwrite:
            raise ConfigError(f"--card {self.card} exists; give another, or --overwrite")

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.report.card import model_card
        from rewardsmith.report.known import read_artifact, read_results, trained_on
        from rewardsmith.report.page import write_text
        from rewardsmith.report.run_page import Known, findings, run_page

        artifact = read_artifact(self.model)
        results = read_results(self.with_)
        evaluated = self._evaluated(common) if self.files else {"evaluation": {}}
        known = Known(
            title=self.title or Path(self.model).absolute().name,
            meta=artifact.meta,
            curve=artifact.curve,
            measured_on=[Path(file).name for file in self.files],
            trained_on=[Path(file).name for file in trained_on(self.files, artifact.meta)],
            results=results,
            **evaluated,
        )
        found = findings(known)
        write_text(Path(self.output), run_page(known, found))
        if self.card is not None:
            write_text(Path(self.card), model_card(known, found, license=self.license), "card")
        return {
            "page": self.output,
            "card": self.card,
            "verdict": found.verdict.headline,
            "reasons": list(found.verdict.sentences),
            "good_for": list(found.outlook.good),
            "weak": list(found.outlook.weak),
            "next": list(found.outlook.next_steps),
            "evaluation": known.evaluation or None,
        }

    def _evaluated(self, common: Common) -> dict[str, Any]:
        """Groups, their rewards and the evaluation, as `Known` takes them."""
        from rewardsmith.evaluation.evaluate import evaluate_rows

        scored = score_labelled(
            self,
            self.model,
            self.files,
            self.read,
            self.limit,
            quiet=common.quiet,
            max_response_length=self.max_response_length,
        )
        evaluation = evaluate_rows(scored.groups, scored.rewards, seed=self.seed) | {"dropped": scored.dropped}
        say_warnings(scored.report, common)
        rewards = [row.tolist() for row in scored.rewards]
        return {"groups": scored.groups, "rewards": rewards, "evaluation": evaluation}

    def show(self, result: dict[str, Any]) -> str:
        lines = [result["verdict"], *(f"  {line}" for line in result["reasons"])]
        for heading, key in (("good for", "good_for"), ("weak", "weak"), ("next", "next")):
            lines += [f"{heading}:", *(f"  {line}" for line in result[key])]
        lines += [f"page: {result['page']}", *([f"card: {result['card']}"] if result["card"] else [])]
        return "\n".join([*lines, *dropped_lines((result["evaluation"] or {}).get("dropped") or [])])
