"""What a policy becomes when it is optimised against a reward, exactly, where it can only say K recorded answers.

    K  candidates of one prompt, r_i the reward and p0_i the base policy's probability of each
    S  strengths of the optimisation, weakest first
    V  distinct rewards, rising; F_v is the base policy's probability of a reward of at most the v-th

Every method maps (r, p0) to probabilities p_SK, so their KL(p || p0), expected gold and win rate are sums and not
estimates. Several look at ranks alone: they put G(F_v) - G(F_{v-1}) on the v-th reward, for some G that rises from
G(0) = 0 to G(1) = 1, and share it among equal rewards in proportion to p0, which is what breaking ties at random does.

    best_of_n        n drawn without replacement, the highest kept: unbiased for best of n among answers like these
    best_of_n_iid    n drawn with replacement: G = F^n
    best_of_poisson  n - 1 drawn from a Poisson distribution of mean mu: G = F exp(mu (F - 1))
    threshold        the best share q of the answers: G = max(0, (F - 1 + q) / q)
    soft_best_of_n   n drawn with replacement, one of them kept with probability proportional to exp(r / lambda)
    rejection        drawn until accepted, with probability exp((r - max r) / beta); after n refusals, one drawn freely
    tilt             proportional to p0 exp(r / beta): the optimum of E[r] - beta KL
    chi_squared      p0 max(0, 1 + (r - nu) / beta): the optimum of E[r] - beta/2 E_p0[(p/p0 - 1)^2]

Without replacement, best of K always keeps the highest: its KL is log K, while F^n never reaches that. The two are
different policies; each is given its own KL here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rewardsmith.best_of_n import answer_weights
from rewardsmith.errors import ConfigError
from rewardsmith.statistics import Floats

SOFT_STEP = 0.2  # of the quadrature of soft best of n, in log t; half of it changes nothing in twelve digits


def by_rank(proxy_K: Floats, base_K: Floats, transform: Callable[[Floats], Floats]) -> Floats:
    """[S, K] probabilities of the policy that puts G(F_v) - G(F_{v-1}) on the v-th reward.

    `transform` maps [V + 1] values of F, 0 and 1 among them, to G of them, [S, V + 1].
    """
    _, level_K = np.unique(proxy_K, return_inverse=True)
    mass_V = np.bincount(level_K, weights=base_K)
    below_V = np.concatenate([[0.0], np.cumsum(mass_V)[:-1], [1.0]])  # the last is 1 whatever the sum rounds to
    gained_SV = np.diff(transform(np.minimum(below_V, 1.0)), axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        within_K = np.where(mass_V[level_K] > 0, base_K / mass_V[level_K], 0.0)
    return gained_SV[:, level_K] * within_K


def best_of_n(proxy_K: Floats, base_K: Floats, sizes: Sequence[float]) -> Floats:
    """[S, K] for whole n up to K, drawn without replacement; needs a base policy that says all answers alike often.

    Source: Nakano et al. (2112.09332), appendix I; ties as in `best_of_n.answer_weights`.
    """
    if not np.allclose(base_K, 1 / len(base_K)):
        raise ConfigError("best of n without replacement needs equal base probabilities; take best_of_n_iid")
    return answer_weights(proxy_K, [int(n) for n in sizes])


def best_of_n_iid(proxy_K: Floats, base_K: Floats, sizes: Sequence[float]) -> Floats:
    """[S, K] for n >= 1 independent draws. Source: Beirami et al. (2401.01879), lemma 1."""
    n_S1 = np.asarray(sizes, float)[:, None]
    return by_rank(proxy_K, base_K, lambda cdf_V: cdf_V**n_S1)


def best_of_poisson(proxy_K: Floats, base_K: Floats, means: Sequence[float]) -> Floats:
    """[S, K] for 1 + Poisson(mu) draws, mu >= 0. Source: Khalaf et al. (2506.19248)."""
    mean_S1 = np.asarray(means, float)[:, None]
    return by_rank(proxy_K, base_K, lambda cdf_V: cdf_V * np.exp(mean_S1 * (cdf_V - 1)))


def threshold(proxy_K: Floats, base_K: Floats, shares: Sequence[float]) -> Floats:
    """[S, K] for the best share q in (0, 1] of the base policy's answers; KL is -log q where no tie is cut."""
    share_S1 = np.asarray(shares, float)[:, None]
    return by_rank(proxy_K, base_K, lambda cdf_V: np.maximum(0.0, (cdf_V - 1 + share_S1) / share_S1))


