"""More than two answers on the page, in a real headless Chromium: ranked by keys, by finger, undone, resent."""

from __future__ import annotations

import time
from typing import Any

import pytest

from rewardsmith.data.schema import Message
from rewardsmith.refresh.records import NewComparison, NewPrompt, NewResponse
from rewardsmith.refresh.store import Store
from tests.labelling.conftest import add_pairs, add_sets, page_at
from tests.labelling.test_page import (
    CONTRAST,
    ELEMENTS,
    HOSTILE,
    browser,
    opened,
    pressed,
    pytestmark,
    ready,
    sent,
    verdicts,
)

__all__ = ["browser", "pytestmark"]


def letters(view: Any) -> str:
    """The letters that the answers begin with, from the left on."""
    return "".join(str(text)[0] for text in view.locator("#answers .answer > div:last-child").all_inner_texts())


def kept(store: Store) -> dict[str, str]:
    """{"ab": verdict, ...} of all pairs with a label that holds; both letters as the answers begin."""
    live = list(store.labels())
    pairs = store.comparisons([label.comparison_id for label in live])
    return {pair.a.text[0] + pair.b.text[0]: label.verdict for pair, label in zip(pairs, live, strict=True)}


def derived(groups: list[str]) -> dict[str, str]:
    """The same of a ranking, by hand: groups of letters, the best first."""
    place = {letter: n for n, group in enumerate(groups) for letter in group}
    every = sorted(place)
    return {
        a + b: "tie" if place[a] == place[b] else "a" if place[a] < place[b] else "b"
        for n, a in enumerate(every)
        for b in every[n + 1 :]
    }


def test_four_answers_by_keys(browser: Any, store: Store) -> None:
    add_sets(store, 2, 4)
    with page_at(store) as page, opened(browser, page) as view:
        seen = letters(view)
        assert sorted(seen) == list("abcd")
        so_far = view.locator("#so-far")
        assert view.get_by_role("heading", level=1).inner_text() == "Rank the answers, best first"
        view.keyboard.press("=")
        view.get_by_role("status").get_by_text("Pick an answer first").wait_for()
        for key, text in (
            ("3", "3 > … (left: 1, 2, 4)"),
            ("=", "3 = … (left: 1, 2, 4)"),
            ("=", "3 > … (left: 1, 2, 4)"),
            ("1", "3 > 1 > … (left: 2, 4)"),
            ("0", "3 > 1 = … (left: 2, 4)"),
            ("7", "3 > 1 = … (left: 2, 4)"),  # there is no such answer
            ("2", "3 > 1 = 2 > … (left: 4)"),
            ("Backspace", "3 > 1 > … (left: 2, 4)"),
            ("=", "3 > 1 = … (left: 2, 4)"),
            ("4", "3 > 1 = 4 > … (left: 2)"),
            ("4", "3 > 1 = 4 > … (left: 2)"),  # has its place
            ("Enter", "3 > 1 = 4 > … (left: 2)"),
        ):
            view.keyboard.press(key)
            assert so_far.inner_text() == text, key
        assert view.get_by_role("status").inner_text() == "No place yet: answer 2."
        assert verdicts(store) == []
        view.keyboard.press("2")
        assert so_far.inner_text() == "3 > 1 = 4 > 2. Send it, or take the last pick back."
        pressed(view, "Enter")
        view.get_by_role("status").get_by_text("3 > 1 = 4 > 2.").wait_for()
        sent(view)
        assert kept(store) == derived([seen[2], seen[0] + seen[3], seen[1]])
        view.locator("#counted", has_text="6 of 12 pairs done · 6 labels by you").wait_for()  # told by the server
        assert so_far.inner_text() == "Pick the best answer first.", "nothing of the set before"
        view.keyboard.press("f")
        view.get_by_label("What is wrong?").fill("private")
        view.keyboard.press("Enter")
        view.get_by_role("heading", name="Nothing left to label").wait_for()
        sent(view)
        assert view.said == []
    labels = list(store.labels())
    assert [(label.verdict, label.note) for label in labels[6:]] == [("flag", "private")] * 6
    assert len({label.seconds for label in labels[:6]}) == 1
    for label, pair in zip(labels, store.comparisons([label.comparison_id for label in labels[:6]]), strict=False):
        assert label.shown == ("ab" if seen.index(pair.a.text[0]) < seen.index(pair.b.text[0]) else "ba")


