"""What the page's requests do: pairs are given once, labels are kept once, and a mistake is said in words."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest

from rewardsmith.errors import ConfigError, StoreError
from rewardsmith.labelling.desk import Desk, shown_order, stored_verdict
from rewardsmith.labelling.run import serve_page
from rewardsmith.labelling.settings import PageLimits
from rewardsmith.refresh.store import Store
from rewardsmith.serving.keys import KeyRing, add_key
from tests.labelling.conftest import add_pairs, page_at, plain_pairs
from tests.sockets import Running

KEY = "0123456789abcdef"


def verdict(pair: dict[str, Any], **changes: Any) -> dict[str, Any]:
    body = {"key": KEY, "annotator": "ann", "comparison": pair["comparison"], "verdict": "left", "shown": pair["shown"]}
    return body | changes


def next_pair(page: Running, annotator: str = "ann", holding: list[int] | None = None) -> Any:
    reply = page.post("/api/next", {"annotator": annotator, "holding": holding or []})
    assert reply.status == 200, reply.body
    return reply.json["pair"]


def test_a_pair_shows_texts_and_nothing_of_where_they_come_from(store: Store) -> None:
    add_pairs(store, plain_pairs(1))
    with page_at(store) as page:
        pair = next_pair(page)
    assert set(pair) == {"comparison", "shown", "prompt", "tools", "left", "right"}
    sides = (
        {"a": pair["left"], "b": pair["right"]} if pair["shown"] == "ab" else {"b": pair["left"], "a": pair["right"]}
    )
    assert {side: turns[0]["content"] for side, turns in sides.items()} == {"a": "a of 0", "b": "b of 0"}
    assert pair["prompt"] == [{"role": "user", "content": "question 0", "more": {}}]


@pytest.mark.parametrize(("shown", "word", "kept"), [
    ("ab", "left", "a"), ("ab", "right", "b"), ("ba", "left", "b"), ("ba", "right", "a"), ("ba", "tie", "tie"),
    ("ab", "skip", "skip"), ("ab", "flag", "flag"),
])  # fmt: skip
def test_sides_become_answers(shown: str, word: str, kept: str) -> None:
    assert stored_verdict(word, shown) == kept


def test_order_is_a_fair_coin_that_stays() -> None:
    shown = [shown_order("project", pair, name) for pair in range(2000) for name in ("ann", "bob")]
    assert shown == [shown_order("project", pair, name) for pair in range(2000) for name in ("ann", "bob")]
    assert abs(Counter(shown)["ab"] - 2000) < 4 * 1000**0.5  # four standard deviations of 4000 tosses
    differs = sum(a != b for a, b in zip(shown[::2], shown[1::2], strict=True))
    assert abs(differs - 1000) < 4 * 500**0.5, "two people see the same pair in orders that know nothing of each other"


def test_a_label_is_kept_once_however_often_it_is_sent(store: Store) -> None:
    add_pairs(store, plain_pairs(2))
    with page_at(store) as page:
        pair = next_pair(page)
        first = page.post("/api/label", verdict(pair, seconds=1.5, note="short"))
        again = page.post("/api/label", verdict(pair, seconds=1.5, note="short"))
    assert (first.json["fresh"], again.json["fresh"]) == (True, False)
    (label,) = store.labels(undone=True)
    assert (label.annotator, label.verdict, label.shown) == ("ann", pair["shown"][0], pair["shown"])
    assert (label.seconds, label.note, label.source) == (1.5, "short", "person")
    assert first.json["progress"] == {"total": 2, "labelled": 1, "open": 1, "flagged": 0, "mine": 1}


def test_twenty_racing_for_ten_pairs_get_one_each(store: Store) -> None:
    ids = add_pairs(store, plain_pairs(10))
    found: list[Any] = []
    with page_at(store) as page:
        threads = [
            threading.Thread(target=lambda n=n: found.append(next_pair(page, f"annotator {n}"))) for n in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        without = page.post("/api/next", {"annotator": "late", "holding": []}).json
    given = [pair["comparison"] for pair in found if pair]
    assert sorted(given) == sorted(ids)
    assert found.count(None) == 10
    assert without["pair"] is None
    assert without["waiting"], "others hold the last ones"


def test_overlap_is_given_to_so_many_and_no_more(store: Store) -> None:
    (pair,) = add_pairs(store, plain_pairs(1), overlap=2)
    with page_at(store) as page:
        given = [next_pair(page, name) for name in ("ann", "bob", "eve")]
        assert [one and one["comparison"] for one in given] == [pair, pair, None]
        for n, name in enumerate(("ann", "bob")):
            page.post("/api/label", verdict(given[n], annotator=name, key=f"{KEY}{n}"))
        assert page.post("/api/next", {"annotator": "eve", "holding": []}).json["waiting"] is False


def test_pairs_in_hand_are_not_given_again_and_come_back_when_released(store: Store) -> None:
    first, second = add_pairs(store, plain_pairs(2))
    with page_at(store) as page:
        assert next_pair(page)["comparison"] == first
        assert next_pair(page)["comparison"] == first, "a page that was opened anew"
        assert next_pair(page, holding=[first])["comparison"] == second
        assert next_pair(page, "bob") is None
        assert page.post("/api/release", {"annotator": "ann", "holding": [second]}).json == {"released": 1}
        assert next_pair(page, "bob")["comparison"] == second
        assert page.post("/api/renew", {"annotator": "ann", "holding": [first, second]}).json == {"held": 1}


def test_a_lease_that_ran_out_goes_to_another_and_both_labels_stay(store: Store) -> None:
    add_pairs(store, plain_pairs(1))
    with page_at(store, limits=PageLimits(lease_seconds=1.0)) as page:
        pair = next_pair(page)
        threading.Event().wait(1.1)
        other = next_pair(page, "bob")
        assert other["comparison"] == pair["comparison"]
        page.post("/api/label", verdict(other, annotator="bob", key=f"{KEY}b"))
        late = page.post("/api/label", verdict(pair))
    assert late.json["fresh"], "nobody's work is lost"
    assert {label.annotator for label in store.labels()} == {"ann", "bob"}


def test_undo_takes_back_the_press_it_names_once(store: Store) -> None:
    add_pairs(store, plain_pairs(1))
    with page_at(store) as page:
        pair = next_pair(page)
        page.post("/api/label", verdict(pair))
        undo = {"key": KEY, "annotator": "ann", "comparison": pair["comparison"]}
        assert page.post("/api/undo", undo).json["pair"]["comparison"] == pair["comparison"]
        page.post("/api/label", verdict(pair, verdict="tie", key=f"{KEY}2"))
        assert page.post("/api/undo", undo).json["pair"] is None, "a message that came twice takes back no other label"
        assert page.post("/api/label", verdict(pair)).json["fresh"] is False, "nor does the first label rise again"
    assert [label.verdict for label in store.labels()] == ["tie"]
    assert len(list(store.labels(undone=True))) == 2


@pytest.mark.parametrize(("changes", "status", "words"), [
    ({"verdict": "best"}, 422, "verdict"),
    ({"shown": "xy"}, 422, "shown"),
    ({"comparison": 10**12}, 422, "comparison"),
    ({"comparison": "1; DROP TABLE labels"}, 422, "comparison"),
    ({"comparison": 999}, 422, "there is none of that number"),
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
        reply = page.post("/api/label", verdict(next_pair(page), **changes))
    assert (reply.status, words in reply.json["error"]["message"]) == (status, True), reply.body
    assert list(store.labels()) == []


def test_other_malformed_requests(store: Store) -> None:
    add_pairs(store, plain_pairs(1))
    with page_at(store, limits=PageLimits(max_body_bytes=2048)) as page:
        good = verdict(next_pair(page))
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
        for path in ("/", "/label.js", "/outbox.js", "/markdown.js", "/label.css", "/api/hello"):
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
    with pytest.raises(ConfigError, match="each annotator needs a key"):
        serve_page(Desk(store, "test"), host="0.0.0.0", port=0)


def test_a_store_that_cannot_be_written_keeps_the_label_in_the_browser(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_pairs(store, plain_pairs(1))

    def full(*_: Any, **__: Any) -> Any:
        raise StoreError("/secret/place.sqlite: the disk is full")

    with page_at(store) as page:
        pair = next_pair(page)
        with monkeypatch.context() as broken:
            broken.setattr(store, "record_label", full)
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
        assert next_pair(page)["prompt"][0]["content"] == "a ? b"
