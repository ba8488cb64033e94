"""What a reward model rewards, in words: the part of its rewards that the surface of the answers explains.

    N  answers    C  prompts    F  features    D  bootstrap draws

Rewards and features are taken within prompts: each less its prompt's mean, in units of its pooled within-prompt SD. So
nothing is said about why one prompt's answers score higher than another's, which Bradley-Terry leaves free. On these

    reward = sum_F coefficient_F feature_F (+ coefficient_gold gold) + rest

is fitted by ridge regression with a penalty so small (1% of the answers) that it matters only where two features are
next to the same. Intervals are bootstraps over whole prompts; the share explained is that of prompts left out of the
fit. `gold` is a judgement of quality where the data has one (ratings): with it, what a feature is still worth among
answers of equal quality. These are associations: for causes there are the probes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewardsmith.data.schema import Group, text_of
from rewardsmith.data.split import opening_of
from rewardsmith.data.surface import FEATURES, folds, surface_features
from rewardsmith.errors import DataError
from rewardsmith.statistics import Floats, Ints, cluster_sums

RIDGE = 0.01  # of the number of answers
DRAWS = 1000
FEWEST_PROMPTS = 10
DIFFERS = 0.02  # share of answers that must differ from their prompt's mean in a feature for it to be named
GOLD = "gold"


@dataclass(frozen=True)
class Table:
    """Answers of all prompts, within prompts and in within-prompt SDs: target [N], columns [N, F], prompt [N]."""

    reward_N: Floats
    column_NF: Floats
    prompt_N: Ints
    names: tuple[str, ...]


def attribute(groups: Sequence[Group], rewards: Sequence[Floats], *, seed: int = 0) -> dict[str, Any]:
    """What of the rewards within a prompt the surface explains, without and with gold. Ready for JSON.

    n_answers, n_prompts, reward_sd   answers with a reward; the within-prompt SD that is the unit
    features   strongest first: `coefficient` (SD of reward per SD of the feature, others held fixed) with `low` and
               `high`, `alone` (the same without the others), and `with_gold`, `with_gold_low`, `with_gold_high` over
               the answers that have ratings (None without)
    explained  share of the within-prompt variance, `fitted` and on prompts left out (`held_out`), of `surface`; and
               over the answers with ratings of `gold`, and `both`
    gold       {"n_answers", "n_prompts", "coefficient", "low", "high", "alone"}, or None
    sentences  all this in words

    Raises DataError for fewer than 10 prompts with two different rewards.
    """
    rated = [group.ratings or (None,) * len(group.responses) for group in groups]
    plain = table_of(groups, rewards, None)
    result = _fitted(plain, groups, seed)
    with_gold = None
    if sum(r is not None for ratings in rated for r in ratings) > 1:
        try:
            with_gold = table_of(groups, rewards, rated)
        except DataError:  # too few prompts whose answers differ in rating: said by its absence
            with_gold = None
    rows = result["features"]
    for row in rows:
        row |= {"with_gold": None, "with_gold_low": None, "with_gold_high": None}
    explained = {"surface": result["explained"], "gold": None, "both": None}
    gold = None
    if with_gold is not None and GOLD in with_gold.names:
        both = _fitted(with_gold, groups, seed)
        known = {row["name"]: row for row in both["features"]}
        for row in rows:
            if (same := known.get(row["name"])) is not None:
                row |= {"with_gold": same["coefficient"], "with_gold_low": same["low"], "with_gold_high": same["high"]}
        only = Table(with_gold.reward_N, with_gold.column_NF[:, -1:], with_gold.prompt_N, (GOLD,))
        explained |= {"gold": _explained(only, _folds(only, groups, seed)), "both": both["explained"]}
        gold = {"n_answers": both["n_answers"], "n_prompts": both["n_prompts"]}
        gold |= {key: known[GOLD][key] for key in ("coefficient", "low", "high", "alone")}
    result |= {"explained": explained, "gold": gold}
    return result | {"sentences": sentences_of(result)}


def table_of(
    groups: Sequence[Group], rewards: Sequence[Floats], ratings: Sequence[Sequence[float | None]] | None
) -> Table:
    """Answers with a reward (and a rating, where `ratings` are asked for), centred and scaled within prompts."""
    rows: list[list[float]] = []
    prompts: list[int] = []
    openings: dict[str, int] = {}
    for g, (group, reward_K) in enumerate(zip(groups, rewards, strict=True)):
        number = openings.setdefault(group.prompt_id, len(openings))
        for k, response in enumerate(group.responses):
            rating = None if ratings is None else ratings[g][k]
            if np.isfinite(reward_K[k]) and (ratings is None or rating is not None):
                gold = [] if rating is None else [rating]
                rows.append([float(reward_K[k]), *surface_features(text_of(response)), *gold])
                prompts.append(number)
    names = (*(f.name for f in FEATURES), *([GOLD] if ratings is not None else []))
    value_NV = np.array(rows).reshape(len(rows), 1 + len(names))
    prompt_N = np.array(prompts, dtype=np.int64)
    size_C = np.bincount(prompt_N) if len(prompt_N) else np.zeros(0, np.int64)
    value_NV = value_NV[size_C[prompt_N] > 1]
    prompt_N = prompt_N[size_C[prompt_N] > 1]
    if len(np.unique(prompt_N)) < FEWEST_PROMPTS:
        raise DataError(
            f"{len(np.unique(prompt_N))} prompts with two or more rewarded answers: "
            f"at least {FEWEST_PROMPTS} are needed to say what is rewarded"
        )
    centred_NV, sd_V = within(value_NV, prompt_N)
    if not sd_V[0] > 0:
        raise DataError("the rewards of a prompt's answers do not differ at all: nothing can be explained")
    differs_V = (np.abs(centred_NV) > 1e-9).mean(0) >= DIFFERS
    kept = [v for v in range(1, len(sd_V)) if sd_V[v] > 0 and differs_V[v]]
    scaled_NV = centred_NV / np.where(sd_V > 0, sd_V, 1.0)
    return Table(scaled_NV[:, 0], scaled_NV[:, kept], prompt_N, tuple(names[v - 1] for v in kept))


def within(value_NV: Floats, prompt_N: Ints) -> tuple[Floats, Floats]:
    """(values less their prompt's mean [N, V], pooled within-prompt SD [V] by degrees of freedom)."""
    names, index_N = np.unique(prompt_N, return_inverse=True)
    mean_CV = cluster_sums(value_NV, prompt_N) / np.bincount(index_N)[:, None]
    centred_NV = value_NV - mean_CV[index_N]
    return centred_NV, np.sqrt(np.square(centred_NV).sum(0) / (len(value_NV) - len(names)))


def ridge(square_XFF: Floats, cross_XF: Floats, n: float) -> Floats:
    """Coefficients [..., F] from sums of squares and cross products over `n` answers."""
    penalty_FF = RIDGE * n * np.eye(square_XFF.shape[-1])
    found_XF = np.linalg.solve(square_XFF + penalty_FF, cross_XF[..., None])[..., 0]
    return np.asarray(found_XF, dtype=np.float64)


def _sums(table: Table) -> tuple[Floats, Floats]:
    """X'X [C, F, F] and X'y [C, F] of each prompt."""
    n_features = table.column_NF.shape[1]
    square_NFF = table.column_NF[:, :, None] * table.column_NF[:, None, :]
    square_CS = cluster_sums(square_NFF.reshape(len(table.reward_N), -1), table.prompt_N)
    cross_CF = cluster_sums(table.column_NF * table.reward_N[:, None], table.prompt_N)
    return square_CS.reshape(-1, n_features, n_features), cross_CF


def _fitted(table: Table, groups: Sequence[Group], seed: int) -> dict[str, Any]:
    square_CFF, cross_CF = _sums(table)
    n, n_prompts = len(table.reward_N), len(square_CFF)
    found_F = ridge(square_CFF.sum(0), cross_CF.sum(0), n)
    count_DC = np.random.default_rng(seed).multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=DRAWS)
    drawn_DF = ridge(np.tensordot(count_DC, square_CFF, 1), count_DC @ cross_CF, n)
    low_F, high_F = np.quantile(drawn_DF, [0.025, 0.975], axis=0)
    alone_F = cross_CF.sum(0) / np.einsum("cff->f", square_CFF)
    meaning = {feature.name: feature.meaning for feature in FEATURES} | {GOLD: "the rating of quality in the data"}
    rows = [
        {
            "name": name,
            "meaning": meaning[name],
            "coefficient": float(found_F[f]),
            "low": float(low_F[f]),
            "high": float(high_F[f]),
            "alone": float(alone_F[f]),
        }
        for f, name in enumerate(table.names)
    ]
    return {
        "n_answers": n,
        "n_prompts": n_prompts,
        "features": sorted(rows, key=lambda row: -abs(row["coefficient"])),
        "explained": _explained(table, _folds(table, groups, seed)),
    }


