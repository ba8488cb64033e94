"""The page of `optimize`: whole, escaped, nothing from outside, in a browser without sideways scrolling."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewardsmith.best_of_n import answer_weights
from rewardsmith.errors import DataError
from rewardsmith.overoptimization.bought import bought
from rewardsmith.overoptimization.laws import fit_laws
from rewardsmith.report.figures import CSS
from rewardsmith.report.optimization_page import chosen, optimization_page, peak_words, write_optimization_page
from tests.report.test_browser import CHROMIUM, CONTRAST, browser, opened  # noqa: F401  (browser is a fixture)
from tests.report.test_data_page import Page

ATTACK = "<script>alert('x')</script>"
SIZES = [1, 2, 4, 8, 16, 32]
METHODS = ("best_of_n_iid", f"tilt{ATTACK}")


def made() -> dict[str, Any]:
    """A result of synthetic pools: a reward that knows quality and length, gold that length harms in the end."""
    rng = np.random.default_rng(0)
    length, quality = rng.normal(0, 1, (2, 60, 32))
    rewards = {"curves": 1.5 * length + quality, "length_only": length, "random": rng.normal(0, 1, length.shape)}
    gold = 0.3 * quality + 0.4 * length - 0.5 * length**2
    rewards["oracle"] = gold
    kl_S = np.log(SIZES) - 1 + 1 / np.array(SIZES)
    kl_PS = np.tile(kl_S, (60, 1))
    result: dict[str, Any] = {
        "n_prompts": 60,
        "n_candidates": 1920,
        "gold": f"judge{ATTACK}",
        "golds": [f"judge{ATTACK}", "other"],
        "excluded": [{"reason": f"no gold {ATTACK}", "count": 3}],
    }
    for key, reward in rewards.items():
        weights = [answer_weights(row, SIZES) for row in reward]
        mean = {name: np.mean([w @ v for w, v in zip(weights, x, strict=True)], 0) for name, x in
                (("proxy", reward), ("gold", gold))}  # fmt: skip
        result[key] = [
            {
                "method": method,
                "strength": float(n),
                "n": n if method == METHODS[0] else None,
                "beta": None,
                "kl": float(kl_S[s]),
                "proxy": float(mean["proxy"][s]),
                "gold": float(mean["gold"][s]),
                "low": float(mean["gold"][s]) - 0.1,
                "high": float(mean["gold"][s]) + 0.1,
                "win_rate": {"value": 0.6, "low": 0.5, "high": 0.7},
                "golds": {name: {"value": 0.5, "low": None, "high": None} for name in result["golds"]},
            }
            for method in METHODS
            for s, n in enumerate(SIZES)
        ]
        if key == "curves":
            gold_PS = np.array([w @ v for w, v in zip(weights, gold, strict=True)])
            laws = fit_laws(kl_PS, gold_PS, gold.mean(1), draws=100)
            result["laws"] = [law | {"method": METHODS[0], "gold": result["gold"]} for law in laws]
            features = list(np.stack([length, rng.normal(0, 1, length.shape)], axis=2))
            base = [np.full(32, 1 / 32)] * 60
            result["bought"] = bought(
                features, ["length", "lists"], list(reward), list(gold), weights, base, SIZES, draws=100
            )
    interval = {"value": 0.8, "low": 0.7, "high": 0.9}
    result["optimum"] = [{"method": m, "strength": 8.0, "kl": 1.2, "gold": interval} for m in METHODS]
    result["recommendation"] = [{"method": METHODS[0], "text": f"Stop at best of 8. {ATTACK}"}]
    result["aggregates"] = [
        {"aggregate": f"{name}{ATTACK}", "curves": result["curves"][:6]} for name in ("mean", "min")
    ]
    points = [{"n": n, "correlation": {"value": 0.5 + n / 100, "low": 0.4, "high": 0.9}} for n in SIZES]
    result["shared_error"] = {"curve": points, "sentence": f"Most of the error is shared. {ATTACK}"}
    return json.loads(json.dumps(result, allow_nan=False))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return made()


@pytest.fixture(scope="module")
def html(result: dict[str, Any]) -> str:
    return optimization_page(result)


def test_page_is_whole_and_says_what_was_found(result: dict[str, Any], html: str) -> None:
    page = Page(html)
    assert page.open == []
    for text in (
        "Stop at best of 8",
        "Most of the error is shared",
        result["bought"][-1]["reading"],
        "best of n, with",
    ):
        assert text in page.text
    for figure in ("m0-", "law0-", "bought0-", "aggregates-", "shared-error-"):
        assert f'id="{figure}' in html, figure


def test_texts_are_escaped_and_nothing_comes_from_outside(html: str) -> None:
    page = Page(html)
    assert "<script" not in html
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert not re.search(r"https?://|url\((?!#)|@import", html)
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert not any(stand_in in html for stand_in in CSS)


def test_parts_that_a_result_lacks_are_left_out(result: dict[str, Any]) -> None:
    bare = {key: result[key] for key in ("n_prompts", "n_candidates", "gold", "curves")}
    page = Page(optimization_page(bare | {"shared_error": None, "recommendation": {"text": "Only this."}}))
    assert page.open == []
    assert "Only this." in page.text
    for heading in ("The laws", "What the pressure bought", "Members and", "Left out"):
        assert heading not in page.text
    nothing = [point | {"kl": None, "low": None, "proxy": None} for point in result["curves"]]
    assert Page(optimization_page(bare | {"curves": nothing})).open == []
    assert Page(optimization_page(bare | {"curves": []})).open == []


@pytest.mark.parametrize(
    ("law", "words"),
    [
        ({}, "none"),
        ({"peak_kl": 0.8, "kl_to": 2.0, "peak_kl_interval": {"low": 0.5, "high": 1.2}}, "0.800 (0.500 to 1.200)"),
        ({"peak_kl": 0.8, "kl_to": 2.0, "peak_kl_interval": {"low": 0.5, "high": None}}, "0.800 (0.500 to far beyond)"),
        ({"peak_kl": 1e9, "kl_to": 2.0}, "far beyond"),
        ({"peak_kl": 0.8}, "0.800"),
    ],
)
def test_peaks_in_words(law: dict[str, Any], words: str) -> None:
    assert peak_words(law) == words


def test_bars_are_of_few_sizes_and_of_the_last(result: dict[str, Any]) -> None:
    assert [row["n"] for row in chosen(result["bought"])] == [2, 4, 16, 32]


def test_same_result_same_page_and_a_file(result: dict[str, Any], html: str, tmp_path: Path) -> None:
    write_optimization_page(result, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text("utf-8") == html
    with pytest.raises(DataError, match="cannot be written"):
        write_optimization_page(result, tmp_path / "page.html" / "below.html")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_on_a_phone(browser: Any, html: str, tmp_path: Path, scheme: str) -> None:  # noqa: F811
    file = tmp_path / "page.html"
    file.write_text(html, "utf-8")
    view = opened(browser, file, viewport={"width": 375, "height": 812}, color_scheme=scheme)
    view.eval_on_selector_all("details", "folds => folds.forEach(fold => { fold.open = true; })")
    assert view.evaluate("document.documentElement.scrollWidth") == 375
    found = view.evaluate(CONTRAST)
    assert found["seen"] > 100
    assert found["poor"] == []
