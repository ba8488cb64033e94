"""The page of a run: whole, self-contained, safe on anybody's texts, and its words are those of its numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewardsmith.data.schema import Group, Message, Preference
from rewardsmith.errors import DataError
from rewardsmith.evaluation.evaluate import evaluate_rows
from rewardsmith.report import run_page as module
from rewardsmith.report.run_figures import margin_edges, smoothed, thinned
from rewardsmith.report.run_page import MOST_SLICES, write_run_page
from rewardsmith.report.run_pairs import MOST_RIGHT, MOST_WRONG, SHOWN_AT_ALL
from rewardsmith.report.run_words import MOST_BINS, base_model
from rewardsmith.report.verdict import Verdict, judge, length_rule, rows_of

ATTACK = "<script>alert('x')</script>"
VOID = {"meta", "br", "hr", "img", "link", "input"}
N = 60
CURVE: list[dict[str, Any]] = [
    *({"step": s, "loss": 0.7 - 0.002 * s, "accuracy": None if s == 3 else 0.5 + s / 100} for s in range(1, 21)),
    {"step": 10, "eval_accuracy": 0.6, "eval_loss": 0.66},
    {"step": 20, "eval_accuracy": math.nan, "eval_loss": 0.65},
]
META: dict[str, Any] = {
    "rewardsmith": "0.1.0",
    "base_model": "some-hub/small-model",
    "normalisation": {"applied": "none", "reference": {"mean": -0.5, "std": 1.25, "n": 120, "responses": "held-out"}},
    "calibration": None,
    "metrics": {"held_out": None, "kept_step": 10},
    "training": {"steps": 20, "groups": 300, "pairs": 640, "seconds": 185.0, "device": "cpu", "precision": "no"},
    "data": {
        "train": {"files": [{"path": "folder/prefs.jsonl", "sha256": "ab" * 32}], "groups": 300, "rows_dropped": 7},
        "eval": {"files": [], "groups": N, "rows_dropped": 0},
        "rendering": {"groups": 360, "prompts_cut": 4, "responses_cut": 0, "dropped": 1},
        "left_out": [{"group": "g1", "source": "folder/prefs.jsonl:9", "reason": "no preference"}],
    },
    "config": {"epochs": 1, "train_layers": 6, "eval_fraction": 0.2, "loss": {"objective": "bradley-terry"}},
    "parity": {
        "n_rows": 32,
        "reward_spread": 0.5,
        "max_difference": {"padded": 1e-6, "single_row": 5e-7},
        "tolerance": 2e-6,
    },
}


class Page(HTMLParser):
    """Tags that were opened and not closed, all tags with their attributes, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self.text += " "
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def real_figures() -> None:
    """Asked for by tests that look at plots: the others do without, as drawing is what takes time."""


