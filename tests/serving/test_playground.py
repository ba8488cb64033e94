"""The page in a real headless Chromium: rewards, words, edits; silent, without network, safe, readable everywhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from rewardsmith.serving.keys import KeyRing
from rewardsmith.serving.playground import EDITS, refusals
from tests.report.test_browser import CONTRAST
from tests.serving.conftest import running
from tests.sockets import Running

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
ATTACK = "</textarea><script>document.title = 'broken'</script><img src=x onerror=alert(1)> \U0001f600 b"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def opened(browser: Any, server: Running, **context: Any) -> Any:
    view = browser.new_context(**context).new_page()
    view.set_default_timeout(10_000)
    view.said, view.asked = [], []
    view.on("console", lambda message: view.said.append(message.text))
    view.on("pageerror", lambda error: view.said.append(str(error)))
    view.on("request", lambda request: view.asked.append(request.url))
    view.goto(server.address)
    view.get_by_text("tiny").first.wait_for()
    return view


def scored(view: Any) -> Any:
    view.get_by_role("button", name="Score").click()
    view.get_by_role("heading", name="Rewards").wait_for()
    return view


def explained(view: Any) -> Any:
    scored(view).get_by_role("button", name="Why does answer 1").click()
    view.get_by_role("heading", name="Where the reward").wait_for()
    return view


def test_rewards_of_the_first_example(browser: Any, server: Running) -> None:
    view = scored(opened(browser, server))
    texts = [box.input_value() for box in view.locator("#answers textarea").all()]
    prompt = view.get_by_label("Prompt").input_value()
    body = {"messages": [{"role": "user", "content": prompt}], "responses": texts}
    rewards = server.post("/v1/reward", body).json["groups"][0]["rewards"]
    shown = [text.replace("\u2212", "-") for text in view.locator("#rewards b").all_inner_texts()]
    assert [float(text) for text in shown] == pytest.approx([row["reward"] for row in rewards], abs=6e-4)
    assert f"= {100 * rewards[0]['p_better']:.1f}%" in view.locator("#meaning").inner_text()
    assert view.said == []
    assert {url.removeprefix(server.address).split("?")[0] for url in view.asked} == {
        "/",
        "/playground.js",
        "/playground.css",
        "/ready",
        "/v1/reward",
    }


def test_words_and_edits(browser: Any, server: Running) -> None:
    view = explained(opened(browser, server))
    text = view.locator("#answers textarea").first.input_value()
    assert view.locator("#heat").inner_text() == text
    assert view.locator("#heat .up, #heat .down").count() > 0
    rows = view.locator("#edits tbody tr")
    names = [row.locator("td").first.inner_text().split("\n")[0] for row in rows.all()]
    assert set(names) <= {*EDITS, "refusal"}
    assert {"padding", "praise", "refusal"} <= set(names)
    body = {"messages": [{"role": "user", "content": view.get_by_label("Prompt").input_value()}], "response": text}
    asked = server.post("/playground/explain", body).json["edits"]
    refusal = rows.nth(names.index("refusal")).inner_text().replace("\u2212", "-")
    (edit,) = (edit for edit in asked if edit["name"] == "refusal")
    assert f"mean of {len(refusals())}" in refusal
    for value in (edit["change"], edit["least"], edit["most"]):
        assert f"{value:+.3f}" in refusal
    assert view.said == []


def test_every_example_can_be_scored(browser: Any, server: Running) -> None:
    view = opened(browser, server)
    for button in view.locator("#examples button").all():
        button.click()
        assert view.locator("#result").is_hidden()
        scored(view)
        assert view.locator("#rewards .row").count() == 2


def test_answers_come_and_go(browser: Any, server: Running) -> None:
    view = opened(browser, server)
    view.get_by_role("button", name="Add an answer").click()
    view.get_by_role("button", name="Score").click()
    assert view.get_by_role("alert").inner_text() == "An answer is empty: write it, or remove it."
    view.get_by_label("Answer 3", exact=True).fill("a third one")
    scored(view)
    assert view.locator("#rewards .row").count() == 3
    view.get_by_role("button", name="Remove answer 1").click()
    assert view.get_by_label("Answer 2", exact=True).input_value() == "a third one"


def test_what_is_typed_stays_text(browser: Any, server: Running) -> None:
    view = opened(browser, server)
    view.get_by_label("Prompt").fill(ATTACK)
    view.get_by_label("Answer 1", exact=True).fill(ATTACK)
    explained(view)
    assert view.title() == "Rewardsmith: try a reward model"
    assert view.locator("img").count() == 0
    assert view.locator("#heat").inner_text() == ATTACK
    assert view.said == []


def test_no_script_but_ours_runs(browser: Any, server: Running) -> None:
    view = opened(browser, server)
    view.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'document.title = \"broken\"'; "
        "document.body.append(s); }"
    )
    assert view.title() == "Rewardsmith: try a reward model"
    blocked = view.evaluate("() => fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => String(error))")
    assert "TypeError" in blocked


def test_a_server_with_keys_asks_for_one(browser: Any) -> None:
    with running(keys=KeyRing(["a-key-of-sixteen-or-more"])) as server:
        view = opened(browser, server)
        view.get_by_role("button", name="Score").click()
        view.get_by_text("This server asks for a key.").wait_for()
        view.get_by_label("Key").fill("wrong")
        view.get_by_role("button", name="Score").click()
        view.get_by_text("The server does not know this key.").wait_for()
        view.get_by_label("Key").fill("a-key-of-sixteen-or-more")
        scored(view)


@pytest.mark.parametrize("path", ["", "/docs"])
def test_no_sideways_scrolling_on_a_phone(browser: Any, server: Running, path: str) -> None:
    view = opened(browser, server, viewport={"width": 375, "height": 812})
    if path:
        view.goto(server.address + path)
    else:
        explained(view)
    assert view.evaluate("document.documentElement.scrollWidth") == 375


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out(browser: Any, server: Running, scheme: str) -> None:
    view = explained(opened(browser, server, color_scheme=scheme))
    found = view.evaluate(CONTRAST)
    assert found["seen"] > 40
    assert found["poor"] == []


def test_all_of_it_by_keyboard(browser: Any, server: Running) -> None:
    view = opened(browser, server)
    reached = set()
    for _ in range(12):
        view.keyboard.press("Tab")
        reached.add(view.evaluate("document.activeElement.tagName + '#' + document.activeElement.id"))
        assert view.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", "focus must be seen"
    assert {"TEXTAREA#prompt", "TEXTAREA#answer-1", "TEXTAREA#answer-2", "BUTTON#add"} <= reached


def test_the_description_is_a_page_of_ours(browser: Any, server: Running) -> None:
    view = opened(browser, server)
    view.asked.clear()
    view.goto(server.address + "/docs")
    assert view.get_by_text("POST /v1/reward").count() == 1
    assert all(url.startswith(server.address) for url in view.asked)
