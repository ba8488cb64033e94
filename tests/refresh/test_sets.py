"""Answers that are ranked together, the same tests on SQLite and PostgreSQL: one lease, one ranking, one undo."""

from __future__ import annotations

import multiprocessing
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import pytest

from rewardsmith.errors import DataError
from rewardsmith.refresh.records import NewComparison, NewLabel
from rewardsmith.refresh.store import Store, open_store
from tests.refresh.conftest import fill, fill_sets, set_of

LEASE = {"now": 100.0, "seconds": 60.0}


def held(found: list) -> list[int]:
    return [one.comparison.id for one in found]


def said(store: Store, number: int, annotator: str = "ann") -> dict[tuple[int, int], str]:
    """{(a, b): verdict} of a set, its answers numbered from 0."""
    mine = {pair.id: pair for pair in everything(store) if number in (pair.id, pair.set_id)}
    answers = sorted({i for pair in mine.values() for i in (pair.a.id, pair.b.id)})
    return {
        (answers.index(mine[label.comparison_id].a.id), answers.index(mine[label.comparison_id].b.id)): label.verdict
        for label in store.labels()
        if label.comparison_id in mine and label.annotator == annotator
    }


def everything(store: Store) -> list:
    """All comparisons."""
    n = store.counts(0.0).comparisons
    return store.comparisons(range(1, n + 1))


def test_a_set_is_all_its_pairs_under_one_number(store):
    (number,) = fill_sets(store, [4])
    pairs = everything(store)
    assert [pair.set_id for pair in pairs] == [number] * 6
    assert number == min(pair.id for pair in pairs)
    leased = store.lease_next("ann", **LEASE)
    assert (leased.comparison.id, len(leased.comparisons)) == (number, 6)
    assert [answer.text for answer in leased.answers] == [f"answer {i}" for i in range(4)]
    assert store.counts(100.0).leases == 1


def test_a_set_that_is_there_is_not_added_again(store):
    fill_sets(store, [3])
    before = everything(store)
    fill_sets(store, [3])
    assert everything(store) == before
    # One more answer: two of the pairs were proposed before, so nothing of this set is taken.
    prompt, answers = before[0].prompt.id, sorted({i for pair in before for i in (pair.a.id, pair.b.id)})
    assert store.add_sets([set_of(prompt, answers[:2])], at=2.0) == 0
    assert everything(store) == before


def test_a_pair_is_a_set_by_itself(store):
    (pair,) = fill(store, 1)
    prompt = store.comparison(pair).prompt.id
    assert store.comparison(pair).set_id is None
    assert store.add_sets([[NewComparison(prompt_id=prompt, a_id=1, b_id=2, round=0, why="")]], at=1.0) == 0
    kept = store.record_ranking(pair, "ann", [2, 1], order=[1, 0], at=3.0, seconds=4.0)
    assert (kept.label.verdict, kept.label.shown, kept.label.seconds) == ("b", "ba", 4.0)


def test_what_is_no_set_is_refused_and_nothing_is_kept(store):
    fill_sets(store, [9])
    pairs = everything(store)
    prompt, answers = pairs[0].prompt.id, sorted({i for pair in pairs for i in (pair.a.id, pair.b.id)})
    whole = set_of(prompt, answers[:3])
    fill(store, 1)
    stranger = everything(store)[-1]
    for bad, words in (
        (whole[:2], "all pairs among its answers"),
        ([*whole, whole[0]], "all pairs among its answers"),
        ([], "all pairs among its answers"),
        (whole[:2] + set_of(prompt, answers[1:3], overlap=2), "one overlap"),
        (whole[:2] + set_of(prompt, answers[1:3], score=5.0), "one score"),
        (set_of(prompt, [answers[0], stranger.a.id, stranger.b.id]), "not both of prompt"),
        (set_of(prompt, list(range(1000, 1010))), "at most 9"),
    ):
        with pytest.raises(DataError, match=words):
            store.add_sets([set_of(stranger.prompt.id, [stranger.a.id, stranger.b.id]), bad], at=2.0)
    assert len(everything(store)) == len(pairs) + 1


# -- leases ---------------------------------------------------------------------------------------------------------


def test_a_set_is_leased_whole_and_to_one(store):
    four, three = fill_sets(store, [4, 3])
    assert held(store.lease("ann", n=1, **LEASE)) == [four]
    assert held(store.lease("ben", n=2, **LEASE)) == [three]
    assert store.lease_next("cat", **LEASE) is None
    assert store.held_by_others("cat", now=101.0) == 9
    assert store.renew("ann", [four, three], now=110.0, seconds=60.0) == 1
    assert store.give_back("ben", three) == 1
    assert held(store.lease("ann", n=3, now=111.0, seconds=60.0)) == [four, three]
    assert store.lease_next("cat", now=180.0, seconds=60.0).comparison.id == four, "ann's ran out"


