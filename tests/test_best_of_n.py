"""Best of n in closed form against counting every subset."""

from __future__ import annotations

from itertools import combinations, permutations
from math import comb

import numpy as np
import pytest

from rewardsmith.best_of_n import answer_weights, best_of_n, powers_of_two, rank_weights
from rewardsmith.errors import ConfigError


@pytest.mark.parametrize("k", [1, 2, 7, 40])
def test_weights_are_the_binomials(k: int) -> None:
    for n in range(1, k + 1):
        exact = [comb(i - 1, n - 1) / comb(k, n) for i in range(1, k + 1)]
        assert rank_weights(k, n) == pytest.approx(exact, rel=1e-12)


def test_weights_of_many_answers_stay_finite() -> None:
    weights = rank_weights(20_000, 3_000)
    assert np.isfinite(weights).all()
    assert weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("n", range(1, 6))
def test_is_the_mean_over_all_subsets(n: int) -> None:
    draw = np.random.default_rng(n)
    proxy, gold = draw.normal(size=5), draw.normal(size=5)
    picked = [gold[max(inside, key=lambda k: proxy[k])] for inside in combinations(range(5), n)]
    assert best_of_n(proxy, gold, [n])[0] == pytest.approx(np.mean(picked))


@pytest.mark.parametrize("n", range(1, 6))
def test_ties_are_broken_at_random(n: int) -> None:
    """The mean over all orders in which equal rewards may be sorted, of the weights by rank."""
    proxy, gold = np.array([1.0, 0.0, 1.0, 1.0, 0.0]), np.array([3.0, -1.0, 0.5, 2.0, 7.0])
    orders = [order for order in permutations(range(5)) if (np.diff(proxy[list(order)]) >= 0).all()]
    exact = np.mean([rank_weights(5, n) @ gold[list(order)] for order in orders])
    assert best_of_n(proxy, gold, [n])[0] == pytest.approx(exact)


def test_gold_goes_with_its_own_answer() -> None:
    """The largest n picks the one answer with the highest reward, wherever it is in the list."""
    proxy, gold = [0.2, 9.0, -1.0], [10.0, 20.0, 30.0]
    assert best_of_n(proxy, gold, [1, 3]).tolist() == pytest.approx([20.0, 20.0])
    assert answer_weights(proxy, [3])[0].tolist() == pytest.approx([0, 1, 0])
    assert best_of_n([0, 0, 0], gold, [1, 2, 3]).tolist() == pytest.approx([20.0] * 3)


def test_sizes() -> None:
    assert powers_of_two(1) == [1]
    assert powers_of_two(8) == [1, 2, 4, 8]
    assert powers_of_two(42) == [1, 2, 4, 8, 16, 32, 42]
    for k, n in ((3, 4), (3, 0), (0, 1)):
        with pytest.raises(ConfigError, match=f"best of {n} from {k}"):
            rank_weights(k, n)
