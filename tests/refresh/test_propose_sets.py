"""Pairs that are widened to sets of answers to rank: whole, within the budget, never twice, and each says why."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import combinations

import pytest

from rewardsmith.refresh.records import Comparison, NewComparison
from rewardsmith.refresh.store import Store
from tests.refresh.test_propose import lite, rated, run, said, words

__all__ = ["lite"]


def sets_of(store: Store) -> dict[int, list[Comparison]]:
    """{number: its pairs}, in the order of the queue."""
    found: dict[int, list[Comparison]] = defaultdict(list)
    for pair in store.open_comparisons():
        found[pair.set_id or pair.id].append(pair)
    return dict(found)


def answers(pairs: list[Comparison]) -> set[int]:
    return {i for pair in pairs for i in (pair.a.id, pair.b.id)}


@pytest.mark.parametrize("k", [2, 3, 4, 9])
def test_the_budget_is_met_in_whole_sets_as_far_as_it_reaches(lite, k):
    said(lite, 60, new=9, base=2)
    each = k * (k - 1) // 2
    found = run(lite, budget=10 * each + 2, answers=k)
    assert found["added"] == 10 * each + 2 == sum(found["kinds"].values()) == lite.counts(1.0).comparisons
    sizes = Counter(len(answers(pairs)) for pairs in sets_of(lite).values())
    assert found["sets"] == {str(size): n for size, n in sorted(sizes.items())}
    assert sizes[k] >= 8, "but for what is left of the shares"
    if k > 2:
        assert sizes[2] <= 2 + len(found["kinds"])
    for pairs in sets_of(lite).values():
        assert {(pair.a.id, pair.b.id) for pair in pairs} == set(combinations(sorted(answers(pairs)), 2))
        assert len({(pair.kind, pair.score, pair.overlap, pair.prompt.id) for pair in pairs}) == 1
        assert (pairs[0].set_id is None) == (len(pairs) == 1)


def test_every_share_has_a_part_also_where_a_set_is_larger(lite):
    said(lite, 40, new=9, base=2)
    found = run(lite, rated(lite, lambda r: float(r.id % 5), lambda r: float(r.id % 3)), budget=100, answers=9)
    assert found["added"] == 100
    assert all(found["kinds"].values()), found["kinds"]
    assert found["warnings"] == []


def test_proposing_sets_again_adds_what_is_missing_and_no_pair_twice(lite):
    said(lite, 30, new=6, base=2)
    assert run(lite, budget=60, answers=4)["added"] == 60
    before = sets_of(lite)
    assert run(lite, budget=60, answers=4)["added"] == 0
    more = run(lite, budget=90, answers=4)
    assert (more["before"], more["added"]) == (60, 30)
    after = sets_of(lite)
    assert {number: answers(after[number]) for number in before} == {n: answers(pairs) for n, pairs in before.items()}
    assert lite.counts(1.0).comparisons == 90


def test_a_pool_that_is_used_up_stays_so(lite):
    said(lite, 6, new=4, base=0)
    first = run(lite, budget=500, answers=4)
    assert first["sets"] == {"4": 6}
    assert any("464 pairs fewer than the budget" in warning for warning in first["warnings"])
    assert run(lite, budget=500, answers=4)["added"] == 0


def test_most_sets_of_a_prompt(lite):
    said(lite, 3, new=9, base=0)
    for most in (1, 2):
        run(lite, budget=500, answers=3, per_prompt=most)
        assert set(Counter(pairs[0].prompt.id for pairs in sets_of(lite).values()).values()) == {most}


def test_a_prompt_with_fewer_answers_gives_a_smaller_set(lite):
    said(lite, 5, new=3, base=0)
    assert run(lite, budget=100, answers=5, per_prompt=1)["sets"] == {"3": 5}


def test_near_repeats_and_pairs_that_are_there_are_left_out_of_a_set(lite):
    def alike(name):  # the third answer nearly repeats the second
        return words(name[:-1] + "1", 30) + " extra" if name.endswith("2") else words(name, 30)

    asked = said(lite, 5, new=5, base=0, text=alike)
    by_prompt = {prompt: [r.id for r in lite.responses() if r.prompt_id == prompt] for prompt in asked}
    # Of the first prompt two answers were compared before.
    first = by_prompt[asked[0]]
    old = NewComparison(prompt_id=asked[0], a_id=first[0], b_id=first[3], round=0, why="before")
    lite.add_comparisons([old], at=0.5)
    run(lite, budget=100, answers=5, per_prompt=1)
    for number, pairs in sets_of(lite).items():
        if pairs[0].why == "before":
            continue
        of = by_prompt[pairs[0].prompt.id]
        assert not {of[1], of[2]} <= answers(pairs), number
        if pairs[0].prompt.id == asked[0]:
            assert not {of[0], of[3]} <= answers(pairs)
            assert len(answers(pairs)) == 3
        else:
            assert len(answers(pairs)) == 4


def test_a_set_says_why_and_for_which_pair(lite):
    said(lite, 10, new=4, base=1)
    rewards = rated(lite, lambda r: float(r.prompt_id) if r.policy == "rl-1" else 0.0)
    run(lite, rewards, budget=12, answers=4, new_new=0, new_base=1, contested=0, random=0)
    for pairs in sets_of(lite).values():
        reasons = Counter(pair.why.partition(":")[0] for pair in pairs)
        (chosen,) = [pair for pair in pairs if "against one of the base policy" in pair.why]
        assert {chosen.a.policy, chosen.b.policy} == {"base", "rl-1"}
        assert reasons["ranked in one set with a pair that was chosen as new-base"] == 5
        assert sum("base" in (pair.a.policy, pair.b.policy) for pair in pairs) == 3, "one answer of the base policy"


def test_sets_that_several_rank(lite):
    said(lite, 60, new=3, base=0)
    found = run(lite, budget=180, answers=3, overlap=3, overlap_share=0.3)
    wanted = [pairs[0].overlap for pairs in sets_of(lite).values()]
    assert 6 <= wanted.count(3) <= 30
    assert found["overlapping"] == 3 * wanted.count(3)