@pytest.fixture(autouse=True)
def stand_ins(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real_figures" not in request.fixturenames:
        names = ("loss", "accuracy", "margins", "reliability")
        monkeypatch.setattr(module, "drawn", lambda *_: dict.fromkeys(names, "<svg></svg>"))


def pair(n: int, *, longer: bool = False, tag: str = "") -> Group:
    """One preference whose chosen side is 30 characters longer or shorter than the other."""
    sides = ("a" * (60 if longer else 30), "b" * (30 if longer else 60))
    return Group(
        prompt=(Message("user", f"question {n}"),),
        responses=tuple((Message("assistant", f"{text} {n}"),) for text in sides),
        preferences=(Preference(chosen=0, rejected=1),),
        tags={"slice": tag or ("even" if n % 2 == 0 else "odd")},
        source=f"folder/held.jsonl:{n}",
    )


def case(right: Callable[[int], bool], longer: Callable[[int], bool]) -> tuple[list[Group], list[list[float]]]:
    """N pairs: which of them the model gets right, and in which of them the chosen side is the longer one."""
    groups = [pair(n, longer=longer(n)) for n in range(N)]
    return groups, [[0.5 + n / N, 0.0] if right(n) else [0.0, 0.5 + n / N] for n in range(N)]


CASES = {
    "chance": case(lambda n: n % 2 == 0, lambda n: n % 3 == 0),
    "below": case(lambda n: n % 10 < 7, lambda n: n % 20 != 9),
    "good": case(lambda n: n % 10 < 9, lambda n: n % 2 == 0),
}


def verdict(name: str) -> Verdict:
    groups, rewards = CASES[name]
    evaluation = evaluate_rows(groups, rewards, draws=400)
    return judge(evaluation, length_rule(evaluation, rows_of(groups, [np.array(r) for r in rewards])))


def page(groups: list[Group] | None = None, rewards: list[list[float]] | None = None, **changed: Any) -> str:
    if groups is None or rewards is None:
        groups, rewards = CASES["good"]
    given: dict[str, Any] = {
        "title": "A small reward model",
        "meta": META,
        "curve": CURVE,
        "example": {
            "prompt": "Why?",
            "answers": [{"text": "Because.", "reward": -0.25}, {"text": "A reason.", "reward": 0.75}],
        },
    }
    if "evaluation" not in changed:
        given["evaluation"] = evaluate_rows(groups, rewards, draws=100)
    return module.run_page(groups=groups, rewards=rewards, **(given | changed))


# Words and numbers ----------------------------------------------------------------------------------


def test_words_of_a_model_at_chance() -> None:
    found = verdict("chance")
    assert found.tone == "bad"
    assert found.headline == "No better than chance on this evidence"
    assert "50.0%" in found.sentences[0]
    assert "includes 50%" in found.sentences[0]
    # The chosen side is longer in a third of the pairs: the better rule is the shorter answer.
    assert "preferring the shorter answer, without reading it, is right in 66.7%" in " ".join(found.sentences)


def test_words_of_a_model_below_the_length_baseline() -> None:
    found = verdict("below")
    text = " ".join(found.sentences)
    assert found.tone == "bad"
    assert found.headline == "Better than chance, but below the length baseline"
    assert "preferring the longer answer, without reading it, is right in 95.0%" in text
    assert "below that by 25.0 points" in text
    assert "not above the length baseline" in text


def test_words_of_a_good_model() -> None:
    found = verdict("good")
    text = " ".join(found.sentences)
    assert found.tone == "good"
    assert found.headline == "Better than chance and above the length baseline"
    assert "90.0%" in found.sentences[0]
    assert "above that by 40.0 points" in text
    assert "No two answers are of similar length" in text


def test_a_lead_within_the_noise_is_not_claimed() -> None:
    groups, rewards = case(lambda n: n % 10 < 7, lambda n: n % 3 != 0)
    evaluation = evaluate_rows(groups, rewards, draws=400)
    found = judge(evaluation, length_rule(evaluation, rows_of(groups, [np.array(r) for r in rewards])))
    assert found.tone == "doubt"
    assert "not shown to be above the length baseline" in found.headline
    assert "too close to call" in " ".join(found.sentences)


def test_pairs_that_are_all_alike_are_no_certainty() -> None:
    groups, rewards = [pair(n) for n in range(5)], [[1.0, 0.0]] * 5
    found = judge(evaluate_rows(groups, rewards, draws=50), None)
    assert found.headline == "Too little evidence to say"
    html = page(groups, rewards)
    assert "all alike: no interval" in html
    assert "100.0% to 100.0%" not in html


def test_the_page_says_what_the_verdict_says() -> None:
    for name, (groups, rewards) in CASES.items():
        text = Page(page(groups, rewards)).text
        assert verdict(name).headline in text
        assert f"{sum(r[0] > r[1] for r in rewards) / N:.1%}" in text


def test_numbers_behind_are_there() -> None:
    text = re.sub(r"\s+", " ", Page(page()).text)
    for expected in (
        "some-hub/small-model",
        "300 groups",
        "640 preferences",
        "prefs.jsonl",
        "3 min 05 s",
        "top 6 layers",
    ):
        assert expected in text
    for expected in (
        "rows dropped while reading, training 7",
        "prompts cut to fit (oldest tokens) 4",
        "padded 1.0e−06",
    ):
        assert expected in text
    assert "one part in 500,000 of the rewards' spread" in text
    assert "best of 1 held-out" not in text, "the NaN of an evaluation is no measurement"
    assert "−0.250" in text
    assert "chance of 73.1% that answer 1 is the better one" in text


# Safe and whole -------------------------------------------------------------------------------------


def test_texts_are_escaped(real_figures: None) -> None:
    group = Group(
        prompt=(Message("system", ATTACK), Message("user", ATTACK)),
        responses=((Message("assistant", ATTACK),), (Message("assistant", f"{ATTACK}" * 90), Message(ATTACK, ATTACK))),
        preferences=(Preference(chosen=0, rejected=1, probability=0.8),),
        ratings=(2.0, None),
        tags={ATTACK: f'"{ATTACK}'},
        note=ATTACK,
        source=ATTACK,
    )
    meta = META | {"base_model": ATTACK, "config": {"model": ATTACK}, "data": {"left_out": [{"reason": ATTACK}]}}
    example = {"prompt": ATTACK, "answers": [{"text": ATTACK, "reward": None}, {"text": ATTACK, "reward": 1.0}]}
    html = page([group], [[0.0, 1.0]], title=ATTACK, meta=meta, example=example)
    assert "<script" not in html.lower()
    assert html.count("&lt;script&gt;") > 15
    parsed = Page(html)
    assert parsed.open == []
    assert not [attrs for _, attrs in parsed.tags if any(name.startswith("on") for name in attrs)]


def test_page_needs_nothing_from_outside(real_figures: None) -> None:
    html = page()
    assert not re.search(r"https?:|@import|<script|<link|<iframe|<img", html, flags=re.I)
    parsed = Page(html)
    assert parsed.open == []
    for tag, attrs in parsed.tags:
        assert "src" not in attrs, tag
        assert attrs.get("href", "#").startswith("#")
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))