def _folds(table: Table, groups: Sequence[Group], seed: int) -> Ints:
    """A fold per answer: all answers of an opening turn are in one."""
    opening: dict[str, str] = {}
    for group in groups:
        opening.setdefault(group.prompt_id, opening_of(group))
    names = list(opening)  # in the order in which `table_of` numbers them
    distinct = list(dict.fromkeys(opening.values()))
    fold_of = dict(zip(distinct, folds(distinct, seed), strict=True))
    return np.array([fold_of[opening[names[c]]] for c in table.prompt_N], dtype=np.int64)


def _explained(table: Table, fold_N: Ints) -> dict[str, float]:
    """Share of the within-prompt variance of reward: by the fit of all, and by fits that have not seen the prompt."""

    def share(rest_N: Floats) -> float:
        return float(1 - np.square(rest_N).sum() / np.square(table.reward_N).sum())

    def coefficients(mask_N: np.ndarray) -> Floats:
        x_NF, y_N = table.column_NF[mask_N], table.reward_N[mask_N]
        return ridge(x_NF.T @ x_NF, x_NF.T @ y_N, len(y_N))

    rest_N = table.reward_N - table.column_NF @ coefficients(np.ones(len(fold_N), bool))
    held_N = table.reward_N.copy()
    for fold in np.unique(fold_N):
        if (fold_N != fold).any():
            held_N[fold_N == fold] -= table.column_NF[fold_N == fold] @ coefficients(fold_N != fold)
    return {"fitted": share(rest_N), "held_out": share(held_N)}


