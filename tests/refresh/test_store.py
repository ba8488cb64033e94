"""The store, the same tests on SQLite and PostgreSQL."""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from rewardsmith.data.schema import Message
from rewardsmith.errors import DataError, StoreError
from rewardsmith.refresh.records import NewComparison, NewLabel, NewPrompt, NewResponse
from rewardsmith.refresh.store import open_store
from tests.refresh.conftest import fill, turns

LEASE = {"now": 100.0, "seconds": 60.0}


def test_what_is_there_is_not_added_again(store):
    ids = fill(store, 3)
    before = store.counts(0.0)
    assert fill(store, 3) == ids
    assert store.counts(0.0) == before
    assert (before.prompts, before.responses, before.comparisons, before.open) == (3, 6, 3, 3)


def test_ids_come_in_the_order_given_and_repeats_are_one(store):
    texts = ["b", "a", "b", "c", "a"]
    added = store.add_prompts(NewPrompt(messages=turns(text)) for text in texts)
    assert added.new == 3
    assert [prompt.messages[0].content for prompt in store.prompts()] == ["b", "a", "c"]
    by_id = {prompt.id: prompt.messages[0].content for prompt in store.prompts()}
    assert [by_id[i] for i in added.ids] == texts


def test_more_rows_than_one_transaction_takes(store):
    prompt = store.add_prompts([NewPrompt(messages=turns("q"))]).ids[0]
    rows = [
        NewResponse(prompt_id=prompt, messages=turns(f"answer {i % 1500}", "assistant"), policy="base", round=0)
        for i in range(2500)
    ]
    added = store.add_responses(rows)
    assert (added.new, len(added.ids)) == (1500, 2500)
    assert added.ids[:1000] == added.ids[1500:]
    assert [r.text for r in store.responses()] == [f"answer {i}" for i in range(1500)]


def test_messages_come_back_as_they_were(store):
    odd = (
        Message("system", "be\x00 kind"),
        Message("user", "lone \ud800 surrogate, emoji \U0001f600, 'quotes\" and \\u0000"),
        Message("assistant", "", {"tool_calls": [{"id": 1}]}),
    )
    tools = [{"type": "function", "function": {"name": "f"}}]
    prompt = store.add_prompts([NewPrompt(messages=odd, tags={"subset": "x"}, tools=tools)]).ids[0]
    plain = store.add_prompts([NewPrompt(messages=odd)]).ids[0]
    assert prompt != plain
    found = {p.id: p for p in store.prompts()}
    assert found[prompt].messages == found[plain].messages == odd
    assert (found[prompt].tools, found[prompt].tags, found[plain].tools) == (tools, {"subset": "x"}, None)


def test_a_response_that_two_policies_say_is_one_drawn_twice(store):
    prompt = store.add_prompts([NewPrompt(messages=turns("q"))]).ids[0]

    def said(text, policy, round):
        return NewResponse(prompt_id=prompt, messages=turns(text, "assistant"), policy=policy, round=round)

    same = store.add_responses(
        [said("x", "base", 0), said("y", "base", 0), said("x", "new", 1), said("z", "new", 1)]
    ).ids
    assert same[0] == same[2]
    assert [r.text for r in store.responses(policy="new")] == ["x", "z"]
    assert [r.text for r in store.responses(round=0)] == ["x", "y"]
    assert store.policies() == [
        {"policy": "base", "round": 0, "responses": 2},
        {"policy": "new", "round": 1, "responses": 2},
    ]
    assert store.last_round() == 1


def test_rewards_are_kept_per_model(store):
    fill(store, 2)
    store.add_model("one", path="m", artifact_hash="h", round=0, at=1.0)
    ids = [r.id for r in store.unscored("one")]
    assert len(ids) == 4
    assert store.set_scores("one", {ids[0]: (1.5, None), ids[1]: (-2.0, 0.25)}) == 2
    assert store.set_scores("one", {ids[0]: (9.0, None)}) == 0
    assert store.scores("one") == {ids[0]: (1.5, None), ids[1]: (-2.0, 0.25)}
    assert store.scores("one", ids[1:]) == {ids[1]: (-2.0, 0.25)}
    assert [r.id for r in store.unscored("one")] == ids[2:]
    with pytest.raises(DataError, match="no model is named 'two'"):
        store.set_scores("two", {ids[0]: (1.0, None)})


