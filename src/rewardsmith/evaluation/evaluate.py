"""How good a scorer is on labelled groups: one row per pair first, every number a group-by over rows.

Every pair counts once, whatever its weight in training. Intervals are 95%, by bootstrap, clustered by
prompt: the pairs of one prompt rise and fall together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rewardsmith.data.schema import TIE, Group
from rewardsmith.errors import DataError
from rewardsmith.evaluation import metrics
from rewardsmith.evaluation.agreement import agreement_report
from rewardsmith.evaluation.calibration import calibration_report
from rewardsmith.evaluation.length import length_controlled
from rewardsmith.evaluation.metrics import DRAWS, Floats, Ints

# Named again here: whoever evaluates rows looks for them in this file.
from rewardsmith.evaluation.pairs import PairRows as PairRows
from rewardsmith.evaluation.pairs import character_lengths as character_lengths
from rewardsmith.evaluation.pairs import pair_rows as pair_rows
from rewardsmith.evaluation.pairs import pair_texts, pairs_of, prompt_numbers
from rewardsmith.evaluation.ratings import rating_report
from rewardsmith.evaluation.slices import MATCHED, Mask, pair_slices


def evaluate_rows(
    groups: Sequence[Group],
    rewards: Sequence[ArrayLike],
    *,
    token_lengths: Sequence[ArrayLike] | None = None,
    temperature: float | None = None,
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
    length_controlled_accuracy, length_controlled_preference   `length.length_controlled`
    rating_correlation, best_of_n   `ratings.rating_report`
    agreement                `agreement.agreement_report`
    calibration              `calibration.calibration_report`, with the slices below: before and after `temperature`,
                             fitted on other pairs, or here where it is None
    slices                   accuracy by `slices.pair_slices`

    Raises DataError where rewards or lengths do not fit their groups, and where one is missing or not finite,
    naming the group and the response.
    """
    rewards_by_group = _checked(groups, rewards, "reward")
    if token_lengths is None:
        lengths = [character_lengths(group) for group in groups]
    else:
        lengths = _checked(groups, token_lengths, "length")
    prompts = prompt_numbers(groups)
    rows = pair_rows(groups, rewards_by_group, lengths)
    decided, masks = rows.where(rows.probability_P != TIE), pair_slices(groups, rows)
    more: dict[str, Any] = {"draws": draws, "seed": seed}
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
        **length_controlled(rows, **more),
        **rating_report(groups, rewards_by_group, lengths, **more),
        "agreement": agreement_report(groups, rewards_by_group, **more),
        "calibration": calibration_report(rows, masks, temperature=temperature, **more),
        "slices": _slices(masks, rows, draws, seed),
    }


def most_wrong(groups: Sequence[Group], rewards: Sequence[Floats], n: int) -> list[dict[str, Any]]:
    """The `n` pairs with the most negative margins, with their texts, lengths in characters, and tags; no label ties.

    Equal rewards are wrong and come last. Raises DataError as `evaluate_rows`.
    """
    rewards = _checked(groups, rewards, "reward")
    rows = pair_rows(groups, rewards, [character_lengths(group) for group in groups])
    wrong = np.flatnonzero((rows.probability_P != TIE) & (rows.margin_P <= 0))
    worst = wrong[np.argsort(rows.margin_P[wrong], kind="stable")][:n]
    pairs = pairs_of(groups)
    return [
        {
            **pair_texts(*pairs[p]),
            "margin": float(rows.margin_P[p]),
            "probability": float(rows.probability_P[p]),
            "chosen_length": int(rows.chosen_length_P[p]),
            "rejected_length": int(rows.rejected_length_P[p]),
            "tags": dict(pairs[p][0].tags),
        }
        for p in worst.tolist()
    ]


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


def _slices(masks: Mapping[str, Mask], rows: PairRows, draws: int, seed: int) -> list[dict[str, Any]]:
    """Accuracy over the pairs of each slice, by name; `n` is 0 where all of them are label ties."""
    slices = []
    for name, mask_P in masks.items():
        score = _accuracy_of(rows.where(mask_P & (rows.probability_P != TIE)), draws, seed)
        slices.append({"slice": name, "n": score.pop("n"), "accuracy": score.pop("value"), **score})
    return slices


def _mean(values_P: Floats) -> float | None:
    return float(values_P.mean()) if len(values_P) else None


def _joined(columns: Sequence[Floats]) -> Floats:
    return np.concatenate([np.zeros(0), *columns])
