"""The heat map: every text escaped and whole, marks by sign and strength, nothing told by colour alone."""

from __future__ import annotations

import re

import pytest

from rewardsmith.audit.tokens import explain
from rewardsmith.cli import main
from rewardsmith.data.schema import Group, Message
from rewardsmith.report.heat_map import heat_map_html, mark_of, parts_of, write_heat_map
from rewardsmith.scoring import FunctionScorer

ATTACK = "<script>alert('x')</script>"
GROUP = Group(
    prompt=(Message("user", f"what {ATTACK}"),),
    responses=((Message("assistant", f"good and\n\nbad {ATTACK} words"),), (Message("assistant", "bad"),)),
    note=ATTACK,
)


@pytest.fixture
def rows():
    return explain(FunctionScorer(lambda prompt, response: response.count("good") - 0.5 * response.count("bad")), GROUP)


def test_texts_are_escaped_and_complete(rows):
    page = heat_map_html(GROUP, rows, title=f"a title {ATTACK}", labels=["chosen", "rejected"], sentences=[ATTACK])
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 5
    assert "chosen: reward +0.500" in page
    assert "http" not in page
    for row in rows:
        assert "".join(part["text"] for part in parts_of(row, 1.0)) == row["text"]


def test_marks_follow_sign_and_strength_and_are_told_without_colour(rows):
    assert mark_of(1.0, 1.0) == "up l4"
    assert mark_of(-0.3, 1.0) == "down l2"
    assert mark_of(0.01, 1.0) == mark_of(None, 1.0) == mark_of(0.0, 0.0) == ""
    page = heat_map_html(GROUP, rows, title="t")
    assert '<span class="up l4" title="+1.000">good</span>' in page
    assert '<span class="down l3" title="−0.500">bad</span>' in page
    assert re.search(r"\.down \{[^}]*dotted", page)
    assert re.search(r"\.up \{[^}]*solid", page)
    assert '<td>−0.500</td><td class="left">lowers</td>' in page


def test_overlapping_tokens_do_not_repeat_a_character(rows):
    row = {"text": "é!", "units": [{"start": 0, "end": 1, "value": 1.0}, {"start": 0, "end": 2, "value": 1.0}]}
    assert [part["text"] for part in parts_of(row, 1.0)] == ["é", "!"]


def test_a_page_is_written_whole(rows, tmp_path):
    write_heat_map(tmp_path / "deep" / "page.html", GROUP, rows, title="t")
    assert (tmp_path / "deep" / "page.html").read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_the_verb_refuses_a_pair_that_is_not_there(tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text('{"prompt": "q", "chosen": "a b", "rejected": "c"}\n')
    assert main(["explain", "nowhere", str(tmp_path / "p.jsonl"), "--pair", "2"]) == 2
    assert "--pair 2: the files have 1 pairs that are no tie" in capsys.readouterr().err
