"""The page in a real headless Chromium: hostile texts, keys, lost servers, undo, phones, screen readers, the dark."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rewardsmith.data.schema import Message
from rewardsmith.refresh.records import NewComparison, NewPrompt, NewResponse
from rewardsmith.refresh.store import Store
from rewardsmith.serving.keys import KeyRing, add_key
from tests.labelling.conftest import add_pairs, page_at, plain_pairs
from tests.report.test_browser import CONTRAST
from tests.sockets import Running

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")

RUN = "document.title = 'broken'"
# What a text may become.
ELEMENTS = {"div", "p", "code", "pre", "a", "span", "table", "thead", "tbody", "tr", "th", "td", "strong"}
HOSTILE = [
    f"<script>{RUN}</script>",
    f'</div></main><img src=x onerror="{RUN}"><svg onload="{RUN}"><iframe srcdoc="<script>parent.{RUN}</script>">',
    f"[click](javascript:{RUN}) [data](data:text/html,<script>{RUN}</script>) [vb](vbscript:x) [file](file:///etc/passwd)",
    "[a](https://evil.example/x?a=1) ![pic](https://evil.example/t.png) <https://evil.example> https://evil.example/y",
    f"`</code><script>{RUN}</script>`\n\n```html\n</code></pre><script>{RUN}</script>\n```",
    f'[x](https://evil.example/"onmouseover="{RUN}) [y]("><script>{RUN}</script>)',
    f"| a | <img src=x onerror={RUN}> |\n|---|---|\n| **<b onclick={RUN}>** | [z](JaVaScRiPt:{RUN}) |",
    "<style>* { display: none }</style><base href=https://evil.example><meta http-equiv=refresh content=0;url=/x>",
    "<form action=https://evil.example><input name=key autofocus></form>",
    f"<a href=\"java\tscript:{RUN}\">t</a> [u](java\tscript:{RUN}) [v](\u0001javascript:{RUN})",
    "\u202etxt.exe\u202c \u0000 \u200b \U000e0041\U000e0042 \ud83d\ude00",
    "constructor __proto__ [__proto__](https://evil.example/p)",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@contextmanager
def opened(browser: Any, page: Running, name: str | None = "ann", **context: Any) -> Iterator[Any]:
    """The page in a browser of its own; `said` is what its console and its errors say, `asked` what it fetched."""
    place = browser.new_context(**context)
    try:
        view = place.new_page()
        view.set_default_timeout(20_000)
        view.said, view.asked = [], []
        view.on("console", lambda message: view.said.append(message.text))
        view.on("pageerror", lambda error: view.said.append(str(error)))
        view.on("request", lambda request: view.asked.append(request.url))
        view.goto(page.address)
        if name is not None:
            view.get_by_label("Your name").fill(name)
            view.keyboard.press("Enter")
            ready(view)
        yield view
    finally:
        place.close()


def ready(view: Any) -> None:
    """Until a pair takes keys, or it is said that there is none."""
    view.locator("#set[data-ready]:visible, #empty:visible").first.wait_for()


def until(view: Any, condition: str) -> None:
    # Not wait_for_function: the page's policy allows no text to be run as a script, the driver's neither.
    deadline = time.monotonic() + 20
    while not view.evaluate(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)


def pressed(view: Any, key: str) -> None:
    ready(view)
    view.keyboard.press(key)
    ready(view)


def sent(view: Any) -> None:
    """Until the server has everything."""
    view.locator("#status[data-unsent='0']").wait_for(state="attached")


def verdicts(store: Store) -> list[str]:
    return [label.verdict for label in store.labels()]


def side_of(view: Any, side: int) -> str:
    """The letter that the answer on a side begins with."""
    return str(view.locator(f"#answer-{side} .md").inner_text())[0]


def test_hostile_texts_stay_texts(browser: Any, store: Store) -> None:
    add_pairs(store, [(text, f"a {text}", f"b {text}") for text in HOSTILE])
    with page_at(store) as page, opened(browser, page) as view:
        for _ in HOSTILE:
            assert view.title() == "Rewardsmith: which answer is better?"
            tags = view.eval_on_selector_all(
                ":is(#prompt, #answers) *", "all => [...new Set(all.map(e => e.localName))]"
            )
            assert set(tags) <= ELEMENTS | {"article", "h2"}, "markup of a text became an element"
            attributes = view.eval_on_selector_all(
                ":is(#prompt, #answers) *", "all => [...new Set(all.flatMap(e => e.getAttributeNames()))]"
            )
            assert not [name for name in attributes if name.startswith("on") or name in ("style", "src", "srcdoc")]
            links = view.eval_on_selector_all(
                "#set a", "all => all.map(a => [a.protocol, a.rel, a.target, a.referrerPolicy])"
            )
            assert all(link == ["https:", "noopener noreferrer nofollow", "_blank", "no-referrer"] for link in links)
            # What a script could do by a click, a hover or a focus.
            view.locator("#set .dead, #set .md :is(p, td, code)").evaluate_all(
                "all => all.forEach(e => ['click', 'mouseover', 'focus'].forEach(t => e.dispatchEvent(new Event(t))))"
            )
            pressed(view, "0")
        sent(view)
        assert view.title() == "Rewardsmith: which answer is better?"
        assert view.said == [], "no error, and nothing that the content security policy had to stop"
        assert {url.split("/")[2] for url in view.asked} == {page.address.split("/")[2]}, "nothing from elsewhere"
    assert verdicts(store) == ["tie"] * len(HOSTILE)


def test_characters_that_cannot_be_seen_are_shown(browser: Any, store: Store) -> None:
    add_pairs(store, [("q", "a \u202etxt.exe", "b \U000e0041\U000e0042\U000e0043\U000e0044\U000e0045")])
    with page_at(store) as page, opened(browser, page) as view:
        seen = " ".join(view.locator("#set .unseen").all_inner_texts())
    assert "U+202E" in seen
    assert "U+E0041 U+E0042 U+E0043 and 2 more" in seen


@pytest.mark.parametrize("unit", [
    "[", "![", "*", "**a", "_a_", "`", "``a`", "> ", "- ", "1. ", "#", "|", "|-", "a|b\n|-|-|\n", "~", "\\", "]( ",
    "[a](", "https://a", "<", "\u202e", "&amp;", " \n", "- a\n  ", ">\n", "    ", "***a** b*", "```\n",
])  # fmt: skip
def test_the_time_for_a_text_grows_like_its_length(browser: Any, store: Store, unit: str) -> None:
    with page_at(store) as page, opened(browser, page, name=None) as view:
        short, long = (
            view.evaluate(
                """text => Math.min(...[1, 2, 3].map(() => {
                    const t = performance.now(); shownText(text, false); return performance.now() - t; }))""",
                unit * (length // len(unit)),
            )
            for length in (12_500, 100_000)
        )
    # Eight times the text: 8 where it is linear, 64 and a large factor where every character looks at all others.
    assert long < 30 * max(short, 40), f"{short:.0f} ms for 12,500 characters, {long:.0f} ms for 100,000"


def test_after_very_many_blocks_the_text_is_shown_as_it_was_written(browser: Any, store: Store) -> None:
    with page_at(store) as page, opened(browser, page, name=None) as view:
        many, last = view.evaluate(
            """text => { const box = document.createElement('div'); box.append(shownText(text, false));
            const all = box.querySelectorAll('hr'); const end = box.querySelectorAll('p');
            return [all.length, end[end.length - 1].textContent]; }""",
            "---\n" * 2001 + "**the end**",
        )
    assert (many, last) == (2000, "---\n**the end**")


MARKDOWN = {
    "**b** and *i* and ~~d~~ and ***both***": "<p><strong>b</strong> and <em>i</em> and <del>d</del> and "
    "<em><strong>both</strong></em></p>",
    "snake_case_name and 2 * 3 * 4": "<p>snake_case_name and 2 * 3 * 4</p>",
    "`a*b*` and ``c`d``": "<p><code>a*b*</code> and <code>c`d</code></p>",
    "# One\n\n## Two ##": "<h3>One</h3><h4>Two</h4>",
    "- a\n- b\n  - c\n- d": "<ul><li>a</li><li>b<ul><li>c</li></ul></li><li>d</li></ul>",
    "3. a\n\n   more\n4. b": '<ol start="3"><li>a<p>more</p></li><li>b</li></ol>',
    "> q\n> r\n\nout": "<blockquote><p>q\nr</p></blockquote><p>out</p>",
    "one\ntwo": "<p>one\ntwo</p>",
    "a\n\n---\n\nb": "<p>a</p><hr><p>b</p>",
    "\\*not\\* and a*b": "<p>*not* and a*b</p>",
    "![alt](https://x.y/z.png)": '<p><span class="picture">picture, not loaded: alt (https://x.y/z.png)</span></p>',
    "[t](mailto:x)": '<p><span class="dead" title="mailto:x">t</span><span class="host"> (mailto:x)</span></p>',
    "<b>x</b> &amp;": "<p>&lt;b&gt;x&lt;/b&gt; &amp;amp;</p>",
    "": '<p class="soft"><i>(empty)</i></p>',
}


def test_markdown(browser: Any, store: Store) -> None:
    with page_at(store) as page, opened(browser, page, name=None) as view:
        shown = view.evaluate("all => all.map(text => shownText(text, false).innerHTML)", list(MARKDOWN))
        code = view.evaluate(
            "text => [...shownText(text, false).children].map(e => e.textContent).join('\\n')",
            "```python\nif a:\n    b < c\n```\nend",
        )
        raw = view.evaluate("text => shownText(text, true).innerHTML", "**b** <i>")
        table = view.evaluate(
            "text => shownText(text, false).querySelectorAll('td').length", "|a|b|\n|--|:-:|\n|1|2|\n|3|"
        )
    assert dict(zip(MARKDOWN, shown, strict=True)) == MARKDOWN
    assert code.split() == ["if", "a:", "b", "<", "c", "end"]
    assert raw == "**b** &lt;i&gt;"
    assert table == 4


def test_keys_decide_and_the_order_is_recorded(browser: Any, store: Store) -> None:
    add_pairs(store, [(f"q{n}", f"a{n}", f"b{n}") for n in range(6)])
    wanted = []
    with page_at(store) as page, opened(browser, page) as view:
        for key in "1200":
            left, right = side_of(view, 1), side_of(view, 2)
            assert {left, right} == {"a", "b"}
            wanted.append(({"1": left, "2": right, "0": "tie"}[key], left + right))
            pressed(view, key)
        view.keyboard.press("s")
        ready(view)
        view.keyboard.press("f")
        view.get_by_label("What is wrong?").fill("private")
        view.keyboard.press("Enter")
        view.get_by_role("heading", name="Nothing left to label").wait_for()
        sent(view)
        assert view.said == []
    kept = list(store.labels())
    assert [(label.verdict, label.shown) for label in kept[:4]] == wanted
    assert [(label.verdict, label.note) for label in kept[4:]] == [("skip", ""), ("flag", "private")]
    assert all(0 < label.seconds < 60 for label in kept)


def test_a_key_held_down_or_meant_for_a_field_decides_nothing_more(browser: Any, store: Store) -> None:
    add_pairs(store, plain_pairs(5))
    with page_at(store) as page, opened(browser, page) as view:
        # A key that is held, and a second press at once: that was meant for the pair that is gone.
        view.evaluate(
            """() => [false, true, true, false].forEach((repeat) =>
                document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "1", repeat, bubbles: true })))"""
        )
        ready(view)
        view.keyboard.press("Control+2")
        view.keyboard.press("f")
        view.keyboard.type("120su")
        view.keyboard.press("Escape")
        view.keyboard.press("?")
        view.get_by_label("Single keys decide").uncheck()
        view.keyboard.press("Escape")
        view.keyboard.press("2")
        sent(view)
        assert len(verdicts(store)) == 1
        view.get_by_role("button", name="Tie").click()
        ready(view)
        sent(view)
    assert verdicts(store)[1:] == ["tie"]


def test_undo_shows_the_pair_again_also_after_a_reload(browser: Any, store: Store) -> None:
    add_pairs(store, plain_pairs(3))
    with page_at(store) as page, opened(browser, page) as view:
        prompt = view.locator("#prompt")
        first = prompt.inner_text()
        pressed(view, "0")
        second = prompt.inner_text()
        pressed(view, "u")
        assert prompt.inner_text() == first
        pressed(view, "0")
        assert prompt.inner_text() == second
        sent(view)
        view.reload()
        ready(view)
        assert prompt.inner_text() == second
        view.get_by_role("button", name="Undo").click()
        view.get_by_text(first).wait_for()
        pressed(view, "s")
        sent(view)
    assert verdicts(store) == ["skip"]
    assert [label.verdict for label in store.labels(undone=True)] == ["tie", "tie", "skip"]


def test_a_server_that_is_away_costs_no_label(browser: Any, store: Store) -> None:
    add_pairs(store, plain_pairs(4))
    with page_at(store) as page:
        port = page.port
        place = browser.new_context()
        view = place.new_page()
        view.goto(page.address)
        view.get_by_label("Your name").fill("ann")
        view.keyboard.press("Enter")
        pressed(view, "0")
        sent(view)
        until(view, "now.next !== null")
    view.keyboard.press("0")  # the server is gone: this one and the one fetched ahead wait in the browser
    ready(view)
    view.keyboard.press("u")
    ready(view)
    view.keyboard.press("s")
    view.get_by_role("status").get_by_text("kept on this device").wait_for()
    assert verdicts(store) == ["tie"]
    view.close()  # and the page is closed on top of it
    with page_at(store, port) as page:
        view = place.new_page()
        view.goto(page.address)
        ready(view)
        sent(view)
        assert [label.verdict for label in store.labels(undone=True)] == ["tie", "tie", "skip"]
        assert verdicts(store) == ["tie", "skip"]
        place.close()


def test_a_label_that_is_refused_for_good_is_said_and_kept_until_read(browser: Any, store: Store) -> None:
    add_pairs(store, plain_pairs(3))
    with page_at(store) as page, opened(browser, page) as view:
        view.evaluate("now.set.number = 4711")
        view.keyboard.press("0")
        said = view.get_by_role("alert")
        view.get_by_text("was not taken").wait_for()
        assert "“A tie” for pair 4711 was not taken: comparison 4711: there is none of that number" in said.inner_text()
        view.reload()
        view.get_by_text("was not taken").wait_for()
        view.get_by_role("button", name="dismiss").click()
        assert said.inner_text() == ""
        for _ in range(3):
            pressed(view, "0")
        sent(view)
    assert len(verdicts(store)) == 3, "the pair itself was still there"


def test_two_tabs_of_one_person_send_each_label_once(browser: Any, store: Store) -> None:
    add_pairs(store, plain_pairs(6))
    with page_at(store) as page:
        place = browser.new_context()
        views = [place.new_page() for _ in range(2)]
        views[0].goto(page.address)
        views[0].get_by_label("Your name").fill("ann")
        views[0].keyboard.press("Enter")
        ready(views[0])
        views[1].goto(page.address)
        for _ in range(2):
            for view in views:
                pressed(view, "0")
        for view in views:
            sent(view)
        kept = list(store.labels())
        place.close()
    assert len({label.comparison_id for label in kept}) == len(kept) >= 2


def test_with_a_key(browser: Any, store: Store, tmp_path: Any) -> None:
    add_pairs(store, plain_pairs(2))
    key = add_key(tmp_path / "keys.txt", "ann")
    with page_at(store, keys=KeyRing((), tmp_path / "keys.txt")) as page, opened(browser, page, name=None) as view:
        view.get_by_label("Your key").fill("rws-wrong")
        view.keyboard.press("Enter")
        view.get_by_text("The server does not know this key.").wait_for()
        view.get_by_label("Your key").fill(key)
        view.keyboard.press("Enter")
        pressed(view, "0")
        sent(view)
        assert view.locator("#name").inner_text() == "ann"
        assert key not in json.dumps(view.evaluate("Object.entries(localStorage)")), "a key ends with its tab"
    assert [label.annotator for label in store.labels()] == ["ann"]


def test_agreement_is_shown(browser: Any, store: Store) -> None:
    for n, pair in enumerate(add_pairs(store, plain_pairs(6), overlap=3)):
        store.record_label(pair, "ann", "a" if n % 2 else "b", at=1.0)
        store.record_label(pair, "bob", "a" if n % 2 else "b", at=1.0)
    with page_at(store) as page, opened(browser, page, name="eve") as view:
        view.get_by_text("Progress and agreement").click()
        view.get_by_text("ann and bob (Cohen's kappa, 6 pairs): 1.00").wait_for()
        assert view.locator("#team-body tbody tr").count() == 2


def long_pair(store: Store) -> None:
    """A dialogue of six turns with a tool, code, a table, a word without end."""
    roles = ("system", "user", "assistant", "user", "assistant", "user")
    prompt = tuple(Message(role, f"turn {n} " * 20) for n, role in enumerate(roles))
    asked = store.add_prompts([NewPrompt(messages=prompt, tools=[{"name": "search"}])]).ids[0]
    texts = (
        f"| a | b |\n|---|---|\n| {'w' * 300} | x |\n\n```\n{'code ' * 60}\n```",
        "y" * 500 + " https://a.example/b",
    )
    said = store.add_responses(
        NewResponse(prompt_id=asked, messages=(Message("assistant", text),), policy="p", round=1) for text in texts
    ).ids
    new = NewComparison(prompt_id=asked, a_id=said[0], b_id=said[1], round=1, why="long", score=9.0)
    store.add_comparisons([new], at=time.time())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_readable_everywhere(browser: Any, store: Store, width: int, scheme: str) -> None:
    add_pairs(store, [("q", HOSTILE[3] + HOSTILE[10], HOSTILE[6])])
    long_pair(store)
    look = {"viewport": {"width": width, "height": 812}, "color_scheme": scheme}
    with page_at(store) as page, opened(browser, page, **look) as view:
        for _ in range(2):
            view.eval_on_selector_all("details", "folds => folds.forEach(fold => { fold.open = true; })")
            view.locator("#team-body table").wait_for()
            assert view.evaluate("document.documentElement.scrollWidth") == width
            beyond = view.eval_on_selector_all(
                "main *, #verdict *",
                "all => all.filter(e => e.checkVisibility() && !e.closest('.scroll, pre') "
                f"&& e.getBoundingClientRect().right > {width + 1}).map(e => e.outerHTML.slice(0, 80))",
            )
            assert beyond == []
            found = view.evaluate(CONTRAST)
            assert found["seen"] > 20
            # A button that cannot be pressed just now may be faint.
            faint = [text for text, _ in found["poor"] if text not in ("Undo", "U")]
            assert faint == []
            small = view.eval_on_selector_all(
                "#verdict button",
                "all => all.filter(e => e.checkVisibility() && e.getBoundingClientRect().height < 32).length",
            )
            assert small == 0, "a finger must hit it"
            pressed(view, "0")


def test_for_who_listens_and_who_has_no_mouse(browser: Any, store: Store) -> None:
    add_pairs(store, plain_pairs(3))
    with page_at(store) as page, opened(browser, page) as view:
        for role in ("main", "banner", "contentinfo"):
            assert view.get_by_role(role).count() == 1
        assert view.get_by_role("heading", level=1).all_inner_texts() == ["Which answer is better?"]
        assert view.get_by_role("article", name="Answer 1").count() == 1
        assert view.get_by_role("group", name="Which answer is better?").get_by_role("button").count() == 3
        assert view.get_by_role("progressbar").get_attribute("aria-labelledby") == "counted"
        assert view.evaluate("document.activeElement.id") == "ask", "what is read next after each label"
        reached = []
        for _ in range(16):
            view.keyboard.press("Tab")
            if view.evaluate("document.activeElement === document.body"):
                break  # past the last one, to the browser's own
            reached.append(view.evaluate("document.activeElement.innerText"))
            outline = view.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", f"focus on {reached[-1]!r} must be seen"
        assert {"Skip", "Flag", "Raw", "Help"} <= {str(text).split()[-1] for text in reached if text}
        view.get_by_role("button", name="Answer 2").focus()
        view.keyboard.press("Enter")
        view.get_by_role("status").get_by_text("Answer 2 is better.").wait_for()
        ready(view)
        sent(view)
    assert len(verdicts(store)) == 1


def test_nothing_to_label_yet_and_then_something(browser: Any, store: Store) -> None:
    with page_at(store) as page, opened(browser, page) as view:
        assert view.get_by_text("No pair has been proposed yet.").is_visible()
        add_pairs(store, plain_pairs(1))
        view.locator("#set[data-ready]").wait_for()
        assert view.said == []