def test_a_pair_is_one_whichever_way_round(store):
    fill(store, 1)
    pair = store.open_comparisons()[0]
    turned = NewComparison(prompt_id=pair.prompt.id, a_id=pair.b.id, b_id=pair.a.id, round=5, why="again")
    again = store.add_comparisons([turned], at=2.0)
    assert (again.ids, again.new) == ([pair.id], 0)
    assert store.comparison(pair.id) == pair


def test_pairs_that_make_no_sense_are_refused_whole(store):
    fill(store, 2)
    first, second = store.open_comparisons()
    for a, b, said in (
        (first.a.id, first.a.id, "with itself"),
        (first.a.id, second.a.id, "not both of prompt"),
        (first.a.id, 999, "not both of prompt"),
    ):
        with pytest.raises(DataError, match=said):
            store.add_comparisons([NewComparison(prompt_id=first.prompt.id, a_id=a, b_id=b, round=0, why="")], at=2.0)
    assert store.counts(0.0).comparisons == 2


# -- leases ---------------------------------------------------------------------------------------------------------


def test_a_lease_holds_until_it_runs_out(store):
    ids = fill(store, 2)
    assert store.lease_next("ann", **LEASE).comparison.id == ids[0]
    assert store.lease_next("ann", **LEASE).comparison.id == ids[0], "asking again gives the same pair"
    assert store.lease_next("ben", **LEASE).comparison.id == ids[1]
    assert store.lease_next("cat", **LEASE) is None
    assert store.lease_next("cat", now=161.0, seconds=60.0).comparison.id == ids[0]
    assert store.counts(161.0).leases == 1


def test_several_at_once_and_given_back(store):
    ids = fill(store, 4)
    assert [one.comparison.id for one in store.lease("ann", n=3, **LEASE)] == ids[:3]
    assert [one.comparison.id for one in store.lease("ben", n=3, **LEASE)] == ids[3:]
    assert store.give_back("ann", ids[1]) == 1
    assert {one.comparison.id for one in store.lease("ben", n=3, **LEASE)} == {ids[1], ids[3]}


def test_overlap_is_on_purpose_and_bounded(store):
    (pair,) = fill(store, 1, overlap=2)
    assert store.lease_next("ann", **LEASE).comparison.id == pair
    assert store.lease_next("ben", **LEASE).comparison.id == pair
    assert store.lease_next("cat", **LEASE) is None
    store.record_label(pair, "ann", "a", at=101.0)
    assert store.lease_next("ann", **LEASE) is None, "nobody labels a pair twice"
    assert store.lease_next("cat", **LEASE) is None, "one label and one lease are two"
    assert store.record_label(pair, "ben", "b", at=102.0).is_open is False
    assert store.lease_next("cat", **LEASE) is None


def label_all(url: str, annotator: str, start) -> list[int]:
    """What an annotator's process does: lease and label until nothing is left."""
    done = []
    with open_store(url) as store:
        while (leased := store.lease_next(annotator, now=100.0, seconds=60.0)) is not None:
            if not done:
                start.wait(timeout=30)  # until each holds a pair
            store.record_label(leased.comparison.id, annotator, "a", at=101.0)
            done.append(leased.comparison.id)
    return done


def test_annotators_in_processes_of_their_own_never_share_a_pair(store, store_url):
    ids = fill(store, 40)
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with context.Manager() as manager, context.Pool(3) as pool:
        barrier = manager.Barrier(3)
        done = pool.starmap(label_all, [(store_url, name, barrier) for name in ("ann", "ben", "cat")])
    assert sorted(i for part in done for i in part) == sorted(ids), "each pair once"
    assert all(done), "each had some"
    assert store.counts(101.0).labels == 40


def test_threads_that_race_for_one_pair(store):
    (pair,) = fill(store, 1, overlap=2)
    for turn in range(10):
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda name, now=1000.0 * turn: store.lease_next(name, now, 10.0), "abcdef"))
        assert [one.comparison.id for one in found if one] == [pair, pair]


# -- labels ---------------------------------------------------------------------------------------------------------


def test_a_label_sent_twice_is_one(store):
    pair, _ = fill(store, 2)
    first = store.record_label(pair, "ann", "a", at=1.0, key="k1")
    again = store.record_label(pair, "ann", "a", at=9.0, key="k1")
    assert (first.fresh, again.fresh) == (True, False)
    assert first.label == again.label
    assert store.record_label(pair, "ann", "a", at=9.0).fresh is False
    assert len(list(store.labels())) == 1