def soft_best_of_n(proxy_K: Floats, base_K: Floats, sizes: Sequence[float], temperature: float) -> Floats:
    """[S, K] for n independent draws, one of them kept with probability proportional to w = exp(r / lambda).

    Exact up to quadrature: with 1/s = integral of exp(-t s) dt over t > 0,
        p_i = n p0_i  integral of  w_i exp(-t w_i) (sum_j p0_j exp(-t w_j))^(n-1)  dt,
    by the trapezoid rule in log t, which converges exponentially here. Source: Verdun et al. (2505.03156).
    """
    if not temperature > 0:
        raise ConfigError(f"soft best of n: a temperature above 0, not {temperature}")
    # A gap of 60 temperatures is as good as any larger one, and keeps the range of the integral short.
    order_K = np.argsort(-proxy_K, kind="stable")
    gap_K = np.minimum(-np.diff(proxy_K[order_K], prepend=proxy_K[order_K[0]]) / temperature, 60.0)
    log_w_K = np.empty(len(proxy_K))
    log_w_K[order_K] = -np.cumsum(gap_K)
    n_S = np.asarray(sizes, float)
    # t w runs from nothing for the largest w and n to everything for the smallest.
    u_T = np.arange(np.log(1e-17 / n_S.max()), np.log(50.0) - log_w_K.min(), SOFT_STEP)
    log_tw_TK = np.minimum(u_T[:, None] + log_w_K, 100.0)  # beyond, exp(-t w) is 0 anyway
    tw_TK = np.exp(log_tw_TK)
    decay_TK = np.exp(-tw_TK)
    power_ST = (decay_TK @ base_K) ** (n_S[:, None] - 1)
    p_SK = n_S[:, None] * base_K * (power_ST @ (tw_TK * decay_TK))
    return p_SK / p_SK.sum(axis=1, keepdims=True)  # takes out the step, and the quadrature's last digits


def rejection(proxy_K: Floats, base_K: Floats, tries: Sequence[float], beta: float) -> Floats:
    """[S, K] for rejection sampling from the tilted policy with at most n tries, then one free draw.

    As n grows it becomes `tilt`. Source: Liu et al. (2309.06657), section 3.2, with a limit.
    """
    if not beta > 0:
        raise ConfigError(f"rejection sampling: a beta above 0, not {beta}")
    accepted_K = base_K * np.exp((proxy_K - proxy_K.max()) / beta)
    rate = accepted_K.sum()
    refused_S1 = (1 - rate) ** np.asarray(tries, float)[:, None]
    return (1 - refused_S1) * accepted_K / rate + refused_S1 * base_K


def tilt(proxy_K: Floats, base_K: Floats, betas: Sequence[float]) -> Floats:
    """[S, K] proportional to p0 exp(r / beta). Source: Ziegler et al. (1909.08593); closed form in Korbak et al.
    (2205.11275)."""
    beta_S1 = np.asarray(betas, float)[:, None]
    p_SK = base_K * np.exp((proxy_K - proxy_K[base_K > 0].max()) / beta_S1)
    return p_SK / p_SK.sum(axis=1, keepdims=True)


def chi_squared(proxy_K: Floats, base_K: Floats, betas: Sequence[float]) -> Floats:
    """[S, K] p0 max(0, 1 + (r - nu) / beta), with the nu that makes it sum to 1, found exactly.

    With the m highest rewards in the support, nu = (beta (P_m - 1) + R_m) / P_m, where P and R are running sums of p0
    and p0 r; the support is the largest one whose last member still gets something.
    Source: Laidlaw et al. (2403.03185); Huang et al. (2407.13399).
    """
    order_K = np.argsort(-proxy_K, kind="stable")
    r_K, p_K = proxy_K[order_K] - proxy_K.max(), base_K[order_K]
    mass_K, sum_K = np.cumsum(p_K), np.cumsum(p_K * r_K)
    found_SK = np.empty((len(betas), len(r_K)))
    for s, beta in enumerate(betas):
        with np.errstate(invalid="ignore", divide="ignore"):
            nu_K = (beta * (mass_K - 1) + sum_K) / mass_K
        inside = np.flatnonzero((mass_K > 0) & (beta + r_K - nu_K > 0))
        share_K = p_K * np.maximum(0.0, 1 + (r_K - nu_K[inside[-1]]) / beta)
        found_SK[s, order_K] = share_K / share_K.sum()
    return found_SK


def kl_from_base(p_SK: Floats, base_K: Floats) -> Floats:
    """[S] KL(p || p0) in nats."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(p_SK > 0, p_SK * np.log(p_SK / base_K), 0.0).sum(axis=1)


def best_of_n_kl_bound(n: float) -> float:
    """log n - (n - 1) / n: at least the KL of best of n from any policy, and equal to it where no two answers share a
    reward and none has a probability of its own. Source: Beirami et al. (2401.01879), theorem 3.1."""
    return float(np.log(n) - (n - 1) / n)


def win_weights(gold_K: Floats, base_K: Floats) -> Floats:
    """[K] probability that an answer beats one of the base policy by gold; a tie is one half."""
    _, level_K = np.unique(gold_K, return_inverse=True)
    mass_V = np.bincount(level_K, weights=base_K)
    return (np.cumsum(mass_V) - mass_V / 2)[level_K]
