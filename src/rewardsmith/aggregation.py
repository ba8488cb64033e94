"""Several members' rewards of one prompt's answers as one reward. numpy only.

M  members
K  answers of one prompt

Bradley-Terry leaves each member a constant of its own on every prompt, which no comparison sees. A minimum over
members that keep it picks the member with the lowest constant, not the lowest opinion. So every member is centred on
the prompt first: its mean over the K answers is taken off, and the members' mean of these means is added back to all
answers alike. The mean over members then stays what it was to rounding, other aggregates are in its units and on its
level, and none depends on the constants beyond their mean. A prompt with one answer has nothing to compare: every
aggregate of it is the mean.

Source: Coste et al. (2310.02743), section 3, for mean, min (WCO) and mean-var (UWO, lambda 0.5).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from rewardsmith.errors import ConfigError
from rewardsmith.statistics import Floats

How = Literal["mean", "min", "mean-var", "soft-min", "lower-bound"]
HOWS: tuple[How, ...] = get_args(How)
STRENGTH: dict[How, float] = {"mean-var": 0.5, "soft-min": 1.0, "lower-bound": 1.0}  # of those that have one


def centre(rewards_MK: ArrayLike) -> Floats:
    """[M, K] each member's rewards less its mean over the K answers, plus the mean of all."""
    rewards_MK = np.asarray(rewards_MK, np.float64)
    return rewards_MK - rewards_MK.mean(axis=1, keepdims=True) + rewards_MK.mean()


def aggregate(rewards_MK: ArrayLike, how: How = "mean", *, strength: float | None = None) -> Floats:
    """[K] one reward per answer, from members that are centred on the prompt first.

        mean         mean_m r
        min          min_m r
        mean-var     mean_m r - strength * var_m r            variance over the M members (divisor M)
        soft-min     -strength * log mean_m exp(-r / strength)   min as strength goes to 0, mean as it grows
        lower-bound  mean_m r - strength * std_m r            standard deviation with divisor M - 1

    `strength` of None takes that of STRENGTH. NaN of a member makes the prompt's rewards NaN, except by mean, where it
    stays with its answer. Raises ConfigError as `check_aggregate`.
    """
    check_aggregate(how, strength)
    if how == "mean":
        return np.asarray(rewards_MK, np.float64).mean(axis=0)
    rewards_MK = centre(rewards_MK)
    strength = STRENGTH.get(how, 0.0) if strength is None else strength
    if how == "min":
        return rewards_MK.min(axis=0)
    if how == "mean-var":
        return rewards_MK.mean(axis=0) - strength * rewards_MK.var(axis=0)
    if how == "soft-min":
        lowest_K = rewards_MK.min(axis=0)  # taken out of the exponent, which then stays within floats
        return lowest_K - strength * np.log(np.exp((lowest_K - rewards_MK) / strength).mean(axis=0))
    spread_K = rewards_MK.std(axis=0, ddof=1) if len(rewards_MK) > 1 else 0.0
    return rewards_MK.mean(axis=0) - strength * spread_K


def check_aggregate(how: str, strength: float | None = None, n_members: int | None = None) -> None:
    """Raise ConfigError for an aggregate that does not exist, or that this strength or number of members makes no
    sense of."""
    if how not in HOWS:
        raise ConfigError(f"--aggregate {how}: there are {', '.join(HOWS)}")
    if strength is not None and how not in STRENGTH:
        raise ConfigError(f"--aggregate-strength {strength:g}: {how} has no strength; {', '.join(STRENGTH)} have")
    if strength is not None and not 0 < strength < float("inf"):
        raise ConfigError(f"--aggregate-strength {strength:g}: give a number above 0")
    if how != "mean" and n_members == 1:
        raise ConfigError(
            f"--aggregate {how}: this is a single reward model, and nothing is there to aggregate; give an ensemble "
            "(rewardsmith train --members N, or rewardsmith ensemble join)"
        )