def test_a_repeat_that_comes_after_an_undo_changes_nothing(store):
    pair, _ = fill(store, 2)
    store.record_label(pair, "ann", "a", at=1.0, key="k1")
    store.undo("ann", now=2.0, seconds=60.0)
    store.record_label(pair, "ann", "b", at=3.0, key="k2")
    assert store.record_label(pair, "ann", "a", at=4.0, key="k1").fresh is False
    assert [(label.verdict, label.undone_at) for label in store.labels(undone=True)] == [("a", 2.0), ("b", None)]


def test_a_key_names_one_label_only(store):
    first, second = fill(store, 2)
    store.record_label(first, "ann", "a", at=1.0, key="k1")
    with pytest.raises(DataError, match="another comparison"):
        store.record_label(second, "ann", "a", at=1.0, key="k1")


def test_another_verdict_takes_the_place_of_the_first(store):
    (pair,) = fill(store, 1)
    store.record_label(pair, "ann", "a", at=1.0)
    changed = store.record_label(pair, "ann", "tie", at=2.0)
    assert changed.given == 1
    assert [(label.verdict, label.undone_at) for label in store.labels(undone=True)] == [("a", 2.0), ("tie", None)]


def test_many_labels_at_once(store):
    first, second, third = fill(store, 3, overlap=2)

    def label(pair, annotator, verdict):
        return NewLabel(comparison_id=pair, annotator=annotator, verdict=verdict, at=1.0, source="judge")

    rows = [label(first, "x", "a"), label(first, "y", "tie"), label(second, "x", "skip"), label(third, "x", "flag")]
    assert store.add_labels(rows) == 4
    assert store.add_labels([*rows, label(first, "x", "b")]) == 0, "what an annotator said stays"
    found = {pair.id: (pair.given, pair.flags, pair.is_open) for pair in store.comparisons([first, second, third])}
    assert found == {first: (2, 0, False), second: (0, 0, True), third: (0, 1, False)}
    with pytest.raises(DataError, match="comparison 99"):
        store.add_labels([label(second, "z", "a"), label(99, "z", "a")])
    assert store.counts(1.0).labels == 4


def test_undo_gives_the_pair_back_to_its_annotator(store):
    ids = fill(store, 2)
    assert store.undo("ann", now=1.0, seconds=60.0) is None
    store.record_label(ids[0], "ann", "a", at=100.0)
    store.record_label(ids[1], "ann", "b", at=101.0)
    back = store.undo("ann", now=102.0, seconds=60.0)
    assert (back.comparison.id, back.comparison.is_open) == (ids[1], True)
    assert store.lease_next("ben", **LEASE) is None, "leased to ann again"
    assert store.undo("ann", now=103.0, seconds=60.0).comparison.id == ids[0]
    counts = store.counts(103.0)
    assert (counts.labels, counts.undone, counts.open) == (0, 2, 2)


def test_skip_hides_a_pair_from_one_and_flag_from_all(store):
    first, second = fill(store, 2)
    assert store.record_label(first, "ann", "skip", at=1.0).is_open
    assert not store.record_label(second, "ann", "flag", at=2.0).is_open
    assert store.lease_next("ann", **LEASE) is None
    assert store.lease_next("ben", **LEASE).comparison.id == first
    store.record_label(second, "ben", "a", at=3.0)
    assert [g.source for g in store.labelled_groups()] == []
    store.undo("ann", now=4.0, seconds=60.0, comparison_id=second)
    assert [g.source for g in store.labelled_groups()] == [f"comparison:{second}"]


def test_a_late_label_is_kept(store):
    (pair,) = fill(store, 1)
    store.lease_next("ann", now=0.0, seconds=10.0)
    store.lease_next("ben", now=20.0, seconds=10.0)
    store.record_label(pair, "ben", "a", at=25.0)
    assert store.record_label(pair, "ann", "b", at=26.0).given == 2
    (group,) = store.labelled_groups()
    assert group.preferences[0].is_tie


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"verdict": "left"}, "verdict 'left'"),
        ({"annotator": "  "}, "annotator: a name is needed"),
        ({"annotator": "a\x00b"}, "printable"),
        ({"at": float("nan")}, "at nan"),
        ({"seconds": -1.0}, "seconds -1.0"),
        ({"shown": "left"}, "shown 'left'"),
        ({"source": "robot"}, "source 'robot'"),
        ({"note": "x" * 20_000}, "note"),
        ({"comparison_id": 999}, "comparison 999"),
    ],
)
def test_what_is_no_label_is_refused(store, change, said):
    (pair,) = fill(store, 1)
    with pytest.raises(DataError, match=said):
        store.record_label(**{"comparison_id": pair, "annotator": "ann", "verdict": "a", "at": 1.0, **change})
    assert store.counts(1.0).labels == 0


