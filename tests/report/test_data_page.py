"""The page of `data check`: whole, self-contained, and safe to open on files that nobody vouches for."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rewardsmith.data.validate import check_files
from rewardsmith.errors import DataError
from rewardsmith.report import figures
from rewardsmith.report.data_page import MOST_DROPPED, data_page, next_steps, write_data_page
from rewardsmith.report.page import percent, short_place

ATTACK = "<script>alert('x')</script>"
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Tags that were opened and not closed, all tags, all attributes and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def rows(n: int) -> list[dict[str, Any]]:
    words = ["red", "blue", "green", "grey", "brown", "pink", "white", "black", "gold", "teal"]
    made = []
    for i in range(n):
        said = [" ".join(words[(i * 7 + j * k) % 10] for j in range(5 + (i * k) % 20)) for k in (3, 9)]
        made.append({"prompt": f"Question {i} about {words[i % 10]}?", "chosen": said[0] + ".", "rejected": said[1]})
    return made


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A file with something in every part of the page, and markup wherever a text can stand."""
    data: list[Any] = [row | {"subset": f"{ATTACK}{n % 2}"} for n, row in enumerate(rows(60))]
    data[3] |= {"rejected": data[3]["chosen"] + ATTACK, "chosen": data[3]["chosen"] + ATTACK}
    data[5] |= {"prompt": ATTACK, "chosen": ""}
    data[7] |= {"chosen": f"<|im_start|>{ATTACK} https://example.org"}
    data += [{"prompt": "x", "chosen": {ATTACK: 1}, "rejected": "y"}] * (MOST_DROPPED + 5)
    path = tmp_path_factory.mktemp("page") / "a&b<i>.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in data), "utf-8")
    checked: dict[str, Any] = json.loads(json.dumps(check_files([path], eval_paths=[path])))
    return checked


def test_page_is_well_formed_and_says_what_was_found(result: dict[str, Any]) -> None:
    page = Page(data_page(result))
    assert page.open == []
    for warning in result["warnings"]:
        assert warning["message"] in page.text
    assert "a&b<i>.jsonl" in page.text
    assert "What to do next" in page.text
    assert result["surface_baseline"]["reading"] in page.text
    assert "and 5 further rows" in page.text


def test_texts_are_escaped(result: dict[str, Any]) -> None:
    html = data_page(result)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "script" not in Page(html).tags


def test_page_needs_nothing_from_anywhere(result: dict[str, Any]) -> None:
    page = Page(data_page(result))
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for _, name, value in page.attributes:
        assert not name.startswith("on")
        assert not re.search(r"https?:|//|javascript:|data:", value), (name, value)
    html = data_page({**result, "warnings": [], "dropped": []})
    assert not re.search(r"https?://|url\((?!#)|@import", html)


def test_page_reads_on_a_phone_in_the_dark_and_on_paper(result: dict[str, Any]) -> None:
    html = data_page(result)
    assert 'name="viewport"' in html
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_figures_take_their_colours_from_the_page_and_share_no_id(result: dict[str, Any]) -> None:
    html = data_page(result)
    svg = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.S))
    assert html.count("<svg") >= 3
    assert "currentColor" in svg
    assert "var(--chosen)" in svg
    assert not any(stand_in in svg for stand_in in figures.CSS)
    assert "font-family" not in svg
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', svg)) <= {(i, "") for i in ids} | {("", i) for i in ids}


def test_same_result_same_page(result: dict[str, Any]) -> None:
    assert data_page(result) == data_page(result)


def test_small_and_clean_file(tmp_path: Path) -> None:
    path = tmp_path / "few.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(3)), "utf-8")
    result = check_files([path])
    page = Page(data_page(result))
    assert "None: no duplicate" in page.text
    assert "Nothing serious was found" in " ".join(next_steps(result))
    assert "too few" in page.text


def test_groups_without_a_pair(tmp_path: Path) -> None:
    path = tmp_path / "candidates.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"q{n}", "responses": ["a", "bc"]}) + "\n" for n in range(4)), "utf-8"
    )
    assert Page(data_page(check_files([path]))).open == []


def test_written_whole_or_not_at_all(result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "page.html"
    write_data_page(result, path)
    assert path.read_text("utf-8") == data_page(result)
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(DataError, match=r"page\.html: the page cannot be written: No space left"):
        write_data_page({**result, "seed": 1}, path)
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]
    assert "Seed 0" in path.read_text("utf-8")


def test_many_values_are_one_last_bar() -> None:
    svg = figures.count_bars({str(n): 1 for n in range(1, 60)}, "turns", "turns", most=12)
    assert ">12+<" in svg
    assert figures.count_bars({}, "turns", "turns") == ""


def test_numbers_and_places() -> None:
    assert [percent(x) for x in (None, 0.0, 0.0002, 0.4462, 1.0)] == ["–", "0.0%", "0.02%", "44.6%", "100.0%"]
    assert short_place("data/sub/prefs.jsonl:17") == "prefs.jsonl:17"