def test_sets_and_pairs_stand_in_one_queue(store):
    pairs = fill(store, 2)  # of scores 2 and 1
    sets = fill_sets(store, [3, 9])
    numbers = held(store.lease("ann", n=9, **LEASE))
    assert sorted(numbers) == sorted(set(pairs) | set(sets))
    assert len(numbers) == 4
    assert numbers[-1] in (pairs[1], sets[-1]), "the lowest score last"


def test_overlap_is_of_the_set(store):
    (number,) = fill_sets(store, [3], overlap=2)
    assert held(store.lease("ann", **LEASE)) == held(store.lease("ben", **LEASE)) == [number]
    assert store.lease_next("cat", **LEASE) is None
    store.record_ranking(number, "ann", [1, 2, 3], at=101.0)
    assert store.lease_next("ann", **LEASE) is None
    assert store.lease_next("cat", **LEASE) is None, "one ranking and one lease are two"
    kept = store.record_ranking(number, "ben", [1, 1, 1], at=102.0)
    assert (kept.given, kept.is_open) == (2, False)
    assert store.counts(103.0).open == 0


def test_a_set_of_which_a_judge_labelled_some_is_ranked_whole(store):
    (number,) = fill_sets(store, [3])
    first, second, third = everything(store)
    store.add_labels([NewLabel(comparison_id=first.id, annotator="judge", verdict="a", at=1.0, source="judge")])
    leased = store.lease_next("ann", **LEASE)
    assert [pair.id for pair in leased.comparisons] == [first.id, second.id, third.id]
    assert store.lease_next("ben", **LEASE) is None
    store.record_ranking(number, "ann", [2, 1, 3], at=101.0)
    assert [pair.given for pair in everything(store)] == [2, 1, 1]
    assert store.lease_next("ben", **LEASE) is None


def rank_all(url: str, annotator: str, start) -> list[int]:
    """What an annotator's process does: lease and rank until nothing is left."""
    done = []
    with open_store(url) as store:
        while (leased := store.lease_next(annotator, now=100.0, seconds=60.0)) is not None:
            if not done:
                start.wait(timeout=30)  # until each holds a set
            store.record_ranking(leased.comparison.id, annotator, range(1, len(leased.answers) + 1), at=101.0)
            done.append(leased.comparison.id)
    return done


def test_annotators_in_processes_of_their_own_never_share_a_set(store, store_url):
    numbers = fill_sets(store, [2, 3, 4, 9] * 6)
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with context.Manager() as manager, context.Pool(3) as pool:
        barrier = manager.Barrier(3)
        done = pool.starmap(rank_all, [(store_url, name, barrier) for name in ("ann", "ben", "cat")])
    assert sorted(i for part in done for i in part) == sorted(numbers), "each set once"
    assert all(done), "each had some"
    labels = list(store.labels())
    assert len(labels) == 6 * (1 + 3 + 6 + 36)
    by_pair = {label.comparison_id: label.annotator for label in labels}
    of_set = {pair.id: pair.set_id or pair.id for pair in everything(store)}
    assert all(len({by_pair[i] for i in by_pair if of_set[i] == number}) == 1 for number in numbers), "one person each"


def test_threads_that_race_for_one_set(store):
    (number,) = fill_sets(store, [4], overlap=2)
    for turn in range(10):
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda name, now=1000.0 * turn: store.lease_next(name, now, 10.0), "abcdef"))
        given = [one for one in found if one]
        assert held(given) == [number, number]
        assert all(len(one.comparisons) == 6 for one in given)


# -- rankings -------------------------------------------------------------------------------------------------------


def test_a_ranking_is_a_label_for_each_pair(store):
    (number,) = fill_sets(store, [4])
    store.lease_next("ann", **LEASE)
    kept = store.record_ranking(number, "ann", [1, 3, 1, 2], order=[2, 0, 3, 1], at=101.0, seconds=12.0, key="k")
    assert (kept.fresh, kept.given, kept.is_open, len(kept.labels)) == (True, 1, False, 6)
    assert said(store, number) == {(0, 1): "a", (0, 2): "tie", (0, 3): "a", (1, 2): "b", (1, 3): "b", (2, 3): "a"}
    labels = list(store.labels())
    assert sum(label.seconds for label in labels) == pytest.approx(12.0)
    stood = {2: 0, 0: 1, 3: 2, 1: 3}
    for label, (a, b) in zip(labels, combinations(range(4), 2), strict=True):
        assert label.shown == ("ab" if stood[a] < stood[b] else "ba")
    assert store.counts(101.0).leases == 0
    groups = list(store.labelled_groups())
    assert len(groups) == 6
    assert Counter(group.preferences[0].is_tie for group in groups) == {False: 5, True: 1}