def test_four_answers_by_finger_on_a_phone(browser: Any, store: Store) -> None:
    add_sets(store, 1, 4)
    phone = {"viewport": {"width": 375, "height": 812}, "has_touch": True, "is_mobile": True}
    with page_at(store) as page, opened(browser, page, **phone) as view:
        seen = letters(view)
        tops = [box.bounding_box() for box in view.locator(".answer").all()]
        assert len({box["x"] for box in tops}) == 1, "one below the other"
        for button in ("Answer 2: pick as 1st", "Answer 4: pick as 2nd"):
            view.get_by_role("button", name=button).tap()
        view.get_by_role("button", name="Tie", exact=True).tap()
        view.get_by_role("button", name="Answer 1: tie at 2nd").tap()
        assert view.get_by_role("button", name="Answer 4: 2nd, a tie").get_attribute("aria-pressed") == "true"
        view.get_by_role("button", name="Take back").tap()
        assert view.get_by_role("button", name="Send").is_disabled()
        for answer in (3, 1):
            view.locator(".pick").nth(answer - 1).tap()
        view.get_by_role("button", name="Send").tap()
        view.get_by_role("heading", name="Nothing left to label").wait_for()
        sent(view)
        assert view.said == []
    assert kept(store) == derived([seen[1], seen[3], seen[2], seen[0]])


def test_two_answers_keep_their_keys_beside_sets(browser: Any, store: Store) -> None:
    add_pairs(store, [("another question", "a", "b")])
    add_sets(store, 1, 3)
    with page_at(store) as page, opened(browser, page) as view:
        for _ in range(2):
            if view.locator("#ranking").is_visible():
                view.keyboard.type("132")
                assert not view.locator("#verdicts").is_visible()
                pressed(view, "Enter")
            else:
                for key in ("3", "=", "Enter", "Backspace"):
                    view.keyboard.press(key)
                sent(view)
                assert not view.locator(".pick, #ranking").first.is_visible()
                before = len(verdicts(store))
                pressed(view, "1")
                sent(view)
                assert len(verdicts(store)) == before + 1
        sent(view)
    assert len(verdicts(store)) == 4


def test_undo_shows_the_ranking_again_also_after_a_reload(browser: Any, store: Store) -> None:
    add_sets(store, 2, 3)
    with page_at(store) as page, opened(browser, page) as view:
        first, seen = view.locator("#prompt").inner_text(), letters(view)
        view.keyboard.type("31=2")
        pressed(view, "Enter")
        assert view.locator("#prompt").inner_text() != first
        view.keyboard.press("2")  # the next one is begun; it comes back as it was
        pressed(view, "u")
        assert (view.locator("#prompt").inner_text(), letters(view)) == (first, seen)
        assert view.locator("#so-far").inner_text().startswith("3 > 1 = 2.")
        sent(view)
        assert verdicts(store) == []
        view.keyboard.press("Backspace")
        view.keyboard.press("2")
        pressed(view, "Enter")
        assert view.locator("#so-far").inner_text().startswith("2 > …")
        sent(view)
        assert kept(store) == derived([seen[2], seen[0], seen[1]])
        view.reload()
        ready(view)
        view.get_by_role("button", name="Undo").click()
        view.get_by_text(first).wait_for()
        assert letters(view) == seen
        assert view.locator("#so-far").inner_text().startswith("3 > 1 > 2.")
        pressed(view, "s")
        sent(view)
    assert verdicts(store) == ["skip"] * 3
    assert len(list(store.labels(undone=True))) == 9


