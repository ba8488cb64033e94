"""What the page's requests do: pairs are given once, labels are kept once, and a mistake is said in words."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest

from rewardsmith.errors import ConfigError, StoreError
from rewardsmith.labelling.app import FILES
from rewardsmith.labelling.desk import Desk, places_by_id, shown_order
from rewardsmith.labelling.run import serve_page
from rewardsmith.labelling.settings import PageLimits
from rewardsmith.refresh.store import Store
from rewardsmith.serving.keys import KeyRing, add_key
from tests.labelling.conftest import add_pairs, add_sets, page_at, plain_pairs
from tests.sockets import Running

KEY = "0123456789abcdef"


def verdict(shown: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The first one on the screen is the best, the next one the second, and so on."""
    k = len(shown["order"])
    body = {"key": KEY, "annotator": "ann", "number": shown["number"], "verdict": "ranked", "order": shown["order"]}
    body |= {"places": list(range(1, k + 1))} if changes.get("verdict", "ranked") == "ranked" else {}
    return body | changes


def next_set(page: Running, annotator: str = "ann", holding: list[int] | None = None) -> Any:
    reply = page.post("/api/next", {"annotator": annotator, "holding": holding or []})
    assert reply.status == 200, reply.body
    return reply.json["set"]


@pytest.mark.parametrize("k", [2, 4, 9])
def test_a_set_shows_texts_and_nothing_of_where_they_come_from(store: Store, k: int) -> None:
    (number,) = add_sets(store, 1, k)
    with page_at(store) as page:
        shown = next_set(page)
    assert set(shown) == {"number", "order", "prompt", "tools", "answers"}
    assert shown["number"] == number
    texts = [turns[0]["content"] for turns in shown["answers"]]
    assert texts == [f"{'abcdefghi'[answer]} of 0" for answer in shown["order"]]
    assert sorted(shown["order"]) == list(range(k))
    assert shown["prompt"] == [{"role": "user", "content": "question 0", "more": {}}]


@pytest.mark.parametrize(("places", "order", "kept"), [
    ([1, 2], [0, 1], [1, 2]), ([1, 2], [1, 0], [2, 1]), ([1, 1], [1, 0], [1, 1]),
    ([1, 3, 1, 2], [3, 1, 0, 2], [1, 3, 2, 1]),
])  # fmt: skip
def test_places_on_the_screen_become_those_of_the_answers(places: list[int], order: list[int], kept: list[int]) -> None:
    assert places_by_id(places, order) == kept


def test_order_is_a_fair_draw_that_stays() -> None:
    def draw() -> list[list[int]]:
        return [shown_order("project", pair, name, 2) for pair in range(2000) for name in ("ann", "bob")]

    shown = draw()
    assert shown == draw()
    assert abs(shown.count([0, 1]) - 2000) < 4 * 1000**0.5  # four standard deviations of 4000 tosses
    differs = sum(a != b for a, b in zip(shown[::2], shown[1::2], strict=True))
    assert abs(differs - 1000) < 4 * 500**0.5, "two people see the same pair in orders that know nothing of each other"


def test_every_order_of_four_is_as_likely() -> None:
    drawn = Counter(tuple(shown_order("project", number, "ann", 4)) for number in range(24 * 400))
    assert len(drawn) == 24
    assert sum((n - 400) ** 2 / 400 for n in drawn.values()) < 49.7  # chi-squared of 23, 0.1%


def test_a_label_is_kept_once_however_often_it_is_sent(store: Store) -> None:
    add_pairs(store, plain_pairs(2))
    with page_at(store) as page:
        pair = next_set(page)
        first = page.post("/api/label", verdict(pair, seconds=1.5, note="short"))
        again = page.post("/api/label", verdict(pair, seconds=1.5, note="short"))
    assert (first.json["fresh"], again.json["fresh"]) == (True, False)
    (label,) = store.labels(undone=True)
    left = "ab"[pair["order"][0]]
    assert (label.annotator, label.verdict, label.shown) == ("ann", left, "ab" if left == "a" else "ba")
    assert (label.seconds, label.note, label.source) == (1.5, "short", "person")
    assert first.json["progress"] == {"total": 2, "labelled": 1, "open": 1, "flagged": 0, "mine": 1}


