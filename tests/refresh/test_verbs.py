"""`refresh simulate` and `refresh drift` on the command line: JSON, tables, pages, and mistakes in one line."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from rewardsmith.cli import main
from tests.overoptimization.pools import rows, write_rows
from tests.refresh.test_drift import groups


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table = rows(40, 5)
    for row in table[3::17]:  # gold that is missing
        row["judge"] = None
    write_rows(tmp_path / "c.jsonl", table)
    for name, seed, start, more in (("new", 1, 500, {"size": 60}), ("ref", 0, 0, {}), ("few", 2, 900, {})):
        made = groups(3 if name == "few" else 60, seed, start=start, **more)
        write_rows(
            tmp_path / f"{name}.jsonl",
            [{"prompt": g.prompt[0].content, "response": r[0].content} for g in made for r in g.responses],
        )

    def call(*words):
        capsys.readouterr()
        code = main(["refresh", *words, "--quiet"])
        out, err = capsys.readouterr()
        return code, out, err

    return call


SMALL = ("simulate", "c.jsonl", "--gold", "judge", "--budget", "24", "--seeds", "1", "--kl", "0.4", "--draws", "50")


def test_simulate_tells_people_and_scripts(run, tmp_path):
    code, out, _ = run(*SMALL, "--rounds", "2", "--page", "p.html", "--feature-file", "f.npz", "--strategies", "replay")
    assert code == 0
    assert "left out: an answer without 'judge' (" in out
    assert re.search(r"With 24 labels and a policy at KL 0\.40, .* \(the best refreshed strategy", out)
    assert (tmp_path / "p.html").read_text().startswith("<!doctype html>")
    code, out, _ = run(*SMALL, "--rounds", "2", "--json", "--feature-file", "f.npz", "--strategies", "all_data")
    result = json.loads(out)
    assert [row["strategy"] for row in result["strategies"]] == ["fixed", "all_data"]
    assert result["best"] == "all_data"
    for row in result["strategies"]:
        assert [at["kl"] for at in row["rounds"]] == pytest.approx([0.1, 0.4])
        for at in row["rounds"]:
            assert at["gold"]["low"] <= at["gold"]["value"] <= at["gold"]["high"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--rounds", "1"), "--rounds 1: in a single round nothing is refreshed; give at least 2"),
        (("--budget", "99999"), r"--budget 99999: the \d+ prompts to label have \d+ pairs; give less"),
        (("--kl", "9"), "no policy over the label prompts' answers has a KL above"),
        (("--gold", "nothing"), "nothing"),
        (("--limit", "6"), "at least 5 each are needed: give more"),
        (("--strategies", "newest"), "--strategies newest: not one of fixed, last_only"),
        (("--label-noise", "0.5"), "from one half on labels say nothing"),
    ],
)
def test_simulate_says_what_is_wrong_in_one_line(run, more, words):
    code, out, err = run(*SMALL, *more)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert re.search(words, err)


def test_drift_of_texts(run, tmp_path):
    words = ("drift", "new.jsonl", "--reference", "ref.jsonl", "--permutations", "99")
    code, out, _ = run(*words, "--page", "d.html", "--check-on-splits", "2")
    assert code == 0
    assert "! length" in out
    assert "A refresh is due" in out
    assert "asked of 2 splits of the reference itself" in out
    assert "A refresh is due" in (tmp_path / "d.html").read_text()
    code, out, _ = run(*words, "--fail-when-due", "--json")
    assert code == 1
    assert json.loads(out)["verdict"] == "due"


def test_drift_of_three_rows(run):
    code, out, _ = run("drift", "few.jsonl", "--reference", "ref.jsonl", "--permutations", "99", "--fail-when-due")
    assert code == 0
    assert "Nothing was found in 3 new prompts" in out


def test_drift_of_score_files(run, tmp_path):
    rng = np.random.default_rng(0)
    for name, shift in (("a", 2.0), ("b", 0.0)):
        table = [
            {"id": f"{name}{i}", "response_index": 0, "reward": rng.normal(shift), "n_tokens": 9, "std": rng.random()}
            for i in range(80)
        ]
        write_rows(tmp_path / f"{name}.jsonl", table)
    code, out, _ = run("drift", "--scores", "a.jsonl", "--reference-scores", "b.jsonl", "--json")
    result = json.loads(out)
    assert code == 0
    assert {row["signal"]: row["alarm"] for row in result["signals"]} == {
        "length": False,
        "reward": True,
        "disagreement": False,
    }
    assert re.search(r"rewards are higher by [12]\.\d\d \[.*\] SD, \d+% of them above the highest 1%", result["text"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("drift",), "name files of new outputs and --reference"),
        (("drift", "new.jsonl"), "name files of new outputs and --reference"),
        (("drift", "--scores", "new.jsonl"), "belong together"),
        (("drift", "--scores", "new.jsonl", "--reference-scores", "ref.jsonl"), r"new.jsonl:1: no row with a reward"),
        (("drift", "new.jsonl", "--reference", "few.jsonl"), "the reference has 3 prompts; at least 20"),
        (("drift", "new.jsonl", "--reference", "ref.jsonl", "--permutations", "19"), "cannot show a level of 0.05"),
        (("drift", "new.jsonl", "--reference", "ref.jsonl", "--level", "2"), "give a chance between 0 and 1"),
        (("drift", "none.jsonl", "--reference", "ref.jsonl"), "none.jsonl"),
    ],
)
def test_drift_says_what_is_wrong_in_one_line(run, words, said):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert re.search(said, err)
