"""The page of `mitigate`: whole, escaped, nothing from outside, in a browser without sideways scrolling."""

from __future__ import annotations

from typing import Any

import pytest

from rewardsmith.errors import DataError
from rewardsmith.report.mitigation_page import dots, mitigation_page, verdict, write_mitigation_page
from tests.report.test_browser import CHROMIUM, CONTRAST, browser, opened  # noqa: F401  (browser is a fixture)
from tests.report.test_data_page import Page

ATTACK = "<script>alert('x')</script>"


def around(value: float, width: float = 0.1) -> dict[str, Any]:
    return {"value": value, "low": value - width, "high": value + width}


def side(value: float, fault: bool) -> dict[str, Any]:
    verdict = {"fault": fault, "verdict": "rewarded" if fault else "silent", "overtake_rate": None}
    return {**around(value), **verdict, "change_sd": value + 0.3, "placebo_sd": 0.3}


def made(**changes: Any) -> dict[str, Any]:
    numbers = {"n_pairs": 100, "n_prompts": 50, "accuracy": around(0.7), "length_matched_accuracy": around(0.6),
               "length_correlation": {"within_prompt": around(0.5)}}  # fmt: skip
    probes = [
        {"name": f"padding{ATTACK}", "family": "length", "wanted": "not higher", "worst": True,
         "before": side(1.2, True), "after": side(0.1, False), "change": around(-1.1), "fell_by": around(0.92)},
        {"name": "emoji", "family": "emoji", "wanted": "not higher", "worst": False,
         "before": side(0.1, False), "after": side(0.4, True), "change": None, "fell_by": None},
        {"name": "link", "family": "link", "wanted": "not higher", "worst": False,
         "before": side(0.0, False), "after": side(0.0, False), "change": None, "fell_by": None},
    ]  # fmt: skip
    proposal = {"name": "padding", "word": "padding=0.3:rejected", "stage": "data", "for": [f"padding{ATTACK}"],
                "what": "pairs", "cost": f"few {ATTACK}", "figures": {}, "auto": True}  # fmt: skip
    failed = {"what": "emoji", "key": "max_effect_sd", "threshold": 0.2, "reason": f"0.4 {ATTACK}"}
    return {
        "model": f"folder/rm{ATTACK}",
        "output": "mended",
        "taken": ["padding=0.3:rejected"],
        "adjusted": False,
        "plan": {"proposals": [proposal], "worst": [], "without_remedy": [f"citation{ATTACK}"], "warnings": []},
        "data": {"groups": 90, "made": 27, "balance": {"pairs": 90, "effective_pairs": 45.0}, "warnings": []},
        "probes": probes,
        "faults": {"before": 1, "after": 1, "mended": [f"padding{ATTACK}"], "new": ["emoji"]},
        "evaluation": {
            "before": numbers,
            "after": numbers,
            "difference": {key: around(-0.01) for key in ("accuracy", "length_matched_accuracy", "length_correlation")},
            "worse_slices": [{"slice": f"a={ATTACK}", "n": 9, "difference": -0.2, "low": -0.3, "high": -0.1}],
        },
        "candidates": {
            "gold": f"judge{ATTACK}",
            "n_prompts": 9,
            "n_candidates": 36,
            "rows": [
                {"n": n, "before": around(0.5), "after": around(0.6), "length": around(0.4), "difference": around(0.1)}
                for n in (1, 2, 4)
            ],
        },
        "gate": {"before": {"passed": False, "failed": [failed]}, "after": {"passed": False, "failed": [failed]}},
        "warnings": [f"one slice {ATTACK}"],
        "problems": [],
    } | changes  # fmt: skip


def test_texts_are_escaped_and_nothing_comes_from_outside():
    page = mitigation_page(made())
    assert ATTACK not in page
    assert page.count("&lt;script&gt;") >= 7
    parsed = Page(page)
    assert parsed.open == []
    assert "script" not in parsed.tags
    assert not [value for _, name, value in parsed.attributes if name in ("src", "href") and "//" in value]
    for words in ("padding=0.3:rejected", "taken", "50.0%", "The gate is not passed.", "+1.20", "fell by"):
        assert words in page


def test_the_edit_by_itself_is_shown_beside_the_effect():
    page = mitigation_page(made())
    assert "<td>+1.50 → +0.40</td>" in page
    assert page.count("neutral twin") == 1
    rows = [row | {"before": row["before"] | {"placebo_sd": None}} for row in made()["probes"]]
    without = mitigation_page(made(probes=rows))
    assert "neutral twin" not in without
    assert without.count("by itself") == 1  # of the probes in the fold


@pytest.mark.parametrize("part", ["evaluation", "candidates", "gate"])
def test_parts_that_are_not_there_are_left_out(part):
    page = mitigation_page(made(**{part: None}))
    assert {"evaluation": "Held-out pairs", "candidates": "Best of n", "gate": "What the gate"}[part] not in page


def test_dots_lie_on_one_axis_about_zero():
    found = dots(made()["probes"])
    before, after = found[0]["sides"]
    assert before["value"] - 50 == pytest.approx(12 * (after["value"] - 50))
    assert all(0 <= s[key] <= 100 for dot in found for s in dot["sides"] for key in ("low", "value", "high"))


def test_words():
    assert "1 fault before, 1 after" in verdict(made())


def test_a_page_that_cannot_be_written_is_said(tmp_path):
    write_mitigation_page(made(), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(DataError, match="cannot be written"):
        write_mitigation_page(made(), tmp_path / "page.html" / "below")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_on_a_phone(browser, tmp_path, scheme):  # noqa: F811
    file = tmp_path / "page.html"
    write_mitigation_page(made(), file)
    view = opened(browser, file, viewport={"width": 375, "height": 812}, color_scheme=scheme)
    view.eval_on_selector_all("details", "folds => folds.forEach(fold => { fold.open = true; })")
    assert view.evaluate("document.documentElement.scrollWidth") == 375
    found = view.evaluate(CONTRAST)
    assert found["seen"] > 50
    assert found["poor"] == []