def test_twenty_racing_for_ten_pairs_get_one_each(store: Store) -> None:
    ids = add_pairs(store, plain_pairs(10))
    found: list[Any] = []
    with page_at(store) as page:
        threads = [
            threading.Thread(target=lambda n=n: found.append(next_set(page, f"annotator {n}"))) for n in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        without = page.post("/api/next", {"annotator": "late", "holding": []}).json
    given = [pair["number"] for pair in found if pair]
    assert sorted(given) == sorted(ids)
    assert found.count(None) == 10
    assert without["set"] is None
    assert without["waiting"], "others hold the last ones"


def test_overlap_is_given_to_so_many_and_no_more(store: Store) -> None:
    (pair,) = add_pairs(store, plain_pairs(1), overlap=2)
    with page_at(store) as page:
        given = [next_set(page, name) for name in ("ann", "bob", "eve")]
        assert [one and one["number"] for one in given] == [pair, pair, None]
        for n, name in enumerate(("ann", "bob")):
            page.post("/api/label", verdict(given[n], annotator=name, key=f"{KEY}{n}"))
        assert page.post("/api/next", {"annotator": "eve", "holding": []}).json["waiting"] is False


def test_pairs_in_hand_are_not_given_again_and_come_back_when_released(store: Store) -> None:
    first, second = add_pairs(store, plain_pairs(2))
    with page_at(store) as page:
        assert next_set(page)["number"] == first
        assert next_set(page)["number"] == first, "a page that was opened anew"
        assert next_set(page, holding=[first])["number"] == second
        assert next_set(page, "bob") is None
        assert page.post("/api/release", {"annotator": "ann", "holding": [second]}).json == {"released": 1}
        assert next_set(page, "bob")["number"] == second
        assert page.post("/api/renew", {"annotator": "ann", "holding": [first, second]}).json == {"held": 1}


def test_a_lease_that_ran_out_goes_to_another_and_both_labels_stay(store: Store) -> None:
    add_pairs(store, plain_pairs(1))
    with page_at(store, limits=PageLimits(lease_seconds=1.0)) as page:
        pair = next_set(page)
        threading.Event().wait(1.1)
        other = next_set(page, "bob")
        assert other["number"] == pair["number"]
        page.post("/api/label", verdict(other, annotator="bob", key=f"{KEY}b"))
        late = page.post("/api/label", verdict(pair))
    assert late.json["fresh"], "nobody's work is lost"
    assert {label.annotator for label in store.labels()} == {"ann", "bob"}


def test_undo_takes_back_the_press_it_names_once(store: Store) -> None:
    add_pairs(store, plain_pairs(1))
    with page_at(store) as page:
        pair = next_set(page)
        page.post("/api/label", verdict(pair))
        undo = {"key": KEY, "annotator": "ann", "number": pair["number"]}
        assert page.post("/api/undo", undo).json["set"]["number"] == pair["number"]
        page.post("/api/label", verdict(pair, places=[1, 1], key=f"{KEY}2"))
        assert page.post("/api/undo", undo).json["set"] is None, "a message that came twice takes back no other label"
        assert page.post("/api/label", verdict(pair)).json["fresh"] is False, "nor does the first label rise again"
    assert [label.verdict for label in store.labels()] == ["tie"]
    assert len(list(store.labels(undone=True))) == 2


@pytest.mark.parametrize(("changes", "status", "words"), [
    ({"verdict": "best"}, 422, "verdict"),
    ({"verdict": "skip", "places": [1, 2]}, 422, "places are given with 'ranked', and with no other verdict"),
    ({"places": None}, 422, "places are given with 'ranked'"),
    ({"places": [1]}, 422, "places"),
    ({"places": [1] * 10}, 422, "places"),
    ({"places": [1, 10]}, 422, "places"),
    ({"places": [1, 3]}, 422, "no answer has place 2"),
    ({"places": [1, 2, 3]}, 422, "there are 2 answers, and each has one place"),
    ({"places": [1, 2, 3], "order": [0, 1, 2]}, 422, "name each of the 2 answers once, as 0 to 1"),
    ({"order": "ab"}, 422, "order"),
    ({"order": [0, 9]}, 422, "order"),
    ({"order": [1, 1]}, 422, "name each of the 2 answers once"),
    ({"number": 10**12}, 422, "number"),
    ({"number": "1; DROP TABLE labels"}, 422, "number"),
    ({"number": 999}, 422, "there is none of that number"),
    ({"annotator": " "}, 422, "a name is needed"),
    ({"annotator": "a\nb"}, 422, "printable"),
    ({"seconds": -1}, 422, "seconds"),
    ({"note": "x" * 20_000}, 422, "note"),
    ({"key": "short"}, 422, "key"),
    ({"extra": 1}, 422, "extra"),
])  # fmt: skip
def test_a_malformed_label_is_refused_in_words_and_changes_nothing(
    store: Store, changes: dict[str, Any], status: int, words: str
) -> None:
    add_pairs(store, plain_pairs(1))
    with page_at(store) as page:
        reply = page.post("/api/label", verdict(next_set(page), **changes))
    assert (reply.status, words in reply.json["error"]["message"]) == (status, True), reply.body
    assert list(store.labels()) == []


def test_other_malformed_requests(store: Store) -> None:
    add_pairs(store, plain_pairs(1))
    with page_at(store, limits=PageLimits(max_body_bytes=2048)) as page:
        good = verdict(next_set(page))
        assert page.post("/api/label", b"{").status == 400
        assert page.post("/api/label", [good]).status == 422
        assert page.post("/api/label", {**good, "note": "x" * 3000}).status == 413
        assert page.get("/api/label").status == 405
        assert page.get("/../desk.py").status == 404
        plain = {"content-type": "text/plain"}  # what a page elsewhere could send without asking first
        assert page.post("/api/label", good, headers=plain).status == 415
        assert page.post("/api/label", good, headers={"host": "evil.example"}).status == 403
        assert list(store.labels()) == []
        assert page.post("/api/label", good).status == 200


def test_headers_of_the_page(store: Store) -> None:
    with page_at(store) as page:
        for path in (*FILES, "/api/hello"):
            reply = page.get(path)
            assert reply.status == 200
            policy = reply.headers["content-security-policy"]
            assert "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'" in policy
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert reply.headers["referrer-policy"] == "no-referrer"


def test_with_keys_the_key_says_who_labels(store: Store, tmp_path: Any) -> None:
    add_pairs(store, plain_pairs(1))
    key = add_key(tmp_path / "keys.txt", "ann")
    with page_at(store, keys=KeyRing((), tmp_path / "keys.txt")) as page:
        assert page.get("/").status == 200
        assert page.get("/api/hello").status == 401
        assert page.get("/api/team").status == 401
        shown = {"authorization": f"Bearer {key}"}
        assert page.get("/api/hello", headers=shown).json["annotator"] == "ann"
        reply = page.post("/api/next", {"annotator": "bob", "holding": []}, headers=shown)
        assert reply.status == 403
        assert reply.json["error"]["message"] == "this key is ann's, not bob's: sign in with the key of bob"
        assert page.post("/api/next", {"annotator": "ann", "holding": []}, headers=shown).status == 200


def test_no_other_address_without_keys(store: Store) -> None:
    with pytest.raises(ConfigError, match="keys are needed, one for each who asks"):
        serve_page(Desk(store, "test"), host="0.0.0.0", port=0)


def test_a_store_that_cannot_be_written_keeps_the_label_in_the_browser(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_pairs(store, plain_pairs(1))

    def full(*_: Any, **__: Any) -> Any:
        raise StoreError("/secret/place.sqlite: the disk is full")

    with page_at(store) as page:
        pair = next_set(page)
        with monkeypatch.context() as broken:
            broken.setattr(store, "record_ranking", full)
            reply = page.post("/api/label", verdict(pair))
        assert (reply.status, reply.headers["retry-after"]) == (503, "2"), "which the page asks again"
        assert "secret" not in reply.json["error"]["message"]
        assert "the disk is full" in capsys.readouterr().err
        assert page.post("/api/label", verdict(pair)).status == 200


def test_agreement_is_that_of_the_pairs_labelled_twice(store: Store) -> None:
    ids = add_pairs(store, plain_pairs(8), overlap=2)
    for n, pair in enumerate(ids):
        store.record_label(pair, "ann", "a" if n % 2 else "b", at=1.0)
        store.record_label(pair, "bob", "a" if n % 2 or n == 0 else "b", at=2.0)
    store.record_label(ids[0], "eve", "skip", at=3.0)
    with page_at(store) as page:
        found = page.get("/api/team").json
    assert found["agreement"]["n_pairs"] == 8
    names = {row["name"]: row["value"] for row in found["agreement"]["measures"]}
    # Seven of eight alike; ann says a 4 times of 8, bob 5: chance is (4 * 5 + 4 * 3) / 64 = 1 / 2.
    assert names["ann and bob (Cohen's kappa, 8 pairs)"] == pytest.approx((7 / 8 - 1 / 2) / (1 / 2))
    assert "all (Krippendorff's alpha)" in names
    assert [(row["name"], row["a"], row["b"], row["skip"]) for row in found["annotators"]] == [
        ("ann", 4, 4, 0), ("bob", 5, 3, 0), ("eve", 0, 0, 1),
    ]  # fmt: skip


def test_lone_surrogates_do_not_break_the_page(store: Store) -> None:
    add_pairs(store, [("a \ud800 b", "x\udfff", "y")])
    with page_at(store) as page:
        assert next_set(page)["prompt"][0]["content"] == "a ? b"


# -- sets -----------------------------------------------------------------------------------------------------------


def test_a_ranking_is_kept_once_as_the_verdicts_of_its_pairs(store: Store) -> None:
    add_sets(store, 2, 4)
    with page_at(store) as page:
        shown = next_set(page)
        ranking = verdict(shown, places=[1, 3, 1, 2], seconds=12.0)
        first, again = page.post("/api/label", ranking), page.post("/api/label", ranking)
    assert (first.json["fresh"], again.json["fresh"]) == (True, False)
    assert first.json["progress"] == {"total": 12, "labelled": 6, "open": 6, "flagged": 0, "mine": 6}
    place = dict(zip(shown["order"], [1, 3, 1, 2], strict=True))
    kept = {label.comparison_id: label for label in store.labels(undone=True)}
    assert sum(label.seconds or 0.0 for label in kept.values()) == pytest.approx(12.0)
    for pair in store.comparisons(sorted(kept)):
        a, b = ("abcd".index(answer.text[0]) for answer in (pair.a, pair.b))
        assert kept[pair.id].verdict == ("tie" if place[a] == place[b] else "a" if place[a] < place[b] else "b")
        assert kept[pair.id].shown == ("ab" if shown["order"].index(a) < shown["order"].index(b) else "ba")


def test_two_who_race_for_one_set(store: Store) -> None:
    (number,) = add_sets(store, 1, 4)
    found: list[Any] = []
    with page_at(store) as page:
        threads = [threading.Thread(target=lambda n=n: found.append(next_set(page, f"person {n}"))) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (shown,) = [one for one in found if one]
        assert (shown["number"], len(shown["answers"])) == (number, 4)
        assert page.post("/api/next", {"annotator": "late", "holding": []}).json["waiting"] is True


def test_a_ranking_that_many_send_at_once_is_one(store: Store) -> None:
    add_sets(store, 1, 9)
    replies: list[Any] = []
    with page_at(store) as page:
        ranking = verdict(next_set(page))
        threads = [threading.Thread(target=lambda: replies.append(page.post("/api/label", ranking))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [reply.status for reply in replies] == [200] * 8
    assert [reply.json["fresh"] for reply in replies].count(True) == 1
    assert len(list(store.labels(undone=True))) == 36


def test_undo_of_a_ranking_is_of_all_of_it(store: Store) -> None:
    (number,) = add_sets(store, 1, 3)
    with page_at(store) as page:
        shown = next_set(page)
        page.post("/api/label", verdict(shown))
        undo = {"key": KEY, "annotator": "ann", "number": number}
        back = page.post("/api/undo", undo).json
        assert (back["set"]["number"], back["set"]["order"]) == (number, shown["order"])
        assert back["progress"]["labelled"] == 0
        assert page.post("/api/undo", undo).json["set"] is None
    assert list(store.labels()) == []


def test_a_pair_of_another_set_is_no_set(store: Store) -> None:
    number, _ = add_sets(store, 2, 3)
    with page_at(store) as page:
        reply = page.post("/api/label", verdict(next_set(page), number=number + 1))
    assert reply.status == 422
    assert reply.json["error"]["message"] == f"comparison {number + 1}: is ranked with others, as set {number}"


def test_agreement_of_rankings_is_that_of_their_pairs(store: Store) -> None:
    for number in add_sets(store, 2, 4, overlap=2):
        store.record_ranking(number, "ann", [1, 2, 3, 4], at=1.0)
        store.record_ranking(number, "bob", [1, 2, 4, 3], at=2.0)
    with page_at(store) as page:
        found = page.get("/api/team").json
    assert found["agreement"]["n_pairs"] == 12
    value = {row["name"]: row["value"] for row in found["agreement"]["measures"]}
    # Ten of twelve alike; ann says a 12 times of 12, bob 10: chance is 10 / 12.
    assert value["ann and bob (Cohen's kappa, 12 pairs)"] == pytest.approx(0.0)