def test_labels_as_groups(store):
    first, second, _ = fill(store, 3, overlap=3)
    for name, verdict in (("ann", "b"), ("ben", "b"), ("cat", "tie"), ("dan", "skip")):
        store.record_label(first, name, verdict, at=1.0, note="why \x00 not")
    store.record_label(second, "gold", "a", at=1.0, source="gold")
    group, other = store.labelled_groups()
    assert [r[0].content for r in group.responses] == ["answer x", "answer y"]
    preference = group.preferences[0]
    assert (preference.chosen, preference.rejected) == (1, 0)
    assert preference.probability == pytest.approx(2.5 / 3)
    assert preference.votes == (1.0, 1.0, 0.5)
    assert group.tags == {"round": "0", "kind": "new-new", "policy_a": "base", "policy_b": "base"}
    assert (group.source, group.note) == (f"comparison:{first}", "both are new")
    assert [g.source for g in store.labelled_groups(sources=["gold"])] == [other.source]
    assert list(store.labelled_groups(rounds=[7])) == []


def test_counts(store):
    ids = fill(store, 3, overlap=2)
    store.record_label(ids[0], "ann", "a", at=1.0)
    store.record_label(ids[0], "judge", "b", at=1.0, source="judge")
    store.record_label(ids[1], "ann", "flag", at=1.0)
    found = store.counts(1.0)
    assert (found.comparisons, found.open, found.labelled, found.flagged, found.labels) == (3, 1, 1, 1, 3)
    assert found.rounds == {0: {"comparisons": 3, "open": 1, "labelled": 1, "flagged": 1}}
    assert found.kinds == {"new-new": {"comparisons": 3, "open": 1, "labelled": 1, "flagged": 1}}
    assert found.annotators["ann"] == {"a": 1, "b": 0, "tie": 0, "skip": 0, "flag": 1}
    assert found.sources == {"person": 2, "judge": 1}


# -- models ---------------------------------------------------------------------------------------------------------


def test_models_gates_and_releases(store):
    assert store.current_release() is None
    store.add_model("r0", path="models/r0", artifact_hash="h0", round=0, at=1.0)
    model = store.add_model("r1", path="models/r1", artifact_hash="h1", round=1, at=2.0, parent="r0", details={"n": 5})
    assert store.model("r1") == model
    assert store.add_model("r1", path="models/r1", artifact_hash="h1", round=1, at=3.0) == model
    with pytest.raises(DataError, match="another artifact"):
        store.add_model("r1", path="models/r1", artifact_hash="other", round=1, at=3.0)
    store.add_gate("r1", passed=False, figures={"accuracy": 0.5}, at=3.0)
    store.add_gate("r1", passed=True, figures={"accuracy": 0.7}, at=4.0)
    assert [(g.model, g.passed, g.figures["accuracy"]) for g in store.gates("r1")] == [
        ("r1", False, 0.5),
        ("r1", True, 0.7),
    ]
    assert store.gates("r0") == []
    store.add_release("r0", manifest_hash="m0", at=5.0)
    store.add_release("r1", manifest_hash="m1", at=6.0)
    back = store.add_release("r0", manifest_hash="m0", at=7.0, note="rollback")
    assert store.current_release() == back
    store.add_release("r1", manifest_hash="m1", at=6.5, seq=2)  # by two at once
    assert [(r.seq, r.model) for r in store.releases()] == [(1, "r0"), (2, "r1"), (3, "r0")]
    with pytest.raises(DataError, match="no model is named 'r9'"):
        store.add_release("r9", manifest_hash="m", at=8.0)


def test_named_values(store):
    assert store.value("reference") is None
    store.set_value("reference", "1")
    store.set_value("reference", "2")
    assert store.value("reference") == "2"


def test_a_reference_to_nothing_is_one_line(store):
    with pytest.raises(StoreError, match=r"(?i)foreign key"):
        store.add_responses([NewResponse(prompt_id=5, messages=turns("x"), policy="p", round=0)])
    assert store.counts(0.0).responses == 0
