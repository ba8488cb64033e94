"""Gold against optimisation: each method's policies at rising strength, with what they cost in KL.

    P  prompts
    S  strengths, weakest first
    J  gold columns
    D  bootstrap draws

A `Path` holds the exact numbers of every prompt; each row of a curve is a mean over prompts with a bootstrap interval
that draws whole prompts. One set of draws serves all curves, so differences between them are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewardsmith.best_of_n import powers_of_two
from rewardsmith.overoptimization import policies
from rewardsmith.overoptimization.candidates import Pool
from rewardsmith.statistics import Floats

PRESSURES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # SD of a prompt's rewards over beta
SOFT_PRESSURE = 2.0  # of soft best of n and of rejection sampling, whose strength is n
FURTHER = 8  # the methods that draw with replacement go on to this many times the number of answers
METHODS = (
    "best_of_n", "best_of_n_iid", "soft_best_of_n", "best_of_poisson", "tilt", "chi_squared", "threshold", "rejection",
)  # fmt: skip
DRAWS = 1000


@dataclass(frozen=True)
class Path:
    """One method at rising strength, on every prompt.

    strength_S  n, or the pressure SD/beta of `tilt` and `chi_squared`
    beta        the regularisation in units of reward, where the method has one: a number for each strength
    base_JP     gold of the base policy; the other values are of the optimised ones: KL in nats, mean reward, mean gold,
                and the win rate against the base policy by the first gold column
    weights     [S, K] probabilities of each prompt's answers
    """

    method: str
    strength_S: Floats
    beta_S: Floats | None
    kl_PS: Floats
    proxy_PS: Floats
    gold_JPS: Floats
    win_PS: Floats
    base_JP: Floats
    weights: list[Floats]

    @property
    def in_n(self) -> bool:
        """Whether strength is a number of draws."""
        return self.method not in ("tilt", "chi_squared")


Policy = Callable[[Floats, Floats], Floats]


def within_sd(rewards: Sequence[Floats]) -> float:
    """Root mean square, over prompts, of the SD of a prompt's rewards: the unit in which beta is chosen."""
    return float(np.sqrt(np.mean([reward_K.var() for reward_K in rewards])))


def plan(
    method: str, sd: float, n_answers: int, sizes: Sequence[int] | None = None
) -> tuple[Floats, Floats | None, Policy]:
    """(strengths, betas or None, policy) of a method for rewards of this SD and prompts of up to `n_answers`."""
    drawn = np.array(sizes or powers_of_two(n_answers), float)
    further = drawn if sizes else np.array([*drawn, *(n_answers * 2**i for i in range(1, FURTHER.bit_length()))], float)
    beta = sd / SOFT_PRESSURE
    pressure_S = np.array(PRESSURES)
    betas = sd / pressure_S
    table: dict[str, tuple[Floats, Floats | None, Policy]] = {
        "best_of_n": (drawn, None, lambda r, p: policies.best_of_n(r, p, np.minimum(drawn, len(r)).tolist())),
        "best_of_n_iid": (further, None, lambda r, p: policies.best_of_n_iid(r, p, further.tolist())),
        "soft_best_of_n": (
            further,
            np.full(len(further), beta),
            lambda r, p: policies.soft_best_of_n(r, p, further.tolist(), beta),
        ),
        "best_of_poisson": (further, None, lambda r, p: policies.best_of_poisson(r, p, (further - 1).tolist())),
        "tilt": (pressure_S, betas, lambda r, p: policies.tilt(r, p, betas.tolist())),
        "chi_squared": (pressure_S, betas, lambda r, p: policies.chi_squared(r, p, betas.tolist())),
        "threshold": (drawn, None, lambda r, p: policies.threshold(r, p, (1 / drawn).tolist())),
        "rejection": (
            further,
            np.full(len(further), beta),
            lambda r, p: policies.rejection(r, p, further.tolist(), beta),
        ),
    }
    return table[method]


def path_of(method: str, pools: Sequence[Pool], rewards: Sequence[Floats], sizes: Sequence[int] | None = None) -> Path:
    """The method's policies on every prompt. A prompt with fewer answers than n gives all it has: its best of K."""
    sd = within_sd(rewards)
    assert sd > 0, "rewards that never differ are refused before"
    strength_S, beta_S, policy = plan(method, sd, max(map(len, rewards)), sizes)
    weights, kl, proxy, gold, win = [], [], [], [], []
    for pool, reward_K in zip(pools, rewards, strict=True):
        p_SK = policy(reward_K, pool.base_K)
        weights.append(p_SK)
        kl.append(policies.kl_from_base(p_SK, pool.base_K))
        proxy.append(p_SK @ reward_K)
        gold.append(pool.gold_JK @ p_SK.T)
        win.append(p_SK @ policies.win_weights(pool.gold_JK[0], pool.base_K))
    base_JP = np.stack([pool.gold_JK @ pool.base_K for pool in pools], axis=1)
    columns = (np.array(kl), np.array(proxy), np.stack(gold, axis=1), np.array(win), base_JP)
    return Path(method, strength_S, beta_S, *columns, weights)