def test_a_ranking_survives_a_server_and_a_page_that_die(browser: Any, store: Store) -> None:
    add_sets(store, 3, 4)
    with page_at(store) as page:
        port = page.port
        place = browser.new_context()
        view = place.new_page()
        view.goto(page.address)
        view.get_by_label("Your name").fill("ann")
        view.keyboard.press("Enter")
        ready(view)
        view.keyboard.type("1234")
        pressed(view, "Enter")
        sent(view)
        # The answer to the next one is lost after the server kept it: it is sent again.
        view.route("**/api/label", lambda route: (route.fetch(), route.abort()))
        view.keyboard.type("43=21")
        pressed(view, "Enter")
        view.get_by_role("status").get_by_text("kept on this device").wait_for()
    assert len(verdicts(store)) == 12
    view.close()  # the server is gone, and the page
    with page_at(store, port) as page:
        view = place.new_page()
        view.goto(page.address)
        ready(view)
        sent(view)
        assert len(list(store.labels(undone=True))) == 12, "neither lost nor doubled"
        view.keyboard.type("2143")
        view.keyboard.press("Enter")
        view.get_by_role("heading", name="Nothing left to label").wait_for()
        sent(view)
        place.close()
    assert len(list(store.labels(undone=True))) == 18


def test_hostile_answers_stay_texts(browser: Any, store: Store) -> None:
    (prompt,) = store.add_prompts([NewPrompt(messages=(Message("user", "q"),))]).ids
    said = store.add_responses(
        NewResponse(prompt_id=prompt, messages=(Message("assistant", text),), policy="p", round=1)
        for text in HOSTILE[:9]
    ).ids
    pairs = [(a, b) for n, a in enumerate(said) for b in said[n + 1 :]]
    store.add_sets(
        [[NewComparison(prompt_id=prompt, a_id=a, b_id=b, round=1, why="") for a, b in pairs]], at=time.time()
    )
    with page_at(store) as page, opened(browser, page) as view:
        assert view.locator(".answer").count() == 9
        tags = view.eval_on_selector_all(".answer > div:last-child *", "all => [...new Set(all.map(e => e.localName))]")
        assert set(tags) <= ELEMENTS
        view.keyboard.type("123456789")
        pressed(view, "Enter")
        sent(view)
        assert view.title() == "Rewardsmith: which answer is better?"
        assert view.said == []
    assert len(verdicts(store)) == 36


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "k", "columns"), [(375, 9, 1), (900, 4, 2), (1400, 4, 4), (1400, 9, 3)])
def test_readable_everywhere(browser: Any, store: Store, width: int, k: int, columns: int, scheme: str) -> None:
    add_sets(store, 1, k)
    look = {"viewport": {"width": width, "height": 812}, "color_scheme": scheme}
    with page_at(store) as page, opened(browser, page, **look) as view:
        assert len({box.bounding_box()["x"] for box in view.locator(".answer").all()}) == columns
        view.keyboard.type("12=3")
        for _ in range(2):
            assert view.evaluate("document.documentElement.scrollWidth") == width
            found = view.evaluate(CONTRAST)
            off = {
                str(text).strip()
                for text in view.locator("button:disabled :is(kbd, span), button:disabled").all_inner_texts()
            }
            assert [
                text for text, _ in found["poor"] if text.strip() not in off | {"Undo", "Send", "Tie", "Take back"}
            ] == []
            small = view.eval_on_selector_all(
                "#verdict button, .pick",
                "all => all.filter(e => e.checkVisibility() && e.getBoundingClientRect().height < 32).length",
            )
            assert small == 0, "a finger must hit it"
            view.keyboard.type("456789"[: k - 3])


def test_for_who_listens_and_who_has_no_mouse(browser: Any, store: Store) -> None:
    add_sets(store, 1, 3)
    with page_at(store) as page, opened(browser, page) as view:
        assert view.get_by_role("article", name="Answer 3").count() == 1
        assert view.get_by_role("group", name="The ranking").get_by_role("button").count() == 3
        assert view.evaluate("document.activeElement.id") == "ask"
        for _ in range(12):
            view.keyboard.press("Tab")
            if view.evaluate("document.activeElement.className") == "pick":
                break
        assert view.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        view.keyboard.press("Enter")  # presses what has the focus, and sends nothing
        assert view.get_by_role("status").inner_text() == "Answer 1: 1st."
        view.keyboard.press("Tab")
        view.keyboard.press("Space")
        assert view.get_by_role("status").inner_text() == "Answer 2: 2nd."
        view.locator(".pick").nth(2).click()
        pressed(view, "Enter")  # after a click it sends
        view.get_by_role("heading", name="Nothing left to label").wait_for()
        sent(view)
    assert len(verdicts(store)) == 3
