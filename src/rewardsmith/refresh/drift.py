"""Is a refresh due? New policy outputs without labels, held against the answers that the reward model was trained on.

Signals, each a number for an answer, of which one is drawn at random from every prompt on either side:

    apart        how well a cross-validated classifier tells new answers from reference answers, by surface and words
    distance     Mahalanobis distance to one half of the reference; the other half is what new answers are held against
    neighbour    distance to the nearest answer of that half
    length       log(1 + characters), or tokens where there is no text
    reward       by the model's scores, where there are any
    disagreement an ensemble's or a posterior's standard deviation, where there is one

Each signal's p-value is that of a permutation test, adjusted by Holm for their number. An alarm needs both: an
adjusted p-value below `level`, and an effect of at least `least` standard deviations, so that a large sample does not
turn a trifle into a reason. Where nothing has changed, any alarm at all is raised with a chance of at most `level`,
whatever the texts; `false_alarms` measures it on splits of the reference itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import log1p
from typing import Any

import numpy as np

from rewardsmith.data.schema import Group, text_of
from rewardsmith.data.select import text_features
from rewardsmith.data.split import unit_hash
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.refresh import two_samples as two
from rewardsmith.scoring import Scores
from rewardsmith.statistics import Floats, Interval, interval_text

PERMUTATIONS = 999
FEWEST = 20  # prompts of the reference: from fewer nobody knows what is usual
MOST = 2000  # prompts of a side; more would tell nothing that matters
FAR = 0.95  # of the reference's own distances
HIGH = 0.99  # of the reference's own rewards
RIDGE = 0.1  # of the classifier, times the number of answers
SEEN = 0.5  # SD: a sample that could not have shown a shift as large as this cannot clear the policy
NAMES = {
    "apart": "telling new from old",
    "distance": "distance from the training data",
    "neighbour": "distance to the nearest training answer",
    "length": "length",
    "reward": "reward",
    "disagreement": "the model's disagreement with itself",
}
RANKED = tuple(NAMES)
UPWARD = ("distance", "neighbour", "disagreement")  # less of these is no reason for anything


@dataclass(frozen=True)
class Sample:
    """One answer of each of N prompts. Features and values are None or missing where they are not known."""

    prompts: tuple[str, ...]
    group: tuple[Group, ...] = ()
    values: dict[str, Floats] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, index: Sequence[int]) -> Sample:
        return Sample(
            tuple(self.prompts[i] for i in index),
            tuple(self.group[i] for i in index) if self.group else (),
            {name: value_N[list(index)] for name, value_N in self.values.items()},
        )


def sample_groups(groups: Sequence[Group], scores: Sequence[Scores] | None = None, seed: int = 0) -> Sample:
    """One answer of each prompt, drawn by `seed`, with its scores where there are any. Answers without a finite reward
    are not drawn where there are scores. DataError where none is left."""
    by_prompt: dict[str, list[tuple[float, Group, int, Scores | None]]] = {}
    for g, group in enumerate(groups):
        of = None if scores is None else scores[g]
        for k in range(len(group.responses)):
            if of is None or np.isfinite(of.rewards[k]):
                place = unit_hash(f"{group.id}\0{k}", seed)
                by_prompt.setdefault(group.prompt_id, []).append((place, group, k, of))
    if not by_prompt:
        raise DataError("no answer to look at" + ("" if scores is None else " that has a reward"))
    drawn = {name: min(rows, key=lambda row: row[0]) for name, rows in by_prompt.items()}
    names = sorted(drawn, key=lambda name: unit_hash(name, seed))[:MOST]
    answers = [one_answer(drawn[name][1], drawn[name][2]) for name in names]
    values = {"length": np.array([log1p(len(text_of(answer.responses[0]))) for answer in answers])}
    if scores is not None:
        rows = [(drawn[name][3], drawn[name][2]) for name in names]
        values["reward"] = np.array([of.rewards[k] for of, k in rows if of is not None])
        if all(of is not None and of.std is not None for of, _ in rows):
            values["disagreement"] = np.array([of.std[k] for of, k in rows if of is not None and of.std is not None])
    return Sample(tuple(names), tuple(answers), values)


def one_answer(group: Group, k: int) -> Group:
    return Group(prompt=group.prompt, responses=(group.responses[k],), id=f"{group.id}:{k}")


def sample_rows(rows: Sequence[dict[str, Any]], seed: int = 0) -> Sample:
    """The same of the rows that `score` writes: reward, std and n_tokens. DataError where no row has a reward."""
    by_id: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for row in rows:
        if isinstance(row.get("reward"), int | float) and np.isfinite(row["reward"]):
            name = str(row.get("id", ""))
            by_id.setdefault(name, []).append((unit_hash(f"{name}\0{row.get('response_index')}", seed), row))
    if not by_id:
        raise DataError("no row has a reward; give the rows that `rewardsmith score` writes")
    names = sorted(by_id, key=lambda name: unit_hash(name, seed))[:MOST]
    kept = [min(by_id[name], key=lambda pair: pair[0])[1] for name in names]
    values = {"reward": np.array([float(row["reward"]) for row in kept])}
    if all(isinstance(row.get("n_tokens"), int | float) and row["n_tokens"] > 0 for row in kept):
        values["length"] = np.log1p(np.array([float(row["n_tokens"]) for row in kept]))
    if all(isinstance(row.get("std"), int | float) for row in kept):
        values["disagreement"] = np.array([float(row["std"]) for row in kept])
    return Sample(tuple(names), (), values)


def drift(
    new: Sample,
    reference: Sample,
    *,
    level: float = 0.05,
    least: float = 0.3,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> dict[str, Any]:
    """What has drifted and whether a refresh is due, ready for JSON.

    verdict      "due", "not due", or "cannot tell": nothing was found, and a shift of half an SD might have been missed
    text         the verdict with its reasons
    signals      one row each: name, meaning, effect_sd, p_value, p_adjusted, alarm, detectable_sd, n_new, n_reference;
                 `apart` has `auc`, the others `shift` (in SD of the reference) with interval, and `ks`; the distances
                 `far`, the share of new answers beyond 95% of the reference's own distances; `reward` has `high`
    Raises ConfigError for a level outside (0, 1) or so low that the permutations cannot reach it, DataError where the
    samples have no signal in common or the reference has fewer than 20 prompts.
    """
    if not 0 < level < 1 or least < 0:
        raise ConfigError(f"--level {level:g} --least {least:g}: a chance between 0 and 1, and a shift of at least 0")
    if len(reference) < FEWEST:
        raise DataError(
            f"the reference has {len(reference)} prompts; at least {FEWEST} are needed to know what is usual"
        )
    with_text = bool(new.group and reference.group)
    names = [
        name for name in ("length", "reward", "disagreement") if {name} <= new.values.keys() & reference.values.keys()
    ]
    n_signals = len(names) + 3 * with_text
    if not n_signals:
        raise DataError("the new answers and the reference have nothing in common to compare: neither texts nor scores")
    if n_signals / (permutations + 1) > level:
        raise ConfigError(f"{permutations} permutations cannot show a level of {level:g} for {n_signals} signals")
    found: list[dict[str, Any]] = []
    if with_text:
        found += text_signals(new, reference, permutations, seed)
    for name in names:
        found.append(scalar_signal(name, new.values[name], reference.values[name], permutations, seed))
    for row, adjusted in zip(found, two.holm([row["p_value"] for row in found]), strict=True):
        row["p_adjusted"] = adjusted
        row["alarm"] = bool(adjusted < level and row["effect_sd"] >= least)
        row["detectable_sd"] = two.detectable_sd(row["n_new"], row["n_reference"], level / n_signals)
    found.sort(key=lambda row: RANKED.index(row["signal"]))
    alarms = [row for row in found if row["alarm"]]
    blind = max(row["detectable_sd"] for row in found) > SEEN
    verdict = "due" if alarms else "cannot tell" if blind else "not due"
    return {
        "verdict": verdict,
        "text": words(verdict, found, alarms, len(new), level, least),
        "level": level,
        "least": least,
        "permutations": permutations,
        "n_new": len(new),
        "n_reference": len(reference),
        "shared_prompts": len(set(new.prompts) & set(reference.prompts)),
        "signals": found,
    }


def false_alarms(
    reference: Sample,
    n_new: int,
    splits: int,
    *,
    progress: Callable[[], None] | None = None,
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """How often `drift` says "due" of a random part of the reference against the rest: {"splits", "alarms", "rate"}.

    The part is as large as the new sample where the reference allows it (at most half of it).
    """
    n_part = min(n_new, len(reference) // 2)
    alarms = 0
    for s in range(splits):
        order = np.random.default_rng([seed, s]).permutation(len(reference)).tolist()
        part, rest = reference.take(order[:n_part]), reference.take(order[n_part:])
        alarms += drift(part, rest, seed=seed + s, **options)["verdict"] == "due"
        if progress is not None:
            progress()
    rate = alarms / splits
    half = 1.96 * np.sqrt((rate * (1 - rate) + 1 / splits) / splits)  # rough: a few splits say little
    interval = Interval(rate, float(max(rate - half, 0.0)), float(min(rate + half, 1.0)))
    return {"splits": splits, "part": n_part, "alarms": int(alarms), "rate": interval.to_json()}


# -- signals --------------------------------------------------------------------------------------------------------


def text_signals(new: Sample, reference: Sample, permutations: int, seed: int) -> list[dict[str, Any]]:
    """The three signals that read the texts. Features are made from both samples alike, so that neither is favoured."""
    features_NF = np.concatenate(text_features([*reference.group, *new.group], seed))
    n_old = len(reference)
    half = np.random.default_rng(seed).permutation(n_old)
    base, other = half[: n_old // 2], half[n_old // 2 :]
    held_NF = np.concatenate([features_NF[other], features_NF[n_old:]])
    rows = [apart_signal(features_NF, n_old, permutations, seed)]
    for name, value_N in (
        ("distance", mahalanobis(features_NF[base], held_NF)),
        ("neighbour", nearest(features_NF[base], held_NF)),
    ):
        row = scalar_signal(name, value_N[len(other) :], value_N[: len(other)], permutations, seed)
        limit = float(np.quantile(value_N[: len(other)], FAR))
        rows.append(row | {"far": share_above(value_N[len(other) :], limit, seed), "far_expected": 1 - FAR})
    return rows


def apart_signal(features_NF: Floats, n_old: int, permutations: int, seed: int) -> dict[str, Any]:
    n = len(features_NF)
    flags_BN = two.deal(n - n_old, n, permutations, seed)
    fold_N = np.random.default_rng(seed).permutation(np.arange(n) % min(two.FOLDS, n))
    scores_BN = two.out_of_fold_scores(features_NF, flags_BN, fold_N, RIDGE)
    value_B = np.array([two.auc(score_N, new_N, fold_N) for score_N, new_N in zip(scores_BN, flags_BN, strict=True)])
    bounds = auc_interval(scores_BN[0], flags_BN[0], fold_N, seed)
    return {
        "signal": "apart",
        "meaning": NAMES["apart"],
        "auc": {"value": float(value_B[0]), **bounds},
        "effect_sd": max(two.auc_in_sd(float(value_B[0])), 0.0),
        "p_value": two.p_value(value_B),
        "n_new": n - n_old,
        "n_reference": n_old,
    }


def auc_interval(score_N: Floats, new_N: np.ndarray, fold_N: np.ndarray, seed: int, draws: int = 300) -> dict[str, Any]:
    """95% over answers drawn within each sample; the classifiers stay as they were fitted."""
    if new_N.sum() < 2:
        return {"low": None, "high": None}
    rng = np.random.default_rng(seed)
    sides = [np.flatnonzero(new_N), np.flatnonzero(~new_N)]
    found = []
    for _ in range(draws):
        drawn = np.concatenate([rng.choice(side, len(side)) for side in sides])
        found.append(two.auc(score_N[drawn], new_N[drawn], fold_N[drawn]))
    low, high = np.quantile(found, [0.025, 0.975])
    return {"low": float(low), "high": float(high)}


def scalar_signal(name: str, new_N: Floats, old_N: Floats, permutations: int, seed: int) -> dict[str, Any]:
    """Shift and shape of one number. The p-value is that of the difference of means and the KS distance together; of
    distances and disagreement only more of it counts."""
    upward = name in UPWARD
    value_N = np.concatenate([old_N, new_N])
    flags_BN = two.deal(len(new_N), len(value_N), permutations, seed)
    distance_B = two.ks_distances(value_N, flags_BN, upward)
    shift = shift_of(new_N, old_N, seed, draws=0).value or 0.0
    row = {
        "signal": name,
        "meaning": NAMES[name],
        "shift": shift_of(new_N, old_N, seed).to_json(),
        "ks": float(distance_B[0]),
        "effect_sd": max(shift if upward else abs(shift), two.ks_in_sd(float(distance_B[0]))),
        "p_value": two.joint_p_value(np.stack([distance_B, two.mean_shifts(value_N, flags_BN, upward)])),
        "n_new": len(new_N),
        "n_reference": len(old_N),
    }
    if name == "reward":
        limit = float(np.quantile(old_N, HIGH))
        row |= {"high": share_above(new_N, limit, seed), "high_expected": 1 - HIGH}
    return row


def shift_of(new_N: Floats, old_N: Floats, seed: int, draws: int = 1000) -> Interval:
    """Difference of the means over the reference's SD; both samples are drawn anew for the interval."""

    def shift(new: Floats, old: Floats) -> Floats:
        spread = old.std(axis=-1)
        gap = new.mean(axis=-1) - old.mean(axis=-1)
        return np.where(spread > 1e-12, gap / np.where(spread > 1e-12, spread, 1.0), 0.0)

    value = float(shift(new_N, old_N))
    if draws == 0 or len(new_N) < 2:
        return Interval(value)
    rng = np.random.default_rng(seed)
    drawn_D = shift(*(side[rng.integers(0, len(side), (draws, len(side)))] for side in (new_N, old_N)))
    low, high = np.quantile(drawn_D, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def share_above(value_N: Floats, limit: float, seed: int, draws: int = 1000) -> dict[str, Any]:
    """The share of values above a limit; its interval is that of the values, the limit is taken as it is."""
    share = float((value_N > limit).mean())
    if len(value_N) < 2:
        return Interval(share).to_json()
    drawn_D = np.random.default_rng(seed).binomial(len(value_N), share, draws) / len(value_N)
    low, high = np.quantile(drawn_D, [0.025, 0.975])
    return Interval(share, float(low), float(high)).to_json()


def mahalanobis(base_NF: Floats, held_NF: Floats) -> Floats:
    """Distance of each held answer from the base's mean, by its covariance shrunk a tenth towards its diagonal."""
    centred_NF = base_NF - base_NF.mean(axis=0)
    covariance_FF = centred_NF.T @ centred_NF / max(len(base_NF) - 1, 1)
    diagonal_F = np.diag(covariance_FF)
    shrunk_FF = 0.9 * covariance_FF + np.diag(0.1 * diagonal_F + 1e-6 * max(float(diagonal_F.mean()), 1e-12))
    gap_NF = held_NF - base_NF.mean(axis=0)
    return np.asarray(np.sqrt(np.maximum((gap_NF * np.linalg.solve(shrunk_FF, gap_NF.T).T).sum(axis=1), 0.0)))


def nearest(base_NF: Floats, held_NF: Floats) -> Floats:
    """Euclidean distance of each held answer to the nearest of the base."""
    square_NM = (held_NF**2).sum(1)[:, None] + (base_NF**2).sum(1) - 2 * held_NF @ base_NF.T
    return np.sqrt(np.maximum(square_NM.min(axis=1), 0.0))


# -- words ----------------------------------------------------------------------------------------------------------


def words(
    verdict: str,
    found: Sequence[dict[str, Any]],
    alarms: Sequence[dict[str, Any]],
    n_new: int,
    level: float,
    least: float,
) -> str:
    """The verdict with its reasons, for people."""
    if verdict == "due":
        return f"A refresh is due: {'; '.join(map(reason, alarms))}."
    seen = max(row["detectable_sd"] for row in found)
    if verdict == "cannot tell":
        return (
            f"Nothing was found in {n_new} new prompts, but a shift below {seen:.1f} SD could have been missed (80% "
            f"power): this neither clears the policy nor calls for a refresh; give more outputs."
        )
    small = [row for row in found if row["p_adjusted"] < level]
    if small:
        named = ", ".join(row["meaning"] for row in small)
        return f"No refresh is due: what has changed ({named}) is below {least:g} SD."
    power = f"a shift of {seen:.2f} SD would be seen (80% power)"
    return f"No refresh is due: no signal differs from the training data; {power}."


def reason(row: dict[str, Any]) -> str:
    """One alarm in words."""
    name = row["signal"]
    if name == "apart":
        auc = row["auc"]
        return f"new answers can be told from the training data (AUC {interval_text(auc, '.2f')}; 0.5 is not at all)"
    if name in ("distance", "neighbour"):
        return (
            f"their {row['meaning']} is larger, by {interval_text(row['shift'], '.2f')} SD; for "
            f"{interval_text(row['far'], '.0%')} of them it is larger than for 95% of the training answers themselves"
        )
    shift = row["shift"]
    side = {"length": "longer or shorter", "reward": "higher or lower", "disagreement": "more or less"}[name].split(
        " or "
    )
    word = side[0] if (shift["value"] or 0) >= 0 else side[1]
    sizes = {key: None if v is None else abs(v) for key, v in ordered(shift).items()}
    size = f"{interval_text(sizes, '.2f')} SD"
    if abs(shift["value"] or 0) < 0.1:
        return f"{row['meaning']} is spread otherwise (KS distance {row['ks']:.2f})"
    if name == "length":
        return f"they are {word} by {size}"
    if name == "disagreement":
        return f"the model disagrees with itself {word}, by {size}"
    high = row["high"]["value"]
    return f"rewards are {word} by {size}, {high:.0%} of them above the highest 1% of the training answers'"


def ordered(shift: dict[str, Any]) -> dict[str, Any]:
    """A shift with its interval turned round where it is below zero, so that sizes read from small to large."""
    if (shift["value"] or 0) >= 0:
        return shift
    return {"value": shift["value"], "low": shift["high"], "high": shift["low"]}