def test_a_ranking_sent_twice_is_one_also_by_many_at_once(store):
    (number,) = fill_sets(store, [4], overlap=5)

    def send(_: int) -> bool:
        return store.record_ranking(number, "ann", [1, 2, 3, 4], at=1.0, key="one press").fresh

    with ThreadPoolExecutor(8) as pool:
        fresh = list(pool.map(send, range(16)))
    assert fresh.count(True) == 1
    assert len(list(store.labels(undone=True))) == 6
    assert store.record_ranking(number, "ann", [1, 2, 3, 4], at=9.0).fresh is False, "nor said again without a name"


def test_another_ranking_takes_the_place_of_the_first(store):
    (number,) = fill_sets(store, [3])
    store.record_ranking(number, "ann", [1, 2, 3], at=1.0, key="k1")
    changed = store.record_ranking(number, "ann", [3, 2, 1], at=2.0, key="k2")
    assert (changed.fresh, changed.given) == (True, 1)
    assert set(said(store, number).values()) == {"b"}
    assert store.record_ranking(number, "ann", [1, 2, 3], at=3.0, key="k1").fresh is False, "nor does the first rise"
    assert len(list(store.labels())) == 3
    assert len(list(store.labels(undone=True))) == 6


def test_a_key_names_one_ranking_only(store):
    first, second = fill_sets(store, [3, 3])
    store.record_ranking(first, "ann", [1, 2, 3], at=1.0, key="k1")
    for number, who in ((second, "ann"), (first, "ben")):
        with pytest.raises(DataError, match="key 'k1': names a label of ann on another comparison"):
            store.record_ranking(number, who, [1, 2, 3], at=1.0, key="k1")
    assert len(list(store.labels())) == 3


@pytest.mark.parametrize("word", ["skip", "flag"])
def test_skip_and_flag_are_of_the_whole_set(store, word):
    (number,) = fill_sets(store, [4])
    store.lease_next("ann", **LEASE)
    kept = store.record_ranking(number, "ann", word, at=101.0, note="why", key="k")
    assert {(label.verdict, label.note) for label in kept.labels} == {(word, "why")}
    assert store.lease_next("ann", **LEASE) is None
    other = store.lease_next("ben", **LEASE)
    assert (other is None) == (word == "flag")
    assert store.counts(101.0).flagged == (6 if word == "flag" else 0)


def test_undo_takes_the_whole_ranking_back_and_leases_the_set_again(store):
    first, second = fill_sets(store, [4, 3])
    store.record_ranking(first, "ann", [1, 2, 3, 4], at=1.0, key="one")
    store.record_ranking(second, "ann", [1, 1, 1], at=2.0, key="two")
    back = store.undo("ann", now=3.0, seconds=60.0, comparison_id=first, key="one")
    assert (back.comparison.id, len(back.comparisons), back.comparison.is_open) == (first, 6, True)
    assert store.lease_next("ben", now=4.0, seconds=60.0) is None, "leased to ann again"
    assert store.undo("ann", now=4.0, seconds=60.0, comparison_id=first, key="one") is None, "once"
    assert store.undo("ann", now=5.0, seconds=60.0).comparison.id == second
    counts = store.counts(5.0)
    assert (counts.labels, counts.undone, counts.open, counts.leases) == (0, 9, 9, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"said": [1, 2, 3]}, "there are 4 answers"),
        ({"said": [1, 1, 3, 3]}, "no answer has place 2"),
        ({"said": [0, 1, 2, 3]}, "whole numbers from 1"),
        ({"said": "tie"}, "ranking 'tie': give a place for each answer, or skip or flag"),
        ({"order": [0, 1, 2]}, "name each of the 4 answers once"),
        ({"order": [0, 1, 2, 4]}, "name each of the 4 answers once"),
        ({"number": 999}, "comparison 999: there is none of that number"),
        ({"number": 2}, "comparison 2: is ranked with others, as set 1"),
        ({"annotator": " "}, "a name is needed"),
        ({"seconds": -1.0}, "seconds"),
    ],
)
def test_what_is_no_ranking_is_refused_in_words_and_changes_nothing(store, change, words):
    fill_sets(store, [4])
    good = {"number": 1, "annotator": "ann", "said": [1, 2, 3, 4], "at": 1.0}
    with pytest.raises(DataError, match=words) as error:
        store.record_ranking(**{**good, **change})
    assert "\n" not in str(error.value)
    assert list(store.labels()) == []
