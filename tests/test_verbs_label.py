"""`refresh label`, `export` and `import` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="the store needs SQLAlchemy")

from rewardsmith.cli import main, parse
from rewardsmith.errors import ConfigError
from rewardsmith.refresh.project import init_project, open_project
from tests.labelling.conftest import add_pairs
from tests.refresh.test_labellers import judge_at, longer


@pytest.fixture
def project(tmp_path: Path) -> Path:
    made, _ = init_project(tmp_path / "project")
    with made.open() as store:
        add_pairs(store, [("q", "longer", "short"), ("r", "x", "longer"), ("s", "one", "two")])
    return made.folder


def test_a_judge_labels(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with judge_at(longer) as (judge, _):
        arguments = [
            "refresh",
            "label",
            str(project),
            "--judge",
            judge.server.url,
            "--judge-model",
            "m",
            "--limit",
            "2",
        ]
        assert main([*arguments, "--quiet"]) == 0
        assert "judge:m: 2 of 2 pairs labelled (0 ties), 0 left unlabelled" in capsys.readouterr().out
        assert main([*arguments, "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["tie"] == 1
    with open_project(project).open() as store:
        assert sorted(label.verdict for label in store.labels()) == ["a", "b", "tie"]


@pytest.mark.parametrize(("options", "words"), [
    (["--judge", "http://x/v1"], "--judge needs --judge-model"),
    (["--judge", "http://x/v1", "--judge-model", "m", "--gold", "rm"], "one labels at a time"),
    (["--host", "0.0.0.0"], "keys are needed, one for each who asks"),
    (["--lease-seconds", "0"], "--lease-seconds 0"),
    (["--limit", "0"], "--limit 0"),
    (["--judge", "http://x/v1", "--judge-model", "m", "--judge-instructions", "not there"], "--judge-instructions"),
])  # fmt: skip
def test_mistakes_are_one_line(
    project: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["refresh", "label", str(project), *options]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert words in said[-1]


def test_no_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["refresh", "label", str(tmp_path)]) == 2
    assert "no refresh project is there" in capsys.readouterr().err


@pytest.mark.parametrize("tool", ["label-studio", "argilla"])
def test_out_and_in(project: Path, tmp_path: Path, tool: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pairs.json"
    assert main(["refresh", "export", str(project), "--to", tool, "--output", str(file)]) == 0
    assert "3 pairs with 0 labels" in capsys.readouterr().out
    items: list[dict[str, Any]] = json.loads(file.read_text())
    if tool == "argilla":
        items[0]["responses"] = {"verdict": [{"value": "tie", "user_id": "u"}]}
    else:
        choice = {"type": "choices", "value": {"choices": ["tie"]}}
        items[0]["annotations"] = [{"completed_by": 7, "result": [choice]}]
    file.write_text(json.dumps(items))
    assert main(["refresh", "import", str(project), str(file), "--annotators", "7=ann", "u=ann"]) == 0
    assert "1 new labels of 1 on 3 pairs; 2 pairs have none there" in capsys.readouterr().out
    with open_project(project).open() as store:
        assert [(label.annotator, label.verdict) for label in store.labels()] == [("ann", "tie")]
    assert main(["refresh", "import", str(project), str(file), "--annotators", "ann"]) == 2
    assert "write ID=NAME" in capsys.readouterr().err


# -- [label] in refresh.toml ----------------------------------------------------------------------------------------


def settings(project: Path, text: str) -> None:
    (project / "refresh.toml").write_text(f'store = "store.sqlite"\n{text}', encoding="utf-8")


def test_options_of_the_project_hold_and_the_command_line_wins(project: Path) -> None:
    folder = str(project)
    settings(project, '[label]\nport = 0\nlease-seconds = 60\nallow_host = ["a", "b"]\ntrust_remote_code = true\n')
    options, _ = parse("refresh label", [folder])
    assert (options.port, options.limits.lease_seconds, options.allow_host) == (0, 60.0, ("a", "b"))
    assert options.scoring.trust_remote_code
    assert (options.host, options.limits.body_seconds) == ("127.0.0.1", 10.0), "what nothing says stays"
    for words in (
        ["--port", "8011", folder],
        [folder, "--port=8011"],
        ["--quiet", "--no-score-cache", "--port", "8011", folder],
    ):
        options, _ = parse("refresh label", words)
        assert (options.port, options.limits.lease_seconds) == (8011, 60.0)
    options, _ = parse("refresh label", [folder, "--allow-host", "c"])
    assert options.allow_host == ("c",)


def test_a_config_file_goes_before_the_project(project: Path, tmp_path: Path) -> None:
    settings(project, "[label]\nport = 1\nlimit = 3\n")
    (tmp_path / "c.toml").write_text("port = 2\n")
    options, _ = parse("refresh label", [str(project), "--config", str(tmp_path / "c.toml")])
    assert (options.port, options.limit) == (2, 3)


def test_who_labels_is_one_choice(project: Path) -> None:
    folder = str(project)
    settings(project, '[label]\njudge = "http://x/v1"\njudge_model = "m"\njudge_at_once = 2\n')
    options, _ = parse("refresh label", [folder])
    assert (options.judged.judge, options.judged.judge_at_once) == ("http://x/v1", 2)
    options, _ = parse("refresh label", [folder, "--gold", "rm"])
    assert (options.judged.judge, options.golden.gold) == (None, "rm")
    settings(project, '[label]\ngold = "rm"\ngold_temperature = 0.5\nport = 1\nlimit = 9\n')
    options, _ = parse("refresh run", [folder, "--candidates", "c.jsonl"])
    assert (options.gold, options.errors.gold_temperature) == ("rm", 0.5)
    assert options.limit is None, "here, the prompts: another option of the same name"
    options, _ = parse("refresh run", [folder, "--candidates", "c.jsonl", "--judge", "http://x/v1"])
    assert (options.gold, options.judged.judge) == (None, "http://x/v1")
    options, _ = parse("refresh run", ["--gold", "other", "--candidates", "c.jsonl", "--rounds", "1", folder])
    assert options.gold == "other"


@pytest.mark.parametrize(("text", "words"), [
    ("[label]\nports = 1\n", r"\[label\] ports is no option of this step"),
    ('[label]\nport = "x"\n', r"\[label\] port = 'x' has not the type of this option"),
    ("[label]\nproject = 'x'\n", "project is no option"),
    ("label = 1\n", r"label is no table; write \[label\]"),
    ("[label]\nlease_seconds = 0\n", "--lease-seconds 0"),
])  # fmt: skip
def test_settings_that_are_none_are_said_in_one_line(project: Path, text: str, words: str) -> None:
    settings(project, text)
    for verb, more in (("refresh label", []), ("refresh run", ["--candidates", "c.jsonl", "--gold", "rm"])):
        if verb == "refresh run" and "lease" in text:
            continue  # is of no use there
        with pytest.raises(ConfigError, match=words) as error:
            parse(verb, [str(project), *more])
        assert "\n" not in str(error.value)


def test_a_judge_of_the_projects_settings_labels(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with judge_at(longer) as (judge, _):
        settings(project, f'[label]\njudge = "{judge.server.url}"\njudge_model = "m"\nlimit = 2\n')
        assert main(["refresh", "label", str(project), "--quiet"]) == 0
    assert "judge:m: 2 of 2 pairs labelled" in capsys.readouterr().out
