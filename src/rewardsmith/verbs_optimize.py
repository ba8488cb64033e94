"""The verb `optimize`: options, calls into the library, and how the result is shown to people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rewardsmith.data.options import ReadOptions
from rewardsmith.errors import ConfigError
from rewardsmith.statistics import interval_text
from rewardsmith.verbs_common import (
    EnsembleScorerOptions,
    Files,
    Name,
    PageOptions,
    at_least,
    cut_counts,
    say_warnings,
    score_all,
)

if TYPE_CHECKING:
    from rewardsmith.cli import Common
    from rewardsmith.overoptimization.candidates import Pool
    from rewardsmith.scoring import Scores
    from rewardsmith.statistics import Floats

LENGTH, COLUMN = "length", "column:"  # rewards that need no model


@dataclass(frozen=True, kw_only=True)
class Optimize(PageOptions, EnsembleScorerOptions):
    """What optimising against a reward does to real quality: recorded candidates, chosen by the reward at rising
    pressure, judged by gold. Best of n, its relatives, and the KL-constrained optimum, all exact on the candidates.

    Example: rewardsmith optimize rm candidates.parquet --gold judge --page pressure.html
    Example: rewardsmith optimize length candidates.parquet --gold judge other_judge --recommend
    """

    model: Annotated[Name, tyro.conf.arg(metavar="RM")]
    """A reward model; or `length`, the number of characters; or `column:NAME`, rewards recorded in the file."""
    files: Annotated[Files, tyro.conf.arg(metavar="CANDIDATES...")]
    """Files with several answers to a prompt, in any shape that train reads: one answer a row, or lists of them."""
    gold: tuple[str, ...]
    """Columns that say what an answer is worth, higher is better. Curves are judged by the first; all are shown."""
    recommend: bool = False
    """Print only how far to optimise, and what it costs to go further."""
    methods: tuple[str, ...] = ()
    """Ways to optimise: best_of_n, best_of_n_iid, soft_best_of_n, best_of_poisson, tilt, chi_squared, threshold,
    rejection. Default: all."""
    base: str | None = None
    """Column with the base policy's probability of each answer; those of a prompt sum to 1. Default: all alike."""
    base_logprob: str | None = None
    """Column with the base policy's log-probability of each answer (`sample` writes base_logprob); made to sum to 1
    over the prompt's answers. Not for answers that were drawn from that policy: those are alike likely already."""
    limit: int | None = None
    """Use only the first N prompts."""
    max_response_length: int | None = None
    """Cut every answer after this many tokens. Default: what the model was trained with."""
    draws: int = 1000
    """Bootstrap draws of prompts behind the intervals."""
    seed: int = 0
    """Seed of the bootstrap and of the random scorer."""
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        from rewardsmith.overoptimization.curves import METHODS

        at_least(
            limit=(self.limit, 1), draws=(self.draws, 0), seed=(self.seed, 0),
            tokens_per_batch=(self.tokens_per_batch, 16), max_response_length=(self.max_response_length, 1),
        )  # fmt: skip
        self.check_page()
        if self.adjusted and (self.model == LENGTH or self.model.startswith(COLUMN)):
            raise ConfigError(f"--adjusted with {self.model}: name a reward model")
        if unknown := [method for method in self.methods if method not in METHODS]:
            raise ConfigError(f"--methods {unknown[0]}: not one of {', '.join(METHODS)}")
        if len(set(self.methods)) < len(self.methods):
            raise ConfigError(f"--methods {' '.join(self.methods)}: one is named twice")

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.overoptimization.candidates import read_pools, without_unscored
        from rewardsmith.overoptimization.run import bench
        from rewardsmith.report.optimization_page import write_optimization_page

        recorded = self.model.removeprefix(COLUMN) if self.model.startswith(COLUMN) else None
        pools, left_out, report = read_pools(
            self.files, self.gold, self.read, base=self.base, base_logprob=self.base_logprob, recorded=recorded,
            limit=self.limit,
        )  # fmt: skip
        rewards, scored = self._rewards(pools, common.quiet)
        if scored and not self.adjusted:  # aggregates are compared as the members give them
            pools = [replace(pool, members_MK=of.members) for pool, of in zip(pools, scored, strict=True)]
        pools, rewards, unscored = without_unscored(pools, rewards)
        result = bench(pools, rewards, self.gold, methods=self.methods, draws=self.draws, seed=self.seed)
        say_warnings(report, common)
        result = {
            "model": self.model,
            **result,
            "excluded": [asdict(row) for row in (*left_out, *unscored)],
            **(cut_counts(scored) if scored else {}),
        }
        if self.page is not None:
            write_optimization_page(result, self.page)
        return result | {"page": self.page}

    def _rewards(self, pools: Sequence[Pool], quiet: bool) -> tuple[list[Floats], list[Scores]]:
        """One array of rewards for each pool, and the scores behind them where a model gave them."""
        if self.model == LENGTH:
            return [pool.length_K for pool in pools], []
        if self.model.startswith(COLUMN):
            return [pool.recorded_K for pool in pools if pool.recorded_K is not None], []
        scorer = self.open(self.model, max_response_length=self.max_response_length)
        scores = score_all(scorer, [pool.group for pool in pools], "scoring prompts", quiet=quiet)
        return [of.rewards for of in scores], scores

    def show(self, result: dict[str, Any]) -> str:
        words = [found["text"] for found in result["recommendation"]]
        if self.recommend:
            return "\n".join(words)
        left_out = [f"left out: {row['reason']} ({row['count']})" for row in result["excluded"]]
        parts = ["\n".join([_head(result), *left_out]), _table(result), _bought(result), _laws(result)]
        if "aggregates" in result:
            parts.append(_members(result))
        return "\n\n".join([*filter(None, parts), *words, *self.page_line()])


