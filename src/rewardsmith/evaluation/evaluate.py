"""How good a scorer is on labelled groups: one row per pair first, every number a group-by over rows.

Every pair counts once, whatever its weight in training. Intervals are 95%, by bootstrap, clustered by
prompt: the pairs of one prompt rise and fall together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rewardsmith.data.schema import TIE, Group, text_of
from rewardsmith.errors import DataError
from rewardsmith.evaluation import metrics
from rewardsmith.evaluation.metrics import DRAWS, Floats, Ints

MATCHED = 0.1  # lengths within 10% of the longer one


@dataclass(frozen=True)
class PairRows:
    """One row per preference.

    margin_P           reward of chosen minus reward of rejected
    probability_P      the label: P(chosen is better), 0.5 a tie
    prompt_P           prompt number, equal where the prompt is the same
    group_P            index into the groups
    chosen_length_P, rejected_length_P
    """

    margin_P: Floats
    probability_P: Floats
    prompt_P: Ints
    group_P: Ints
    chosen_length_P: Floats
    rejected_length_P: Floats

    def __len__(self) -> int:
        return len(self.margin_P)

    def where(self, mask_P: NDArray[np.bool_]) -> PairRows:
        """The rows of the mask."""
        return PairRows(*(column_P[mask_P] for column_P in vars(self).values()))


def evaluate_rows(
    groups: Sequence[Group],
    rewards: Sequence[ArrayLike],
    *,
    token_lengths: Sequence[ArrayLike] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """The evaluation of one scorer, ready for JSON: numbers, or None where the data cannot say.

    `rewards[g]` holds one reward per response of `groups[g]`. Lengths are in characters of the
    responses' text, or in tokens where `token_lengths[g]` gives those.

    accuracy                 strict, over pairs that are no label tie; a score tie is wrong
    length_baseline          preferring the longer response; `ties`, of equal length, count one half
    length_matched_accuracy  accuracy over the `n` pairs whose lengths differ by at most 10%
    nll, brier, ece          of P = sigmoid(reward gap) against the labels, soft ones and ties included
    length_correlation       Spearman of reward and length: `within_prompt` (mean over prompts), `pooled`
    slices                   accuracy by tag

    Raises DataError where rewards or lengths do not fit their groups, and where one is missing or not finite,
    naming the group and the response.
    """
    rewards_by_group = _checked(groups, rewards, "reward")
    if token_lengths is None:
        lengths = [character_lengths(group) for group in groups]
    else:
        lengths = _checked(groups, token_lengths, "length")
    prompts = _prompt_numbers(groups)
    rows = pair_rows(groups, rewards_by_group, lengths)
    decided = rows.where(rows.probability_P != TIE)
    score = metrics.accuracy(rows.margin_P, rows.probability_P, rows.prompt_P, draws=draws, seed=seed)
    return {
        "n_pairs": len(rows),
        "n_groups": len(groups),
        "n_prompts": len(set(prompts.tolist())),
        "n_groups_without_pairs": sum(not group.preferences for group in groups),
        "accuracy": score.interval.to_json(),
        "score_ties": score.score_ties,
        "label_ties": score.label_ties,
        "length_unit": "characters" if token_lengths is None else "tokens",
        "length_baseline": _length_baseline(decided, draws, seed),
        "length_matched_accuracy": _length_matched(decided, draws, seed),
        "nll": _mean(metrics.log_loss(rows.margin_P, rows.probability_P)),
        "brier": _mean(metrics.brier(rows.margin_P, rows.probability_P)),
        "ece": metrics.expected_calibration_error(rows.margin_P, rows.probability_P),
        "length_correlation": _length_correlation(rewards_by_group, lengths, prompts, draws, seed),
        "slices": _slices(groups, decided, draws, seed),
    }


def character_lengths(group: Group) -> Floats:
    """Characters of each response's text."""
    return np.array([len(text_of(response)) for response in group.responses], dtype=np.float64)