def test_figures_carry_titles_and_labels(real_figures: None) -> None:
    html = page()
    parsed = Page(html)
    pictures = [attrs for tag, attrs in parsed.tags if tag == "svg"]
    groups, rewards = CASES["good"]
    slices = [row["slice"] for row in evaluate_rows(groups, rewards, draws=20)["slices"]]
    assert len(pictures) == 4 + 3 + len(slices), "four plots, three dots of the headline, the slices"
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for attrs in pictures)
    figures = re.findall(r"<figure.*?</figure>", html, flags=re.S)
    assert len(figures) == 5 + len({name.partition("=")[0] for name in slices})
    assert all(re.search(r"<h3>.+?</h3>", figure) for figure in figures)
    for label in ("step", "reward of chosen minus reward of rejected", "how often it is right", "50%, a coin"):
        assert label in parsed.text
    names = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(names) == len(set(names)), "ids of two figures meet"


def test_light_dark_phone_and_paper() -> None:
    html = page()
    for query in ("prefers-color-scheme: dark", "max-width: 640px", "@media print", 'name="viewport"'):
        assert query in html


# Missing pieces -------------------------------------------------------------------------------------


def test_nothing_but_a_title(real_figures: None) -> None:
    html = page([], [], meta={}, evaluation={}, curve=[], example=None)
    assert Page(html).open == []
    for expected in ("Not measured on held-out data", "No training curve is recorded", "no held-out pairs to show"):
        assert expected in html
    assert "None" not in Page(html).text


def test_no_held_out_data(real_figures: None) -> None:
    html = page([], [], example=None)
    assert "Not measured on held-out data" in html
    assert "Loss per step" in html
    assert "How far apart" not in html


@pytest.mark.parametrize("missing", sorted(META))
def test_each_piece_of_the_metadata_may_be_missing(missing: str) -> None:
    for meta in ({k: v for k, v in META.items() if k != missing}, META | {missing: None}):
        html = page(meta=meta)
        assert Page(html).open == []
        assert "None" not in Page(html).text


def test_one_pair_and_no_interval(real_figures: None) -> None:
    html = page([pair(0)], [[1.0, 0.0]], curve=[{"step": 1, "loss": 0.7, "accuracy": 1.0}])
    assert "Too little evidence to say" in html
    assert "no interval" in html
    assert "Where it is most wrong" not in html


def test_ties_empty_answers_and_rewards_that_are_no_number() -> None:
    tie = Group(
        prompt=(),
        responses=((Message("assistant", ""),), (Message("assistant", "x"),)),
        preferences=(Preference(chosen=0, rejected=1, probability=0.5),),
        tags={"slice": "ties"},
    )
    equal = Group(
        prompt=(),
        responses=((Message("assistant", ""),), (Message("assistant", "\ud800"),)),
        preferences=(Preference(chosen=0, rejected=1),),
    )
    groups = [tie, equal]
    evaluation = evaluate_rows(groups, [[0.0, 0.0]] * 2, draws=20)
    html = page([*groups, pair(1)], [[0.0, 0.0], [0.0, 0.0], [math.nan, 0.0]], evaluation=evaluation)
    text = Page(html).text
    assert "no pairs" in text
    assert "The two rewards are equal." in text
    assert "(empty)" in text
    assert "groups left aside here: a reward that is no finite number" in text


