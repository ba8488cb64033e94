"""A ranking as verdicts on pairs, beside a derivation that counts who is above whom."""

from __future__ import annotations

from itertools import combinations, permutations, product
from random import Random

import pytest

from rewardsmith.errors import DataError
from rewardsmith.refresh.rankings import check_order, check_places, n_pairs, shown, verdicts


def every_ranking(k: int) -> list[tuple[int, ...]]:
    """All weak orders of k answers, as places without gaps."""
    return [places for places in product(range(1, k + 1), repeat=k) if set(places) == set(range(1, max(places) + 1))]


def rankings(k: int) -> list[tuple[int, ...]]:
    """All of them where they are few, else 300 at random."""
    if k <= 5:
        return every_ranking(k)
    draw = Random(k)
    drawn = []
    for _ in range(300):
        raw = [draw.randrange(k) for _ in range(k)]
        rank = {value: place for place, value in enumerate(sorted(set(raw)), 1)}
        drawn.append(tuple(rank[value] for value in raw))
    return drawn


def test_there_are_as_many_rankings_as_weak_orders() -> None:
    assert [len(every_ranking(k)) for k in (2, 3, 4, 5)] == [3, 13, 75, 541]  # Fubini numbers


@pytest.mark.parametrize("k", range(2, 10))
def test_every_ranking_gives_each_pair_the_verdict_of_a_brute_force(k: int) -> None:
    for places in rankings(k):
        check_places(places, k)
        said = dict(zip(combinations(range(k), 2), verdicts(places), strict=True))
        assert len(said) == n_pairs(k) == k * (k - 1) // 2
        # As somebody would who walks from the best place on, and puts all that is there above all that follows.
        above = {(i, j) for place in range(1, k + 1) for i in range(k) if places[i] == place
                 for j in range(k) if places[j] > place}  # fmt: skip
        for (i, j), verdict in said.items():
            assert verdict == ("a" if (i, j) in above else "b" if (j, i) in above else "tie")


@pytest.mark.parametrize("k", range(3, 10))
def test_verdicts_of_a_ranking_are_transitive(k: int) -> None:
    for places in rankings(k):
        said = dict(zip(combinations(range(k), 2), verdicts(places), strict=True))

        def at_least(i: int, j: int, said: dict[tuple[int, int], str] = said) -> bool:
            return said[i, j] in ("a", "tie") if i < j else said[j, i] in ("b", "tie")

        for i, j, m in permutations(range(k), 3):
            if at_least(i, j) and at_least(j, m):
                assert at_least(i, m)
                if not (at_least(j, i) and at_least(m, j)):
                    assert not at_least(m, i), "better by one step is better in all"


@pytest.mark.parametrize("k", [2, 4, 9])
def test_what_stood_left_follows_from_the_order_on_the_screen(k: int) -> None:
    for seed in range(20):
        order = Random(seed).sample(range(k), k)
        check_order(order, k)
        for (a, b), side in zip(combinations(range(k), 2), shown(order), strict=True):
            assert (side == "ab") == (order.index(a) < order.index(b))


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([1, 2, 3], "there are 4 answers, and each has one place"),
        ([1, 2, 3, 4, 5], "there are 4 answers"),
        ([1, 1, 3, 4], "no answer has place 2"),
        ([1, 1, 1, 2**62], "no answer has place 2"),
        ([4, 4, 4, 4], "no answer has place 1"),
        ([2, 3, 4, 5], "no answer has place 1"),
        ([0, 1, 2, 3], "whole numbers from 1"),
        ([1, 2, 3, True], "whole numbers from 1"),
        ([1.0, 2, 3, 4], "whole numbers from 1"),
        ([1, 2, 3, "4"], "whole numbers from 1"),
    ],
)
def test_places_that_are_none(places: list[int], said: str) -> None:
    with pytest.raises(DataError, match=said):
        check_places(places, 4)


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 1, 2, 2], [1, 2, 3, 4], [0, 1, 2, 3, 4]])
def test_orders_that_are_none(order: list[int]) -> None:
    with pytest.raises(DataError, match="name each of the 4 answers once"):
        check_order(order, 4)
