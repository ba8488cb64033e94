"""Pairs to Label Studio and Argilla and back: every label returns, and what is no label is said."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from rewardsmith.errors import ConfigError, DataError
from rewardsmith.refresh.exchange import export_pairs, import_labels, user_id
from rewardsmith.refresh.store import Store, open_store
from tests.labelling.conftest import add_pairs, plain_pairs

GIVEN = [
    ("ann", "a", "", 1.5), ("bob@example.org", "b", "", 2.0), ("ann", "tie", "", 3.0), ("ann", "flag", "private", 0.5),
    ("bob@example.org", "skip", "", 4.0),
]  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store.sqlite", create=True) as opened:
        yield opened


@pytest.fixture
def labelled(store: Store) -> Store:
    for pair, (name, verdict, note, seconds) in zip(add_pairs(store, plain_pairs(6)), GIVEN, strict=False):
        store.record_label(pair, name, verdict, at=1000.0 + pair, seconds=seconds, note=note, shown="ba")
    store.record_label(1, "judge:m", "b", at=1.0, source="judge")
    return store


def another(tmp_path: Path) -> Store:
    store = open_store(tmp_path / "other.sqlite", create=True)
    add_pairs(store, plain_pairs(6))
    return store


def essence(store: Store, *, times: bool) -> set[Any]:
    return {
        (label.comparison_id, label.annotator, label.verdict, label.note, *((label.at, label.seconds) if times else ()))
        for label in store.labels()
        if label.source == "person"
    }


@pytest.mark.parametrize("tool", ["label-studio", "argilla"])
def test_round_trip(labelled: Store, tmp_path: Path, tool: Any) -> None:
    found = export_pairs(labelled, tmp_path / "out.json", tool, which="all")
    assert (found["pairs"], found["labels"], found["left_out"]) == (6, 5, 1)
    assert Path(found["settings"]).exists()
    back = import_labels(labelled, tmp_path / "out.json")
    assert (back["from"], back["labels"], back["new"], back["unlabelled"], back["dropped"]) == (tool, 5, 0, 1, [])
    with another(tmp_path) as other:
        names = {str(user_id("ann")): "ann", str(user_id("bob@example.org")): "bob@example.org", "ann": "ann"}
        assert import_labels(other, tmp_path / "out.json", names)["new"] == 5
        assert import_labels(other, tmp_path / "out.json", names)["new"] == 0, "again changes nothing"
        # Argilla's records hold neither when a response was given nor how long it took.
        times = tool == "label-studio"
        assert essence(other, times=times) == essence(labelled, times=times)


@pytest.mark.parametrize(("which", "numbers"), [("open", [5, 6]), ("labelled", [1, 2, 3, 4, 5]), ("all", None)])
def test_which_pairs(labelled: Store, tmp_path: Path, which: Any, numbers: list[int] | None) -> None:
    export_pairs(labelled, tmp_path / "out.json", "label-studio", which=which)
    items = json.loads((tmp_path / "out.json").read_text())
    assert sorted(item["id"] for item in items) == (numbers or [1, 2, 3, 4, 5, 6])


def annotation(word: str, **changes: Any) -> dict[str, Any]:
    """As Label Studio exports one: users are numbers."""
    result = {"id": "x", "from_name": "verdict", "to_name": "prompt", "type": "choices", "value": {"choices": [word]}}
    return {
        "id": 9, "completed_by": 7, "result": [result], "was_cancelled": False, "lead_time": 3.25,
        "created_at": "2026-03-09T22:16:08.728353Z",
    } | changes  # fmt: skip


def one_task(store: Store, tmp_path: Path, *annotations: dict[str, Any]) -> Path:
    add_pairs(store, plain_pairs(1))
    export_pairs(store, tmp_path / "out.json", "label-studio")
    (task,) = json.loads((tmp_path / "out.json").read_text())
    (tmp_path / "in.json").write_text(json.dumps([task | {"annotations": list(annotations), "predictions": []}]))
    return tmp_path / "in.json"


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pairwise", [False, True])
def test_labels_made_in_label_studio(store: Store, tmp_path: Path, side: str, pairwise: bool) -> None:
    own = {"id": "x", "from_name": "pw", "to_name": "left,right", "type": "pairwise", "value": {"selected": side}}
    made = annotation(side, result=[own]) if pairwise else annotation(side)
    file = one_task(store, tmp_path, made)
    data = json.loads(file.read_text())[0]["data"]
    found = import_labels(store, file, {"7": "ann"})
    (label,) = store.labels()
    assert found["new"] == 1
    assert data[side] == f"{label.verdict} of 0", "the answer that stood there is the one that won"
    assert (label.annotator, label.seconds, label.at) == ("ann", 3.25, pytest.approx(1773094568.728353))


@pytest.mark.parametrize(("changes", "words"), [
    ({"result": [{"type": "choices", "value": {"choices": ["best"]}}]}, "'best' is no verdict"),
    ({"result": [{"type": "choices", "value": {"choices": ["left", "right"]}}]}, "not one choice"),
    ({"result": [{"type": "choices"}]}, "a result has no value"),
    ({"result": "left"}, "result is missing, or no list"),
    ({"completed_by": None}, "does not say who"),
])  # fmt: skip
def test_what_is_no_label_is_named(store: Store, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    found = import_labels(store, one_task(store, tmp_path, annotation("left", **changes)))
    assert found["new"] == 0
    assert words in found["dropped"][0]["reason"]
    assert found["dropped"][0]["line"] == 1


def test_a_label_for_other_texts_is_not_taken(store: Store, tmp_path: Path) -> None:
    file = one_task(store, tmp_path, annotation("left"))
    with open_store(tmp_path / "other.sqlite", create=True) as other:
        add_pairs(other, [("something else", "x", "y")])
        assert import_labels(other, file)["dropped"][0]["reason"] == "pair 1 has other texts in this project"
    with open_store(tmp_path / "empty.sqlite", create=True) as other:
        assert import_labels(other, file)["dropped"][0]["reason"] == "pair 1 is not in this project"


def test_skipped_unlabelled_and_double(store: Store, tmp_path: Path) -> None:
    skipped = annotation("left", result=[], was_cancelled=True)
    empty = annotation("left", result=[], completed_by=8)
    file = one_task(store, tmp_path, skipped, empty, annotation("right", id=10))
    found = import_labels(store, file)
    assert [(label.annotator, label.verdict) for label in store.labels()] == [("label-studio:7", "skip")]
    assert "has two labels for pair 1" in found["dropped"][0]["reason"]


@pytest.mark.parametrize(("text", "words"), [
    ("", "is no JSON"), ("[]", "no list of tasks"), ("{}", "no list of tasks"), ('[{"a": 1}]', "neither tasks"),
    ("[" * 100_000, "is no JSON"), ("\xff", "no JSON"),
])  # fmt: skip
def test_files_that_are_no_export(store: Store, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "in.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=words):
        import_labels(store, tmp_path / "in.json")
    with pytest.raises(DataError, match="cannot be opened"):
        import_labels(store, tmp_path / "not there.json")


def test_items_that_are_no_tasks_of_ours(store: Store, tmp_path: Path) -> None:
    items = [{"data": {"text": "x"}, "annotations": []}, 3, {"data": [], "annotations": []}]
    (tmp_path / "in.json").write_text(json.dumps(items))
    found = import_labels(store, tmp_path / "in.json")
    assert [row["line"] for row in found["dropped"]] == [1, 2, 3]
    assert "was it made by refresh export?" in found["dropped"][0]["reason"]


def test_the_name_of_the_file(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.json"):
        export_pairs(store, tmp_path / "out.csv", "argilla")


def test_argilla_itself_reads_them(labelled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argilla = pytest.importorskip("argilla", reason="argilla is not installed")
    # Settings want a connection, and ask nothing of it until they are sent.
    monkeypatch.setattr(argilla.Argilla, "_default_client", MagicMock())
    found = export_pairs(labelled, tmp_path / "out.json", "argilla", which="all")
    settings = argilla.Settings.from_json(found["settings"])
    assert {question.name for question in settings.questions} == {"verdict", "note"}
    records = [argilla.Record.from_dict(item) for item in json.loads((tmp_path / "out.json").read_text())]
    (tmp_path / "back.json").write_text(json.dumps([record.to_dict() for record in records], default=str))
    people = {uuid.UUID(str(response.user_id)) for record in records for response in record.responses}
    assert people == {user_id("ann"), user_id("bob@example.org")}
    assert import_labels(labelled, tmp_path / "back.json")["labels"] == 5


def test_a_name_that_cannot_be_kept_costs_no_other_label(labelled: Store, tmp_path: Path) -> None:
    file = tmp_path / "tasks.json"
    export_pairs(labelled, file, "label-studio", which="labelled")
    tasks = json.loads(file.read_text())
    tasks[0]["annotations"][0]["completed_by"]["email"] = "x" * 300 + "@example.org"
    file.write_text(json.dumps(tasks))
    with another(tmp_path) as store:
        add_pairs(store, plain_pairs(6))
        found = import_labels(store, file)
    assert (found["new"], len(found["dropped"])) == (4, 1)
    assert "at most 200 printable characters" in found["dropped"][0]["reason"]
