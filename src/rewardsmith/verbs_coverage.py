"""The verb `data coverage`: options, calls into the library, and what people see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rewardsmith.data.options import ReadOptions
from rewardsmith.data.schema import Group
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.progress import say
from rewardsmith.verbs_common import Files, ScorerOptions, at_least, check_place, dropped_lines, score_all
from rewardsmith.verbs_data import all_groups, read_facts

if TYPE_CHECKING:
    from rewardsmith.cli import Common
    from rewardsmith.data.coverage.embedding import Embedder
    from rewardsmith.statistics import Floats

SHOWN_CELLS = 8  # of a dimension, in the table for people
MARK = {"serious": "!", "look": "?", "note": " "}


@dataclass(frozen=True, kw_only=True)
class DataCoverage(ScorerOptions):
    """What preference data covers and what it does not: topics, languages, lengths, turns, safety, opinions, formats
    and sources with their label balance, holes against a target set, near duplicates, contamination against benchmarks.

    Example: rewardsmith data coverage prefs.jsonl --target my-prompts.txt --benchmarks bench.json --page coverage.html
    """

    files: Annotated[Files, tyro.conf.arg(metavar="FILE...")]
    """Preference files, folders or hub data sets."""
    target: tuple[str, ...] = ()
    """Files of what the reward model will see: your users' prompts (a .txt has one a line) or a policy's outputs. What
    lies far from the data is a hole."""
    benchmarks: tuple[str, ...] = ()
    """Benchmark files: which of their prompts and answers are in the data."""
    model: str | None = None
    """Tell topics and neighbours by this model's trunk (a reward model or a base model). Default: by the data's own
    words, which takes no model."""
    scores: str | None = None
    """The rows that score wrote for these files (.jsonl, .jsonl.gz or .parquet), or a reward model: its accuracy in
    every cell, its errors on the map."""
    page: str | None = None
    """Write a page with a map of the data here (.html)."""
    clusters: int | None = None
    """How many topics. Default: grown with the number of prompts, 2 to 40."""
    seed: int = 0
    """Seed of samples, clusters and intervals."""
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        at_least(seed=(self.seed, 0), clusters=(self.clusters, 1), tokens_per_batch=(self.tokens_per_batch, 16))
        if self.page is not None and Path(self.page).is_dir():
            raise ConfigError(f"--page {self.page}: is a folder; give a file")
        if self.page is not None:
            check_place("--page", self.page)

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.data.coverage.items import read_items
        from rewardsmith.data.coverage.run import coverage

        # Files that cannot be read are told before the long work.
        target = read_items(self.target)
        benchmarks = {Path(name).name: read_items([name]) for name in self.benchmarks}
        groups, report = all_groups(self.files, self.read, common)
        found = coverage(
            groups,
            self._embedders(common),
            target=target,
            benchmarks=benchmarks,
            rewards=self._rewards(groups, common),
            clusters=self.clusters,
            with_map=self.page is not None,
            seed=self.seed,
            say=lambda stage: None if common.quiet else say(f"coverage: {stage}"),
        )
        read = read_facts(report)
        result = {"files": list(self.files), "target_files": list(self.target), **found.report, **read}
        result |= {"scores": self.scores, "page": self.page}
        notes = [*self._fewer_topics(len(found.report["topics"])), *read["warnings"]]
        result["warnings"] = [*found.report["warnings"], *map(note, notes)]
        if self.page is not None:
            from rewardsmith.report.coverage_page import write_coverage_page

            write_coverage_page(result, found.points, self.page)
        return result

    def _fewer_topics(self, n: int) -> list[str]:
        if self.clusters is None or n >= self.clusters:
            return []
        return [f"--clusters {self.clusters}: no more than {n} could be told apart"]

    def _embedders(self, common: Common) -> Callable[[], Embedder]:
        """What makes an embedder: prompts and answers take one each."""
        if self.model is None:
            from rewardsmith.data.coverage.embedding import LightEmbedder

            return lambda: LightEmbedder(self.seed)
        from rewardsmith.trunk_embedding import TrunkEmbedder, load_trunk

        trunk = load_trunk(self.model, device=self.device, trust_remote_code=self.trust_remote_code)
        options: dict[str, Any] = {"tokens_per_batch": self.tokens_per_batch, "precision": self.precision}
        return lambda: TrunkEmbedder(trunk, quiet=common.quiet, **options)

    def _rewards(self, groups: Sequence[Group], common: Common) -> list[Floats | None] | None:
        if self.scores is None:
            return None
        if Path(self.scores).is_file():
            return rewards_of_rows(self.scores, groups)
        scores = score_all(self.open(self.scores), groups, "scoring groups", quiet=common.quiet)
        return [None if s.error else s.rewards for s in scores]

    def show(self, result: dict[str, Any]) -> str:
        lines = [
            f"{result['groups']:,} groups of {result['prompts']:,} prompts, {result['pairs']:,} pairs "
            f"({result['ties']:,} ties); topics by {result['embedding']['name']}",
            "",
            *table(result),
            "",
            *(f"{MARK[warning['level']]} {warning['message']}" for warning in result["warnings"]),
        ]
        if result["page"]:
            lines.append(f"page: {result['page']}")
        return "\n".join([*lines, *dropped_lines(result["dropped"])])


def note(message: str) -> dict[str, str]:
    return {"kind": "reader", "level": "note", "message": message}


def rewards_of_rows(path: str, groups: Sequence[Group]) -> list[Floats | None]:
    """Rewards of each group from the rows of `score`, by the group's id. DataError where no group has any."""
    import numpy as np

    from rewardsmith.data.files import read_rows

    by_id: dict[str, dict[int, float]] = {}
    for row in read_rows(path):
        value = row.value or {}
        name, index, reward = value.get("id"), value.get("response_index"), value.get("reward")
        if name is not None and isinstance(index, int) and isinstance(reward, int | float):
            by_id.setdefault(str(name), {})[index] = float(reward)
    if not by_id:
        raise DataError(f"{path}: no row has id, response_index and reward; give what rewardsmith score wrote")
    found: list[Floats | None] = []
    for group in groups:
        known = by_id.get(group.id)
        rewards_K = np.array([(known or {}).get(k, np.nan) for k in range(len(group.responses))])
        found.append(None if known is None else rewards_K)
    missing = sum(one is None for one in found)
    if missing == len(groups):
        raise DataError(f"{path}: no row is of these files' groups; score the same files")
    if missing:
        say(f"warning: {path} has no row of {missing} of {len(groups)} groups")
    return found


