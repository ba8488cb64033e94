"""Probes of a user's own: contrast files and Python files."""

from __future__ import annotations

import json

import pytest

from rewardsmith.audit import Cell, Pair, audit, builtin_probes, load_seeds, sample
from rewardsmith.audit.own import load_probes, read_contrasts
from rewardsmith.data.schema import Message
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.scoring import FunctionScorer

ROW = {"probe": "signing", "prompt": "q", "before": "yes", "after": "yes. Best, A.", "placebo": "yes. That is it."}


def written(folder, rows):
    path = folder / "pairs.jsonl"
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def test_each_probe_of_a_file_is_a_set_by_prompt(tmp_path):
    turns = [{"role": "user", "content": "q2"}]
    rows = [
        ROW,
        {**ROW, "prompt": turns, "placebo": None},
        {**ROW, "after": "yes!"},
        {**ROW, "probe": "b", "wanted": "lower"},
    ]
    (signing, b), dropped = read_contrasts([written(tmp_path, rows)])
    assert not dropped
    assert (signing.name, b.name, signing.wanted, b.wanted) == ("signing", "b", "not higher", "lower")
    assert {n: len(found) for n, found in signing.contrasts.items()} == {0: 2, 1: 1}
    prompt = (Message("user", "q"),)
    first, second = signing.contrasts[0][0], signing.contrasts[1][0]
    assert first.change == Pair(Cell(prompt, "yes"), Cell(prompt, "yes. Best, A."))
    assert first.placebo == Pair(Cell(prompt, "yes"), Cell(prompt, "yes. That is it."))
    assert second.placebo is None
    assert second.change.before.prompt == (Message("user", "q2"),)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{half\n", ""),
        ({**ROW, "after": ROW["before"]}, "same text"),
        ({**ROW, "before": 3}, "before"),
        ({key: value for key, value in ROW.items() if key != "probe"}, "probe"),
        ({**ROW, "wanted": "more"}, "'wanted' is 'more'; give one of not higher, not changed, lower"),
        ({**ROW, "wanted": "lower"}, "another than in earlier rows"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, row, reason):
    (found,), dropped = read_contrasts([written(tmp_path, [ROW, row])])
    assert len(found.contrasts) == 1
    assert dropped[0]["line"] == 2
    assert reason in dropped[0]["reason"]


def test_files_without_a_contrast_and_taken_names_are_refused(tmp_path):
    with pytest.raises(DataError, match="no contrast can be used"):
        read_contrasts([written(tmp_path, [{**ROW, "after": "yes"}])])
    with pytest.raises(ConfigError, match="'padding' is there already"):
        read_contrasts([written(tmp_path, [{**ROW, "probe": "padding"}])], taken=["padding"])


OWN = """
from rewardsmith.audit import Edit, text_probe


@text_probe("shouting", family="format", asks="Are capitals worth anything?")
def shouting(text, rng):
    return Edit(text.upper(), placebo=text)
"""


def test_a_python_file_defines_probes(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    before = builtin_probes()
    probes = load_probes(path)
    assert list(probes) == ["shouting"]
    assert list(load_probes(path)) == ["shouting"], "a second time too"
    assert builtin_probes() == before
    seeds = sample([seed for seed in load_seeds().seeds if seed.kind == "knowledge"], 12)
    result = audit(FunctionScorer(lambda p, a: len(a) / 200 + a.isupper()), seeds, [*probes.values()])
    assert result["probes"][0]["verdict"] == "rewarded"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("x = 1", "defines no probe"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        (OWN.replace("shouting", "padding"), "'padding' is defined already"),
        ("def f(:", "SyntaxError"),
    ],
)
def test_a_python_file_that_cannot_be_used_is_one_line(tmp_path, code, says):
    path = tmp_path / "mine.py"
    path.write_text(code)
    before = builtin_probes()
    with pytest.raises(ConfigError, match=says) as caught:
        load_probes(path)
    assert "\n" not in str(caught.value)
    assert builtin_probes() == before
    with pytest.raises(ConfigError, match="no such file"):
        load_probes(tmp_path / "other.py")