def methods_for(pools: Sequence[Pool]) -> list[str]:
    """All methods; without best of n where base probabilities differ, which drawing without replacement cannot use."""
    alike = all(np.ptp(pool.base_K) < 1e-12 for pool in pools)
    return [method for method in METHODS if alike or method != "best_of_n"]


# -- reference rewards ---------------------------------------------------------------------------------------


def length_rewards(pools: Sequence[Pool]) -> list[Floats]:
    """Characters: what a reward that knows nothing but length would say."""
    return [pool.length_K for pool in pools]


def gold_rewards(pools: Sequence[Pool]) -> list[Floats]:
    """The first gold column: the most that any reward could reach."""
    return [pool.gold_JK[0] for pool in pools]


def random_rewards(pools: Sequence[Pool], seed: int) -> list[Floats]:
    """A number drawn for each answer: the same KL, and nothing learnt."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(len(pool.base_K)) for pool in pools]


# -- rows ----------------------------------------------------------------------------------------------------


class Draws:
    """Bootstrap draws of prompts, the same for every number that is asked for. Pools of one prompt go together."""

    def __init__(self, pools: Sequence[Pool], draws: int = DRAWS, seed: int = 0) -> None:
        names, prompt_P = np.unique([pool.group.prompt_id for pool in pools], return_inverse=True)
        self.n_prompts = n = len(names)
        times_DP = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)[:, prompt_P]
        self.share_DP = times_DP / times_DP.sum(axis=1, keepdims=True)

    def intervals(self, values_PS: Floats, level: float = 0.95) -> list[dict[str, float | None]]:
        """[S] {value, low, high} of the mean over prompts; without bounds from fewer than two prompts."""
        mean_S = values_PS.mean(axis=0)
        if self.n_prompts < 2 or len(self.share_DP) == 0:
            return [{"value": float(mean), "low": None, "high": None} for mean in mean_S]
        bounds_2S = np.quantile(self.means(values_PS), [(1 - level) / 2, (1 + level) / 2], axis=0)
        return [
            {"value": float(mean), "low": float(low), "high": float(high)} for mean, (low, high) in
            zip(mean_S, bounds_2S.T, strict=True)
        ]  # fmt: skip

    def means(self, values_PS: Floats) -> Floats:
        """[D, S] the mean of each draw."""
        return self.share_DP @ values_PS


def curve_rows(
    path: Path, golds: Sequence[str], draws: Draws, *, beside: Path | None = None, name: str = ""
) -> list[dict[str, Any]]:
    """One JSON row for each strength.

    `gold`, `low` and `high` are of the first gold column; `golds` of all of them. `over_length`, where a length-only
    path is given, is how much more gold there is than by length at the same strength. `kl_bound` is log n - (n-1)/n.
    """
    by_gold = [draws.intervals(gold_PS) for gold_PS in path.gold_JPS]
    columns = {
        "kl": draws.intervals(path.kl_PS),
        "proxy": draws.intervals(path.proxy_PS),
        "win_rate": draws.intervals(path.win_PS),
    }
    over = None if beside is None else draws.intervals(path.gold_JPS[0] - beside.gold_JPS[0])
    rows = []
    for s, strength in enumerate(path.strength_S.tolist()):
        first = by_gold[0][s]
        row: dict[str, Any] = {
            "method": path.method,
            "strength": strength,
            "n": int(strength) if path.in_n else None,
            "beta": None if path.beta_S is None else float(path.beta_S[s]),
            "kl": columns["kl"][s]["value"],
            "kl_interval": columns["kl"][s],
            "proxy": columns["proxy"][s]["value"],
            "proxy_interval": columns["proxy"][s],
            "gold": first["value"],
            "low": first["low"],
            "high": first["high"],
            "win_rate": columns["win_rate"][s],
            "golds": {gold: intervals[s] for gold, intervals in zip(golds, by_gold, strict=True)},
        }
        if path.method in ("best_of_n", "best_of_n_iid"):
            row["kl_bound"] = policies.best_of_n_kl_bound(strength)
        if over is not None:
            row["over_length"] = over[s]
        rows.append(({"reward": name} if name else {}) | row)
    return rows
