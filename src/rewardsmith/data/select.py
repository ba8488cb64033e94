"""`data select`: which pairs of an unlabelled pool to have labelled next.

    P  candidate pairs          F  features of a pair: those of one answer minus those of the other

Strategies, each greedy: the pair of the highest gain that may still be taken, then the gains again.

    d-optimal     log(1 + c_p d_p' A^-1 d_p) with A = I + sum over the chosen c d d': how much the pair would tell of
                  the weights of a Bradley-Terry model with these features; c = p (1 - p) by the rewards, else 1/4
    disagreement  the spread of an ensemble's reward gaps; of a single model's uncertainty, where it has one
    margin        the smallest |reward gap|
    coverage      the pair farthest from all that were chosen (greedy k-centre, Gonzalez 1985)
    random        the control: what any other strategy has to beat

A pair that nearly repeats a chosen one, by three-word runs, is passed over, and a prompt gives at most `per_prompt`
pairs. Sources: Fedorov (1972) for D-optimality, with A^-1 updated by Sherman and Morrison's formula.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from random import Random
from typing import Any, Literal, Protocol

import numpy as np

from rewardsmith.data.near import NearIndex, word_runs
from rewardsmith.data.schema import Group, text_of
from rewardsmith.data.split import opening_of, unit_hash
from rewardsmith.data.surface import FEATURES, surface_features
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.statistics import Floats

Strategy = Literal["d-optimal", "disagreement", "margin", "coverage", "random"]
TAG = "selected"
HASHED = 1 << 16  # buckets of words
COMPONENTS = 64  # that they are reduced to
NO_SPREAD = (
    "--strategy disagreement needs an ensemble's spread, or a model's own (rewardsmith ensemble laplace RM FILE); "
    "name such a model with --model"
)


@dataclass(frozen=True)
class Pool:
    """Candidate pairs. first_P, second_P are the answers' numbers in the group group_P.

    features_RF  [R, F] features of all answers, group after group; row_P2 a pair's two rows
    reward_R     rewards in log-odds (divided by the temperature), or None
    members_MR   the rewards of an ensemble's members, or None
    std_R        a single model's uncertainty of each reward, or None
    """

    groups: Sequence[Group]
    group_P: list[int]
    sides_P: list[tuple[int, int]]
    row_P2: np.ndarray
    features_RF: Floats
    reward_R: Floats | None = None
    members_MR: Floats | None = None
    std_R: Floats | None = None


class Gain(Protocol):
    """What each pair is worth next, and how that changes once one is chosen."""

    @property
    def gain_P(self) -> Floats: ...

    def choose(self, pair: int) -> None: ...


def candidate_pairs(groups: Sequence[Group], most: int = 10, seed: int = 0) -> list[tuple[int, int, int]]:
    """(group, first, second) of the pairs of different answers; of a group with many, `most` drawn at random."""
    found = []
    for g, group in enumerate(groups):
        texts = [text_of(response) for response in group.responses]
        pairs = [(i, j) for i, j in combinations(range(len(texts)), 2) if texts[i] != texts[j]]
        if len(pairs) > most:
            pairs = sorted(Random(f"{group.id}:{seed}").sample(pairs, most))
        found += [(g, i, j) for i, j in pairs]
    return found


def labelled_pairs(groups: Sequence[Group]) -> list[Group]:
    """Each labelled pair as a group of two: what stands before the pool in `select`."""
    return [
        replace(
            group,
            responses=(group.responses[p.chosen], group.responses[p.rejected]),
            preferences=(replace(p, chosen=0, rejected=1),),
            ratings=None,
            id="",
        )
        for group in groups
        for p in group.preferences
    ]


def make_pool(
    groups: Sequence[Group],
    features: Sequence[Floats],
    *,
    rewards: Sequence[Floats] | None = None,
    members: Sequence[Floats] | None = None,
    stds: Sequence[Floats] | None = None,
    most: int = 10,
    seed: int = 0,
) -> Pool:
    """The pool of all candidate pairs, with [K, F] features of each group, its [K] rewards, [M, K] of members, and [K]
    stds. DataError where there is no pair.
    """
    candidates = candidate_pairs(groups, most, seed)
    if not candidates:
        raise DataError(f"none of the {len(groups)} groups has two different answers to compare")
    first_row_G = np.cumsum([0, *(len(group.responses) for group in groups)])
    rows = [(first_row_G[g] + i, first_row_G[g] + j) for g, i, j in candidates]
    return Pool(
        groups,
        [g for g, _, _ in candidates],
        [(i, j) for _, i, j in candidates],
        np.array(rows, dtype=np.int64),
        np.concatenate(features).astype(np.float64),
        None if rewards is None else np.concatenate(rewards),
        None if members is None else np.concatenate(members, axis=1),
        None if stds is None else np.concatenate(stds),
    )


def text_features(groups: Sequence[Group], seed: int = 0) -> list[Floats]:
    """[K, F] features of each group's answers without a model: the surface, and hashed words reduced to 64 numbers."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer
    from threadpoolctl import threadpool_limits

    texts = [text_of(response) for group in groups for response in group.responses]
    surface_RF = np.array([surface_features(text) for text in texts]).reshape(len(texts), len(FEATURES))
    words_RF = HashingVectorizer(n_features=HASHED, ngram_range=(1, 2), alternate_sign=False).transform(texts)
    n = min(COMPONENTS, len(texts) - 1)
    blocks = [unit_scale(surface_RF)]
    if n > 0:
        with threadpool_limits(1), np.errstate(invalid="ignore", divide="ignore"):  # texts of the same words
            reduced_RF = TruncatedSVD(n, random_state=seed).fit_transform(words_RF)
        blocks.append(unit_scale(reduced_RF))
    ends = np.cumsum([len(group.responses) for group in groups])[:-1]
    return list(np.split(np.concatenate(blocks, axis=1), ends))


