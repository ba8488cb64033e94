"""What the rules share: rewards checked, one row per outcome, and means of rows with their intervals.

    R  rows: one outcome each, such as "the chosen answer of this pair has the higher reward"
    K  terms of a score
    D  bootstrap draws

Every published score here is a weighted sum of means: sum_k weight_k * mean(value over the rows of term k), a
term being one part ("alpacaeval-easy") or several parts pooled. So one function puts the interval on them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rewardsmith.data.schema import Group
from rewardsmith.errors import DataError
from rewardsmith.statistics import DRAWS, Floats, clustered_bootstrap

Figure = dict[str, Any]
Term = str | tuple[str, ...]  # a part, or parts pooled row by row
Weights = Mapping[str, float] | Mapping[tuple[str, ...], float] | Mapping[Term, float]


class Outcome(NamedTuple):
    """One outcome of one group.

    group    index into the groups
    part     what it belongs to; a mean is over the rows of one part, or of several pooled
    value    1 right, 0 wrong, or any number to average
    ties     how many comparisons behind it saw equal rewards
    cluster  what rises and falls together; "" is the group's prompt
    """

    group: int
    part: str
    value: float
    ties: int = 0
    cluster: str = ""


class Outcomes:
    """The outcomes of one scorer on one benchmark. `draws` of 0 leaves the intervals out."""

    def __init__(self, groups: Sequence[Group], rows: Iterable[Outcome], *, draws: int = DRAWS, seed: int = 0) -> None:
        self.rows = list(rows)
        self.draws, self.seed = draws, seed
        self.parts = list(dict.fromkeys(row.part for row in self.rows))
        number = {part: index for index, part in enumerate(self.parts)}
        self.part_R = np.array([number[row.part] for row in self.rows], dtype=np.int64)
        self.value_R = np.array([row.value for row in self.rows], dtype=np.float64)
        self.ties_R = np.array([row.ties for row in self.rows], dtype=np.int64)
        self.group_R = np.array([row.group for row in self.rows], dtype=np.int64)
        names = [row.cluster or groups[row.group].prompt_id for row in self.rows]
        # Numbers instead of names: they sort faster, and every figure sorts them.
        codes = {name: index for index, name in enumerate(dict.fromkeys(names))}
        self.cluster_R = np.array([codes[name] for name in names], dtype=np.int64)

    def mean(self, *parts: str) -> Figure:
        """Mean over the rows of `parts`, pooled."""
        return self.sum_of_means({parts: 1.0})

    def mean_of_means(self, terms: Iterable[Term]) -> Figure:
        """Unweighted mean of the terms' means."""
        terms = list(terms)
        return self.sum_of_means({term: 1.0 / len(terms) for term in terms})

    def sum_of_means(self, weights: Weights) -> Figure:
        """sum_k weight_k * mean of term k, as {value, low, high, n, score_ties}.

        `n` counts the groups, `score_ties` the equal rewards behind the rows. The value is None where a term
        has no row: nothing is averaged over what is missing.
        """
        in_term_RK = np.stack([self._rows_of(term) for term in weights], axis=1).astype(np.float64)
        used_R = in_term_RK.any(axis=1)
        in_term_RK = in_term_RK[used_R]
        rows_RS = np.concatenate([self.value_R[used_R, None] * in_term_RK, in_term_RK], axis=1)
        weight_K = np.array(list(weights.values()))
        n_terms = len(weight_K)

        def statistic(sums_DS: Floats) -> Floats:
            with np.errstate(invalid="ignore", divide="ignore"):
                return (sums_DS[:, :n_terms] / sums_DS[:, n_terms:]) @ weight_K

        interval = clustered_bootstrap(rows_RS, self.cluster_R[used_R], statistic, draws=self.draws, seed=self.seed)
        return {
            **interval.to_json(),
            "n": len(np.unique(self.group_R[used_R])),
            "score_ties": int(self.ties_R[used_R].sum()),
        }

    def count_clusters(self, weights: Weights) -> int:
        """How many clusters (prompts) the rows of these terms are of."""
        used_R = np.any([self._rows_of(term) for term in weights], axis=0)
        return len(np.unique(self.cluster_R[used_R]))

    def _rows_of(self, term: Term) -> np.ndarray:
        parts = (term,) if isinstance(term, str) else term
        return np.isin(self.part_R, [i for i, part in enumerate(self.parts) if part in parts])


def result(
    outcomes: Outcomes,
    weights: Weights,
    *,
    score_is: str,
    missing: Sequence[str] = (),
    parts: Mapping[str, Mapping[str, Figure]],
    reference: Mapping[str, Mapping[str, Figure]] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The result of a rule, ready for JSON.

    score               the published score: {value, low, high}; all None while parts of it are `missing`
    score_over_present  the same formula over the parts that are there
    score_is            the formula in words
    n, n_prompts        groups and distinct prompts behind it; score_ties: equal rewards among them
    parts               kind -> name -> figure
    reference           the same for figures that do not depend on the scorer: what people or a coin get
    """
    whole = outcomes.sum_of_means(weights)
    interval = {key: whole[key] for key in ("value", "low", "high")}
    return {
        "score": dict.fromkeys(interval) if missing else interval,
        "score_over_present": interval,
        "score_is": score_is,
        "missing": list(missing),
        "n": whole["n"],
        "n_prompts": outcomes.count_clusters(weights),
        "score_ties": whole["score_ties"],
        "parts": {kind: dict(figures) for kind, figures in parts.items()},
        "reference": {kind: dict(figures) for kind, figures in (reference or {}).items()},
        **more,
    }


def scaled(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights that add up to 1."""
    total = sum(weights.values())
    return {part: weight / total for part, weight in weights.items()}


def checked_rewards(groups: Sequence[Group], rewards: Sequence[ArrayLike]) -> list[Floats]:
    """One array per group with one finite reward per response, or DataError naming the row."""
    if not groups:
        raise DataError("the benchmark holds no row")
    if len(rewards) != len(groups):
        raise DataError(f"{len(rewards)} rows of rewards for {len(groups)} rows of the benchmark; give one a row")
    return [_checked_row(group, row) for group, row in zip(groups, rewards, strict=True)]


def _checked_row(group: Group, row: ArrayLike) -> Floats:
    where = group.source or f"group {group.id}"
    try:
        row_K = np.asarray(row, dtype=np.float64)  # None becomes NaN
    except (TypeError, ValueError):
        raise DataError(f"{where}: the rewards are not one number per response") from None
    if row_K.shape != (len(group.responses),):
        raise DataError(f"{where}: {row_K.size} rewards for {len(group.responses)} responses; give one a response")
    if not np.isfinite(row_K).all():
        k = int(np.flatnonzero(~np.isfinite(row_K))[0])
        raise DataError(
            f"{where}: the reward of response {k} is missing or not finite ({row_K[k]}); a benchmark is scored "
            "whole, so mend the scorer"
        )
    return row_K


def pair_outcomes(
    groups: Sequence[Group], rewards: Sequence[Floats], parts: Sequence[str], *, tie_worth: float = 0.0
) -> list[Outcome]:
    """One outcome per preference that is no label tie: 1 where the chosen side has the strictly higher reward.

    `parts[g]` names the part of group g; equal rewards are worth `tie_worth`.
    """
    found = []
    for g, group in enumerate(groups):
        for preference in group.preferences:
            if not preference.is_tie:
                margin = rewards[g][preference.chosen] - rewards[g][preference.rejected]
                value = tie_worth if margin == 0 else float(margin > 0)
                found.append(Outcome(g, parts[g], value, int(margin == 0)))
    return found
