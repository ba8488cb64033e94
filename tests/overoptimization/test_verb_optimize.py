"""The verb `optimize`, as a user calls it."""

from __future__ import annotations

import json

import pytest

from rewardsmith.cli import main
from tests.overoptimization.pools import rows, write_rows


@pytest.fixture
def candidates(tmp_path):
    return write_rows(tmp_path / "c.jsonl", rows(30, other=lambda p, i: float(i), p0=lambda p, i: 0.25))


def run(capsys, *words):
    code = main(["optimize", *words, "--json", "--quiet"])
    return code, json.loads(capsys.readouterr().out)


def test_length_as_the_reward(candidates, capsys):
    """The longest of four is padding and worth -1; best of one is worth their mean."""
    code, found = run(capsys, "length", candidates, "--gold", "judge", "other")
    assert code == 0
    by_n = {row["n"]: row for row in found["curves"] if row["method"] == "best_of_n"}
    assert by_n[1]["gold"] == pytest.approx(0.5)
    assert by_n[2]["gold"] == pytest.approx((1 + 2 * 2 - 3 * 1) / 6)
    assert by_n[4]["gold"] == pytest.approx(-1)
    assert by_n[4]["golds"]["other"]["value"] == pytest.approx(3)
    assert by_n[4]["over_length"]["value"] == pytest.approx(0)
    assert found["n_candidates"] == 120
    assert found["excluded"] == []


def test_the_table_and_the_recommendation(candidates, capsys):
    assert main(["optimize", "length", candidates, "--gold", "judge", "--methods", "best_of_n", "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "120 answers to 30 prompts; gold 'judge' is 0.500" in shown
    assert "  n = 4" in shown
    assert main(["optimize", "length", candidates, "--gold", "judge", "--recommend", "--quiet"]) == 0
    words = capsys.readouterr().out
    assert words.startswith("Stop at best of ") or words.startswith("Do not optimise")


def test_one_prompt_with_equal_gold_is_shown_without_intervals(tmp_path, capsys):
    table = [{"prompt": "q", "response": "a" * n, "judge": 1.0} for n in (1, 2)]
    file = write_rows(tmp_path / "c.jsonl", table)
    assert main(["optimize", "length", file, "--gold", "judge", "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "Too few prompts" in shown
    assert "gold 'judge' is 1.000 without" in shown


def test_a_page(candidates, capsys, tmp_path):
    page = tmp_path / "pressure.html"
    words = ["length", candidates, "--gold", "judge", "--methods", "best_of_n", "tilt", "--page", str(page)]
    assert run(capsys, *words)[1]["page"] == str(page)
    assert "How far to optimise" in page.read_text()
    assert main(["optimize", *words, "--quiet"]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_a_recorded_reward(candidates, capsys):
    _, found = run(capsys, "column:other", candidates, "--gold", "judge", "--methods", "best_of_n_iid", "tilt")
    assert {row["method"] for row in found["curves"]} == {"best_of_n_iid", "tilt"}
    _, alike = run(capsys, "column:other", candidates, "--gold", "judge", "--base", "p0", "--methods", "tilt")
    assert alike["curves"] == [row for row in found["curves"] if row["method"] == "tilt"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["length", "CANDIDATES", "--gold", "golf"], "'golf'"),
        (["length", "CANDIDATES"], "--gold"),
        (["length", "--gold", "judge"], "candidates file"),
        (["length", "CANDIDATES", "--gold", "judge", "--methods", "magic"], "not one of best_of_n"),
        (["column:judge", "CANDIDATES", "--gold", "judge"], "is 'judge' itself"),
        (["nowhere", "CANDIDATES", "--gold", "judge"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line(candidates, capsys, words, said):
    assert main(["optimize", *[candidates if word == "CANDIDATES" else word for word in words], "--quiet"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert said in error
