"""A ranking of the answers that were shown together, as verdicts on the pairs among them.

A ranking gives each answer a place: 1 is the best, answers on one place are a tie. Each pair of answers gets its
verdict from the two places, so that K answers ranked once are K (K - 1) / 2 comparisons (Ouyang et al. 2022,
2203.02155, 3.5).

K  answers, in the order of their ids
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from rewardsmith.errors import DataError
from rewardsmith.refresh.records import Verdict


def n_pairs(n_answers: int) -> int:
    """How many pairs there are among so many answers."""
    return n_answers * (n_answers - 1) // 2


def check_places(places_K: Sequence[int], n_answers: int) -> None:
    """DataError where these are not the places of so many answers: 1, 2, ... with no place left out."""
    said = f"places {list(places_K)}"
    if len(places_K) != n_answers:
        raise DataError(f"{said}: there are {n_answers} answers, and each has one place")
    if not all(isinstance(place, int) and not isinstance(place, bool) and place >= 1 for place in places_K):
        raise DataError(f"{said}: give whole numbers from 1 (the best) on")
    if gaps := set(range(1, len(set(places_K)) + 1)) - set(places_K):
        raise DataError(f"{said}: no answer has place {min(gaps)}; count on from place to place, ties share one")


def check_order(order_K: Sequence[int], n_answers: int) -> None:
    """DataError where this does not say for each answer, from the left on, which one it was (0: the lowest id)."""
    if sorted(order_K) != list(range(n_answers)):
        raise DataError(f"order {list(order_K)}: name each of the {n_answers} answers once, as 0 to {n_answers - 1}")


def verdicts(places_K: Sequence[int]) -> list[Verdict]:
    """The verdict on each pair, in the order of `itertools.combinations`: "a" where the first one's place is better."""
    return ["tie" if a == b else "a" if a < b else "b" for a, b in combinations(places_K, 2)]


def shown(order_K: Sequence[int]) -> list[str]:
    """For each pair, in the same order, which answer stood further left: "ab" or "ba"."""
    stood = {answer: place for place, answer in enumerate(order_K)}
    return ["ab" if stood[a] < stood[b] else "ba" for a, b in combinations(range(len(order_K)), 2)]