# How much is shown ----------------------------------------------------------------------------------


def test_most_wrong_and_most_right() -> None:
    groups, rewards = CASES["chance"]
    html = page(groups, rewards)
    articles = re.findall(r"<article.*?</article>", html, flags=re.S)
    assert len(articles) == MOST_WRONG + MOST_RIGHT
    margins = [float(m.replace("−", "-")) for m in re.findall(r"rejected: <b[^>]*>(\S+?)</b>", html)]
    assert margins[:MOST_WRONG] == sorted(margins[:MOST_WRONG])
    assert margins[MOST_WRONG:] == sorted(margins[MOST_WRONG:], reverse=True)
    assert margins[0] == pytest.approx(-(0.5 + 59 / N), abs=1e-3)
    assert f"{MOST_WRONG} of 30 prompts with a wrong pair" in html


def test_one_pair_of_each_prompt() -> None:
    group = Group(
        prompt=(Message("user", "q"),),
        responses=tuple((Message("assistant", text),) for text in "abc"),
        preferences=(Preference(chosen=0, rejected=1), Preference(chosen=0, rejected=2)),
    )
    html = page([group], [[0.0, 1.0, 2.0]])
    assert html.count("<article") == 1
    assert "−2.000" in html


def test_long_texts_fold_and_end() -> None:
    long = Group(
        prompt=(Message("user", "q"),),
        responses=((Message("assistant", "word " * 300),), (Message("assistant", "x" * (SHOWN_AT_ALL + 5)),)),
        preferences=(Preference(chosen=0, rejected=1),),
    )
    html = page([long], [[0.0, 1.0]])
    assert "the whole text, 1,500 characters" in html
    assert "and 5 further characters" in html


def test_many_slices_are_counted() -> None:
    groups = [pair(n, tag=f"s{n}") for n in range(MOST_SLICES + 3)]
    rewards = [[1.0, 0.0]] * len(groups)
    beyond = len(evaluate_rows(groups, rewards, draws=20)["slices"]) - MOST_SLICES
    assert beyond >= 3
    assert f"{beyond} smaller slices are not drawn" in page(groups, rewards)


def test_long_runs_stay_small(real_figures: None) -> None:
    curve = [{"step": s, "loss": 0.7, "accuracy": 0.5} for s in range(1, 5001)]
    html = page(curve=curve)
    assert "is the mean of 9 steps" in html
    assert len(html) < 250_000


# Parts ----------------------------------------------------------------------------------------------


def test_smoothing_keeps_a_constant_and_a_length() -> None:
    assert smoothed(np.ones(40)) == pytest.approx(np.ones(40))
    assert smoothed(np.array([3.0])) == pytest.approx([3.0])
    assert smoothed(np.arange(100.0))[50] == pytest.approx(50.0)
    assert thinned(np.arange(1000.0), 600)[:2] == pytest.approx([0.5, 2.5])


def test_zero_is_an_edge_of_the_margins() -> None:
    for margins in ([0.0], [-1.0, 5.0, 2.0], [1e-9] * 500):
        edges = margin_edges(np.array(margins))
        assert np.any(np.isclose(edges, 0.0, atol=1e-12 * edges[-1]))
        assert np.all(np.diff(edges) > 0)


def test_equal_rewards_are_drawn_as_wrong(real_figures: None) -> None:
    html = page([pair(n) for n in range(4)], [[0.0, 0.0]] * 4)
    assert "wrong: 100.0%" in html


def test_bins_of_the_reliability_plot() -> None:
    groups, rewards = [pair(n) for n in range(400)], [[n / 100, 0.0] for n in range(400)]
    assert f"{MOST_BINS} groups of about equal size" in page(groups, rewards)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("owner/model", "owner/model"),
        ("/some/folder/model", "model"),
        ("./model/", "model"),
        ("gguf:/some/folder/weights", "weights (weights in a GGUF file)"),
        (None, ""),
    ],
)
def test_base_model_names(name: str | None, shown: str) -> None:
    assert base_model(name) == shown


def test_written_whole_or_not_at_all(tmp_path: Path) -> None:
    groups, rewards = CASES["good"]
    given: dict[str, Any] = {"title": "t\ud800", "meta": META, "evaluation": {}, "curve": []}
    path = tmp_path / "new" / "report.html"
    write_run_page(path, groups=groups, rewards=rewards, **given)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_run_page(tmp_path / "file" / "report.html", groups=groups, rewards=rewards, **given)