def table(result: dict[str, Any]) -> list[str]:
    """The cells for people: a few of each dimension."""
    with_target, with_model = result["target"] is not None, result["scores"] is not None
    head = f"{'':<46}{'groups':>8}{'pairs':>9}{'effective':>11}{'ties':>7}{'longer wins':>13}{'surface':>9}"
    lines = [head + ("    model" if with_model else "") + ("   target" if with_target else "")]
    lines.append(cell_line({**result["all"], "value": "all", "target_share": None}, with_model, with_target))
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in result["cells"]:
        rows.setdefault(row["dimension"], []).append(row)
    for dimension, cells in rows.items():
        lines.append(dimension)
        shown = [row for row in cells[:SHOWN_CELLS] if row["groups"] or row["target"]]
        lines += [cell_line(row, with_model, with_target) for row in shown]
        if len(cells) > len(shown):
            lines.append(f"  and {len(cells) - len(shown)} more")
    return lines


def cell_line(row: dict[str, Any], with_model: bool, with_target: bool) -> str:
    def percent(number: float | None) -> str:
        return "–" if number is None else f"{number:.0%}"

    value = " ".join(row["value"].split())
    line = (
        f"  {value if len(value) <= 43 else value[:42] + '…':<44}{row['groups']:>8,}{row['pairs']:>9,}"
        f"{row['effective']:>11,.0f}{percent(row['ties']):>7}{percent(row['longer_wins']['value']):>13}"
        f"{percent(row['surface_accuracy']['value']):>9}"
    )
    if with_model:
        line += f"{percent(row['model_accuracy']['value']):>9}"
    return line + (f"{percent(row['target_share']):>9}" if with_target else "")
