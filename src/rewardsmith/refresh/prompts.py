"""Prompts with recorded answers laid end to end, policies over them, and pairs drawn from a policy. numpy only.

P  prompts      R  answers of all prompts      F  features      U  pairs of two answers to one prompt
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rewardsmith.data.schema import text_of
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.overoptimization.candidates import Pool
from rewardsmith.statistics import Floats, Ints

BISECTIONS = 60
FARTHEST = 1e9  # standard deviations of a prompt's rewards over beta: beyond it a policy gives the best answer alone


@dataclass(frozen=True)
class Prompts:
    """One side's prompts. first_P is the row of each prompt's first answer."""

    name_P: tuple[str, ...]
    first_P: Ints
    prompt_R: Ints
    base_R: Floats
    gold_R: Floats
    length_R: Floats
    text_R: Ints
    features_RF: Floats

    @cached_property
    def pairs(self) -> Pairs:
        """All pairs of answers that are not the same text."""
        first, second = [], []
        ends = [*self.first_P[1:], len(self.prompt_R)]
        for start, end in zip(self.first_P, ends, strict=True):
            i, j = np.triu_indices(end - start, 1)
            first.append(start + i)
            second.append(start + j)
        first_U, second_U = np.concatenate(first), np.concatenate(second)
        differ_U = self.text_R[first_U] != self.text_R[second_U]
        first_U, second_U = first_U[differ_U], second_U[differ_U]
        gap_U = self.gold_R[first_U] - self.gold_R[second_U]
        return Pairs(first_U, second_U, self.prompt_R[first_U], (np.sign(gap_U) + 1) / 2)

    def by_prompt(self, value_R: Floats) -> Floats:
        """[P] sums over each prompt's answers."""
        return np.add.reduceat(value_R, self.first_P)

    def gold_of(self, policy_R: Floats) -> Floats:
        """[P] expected gold of a policy."""
        return self.by_prompt(policy_R * self.gold_R)

    def kl_of(self, policy_R: Floats) -> Floats:
        """[P] KL to the base policy in nats."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.by_prompt(np.where(policy_R > 0, policy_R * np.log(policy_R / self.base_R), 0.0))


@dataclass(frozen=True)
class Pairs:
    """Rows of the two answers, their prompt, and what gold says: 1 where the first is better, 0.5 for a tie, else 0."""

    first_U: Ints
    second_U: Ints
    prompt_U: Ints
    label_U: Floats


def lay_out(pools: Sequence[Pool], features: Sequence[Floats]) -> Prompts:
    """Pools and the [K, F] features of each as one `Prompts`; gold is the first column."""
    sizes = [len(pool.base_K) for pool in pools]
    texts = [text_of(response) for pool in pools for response in pool.group.responses]
    numbers: dict[str, int] = {}
    return Prompts(
        name_P=tuple(pool.group.prompt_id for pool in pools),
        first_P=np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64),
        prompt_R=np.repeat(np.arange(len(pools)), sizes),
        base_R=np.concatenate([pool.base_K for pool in pools]),
        gold_R=np.concatenate([pool.gold_JK[0] for pool in pools]),
        length_R=np.array([len(text) for text in texts], float),
        text_R=np.array([numbers.setdefault(text, len(numbers)) for text in texts]),
        features_RF=np.concatenate(features),
    )


# -- policies -------------------------------------------------------------------------------------------------------


def tilted(prompts: Prompts, reward_R: Floats, start_R: Floats, strength: float) -> Floats:
    """[R] start exp(strength reward), made to sum to 1 on each prompt: `policies.tilt` with beta = 1 / strength."""
    with np.errstate(divide="ignore"):
        score_R = strength * reward_R + np.log(start_R)
    highest_P = np.maximum.reduceat(score_R, prompts.first_P)
    weight_R = np.exp(score_R - highest_P[prompts.prompt_R])
    return weight_R / prompts.by_prompt(weight_R)[prompts.prompt_R]


def policy_at(prompts: Prompts, reward_R: Floats, kl: float, start_R: Floats | None = None) -> Floats:
    """[R] the tilted policy, of one beta on all prompts, whose mean KL to the base policy is `kl`.

    `start_R` is the policy that is tilted, the base by default; its own KL has to be below `kl`.
    Raises DataError where the reward is the same for all answers of every prompt, ConfigError where even the policy
    that gives the best answer alone is nearer than `kl`.
    """
    start_R = prompts.base_R if start_R is None else start_R
    mean_P = prompts.by_prompt(prompts.base_R * reward_R)
    spread = float(np.sqrt(prompts.by_prompt(prompts.base_R * (reward_R - mean_P[prompts.prompt_R]) ** 2).mean()))
    if not spread > 1e-12 * max(float(np.abs(reward_R).max()), 1e-300):
        raise DataError("the reward is the same for all answers of every prompt: nothing was learnt from the labels")

    def at(strength: float) -> tuple[float, Floats]:
        policy_R = tilted(prompts, reward_R, start_R, strength / spread)
        return float(prompts.kl_of(policy_R).mean()), policy_R

    low, high = 0.0, 1.0
    reached, policy_R = at(high)
    while reached < kl:
        if high > FARTHEST:
            raise ConfigError(f"--kl {kl:g}: the policy that gives the best answers alone has a KL of {reached:.2f}")
        low, high = high, 2 * high
        reached, policy_R = at(high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        reached, tried_R = at(middle)
        if reached < kl:
            low = middle
        else:
            high, policy_R = middle, tried_R
    return policy_R


# -- pairs ----------------------------------------------------------------------------------------------------------


def pair_chances(prompts: Prompts, policy_R: Floats, against_base: float) -> Floats:
    """[U] the chance of each pair, summing to 1 on each prompt that has a pair of its own to give.

    Both answers come from the policy, or, with a chance of `against_base`, one from the policy and one from the base.
    """
    pairs, n = prompts.pairs, len(prompts.first_P)

    def scaled(weight_U: Floats) -> Floats:
        total_P = np.bincount(pairs.prompt_U, weights=weight_U, minlength=n)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(weight_U > 0, weight_U / total_P[pairs.prompt_U], 0.0)

    first_U, second_U = policy_R[pairs.first_U], policy_R[pairs.second_U]
    own_U = scaled(first_U * second_U)
    other_U = scaled(first_U * prompts.base_R[pairs.second_U] + second_U * prompts.base_R[pairs.first_U])
    return (1 - against_base) * own_U + against_base * other_U


def draw_pairs(prompts: Prompts, chance_U: Floats, taken_U: Floats, n: int, rng: np.random.Generator) -> Ints:
    """Numbers of up to `n` pairs, spread evenly over prompts, on each drawn without replacement by their chances.

    A prompt without another pair to give leaves its share to the others; fewer than `n` come back where no prompt has
    one left. Without replacement by Gumbel noise: the highest of log chance + noise (Efraimidis and Spirakis 2006).
    """
    pairs = prompts.pairs
    with np.errstate(divide="ignore"):
        key_U = np.log(chance_U) + rng.gumbel(size=len(chance_U))
    place_P = rng.permutation(len(prompts.first_P))
    free_U = np.flatnonzero(np.isfinite(key_U) & (taken_U == 0))
    by_key = free_U[np.argsort(-key_U[free_U])]
    by_key = by_key[np.argsort(pairs.prompt_U[by_key].astype(np.min_scalar_type(len(place_P))), kind="stable")]
    count_P = np.bincount(pairs.prompt_U[by_key], minlength=len(prompts.first_P))
    rank = np.arange(len(by_key)) - np.repeat(np.cumsum(count_P) - count_P, count_P)
    order = np.lexsort((place_P[pairs.prompt_U[by_key]], rank))
    return by_key[order[:n]]


def agreement(prompts: Prompts, reward_R: Floats, chance_U: Floats) -> Floats:
    """[P, 2] of the pairs that gold decides, drawn with these chances: the chance that the reward agrees, and of a
    decided pair. A tie of the reward counts as wrong."""
    pairs = prompts.pairs
    gap_U = reward_R[pairs.first_U] - reward_R[pairs.second_U]
    right_U = np.sign(gap_U) == 2 * pairs.label_U - 1
    decided_U = pairs.label_U != 0.5
    sums = [
        np.bincount(pairs.prompt_U, weights=chance_U * flag_U, minlength=len(prompts.first_P))
        for flag_U in (right_U & decided_U, decided_U)
    ]
    return np.stack(sums, axis=1)