def unit_scale(x_RF: Floats) -> Floats:
    """Columns about their means, each of standard deviation 1; a constant column is 0."""
    spread_F = x_RF.std(0)
    return (x_RF - x_RF.mean(0)) / np.where(spread_F > 1e-12, spread_F, np.inf)


def known_mean(x_PF: Floats) -> Floats:
    """[F] mean of the rows without NaN: one answer that a model cannot read says nothing of the others."""
    known_PF = x_PF[np.isfinite(x_PF).all(axis=1)]
    return known_PF.mean(axis=0) if len(known_PF) else np.zeros(x_PF.shape[1])


# -- strategies -----------------------------------------------------------------------------------------------------


class DOptimal:
    """Greedy D-optimal design. q_P holds d' A^-1 d of every pair, brought up to date after each choice."""

    def __init__(self, difference_PF: Floats, information_P: Floats, ridge: float = 1.0) -> None:
        self.difference_PF, self.information_P = difference_PF, information_P
        self.inverse_FF = np.eye(difference_PF.shape[1]) / ridge
        self.q_P = (difference_PF**2).sum(1) / ridge

    @property
    def gain_P(self) -> Floats:
        return np.asarray(np.log1p(self.information_P * self.q_P))

    def choose(self, pair: int) -> None:
        direction_F = self.inverse_FF @ self.difference_PF[pair]
        share = self.information_P[pair] / (1 + self.information_P[pair] * self.q_P[pair])
        self.inverse_FF -= share * np.outer(direction_F, direction_F)
        self.q_P = np.maximum(self.q_P - share * (self.difference_PF @ direction_F) ** 2, 0.0)


class Farthest:
    """Greedy k-centre: the squared distance to the nearest chosen pair. The first is the one nearest to the mean."""

    def __init__(self, place_PF: Floats) -> None:
        self.place_PF = place_PF
        self.gain_P = -((place_PF - known_mean(place_PF)) ** 2).sum(1)
        self.started = False

    def choose(self, pair: int) -> None:
        distance_P = ((self.place_PF - self.place_PF[pair]) ** 2).sum(1)
        self.gain_P = np.minimum(self.gain_P, distance_P) if self.started else distance_P
        self.started = True


class Fixed:
    """Gains that do not depend on what was chosen."""

    def __init__(self, gain_P: Floats) -> None:
        self.gain_P = gain_P

    def choose(self, pair: int) -> None:
        pass


def gain_of(pool: Pool, strategy: Strategy, seed: int) -> Gain:
    """A strategy's gains over a pool. ConfigError where the pool lacks what it needs."""
    first_P, second_P = pool.row_P2.T
    gap_P = None if pool.reward_R is None else pool.reward_R[first_P] - pool.reward_R[second_P]
    if strategy == "random":
        names = [f"{pool.groups[g].id}\0{sides}" for g, sides in zip(pool.group_P, pool.sides_P)]
        return Fixed(np.array([unit_hash(name, seed) for name in names]))
    if strategy == "margin":
        if gap_P is None:
            raise ConfigError("--strategy margin needs rewards; add --model RM")
        return Fixed(-np.abs(gap_P))
    if strategy == "disagreement":
        if pool.members_MR is not None:
            # Of the gaps: what members differ by on all answers of a prompt changes no comparison.
            return Fixed((pool.members_MR[:, first_P] - pool.members_MR[:, second_P]).std(axis=0, ddof=1))
        if pool.std_R is None:
            raise ConfigError(NO_SPREAD)
        # As if independent: how the two answers' uncertainties go together is not told.
        return Fixed(np.sqrt(pool.std_R[first_P] ** 2 + pool.std_R[second_P] ** 2))
    if strategy == "coverage":
        return Farthest((pool.features_RF[first_P] + pool.features_RF[second_P]) / 2)
    difference_PF = pool.features_RF[first_P] - pool.features_RF[second_P]
    scale_F = np.sqrt(known_mean(difference_PF**2))
    scaled_PF = difference_PF / np.where(scale_F > 1e-12, scale_F, np.inf)
    chance_P = np.full(len(scaled_PF), 0.5) if gap_P is None else 1 / (1 + np.exp(-np.clip(gap_P, -500, 500)))
    return DOptimal(scaled_PF, chance_P * (1 - chance_P))


