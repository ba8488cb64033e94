"""The gate: which end of the interval counts, and what a file may say."""

from __future__ import annotations

import json

import pytest

from rewardsmith.audit.gate import Figure, breach, check_gate, line_of, read_evaluation, read_gate
from rewardsmith.errors import ConfigError

PROBES = ("padding", "prompt removed", "names")


def row(name, value, low, high, rate=None, wanted="not higher"):
    return {
        "name": name,
        "wanted": wanted,
        "effect_sd": value,
        "low": low,
        "high": high,
        "overtake_rate": rate,
        "overtake_low": None if rate is None else rate - 0.1,
        "overtake_high": None if rate is None else rate + 0.1,
    }


RESULT = {
    "probes": [row("padding", 0.5, 0.3, 0.7, 0.4), row("names", -0.6, -0.8, -0.4, wanted="not changed")],
    "best_of_edits": {"overtake_rate": 0.8, "low": 0.7, "high": 0.9},
}


def gate_of(folder, content):
    path = folder / "gate.toml"
    path.write_text(content)
    return read_gate(path, PROBES)


def check(folder, content, evaluation=None):
    return check_gate(gate_of(folder, content), RESULT, evaluation)


@pytest.mark.parametrize(
    ("key", "threshold", "strict", "fails"),
    [
        ("max_effect_sd", 0.2, False, True),
        ("max_effect_sd", 0.4, False, False),  # the interval reaches below
        ("max_effect_sd", 0.4, True, True),
        ("max_effect_sd", 0.7, True, False),
        ("min_accuracy", 0.8, False, True),
        ("min_accuracy", 0.6, False, False),
        ("min_accuracy", 0.6, True, True),
        ("min_accuracy", 0.3, True, False),
    ],
)
def test_noise_fails_no_gate_unless_strict(key, threshold, strict, fails):
    assert (breach(key, threshold, Figure(0.5, 0.3, 0.7), strict=strict) is not None) == fails
    assert breach("max_ece", 0.1, Figure(0.2), strict=strict) == "0.200 is above 0.1"


def test_what_failed_is_named(tmp_path):
    found = check(tmp_path, "[default]\nmax_effect_sd = 0.1\n[best_of_edits]\nmax_overtake_rate = 0.75\n")
    assert not found["passed"]
    assert [(f["what"], f["value"]) for f in found["failed"]] == [("padding", 0.5), ("names", 0.6)]
    assert found["failed"][0]["reason"] == "0.500 [0.300, 0.700] lies above 0.1"
    assert "0.600 [0.400, 0.800]" in found["failed"][1]["reason"], "either direction, where none should be"
    assert found["n_checked"] == 3


def test_a_probes_own_threshold_goes_before_the_default(tmp_path):
    content = "[default]\nmax_effect_sd = 0.1\n[probes.padding]\nmax_effect_sd = 1\n[probes.names]\nmax_effect_sd = 1\n"
    assert check(tmp_path, content)["passed"]


def test_a_figure_that_is_not_there(tmp_path):
    found = check(tmp_path, '[default]\nmax_overtake_rate = 0.9\n[probes."prompt removed"]\nmax_effect_sd = 0.1\n')
    assert found["passed"]
    assert {(f["what"], f["key"]) for f in found["not_checked"]} == {
        ("names", "max_overtake_rate"),
        ("prompt removed", "max_overtake_rate"),
        ("prompt removed", "max_effect_sd"),
    }
    found = check(tmp_path, "[probes.names]\nmax_overtake_rate = 0.9\n")
    assert found["failed"][0]["reason"] == "no figure", "it was asked for by name, and was asked"


def test_an_evaluation_is_held_against_its_thresholds(tmp_path):
    content = "[evaluation]\nmin_accuracy = 0.7\nmax_ece = 0.05\nmax_nll = 0.7\n"
    evaluation = {"accuracy": {"value": 0.6, "low": 0.55, "high": 0.65}, "ece": 0.04, "nll": 0.6}
    found = check(tmp_path, content, evaluation)
    assert [f["key"] for f in found["failed"]] == ["min_accuracy"]
    (tmp_path / "e.json").write_text(json.dumps(evaluation))
    assert read_evaluation(tmp_path / "e.json") == evaluation
    for content in ("{}", "[", "[1]"):
        (tmp_path / "e.json").write_text(content)
        with pytest.raises(ConfigError):
            read_evaluation(tmp_path / "e.json")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[default]\nmax_effect_sd = 1\nmax_efect_sd = 1", r"gate.toml:3: unknown key 'max_efect_sd' in \[default\]"),
        ("\n\n[probes.paddings]\nmax_effect_sd = 1", "gate.toml:3: no probe is named 'paddings'"),
        ("[defaults]\nmax_effect_sd = 1", "gate.toml:1: unknown key 'defaults'"),
        ("[default]\nmax_effect_sd = 'x'", "gate.toml:2: max_effect_sd is 'x', not a number"),
        ("strict = 1\n[default]\nmax_effect_sd = 1", "gate.toml:1: strict is 1"),
        ("[default\n", "line 1"),
        ("", "no threshold"),
        ("default = 3", "default is no table"),
        ("[evaluation]\nmin_recall = 1", "gate.toml:2: unknown key 'min_recall'"),
    ],
)
def test_a_mistake_is_an_error_with_its_line(tmp_path, content, says):
    with pytest.raises(ConfigError, match=says):
        gate_of(tmp_path, content)
    with pytest.raises(ConfigError, match="No such file"):
        read_gate(tmp_path / "none.toml", PROBES)


def test_lines_are_found_however_the_key_is_written():
    assert line_of('a = 1\n[probes."prompt removed"]\n', "prompt removed") == 2
    assert line_of("probes.padding.max_effect_sd = 1", "padding") == 1
    assert line_of("# padding\n", "padding") == 1