def _head(result: dict[str, Any]) -> str:
    base = result["base"]["gold"]
    return (
        f"{result['n_candidates']:,} answers to {result['n_prompts']:,} prompts; gold {result['gold']!r} is "
        f"{interval_text(base)} without optimisation"
    )


def _table(result: dict[str, Any]) -> str:
    """The curves side by side: gold by the reward, by length alone, by gold itself, by chance."""
    columns = {
        name: {(row["method"], row["strength"]): row for row in result[name]}
        for name in ("length_only", "oracle", "random")
    }
    beside_it = f"{'length':>7}{'oracle':>8}{'random':>8}"
    lines = [f"{'':<26}{'KL':>6}  {'gold':<23}{'over length':<25}{beside_it}{'win rate':>10}"]
    method = ""
    for row in result["curves"]:
        if row["method"] != method:
            method = row["method"]
            lines.append(method.replace("_", " "))
        beside = [columns[name].get((method, row["strength"])) for name in columns]
        golds = "".join("       –" if other is None else f"{other['gold']:8.3f}" for other in beside)
        over = interval_text(row["over_length"], "+.3f") if "over_length" in row else "–"
        strength = f"n = {row['n']}" if row["n"] is not None else f"SD / beta = {row['strength']:g}"
        gold = interval_text(row, key="gold")
        lines.append(f"  {strength:<24}{row['kl']:6.2f}  {gold:<23}{over:<24}{golds}{row['win_rate']['value']:10.3f}")
    return "\n".join(lines)


def _bought(result: dict[str, Any]) -> str:
    return "\n".join(row["reading"] for row in result["bought"] if row["reading"])


def _laws(result: dict[str, Any]) -> str:
    """The laws of the reward's curves; a peak outside the measured KL is no finding."""
    lines = []
    for law in result["laws"]:
        if law["of"] == "reward" and law["alpha"] is not None:
            fit = "" if law["r2"] is None else f", R^2 {law['r2']:.3f}"
            peak = f", peak at KL {law['peak_kl']:.2f}" if law["peak_within"] else ""
            lines.append(
                f"{law['method'].replace('_', ' ')}: gain = {law['formula']} with alpha {law['alpha']:.3f}, beta "
                f"{law['beta']:.3f}{fit}{peak}"
            )
    return "\n".join(lines)


def _members(result: dict[str, Any]) -> str:
    """Each aggregate at the strongest, beside one member."""
    last = result["single"][-1]
    lines = [f"{result['n_members']} members, n = {last['n']}: one member by itself {interval_text(last)}"]
    for found in result["aggregates"]:
        row = found["curves"][-1]
        gold = interval_text(row, key="gold")
        over = interval_text(row["over_single"], "+.3f")
        lines.append(f"  {found['aggregate']:<12}{gold:<24}over one member {over}")
    return "\n".join([*lines, result["shared_error"]["sentence"]])