# -- a batch --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """The chosen pairs' numbers in the pool, in order, their gains, and why others were passed over."""

    chosen: list[int]
    gains: list[float]
    passed_over: Counter[str]


def choose(
    pool: Pool,
    strategy: Strategy,
    budget: int,
    *,
    before: Sequence[int] = (),
    per_prompt: int = 1,
    seed: int = 0,
) -> Batch:
    """Up to `budget` pairs: fewer where the pool holds no more that may be taken.

    `before` are pairs that have been labelled: they count for what is told already, for near duplicates and for
    `per_prompt`.
    """
    gain = gain_of(pool, strategy, seed)
    known_P = np.isfinite(gain.gain_P)
    free_P = known_P.copy()
    opening_P = [opening_of(pool.groups[g]) for g in pool.group_P]
    of_opening: dict[str, list[int]] = {}
    for p, opening in enumerate(opening_P):
        of_opening.setdefault(opening, []).append(p)
    taken: Counter[str] = Counter()
    near = NearIndex()
    batch = Batch([], [], Counter())
    if not free_P.all():
        batch.passed_over["not scored"] = int((~free_P).sum())

    def take(p: int) -> None:
        free_P[p] = False
        if known_P[p]:
            gain.choose(p)
        taken[opening_P[p]] += 1
        if taken[opening_P[p]] >= per_prompt:
            others = [q for q in of_opening[opening_P[p]] if free_P[q]]
            if others:
                batch.passed_over["prompt used up"] += len(others)
            free_P[others] = False

    for p in before:
        runs = word_runs(pair_text(pool, p))
        near.add(p, runs, near.signature(runs))
        take(p)
    while len(batch.chosen) < budget and free_P.any():
        gain_P = np.where(free_P, gain.gain_P, -np.inf)
        p = int(gain_P.argmax())
        free_P[p] = False
        runs = word_runs(pair_text(pool, p))
        signature = near.signature(runs)
        if near.find(runs, signature) is not None:
            batch.passed_over["near duplicate"] += 1
            continue
        near.add(p, runs, signature)
        batch.chosen.append(p)
        batch.gains.append(float(gain_P[p]))
        take(p)
    return batch


def pair_text(pool: Pool, pair: int) -> str:
    """Prompt and both answers, in the order of their texts: the same pair the other way round is the same."""
    group = pool.groups[pool.group_P[pair]]
    return "\n\n".join([text_of(group.prompt), *sorted(text_of(group.responses[k]) for k in pool.sides_P[pair])])


def select(
    pool: Pool, strategy: Strategy, budget: int, *, n_labelled: int = 0, per_prompt: int = 1, seed: int = 0
) -> dict[str, Any]:
    """{"groups": the pairs to label, best first, and what is to be said of them, ready for JSON but for the groups}.

    The pool's first `n_labelled` groups are `labelled_pairs`: the batch goes on behind them.

    Keys: strategy, budget, selected, candidates, passed_over, gain {first, last}, warnings. A group's tag says the
    strategy, its note the rank. A label that the pool has of the pair stays.
    """
    if budget < 1 or per_prompt < 1:
        raise ConfigError(f"--budget {budget}, --per-prompt {per_prompt}: give at least 1")
    before = [p for p, g in enumerate(pool.group_P) if g < n_labelled]
    batch = choose(pool, strategy, budget, before=before, per_prompt=per_prompt, seed=seed)
    n, n_candidates = len(batch.chosen), len(pool.group_P) - len(before)
    warnings = []
    if n < budget:
        passed = ", ".join(f"{count} {why}" for why, count in batch.passed_over.items() if count) or "none passed over"
        warnings.append(
            f"{n} pairs instead of {budget}: the pool has {n_candidates} candidate pairs ({passed}); give a "
            "larger pool, or raise --per-prompt"
        )
    return {
        "groups": [picked(pool, p, strategy, rank, n) for rank, p in enumerate(batch.chosen, 1)],
        "strategy": strategy,
        "budget": budget,
        "selected": n,
        "candidates": n_candidates,
        "passed_over": dict(batch.passed_over),
        "gain": {"first": batch.gains[0], "last": batch.gains[-1]} if n else None,
        "warnings": warnings,
    }


def picked(pool: Pool, pair: int, strategy: str, rank: int, n: int) -> Group:
    """One chosen pair as a group of two."""
    group, sides = pool.groups[pool.group_P[pair]], pool.sides_P[pair]
    place = {k: i for i, k in enumerate(sides)}
    known = tuple(
        replace(p, chosen=place[p.chosen], rejected=place[p.rejected])
        for p in group.preferences
        if p.chosen in place and p.rejected in place
    )
    return replace(
        group,
        responses=tuple(group.responses[k] for k in sides),
        preferences=known,
        ratings=None if group.ratings is None else tuple(group.ratings[k] for k in sides),
        tags={**group.tags, TAG: strategy},
        note=f"{strategy}: {rank} of {n}",
        id="",
    )
