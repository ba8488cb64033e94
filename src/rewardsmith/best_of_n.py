"""Best of n without drawing: what the answer with the highest reward of n is worth, from K scored answers. numpy only.

K  answers of one prompt
S  sizes: values of n
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from rewardsmith.errors import ConfigError
from rewardsmith.statistics import Floats


def rank_weights(k: int, n: int) -> Floats:
    """[K] probability that the i-th lowest of `k` answers is the highest of `n` drawn without replacement.

        w_i = C(i - 1, n - 1) / C(k, n)

    by the recurrence w_k = n / k, w_{i-1} = w_i (i - n) / (i - 1), which stays within floats for any k.
    Source: Nakano et al. (2112.09332), appendix I; Gao et al. (2210.10760), section 2.
    Raises ConfigError where `n` is not in 1 .. k.
    """
    if not 1 <= n <= k:
        raise ConfigError(f"best of {n} from {k} answers: n is from 1 to the number of answers")
    rank_K = np.arange(k, 1, -1)
    return np.cumprod(np.concatenate([[n / k], np.maximum(rank_K - n, 0) / (rank_K - 1)]))[::-1]


def answer_weights(proxy_K: ArrayLike, sizes: Sequence[int]) -> Floats:
    """[S, K] probability of each answer to be the best of n by `proxy_K`, for every n of `sizes`.

    Equal rewards share the mean of their ranks' weights: what breaking ties at random gives on average. Against
    gold values it is an unbiased estimate of best of n among answers like these.
    """
    proxy_K = np.asarray(proxy_K, np.float64)
    weight_SK = np.stack([rank_weights(len(proxy_K), n) for n in sizes])
    order_K = np.argsort(proxy_K, kind="stable")
    _, value_K = np.unique(proxy_K, return_inverse=True)  # numbers of the distinct rewards, rising
    n_V = np.bincount(value_K)
    mean_SV = np.stack([np.bincount(value_K[order_K], weights=weight_K) / n_V for weight_K in weight_SK])
    return mean_SV[:, value_K]


def best_of_n(proxy_K: ArrayLike, gold_K: ArrayLike, sizes: Sequence[int]) -> Floats:
    """[S] expected gold value of the best of n by reward, for every n of `sizes` (each at most K)."""
    return answer_weights(proxy_K, sizes) @ np.asarray(gold_K, np.float64)


def powers_of_two(k: int) -> list[int]:
    """1, 2, 4, ... and `k` itself."""
    return [*(2**i for i in range(k.bit_length()) if 2**i < k), k]