def pair_rows(groups: Sequence[Group], rewards: Sequence[Floats], lengths: Sequence[Floats]) -> PairRows:
    """One row per preference of every group, in order."""
    prompts = _prompt_numbers(groups)
    found = [(g, p) for g, group in enumerate(groups) for p in group.preferences]
    return PairRows(
        margin_P=_floats(rewards[g][p.chosen] - rewards[g][p.rejected] for g, p in found),
        probability_P=_floats(p.probability for _, p in found),
        prompt_P=np.array([prompts[g] for g, _ in found], dtype=np.int64),
        group_P=np.array([g for g, _ in found], dtype=np.int64),
        chosen_length_P=_floats(lengths[g][p.chosen] for g, p in found),
        rejected_length_P=_floats(lengths[g][p.rejected] for g, p in found),
    )


def _checked(groups: Sequence[Group], rows: Sequence[ArrayLike], what: str) -> list[Floats]:
    """One array per group with one finite number per response, or DataError."""
    if len(rows) != len(groups):
        raise DataError(f"{len(rows)} rows of {what}s for {len(groups)} groups; give one a group, in order")
    return [_checked_row(group, row, what) for group, row in zip(groups, rows)]


def _checked_row(group: Group, row: ArrayLike, what: str) -> Floats:
    where = group.source or f"group {group.id}"
    try:
        row_K = np.asarray(row, dtype=np.float64)  # None becomes NaN
    except (TypeError, ValueError):
        raise DataError(f"{where}: the {what}s are not one number per response") from None
    if row_K.shape != (len(group.responses),):
        raise DataError(
            f"{where}: {what}s of shape {list(row_K.shape)} for {len(group.responses)} responses; give one a response"
        )
    if not np.isfinite(row_K).all():
        k = int(np.flatnonzero(~np.isfinite(row_K))[0])
        raise DataError(
            f"{where}: the {what} of response {k} is missing or not finite ({row_K[k]}); "
            "leave the group out or mend the scorer"
        )
    return row_K


def _prompt_numbers(groups: Sequence[Group]) -> Ints:
    """One number per distinct prompt, by first appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(g.prompt_id, len(numbers)) for g in groups], dtype=np.int64)


def _length_baseline(decided: PairRows, draws: int, seed: int) -> dict[str, Any]:
    wins_P = metrics.longer_wins(decided.chosen_length_P, decided.rejected_length_P, decided.probability_P)
    interval = metrics.clustered_mean(wins_P, decided.prompt_P, draws=draws, seed=seed)
    return {**interval.to_json(), "ties": int((wins_P == TIE).sum())}


def _length_matched(decided: PairRows, draws: int, seed: int) -> dict[str, Any]:
    mask_P = metrics.length_matched(decided.chosen_length_P, decided.rejected_length_P, MATCHED)
    return _accuracy_of(decided.where(mask_P), draws, seed)


def _accuracy_of(rows: PairRows, draws: int, seed: int) -> dict[str, Any]:
    score = metrics.accuracy(rows.margin_P, rows.probability_P, rows.prompt_P, draws=draws, seed=seed)
    return {**score.interval.to_json(), "n": score.n}


def _length_correlation(
    rewards: Sequence[Floats], lengths: Sequence[Floats], prompts: Ints, draws: int, seed: int
) -> dict[str, Any]:
    prompt_R = np.repeat(prompts, [len(row) for row in rewards])
    found = metrics.rank_correlation_within_prompt(_joined(rewards), _joined(lengths), prompt_R, draws=draws, seed=seed)
    return {"within_prompt": found.within.to_json(), "n_prompts": found.n_prompts, "pooled": found.pooled}


def _slices(groups: Sequence[Group], decided: PairRows, draws: int, seed: int) -> list[dict[str, Any]]:
    """Accuracy over the pairs of each "tag=value", by name; `n` is 0 where all of them are label ties."""
    members: dict[str, list[int]] = {}
    for g, group in enumerate(groups):
        for tag, value in group.tags.items():
            members.setdefault(f"{tag}={value}", []).append(g)
    slices = []
    for name, inside in sorted(members.items()):
        in_slice_G = np.zeros(len(groups), dtype=bool)
        in_slice_G[inside] = True
        score = _accuracy_of(decided.where(in_slice_G[decided.group_P]), draws, seed)
        slices.append({"slice": name, "n": score.pop("n"), "accuracy": score.pop("value"), **score})
    return slices


def _mean(values_P: Floats) -> float | None:
    return float(values_P.mean()) if len(values_P) else None


def _floats(values: Any) -> Floats:
    return np.array(list(values), dtype=np.float64)


def _joined(columns: Sequence[Floats]) -> Floats:
    return np.concatenate([np.zeros(0), *columns])
