"""The page in a real headless Chromium: silent, offline, searchable, by keyboard, on a phone, in the dark, on paper."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rewardsmith.data.schema import Group, Message, Preference
from rewardsmith.evaluation.evaluate import evaluate_rows
from rewardsmith.report.run_page import Known, write_run_page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")

ATTACK = "</script><script>document.title = 'broken'</script><img src=x onerror=\"document.title='broken'\">"
AUDIT = {
    "probes": [
        {"name": f"praise {ATTACK}", "effect_sd": 0.6, "low": 0.5, "high": 0.7, "p_adjusted": 0.001, "placebo_sd": 0.1},
        {"name": "a heading", "effect_sd": None},
    ],
    "gate": {"passed": False},
    "examples": [{"probe": "praise", "prompt": ATTACK, "before": "a", "after": "b", "reward_before": 0.0}],
}
# WCAG contrast of each text with what is painted behind it; returns what is below 4.5 as (text, ratio).
CONTRAST = """() => {
  const parse = (c) => { const n = c.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const over = (top, under) => top.slice(0, 3).map((v, i) => v * top[3] + under[i] * (1 - top[3]));
  const light = (c) => c.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => node === null ? [255, 255, 255]
    : over(parse(getComputedStyle(node).backgroundColor), behind(node.parentElement));
  const poor = []; let seen = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.closest("script, style, title")) continue;
    const style = getComputedStyle(node), back = behind(node);
    const ink = over(parse(node.closest("svg") ? style.fill : style.color), back);
    const [a, b] = [light(ink), light(back)].sort((x, y) => y - x);
    seen += 1;
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push([walker.currentNode.data.trim().slice(0, 40), ratio]);
  }
  return { seen, poor };
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with 40 wrong pairs of rising margin, one of them hostile, and an audit."""
    groups = [
        Group(
            prompt=(Message("user", ATTACK if n == 7 else f"question {n} about {'cats' if n % 4 else 'dogs'}"),),
            responses=(
                (Message("assistant", "good " * (1 + n % 9)),),
                (Message("assistant", f"{'w' * 300} bad {n} " * 3),),
            ),
            preferences=(Preference(chosen=0, rejected=1),),
            tags={"topic": "cats" if n % 4 else "dogs"},
            source=f"held-{'x' * 80}.jsonl:{n}",
        )
        for n in range(60)
    ]
    rewards = [[0.0, 0.1 + n / 60] if n < 40 else [1.0, 0.0] for n in range(60)]
    path = tmp_path_factory.mktemp("page") / "report.html"
    known = Known(
        title=f"Model {'m' * 90}",
        meta={"base_model": "owner/model", "calibration": {"temperature": 0.5, "status": "fitted", "n_pairs": 9}},
        curve=[{"step": s, "loss": 0.7 - s / 100, "accuracy": 0.5} for s in range(1, 9)],
        evaluation=evaluate_rows(groups, rewards, draws=100),
        groups=groups,
        rewards=rewards,
        results=[("audit.json", AUDIT)],
    )
    write_run_page(path, known)
    return path


def opened(browser: Any, file: Path, **context: Any) -> Any:
    view = browser.new_context(**context).new_page()
    view.goto(file.as_uri())
    return view


def shown(view: Any) -> list[str]:
    return view.locator("tbody.pair:visible .rank").all_inner_texts()


def test_silent_and_offline(browser: Any, page_file: Path) -> None:
    view = browser.new_context().new_page()
    said: list[str] = []
    asked: list[str] = []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("request", lambda request: asked.append(request.url))
    view.goto(page_file.as_uri())
    view.wait_for_load_state("networkidle")
    assert said == []
    assert asked == [page_file.as_uri()]
    assert view.title().startswith("Model m")
    assert view.locator("img").count() == 0


def test_search_filters_and_says_how_many(browser: Any, page_file: Path) -> None:
    view = opened(browser, page_file)
    assert len(shown(view)) == 40
    view.get_by_label("Search prompts, answers, tags").fill("DOGS question")
    assert len(shown(view)) == 10
    assert view.locator("output").inner_text() == "10 of 40 pairs"
    view.get_by_label("Search prompts, answers, tags").fill("nothing like it")
    assert shown(view) == []
    view.get_by_label("Search prompts, answers, tags").fill("")
    assert len(shown(view)) == 40


def test_sorting_goes_both_ways(browser: Any, page_file: Path) -> None:
    view = opened(browser, page_file)
    head = view.get_by_role("columnheader", name="better one longer by")
    button = head.get_by_role("button")

    def lengths() -> list[float]:
        return view.eval_on_selector_all("tbody.pair", "rows => rows.map(row => Number(row.dataset.longer))")

    button.click()
    assert head.get_attribute("aria-sort") == "descending"
    assert lengths() == sorted(lengths(), reverse=True)
    button.click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert lengths() == sorted(lengths())
    view.get_by_role("columnheader", name="rank").get_by_role("button").click()
    assert shown(view) == [str(n) for n in range(1, 41)]
    assert view.locator("th[aria-sort]").count() == 1


def test_all_of_it_by_keyboard(browser: Any, page_file: Path) -> None:
    view = opened(browser, page_file)
    reached = set()
    for _ in range(40):
        view.keyboard.press("Tab")
        reached.add(view.evaluate("document.activeElement.tagName + '.' + document.activeElement.className"))
        outline = view.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", "focus must be seen"
    assert {"A.skip", "A.", "INPUT.", "BUTTON.", "SUMMARY."} <= reached
    view.locator("#find").focus()
    view.keyboard.type("dogs")
    assert len(shown(view)) == 10
    # A handle: the locator would look anew after the fold is open, and find the next one.
    fold = view.locator("tbody.pair:visible details:not([open]) > summary").first.element_handle()
    fold.focus()
    view.keyboard.press("Enter")
    assert fold.evaluate("summary => summary.parentElement.open")


def test_no_sideways_scrolling_on_a_phone(browser: Any, page_file: Path) -> None:
    view = opened(browser, page_file, viewport={"width": 375, "height": 812})
    view.eval_on_selector_all("details", "folds => folds.forEach(fold => { fold.open = true; })")
    assert view.evaluate("document.documentElement.scrollWidth") == 375
    beyond = view.eval_on_selector_all(
        "main *",
        "all => all.filter(e => e.checkVisibility() && !e.closest('.scroll, .hidden, svg') "
        "&& e.getBoundingClientRect().right > 376).map(e => e.outerHTML.slice(0, 80))",
    )
    assert beyond == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out(browser: Any, page_file: Path, scheme: str) -> None:
    view = opened(browser, page_file, color_scheme=scheme)
    view.eval_on_selector_all("details", "folds => folds.forEach(fold => { fold.open = true; })")
    found = view.evaluate(CONTRAST)
    assert found["seen"] > 300
    assert found["poor"] == []
    back = view.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(21, 23, 26)") == (scheme == "dark")


def test_landmarks_and_names(browser: Any, page_file: Path) -> None:
    view = opened(browser, page_file)
    for role in ("main", "navigation", "contentinfo"):
        assert view.get_by_role(role).count() == 1
    assert view.get_by_role("heading", level=1).count() == 1
    nameless = view.eval_on_selector_all(
        "svg",
        "all => all.filter(e => e.getAttribute('role') !== 'img' || !e.getAttribute('aria-label') "
        "|| !e.querySelector('title')).length",
    )
    assert nameless == 0
    dead = view.eval_on_selector_all(
        "nav a", "all => all.filter(a => !document.querySelector(a.getAttribute('href'))).length"
    )
    assert dead == 0


def test_whole_without_script(browser: Any, page_file: Path) -> None:
    view = opened(browser, page_file, java_script_enabled=False)
    assert view.locator("tbody.pair").count() == 40
    assert view.locator(".finder").is_hidden()
    assert view.get_by_role("columnheader").get_by_role("button").count() == 0


def test_prints_with_folds_open(browser: Any, page_file: Path) -> None:
    view = opened(browser, page_file)
    pdf = view.pdf(format="A4")
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") + pdf.count(b"/Type /Page/") > 3
    view.emulate_media(media="print")
    assert len(shown(view)) == 25, "the rest stays on the screen"
    assert view.locator("nav").is_hidden()
    closed = view.locator("tbody.pair details:not([open]) .answer").first
    assert closed.evaluate("answer => answer.getBoundingClientRect().height") > 20
