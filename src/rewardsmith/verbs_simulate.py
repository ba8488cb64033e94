"""The verb `refresh simulate`: options, calls into the library, and how the result is shown to people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rewardsmith.data.options import ReadOptions
from rewardsmith.errors import ConfigError
from rewardsmith.progress import Bar
from rewardsmith.statistics import interval_text
from rewardsmith.verbs_common import Files, PageOptions, ScorerOptions, at_least, say_warnings

if TYPE_CHECKING:
    from rewardsmith.cli import Common
    from rewardsmith.overoptimization.candidates import Excluded, Pool
    from rewardsmith.refresh.simulate import Plan
    from rewardsmith.statistics import Floats

TEXT = "text"


@dataclass(frozen=True, kw_only=True)
class Simulate(PageOptions, ScorerOptions):
    """What refreshing a reward model would buy: rounds of drawing pairs from the policy, labelling them by gold,
    fitting a light reward model and tilting the policy, on recorded candidates, at a stated label budget and KL.

    Example: rewardsmith refresh simulate candidates.parquet --gold judge --budget 800 --page refresh.html
    Example: rewardsmith refresh simulate candidates.parquet --gold judge --budget 800 --features rm
    """

    files: Annotated[Files, tyro.conf.arg(metavar="CANDIDATES...")]
    """Files with several answers to a prompt, in any shape that train reads: one answer a row, or lists of them."""
    gold: str
    """Column that says what an answer is worth, higher is better: it labels the pairs and judges the policies."""
    budget: int
    """Labels in all, the same for every strategy."""
    rounds: int = 4
    """Rounds that the budget is spread over."""
    seeds: int = 5
    """Times that the whole loop is run, with other draws of pairs."""
    kl: float = 1.0
    """Mean KL of the last round's policy to the base policy, in nats; sqrt(KL) grows to it by equal steps."""
    strategies: tuple[str, ...] = ()
    """Of fixed, last_only, all_data, importance and replay; fixed is always there. Default: all."""
    features: str = TEXT
    """What the light reward models see: `text` (surface and words), or a reward model, whose head's input is taken."""
    feature_file: str | None = None
    """Keep the features in this file (.npz), or take them from it where it is there."""
    against_base: float = 0.5
    """Share of pairs of which one answer is the base policy's; of the others both are the new policy's."""
    replay_share: float = 0.25
    """Weight that `replay` leaves to all older labels together."""
    weight_cap: float = 10.0
    """Largest weight of a pair under `importance`, times the mean."""
    label_noise: float = 0.0
    """Share of labels that are turned round."""
    from_previous: bool = False
    """Tilt the policy of the round before, not the base policy."""
    base: str | None = None
    """Column with the base policy's probability of each answer; those of a prompt sum to 1. Default: all alike."""
    base_logprob: str | None = None
    """Column with the base policy's log-probability of each answer; made to sum to 1 over the prompt's answers."""
    limit: int | None = None
    """Use only the first N prompts."""
    answers: int | None = None
    """Use only N answers of each prompt, drawn at random: what a trunk's features cost is in proportion."""
    max_response_length: int | None = None
    """With --features RM: cut every answer after this many tokens. Default: what the model was trained with."""
    draws: int = 1000
    """Bootstrap draws of prompts and seeds behind the intervals."""
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        from rewardsmith.refresh.simulate import STRATEGIES

        at_least(
            budget=(self.budget, 1), seeds=(self.seeds, 1), draws=(self.draws, 0), limit=(self.limit, 1),
            answers=(self.answers, 2), weight_cap=(self.weight_cap, 1), tokens_per_batch=(self.tokens_per_batch, 16),
            max_response_length=(self.max_response_length, 1),
        )  # fmt: skip
        if self.rounds < 2:
            raise ConfigError(f"--rounds {self.rounds}: in a single round nothing is refreshed; give at least 2")
        if not self.kl > 0:
            raise ConfigError(f"--kl {self.kl:g}: give a KL above 0")
        for name in ("against_base", "replay_share", "label_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name):g}: give a share from 0 to 1")
        if not self.label_noise < 0.5:
            raise ConfigError(f"--label-noise {self.label_noise:g}: from one half on labels say nothing; give less")
        if unknown := [name for name in self.strategies if name not in STRATEGIES]:
            raise ConfigError(f"--strategies {unknown[0]}: not one of {', '.join(STRATEGIES)}")
        if self.feature_file is not None and not self.feature_file.endswith(".npz"):
            raise ConfigError(f"--feature-file {self.feature_file!r}: give a name that ends in .npz")
        self.check_page()

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.overoptimization.candidates import read_pools
        from rewardsmith.refresh.features import fewer_answers
        from rewardsmith.refresh.simulate import STRATEGIES, Plan, simulate
        from rewardsmith.report.simulation_page import write_simulation_page

        pools, left_out, report = read_pools(
            self.files, [self.gold], self.read, base=self.base, base_logprob=self.base_logprob, limit=self.limit
        )
        say_warnings(report, common)
        if self.answers is not None:
            pools = fewer_answers(pools, self.answers)
        plan = Plan(
            budget=self.budget, rounds=self.rounds, seeds=self.seeds, kl=self.kl, against_base=self.against_base,
            replay_share=self.replay_share, weight_cap=self.weight_cap, label_noise=self.label_noise,
            from_previous=self.from_previous,
        )  # fmt: skip
        pools, features, unscored = self._features(pools, plan, common)
        strategies = self.strategies or STRATEGIES
        n_runs = len({"fixed", *strategies}) * plan.seeds * len(plan.penalties)
        with Bar("running the loop", n_runs, quiet=common.quiet) as bar:
            result = simulate(
                pools, features, plan, strategies=strategies, draws=self.draws, progress=lambda: bar.advance()
            )
        excluded = [asdict(row) for row in (*left_out, *unscored)]
        result = {"gold": self.gold, "features": self.features, **result, "excluded": excluded}
        if self.page is not None:
            write_simulation_page(result, self.page)
        return result | {"page": self.page}

    def _features(
        self, pools: Sequence[Pool], plan: Plan, common: Common
    ) -> tuple[list[Pool], list[Floats], list[Excluded]]:
        """The pools with features for each; what cannot be rendered is left out and counted."""
        import numpy as np

        from rewardsmith.data.select import text_features
        from rewardsmith.overoptimization.candidates import Excluded
        from rewardsmith.refresh.features import cached_features
        from rewardsmith.refresh.simulate import check_plan, split_pools

        # What is wrong with the plan is said before the features are paid for.
        check_plan(plan, split_pools(pools, [np.zeros((len(pool.base_K), 1)) for pool in pools]))
        groups = [pool.group for pool in pools]
        kind = TEXT if self.features == TEXT else self._kind()

        def compute() -> list[Floats]:
            if self.features == TEXT:
                return text_features(groups)
            cut = self.max_response_length
            return self.head_inputs("--features", self.features, groups, quiet=common.quiet, max_response_length=cut)

        features, _ = cached_features(groups, kind, self.feature_file, compute)
        kept = [p for p, features_KF in enumerate(features) if np.isfinite(features_KF).all()]
        lost = len(pools) - len(kept)
        excluded = [Excluded("a prompt that the model cannot read", lost)] if lost else []
        return [pools[p] for p in kept], [features[p] for p in kept], excluded

    def _kind(self) -> str:
        """What a file of the trunk's features is known by: the model's content, and how it is run."""
        from rewardsmith.score_cache import model_hash

        name = model_hash(Path(self.features)) or self.features
        return f"{name} {self.max_response_length} {self.precision}"

    def show(self, result: dict[str, Any]) -> str:
        sides = result["prompts"]
        lines = [
            f"{result['candidates']:,} answers; {sides['label']} prompts to label ({result['pairs']:,} pairs, gold "
            f"decides {result['decided']:.0%}), {sides['dev']} to choose on, {sides['test']} to judge",
            f"gold {self.gold!r} is {interval_text(result['base'])} without optimisation",
            *(f"left out: {row['reason']} ({row['count']})" for row in result["excluded"]),
            "",
            f"{'':<14}{'labels':>7}{'KL':>7}  {'gold':<23}{'over fixed':<26}{'right on base':>14}{'on own pairs':>14}",
        ]
        for row in result["strategies"]:
            lines.append(f"{row['strategy'].replace('_', ' ')} (penalty {row['penalty']:g})")
            for at in row["rounds"]:
                over = "–" if row["strategy"] == "fixed" else interval_text(at["over_fixed"], "+.3f")
                right = "".join(f"{share(at[key]):>14}" for key in ("accuracy_base", "accuracy_own"))
                lines.append(
                    f"  round {at['round']:<6}{at['labels']:>7,}{at['kl']:7.2f}  {interval_text(at['gold']):<23}"
                    f"{over:<26}{right}"
                )
        lines += ["", *law_lines(result), result["text"]]
        return "\n".join([*lines, *self.page_line()])


def law_lines(result: dict[str, Any]) -> list[str]:
    """The laws' predictions for the last round beside what was measured."""
    lines = []
    last = result["rounds"]
    for row in result["predictions"]:
        if row["round"] == last and row["strategy"] in ("fixed", result["best"]):
            lines.append(
                f"law {row['form']}: gain of {row['strategy'].replace('_', ' ')} after {last} rounds, predicted "
                f"{interval_text(row['predicted'], '+.3f')}, measured {interval_text(row['measured'], '+.3f')}"
            )
    return lines


def share(found: dict[str, Any]) -> str:
    return "–" if found["value"] is None else f"{found['value']:.3f}"
