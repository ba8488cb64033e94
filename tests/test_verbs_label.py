"""`refresh label`, `export` and `import` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="the store needs SQLAlchemy")

from rewardsmith.cli import main
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