def sentences_of(result: Mapping[str, Any], most: int = 6) -> list[str]:
    """What the regression says, in words: features whose interval leaves out zero, strongest first."""
    explained = result["explained"]
    lines = [
        f"The surface of an answer explains {_share(explained['surface']['held_out'])} of how rewards differ within a "
        f"prompt, on prompts left out of the fit ({result['n_answers']} answers to {result['n_prompts']} prompts)."
    ]
    if (gold := result["gold"]) is not None:
        lines.append(
            f"Gold alone explains {_share(explained['gold']['held_out'])}, both together "
            f"{_share(explained['both']['held_out'])}; one SD more gold, with the surface held fixed: "
            f"{gold['coefficient']:+.2f} SD of reward [{gold['low']:+.2f}, {gold['high']:+.2f}]."
        )
    shown = [row for row in result["features"] if row["low"] > 0 or row["high"] < 0][:most]
    for row in shown:
        held = "" if row["with_gold"] is None else f"; with gold held fixed {row['with_gold']:+.2f}"
        lines.append(
            f"One SD more {row['name']}: {row['coefficient']:+.2f} SD of reward "
            f"[{row['low']:+.2f}, {row['high']:+.2f}]{held}."
        )
    if not shown:
        lines.append("No single feature stands out: every interval includes zero.")
    return lines


def _share(value: float) -> str:
    return f"{max(value, 0):.0%}"


def attribution_table(result: Mapping[str, Any], most: int = 12) -> str:
    """The sentences, then the strongest features one a line."""
    width = max((len(row["name"]) for row in result["features"][:most]), default=7)
    lines = [*result["sentences"], "", f"{'feature':<{width}}  {'per SD':>7}  {'95% interval':^16}  alone  with gold"]
    for row in result["features"][:most]:
        held = "" if row["with_gold"] is None else f"{row['with_gold']:+9.2f}"
        lines.append(
            f"{row['name']:<{width}}  {row['coefficient']:+7.2f}  [{row['low']:+6.2f}, {row['high']:+6.2f}]  "
            f"{row['alone']:+5.2f}  {held}".rstrip()
        )
    return "\n".join(lines)
