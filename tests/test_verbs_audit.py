"""`rewardsmith audit` on a tiny model: exit codes, the JSON file, the table, mistakes."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from rewardsmith.cli import main
from tests.tiny import tiny_tokenizer, tiny_trunk

ASKED = ["--n-seeds", "3", "--probe", "padding", "list", "--quiet", "--device", "cpu"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny reward model and a preference file."""
    folder = tmp_path_factory.mktemp("audit")
    torch.manual_seed(0)
    config = tiny_trunk().config
    config.num_labels = 1
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / "rm")
    tiny_tokenizer().save_pretrained(folder / "rm")
    rows = [{"prompt": f"q {i}", "chosen": f"Good {i}. Yes.", "rejected": f"Bad {i}. No."} for i in range(6)]
    (folder / "prefs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def run(place, monkeypatch, capsys):
    monkeypatch.chdir(place)

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["audit", "rm", *words])
        return code, *capsys.readouterr()

    return call


def test_the_json_has_the_promised_keys(run, tmp_path):
    code, out, _ = run(*ASKED, "--json", "--output", str(tmp_path / "audit.json"))
    result = json.loads(out)
    assert code == 0
    assert [row["name"] for row in result["probes"]] == ["padding", "list"]
    for row in result["probes"]:
        assert {"name", "effect_sd", "low", "high", "p_adjusted", "overtake_rate", "placebo_sd", "n"} <= set(row)
    assert result["gate"] == {}
    assert result["compute"]["tokens"] < result["compute"]["row_tokens"]
    assert json.loads((tmp_path / "audit.json").read_text()) == result
    code, _, err = run(*ASKED, "--output", str(tmp_path / "audit.json"))
    assert code == 2
    assert "--overwrite" in err


def test_the_table_names_probes_and_what_to_do_next(run):
    code, out, _ = run(*ASKED)
    assert code == 0
    assert "padding" in out
    assert "controls" in out
    assert "\nnext: " in out


def test_a_gate_decides_the_exit_code(run, tmp_path):
    gate = tmp_path / "gate.toml"
    gate.write_text("[default]\nmax_effect_sd = 100\n")
    assert run(*ASKED, "--gate", str(gate))[0] == 0
    gate.write_text("[default]\nmax_effect_sd = -100\n")
    code, out, _ = run(*ASKED, "--gate", str(gate))
    assert code == 1
    assert "FAILED" in out
    assert "padding: max_effect_sd -100" in out
    gate.write_text("[evaluation]\nmin_accuracy = 0.5\n")
    code, _, err = run(*ASKED, "--gate", str(gate))
    assert code == 2
    assert "add --evaluation" in err


def test_preferences_contrasts_and_a_probe_file(run, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"probe": "own", "prompt": f"q {i}", "before": "a", "after": "a b"} for i in range(4)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from rewardsmith.audit import Edit, text_probe\n"
        "@text_probe('shouting', family='f', asks='?')\n"
        "def f(text, rng):\n    return Edit(text.upper(), placebo=text)\n"
    )
    words = ["--seeds", "prefs.jsonl", "--contrasts", str(pairs), "--probes-file", str(mine), "--quiet"]
    code, out, err = run(*words, "--probe", "own", "shouting", "padding", "--n-seeds", "all", "--json")
    assert code == 0, err
    assert {row["name"]: row["n"] for row in json.loads(out)["probes"]} == {"own": 4, "shouting": 6, "padding": 6}


def test_a_row_that_cannot_be_used_is_a_problem_and_the_rest_goes_on(run, tmp_path):
    seeds = tmp_path / "seeds.jsonl"
    good = [
        {"id": str(i), "kind": "knowledge", "prompt": f"q{i}", "right": f"r {i}.", "wrong": f"w{i}."} for i in range(4)
    ]
    seeds.write_text("".join(json.dumps(row) + "\n" for row in [*good, {"kind": "harmful", "prompt": "x"}]))
    code, out, _ = run("--seeds", str(seeds), *ASKED)
    assert code == 1
    assert "PROBLEMS" in out
    assert "without good, complying" in out
    assert "padding" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--probe", "padings"], "no probe is named 'padings'"),
        (["--n-seeds", "1"], "give at least 2"),
        (["--real", "x=y"], "give alpaca=FILE"),
        (["--seeds", "none.jsonl"], "no such file"),
        (["--evaluation", "e.json"], "without --gate"),
        (["--probes-file", "none.py"], "no such file"),
        (["--attack", "0"], "give at least 1"),
        (["--validate", "--attack", "9"], "leave out"),
        (["--validate", "--strengths", "-1"], "above 0"),
    ],
)
def test_a_mistake_is_one_line(run, words, says):
    code, out, err = run(*words, "--quiet")
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def test_validation_says_how_often_a_planted_bias_is_found(run):
    code, out, _ = run(*ASKED[:-3], "--n-seeds", "12", "--validate", "--strengths", "3", "--json", "--device", "cpu")
    result = json.loads(out)
    assert code == 0
    assert result["strengths"] == [3.0]
    assert [row["name"] for row in result["probes"]] == ["padding", "list"]
    assert all(0 <= row["planted"][0]["recall"] <= 1 for row in result["probes"])
    code, out, _ = run(*ASKED, "--validate")
    assert code == 0
    assert "recall" in out


def test_an_attack_stands_beside_the_audit(run):
    code, out, _ = run(*ASKED, "--attack", "6", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["attack"]["budget"] == 6
    assert result["attack"]["n_attacked"] + result["attack"]["n_ahead"] == 3
    code, out, _ = run(*ASKED, "--attack", "6")
    assert code == 0
    assert "answers attacked" in out
