"""The public face: several files, weights, reports, ids, subsampling, and the real files."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rewardsmith.data.readers import Dropped, ReadOptions, ReadReport, read_groups
from rewardsmith.data.schema import Group
from rewardsmith.errors import ConfigError, DataError

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("REWARDSMITH_SHARED", ROOT.parent / "shared")) / "data"
PAIR = {"prompt": "Q", "chosen": "A", "rejected": "B"}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def read(paths: Any, options: ReadOptions | None = None, **more: Any) -> tuple[list[Group], ReadReport]:
    report = ReadReport()
    groups = list(read_groups(paths, options, report=report, **more))
    for file in report.files:
        assert file.rows == file.rows_used + file.rows_dropped
        assert file.rows_dropped == sum(d.file == file.path for d in report.dropped)
    assert sum(f.groups for f in report.files) == len(groups)
    assert sum(f.pairs for f in report.files) == sum(len(g.preferences) for g in groups)
    return groups, report


def test_files_follow_one_another_and_weights_multiply(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [PAIR, "nonsense", PAIR | {"chosen": None}])
    second = write(tmp_path / "b.jsonl", [{"prompt": "Q", "responses": ["A"], "weight": 0.5}])
    groups, report = read([first, str(second)], weights=[2.0, 3.0])
    assert [(g.weight, g.source) for g in groups] == [(2.0, f"{first}:1"), (1.5, f"{second}:1")]
    assert [f.shape for f in report.files] == ["trl", "rewardsmith"]
    assert report.dropped == [
        Dropped(str(first), 2, "not valid JSON: Expecting value at character 1"),
        Dropped(str(first), 3, "'chosen' is null"),
    ]
    assert report.warnings == [f"{second}: no row states a preference; the groups can be scored, not trained on"]


def test_a_folder_is_its_files_in_order(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl"):
        write(tmp_path / name, [PAIR])
    groups, _ = read(tmp_path, weights=[2.0])
    assert [(Path(g.source).name, g.weight) for g in groups] == [("a.jsonl:1", 2.0), ("b.jsonl:1", 2.0)]


def test_reading_is_lazy_and_the_report_grows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [PAIR] * 1000)
    report = ReadReport()
    groups = read_groups(path, report=report)
    assert report.files == []
    next(groups)
    assert report.files[0].groups == 1
    assert report.files[0].rows == 1


def test_one_bad_first_row_does_not_decide(tmp_path: Path) -> None:
    nemo = {"prompt": "Q", "completions": [{"rank": 0, "completion": "A"}]}
    groups, report = read(write(tmp_path / "a.jsonl", [nemo, "x", *[PAIR] * 5]))
    assert (report.files[0].shape, len(groups)) == ("trl", 5)
    assert [d.line for d in report.dropped] == [1, 2]


def test_ids_of_the_source_are_kept_and_repeats_are_told_apart(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [PAIR | {"id": 1}, PAIR | {"id": 1}, PAIR | {"prompt_id": "p"}, PAIR])
    second = write(tmp_path / "b.jsonl", [PAIR | {"idx": 1}, PAIR | {"id": [1]}])
    groups, report = read([first, second])
    own = groups[3].id
    assert [g.id for g in groups] == ["1", "1@a.jsonl:2", "p", own, "1@b.jsonl:1", own]
    assert len(own) == 16
    assert report.files[0].defaulted["ids that repeat"] == 1
    assert report.files[1].defaulted["'id' is a list: not used as id"] == 1
    assert report.warnings == [
        f"{first}: ids that repeat earlier ones (1): file and line were added to them",
        f"{second}: ids that repeat earlier ones (1): file and line were added to them",
        f"{second}: 'id' is a list: not used as id (1 time)",
    ]


def test_slice_columns_are_tags_and_unknown_keys_are_counted(tmp_path: Path) -> None:
    row = PAIR | {"subset": "s", "type": 3, "category": "x" * 300, "source": None, "lang": "de", "other": 1}
    (group,), report = read(write(tmp_path / "a.jsonl", [row]), ReadOptions(tag_keys=("lang", "missing")))
    assert group.tags == {"subset": "s", "type": "3", "lang": "de"}
    assert dict(report.files[0].unknown_keys) == {"other": 1}
    assert [w.split(": ", 1)[1] for w in report.warnings] == [
        "no row has the tag column 'missing'",
        "columns that nothing reads, with their rows: 'other' (1)",
    ]


def test_many_unknown_keys_stay_bounded(tmp_path: Path) -> None:
    rows = [PAIR | {f"key\ud800{i}": 1} for i in range(300)]
    _, report = read(write(tmp_path / "a.jsonl", rows))
    unknown = report.files[0].unknown_keys
    assert len(unknown) == 101
    assert unknown["(others)"] == 200
    json.dumps(dict(unknown), ensure_ascii=False).encode()
    (remark,) = report.warnings
    assert "'(others)' (200)" in remark
    assert remark.endswith(" and 96 more")
    assert "\n" not in remark


def test_what_is_left_open_is_a_warning(tmp_path: Path) -> None:
    rows = [
        {"responses": ["a", "b"], "preferences": [{"chosen": 0, "rejected": 1}]},
        {"prompt": "Q", "responses": ["a", "b", "c"], "ratings": [1, 1, 1]},
    ]
    _, report = read(write(tmp_path / "a.jsonl", rows), ReadOptions(max_responses=2))
    assert [w.split(": ", 1)[1] for w in report.warnings] == [
        "no prompt (1 of 2 groups)",
        "no preference in the group (1 of 2 groups)",
        "responses left out by --max-responses 2: 1 in 1 of 2 groups",
    ]


def test_an_optional_column_may_be_absent_under_its_other_name_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [PAIR | {"gap": 2, "margin": 9}, PAIR, PAIR | {"margin": 9}])
    groups, report = read(path, ReadOptions(margin_key="gap", system_key="sys", id_key="key"))
    assert [g.preferences[0].margin for g in groups] == [2, 0, 0]  # never the column that was not named
    assert report.dropped == []
    assert report.warnings[:2] == [
        f"{path}: no row has the id column 'key'",
        f"{path}: no row has the system column 'sys'",
    ]
    _, report = read(write(path, [{"q": "Q", "chosen": "A", "rejected": "B"}, PAIR]), ReadOptions(prompt_key="q"))
    assert [d.reason for d in report.dropped] == ["no 'q'"]


def test_larger_groups_are_subsampled_by_seed(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{i}", "responses": [f"r{j}" for j in range(9)], "ratings": list(range(9))} for i in range(20)]
    stated = {"chosen": 8, "rejected": 0, "weight": 2}
    rows += [{"prompt": "S", "responses": [f"r{j}" for j in range(9)], "preferences": [stated]}]
    path = write(tmp_path / "a.jsonl", rows)
    groups, report = read(path, ReadOptions(max_responses=3, subsample_seed=1))
    assert {len(g.responses) for g in groups} == {3}
    for group in groups[:-1]:
        assert group.ratings == tuple(float(r[0].content[1:]) for r in group.responses)
        assert len(group.preferences) == 3
    for preference in groups[-1].preferences:
        assert groups[-1].responses[preference.chosen][0].content == "r8"
    assert (report.files[0].subsampled_groups, report.files[0].responses_left_out) == (21, 126)
    # The draw depends on seed and prompt, not on the place in the file.
    path = write(tmp_path / "b.jsonl", rows[::-1])
    again, _ = read(path, ReadOptions(max_responses=3, subsample_seed=1))
    assert [g.responses for g in again[::-1]] == [g.responses for g in groups]
    other, _ = read(path, ReadOptions(max_responses=3, subsample_seed=2))
    assert [g.responses for g in other] != [g.responses for g in again]


def test_rating_gap(tmp_path: Path) -> None:
    rows = [{"prompt": "Q", "responses": ["a", "b", "c"], "ratings": [1, 1.5, 3]}]
    (group,), _ = read(write(tmp_path / "a.jsonl", rows), ReadOptions(rating_gap=0.5))
    assert [(p.chosen, p.rejected) for p in group.preferences] == [(2, 0), (2, 1)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["x", "y"], r"none of the 2 rows is usable; the first, line 1: not valid JSON"),
        ([PAIR | {"chosen": None}] * 3, r"none of the 3 rows is usable; the first, line 1: 'chosen' is null"),
    ],
)
def test_a_file_without_a_usable_row_is_an_error(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "a.jsonl", rows))


def test_mistakes_are_told_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_groups(tmp_path / "missing.jsonl")
    with pytest.raises(DataError, match="no data file"):
        read_groups([])
    path = write(tmp_path / "a.jsonl", [PAIR])
    with pytest.raises(ConfigError, match="2 weights for 1 data files"):
        read_groups(path, weights=[1, 2])
    with pytest.raises(ConfigError, match="not a finite number"):
        read_groups(path, weights=[float("nan")])
    for wrong in ({"shape": "nope"}, {"max_responses": 1}, {"rating_gap": -1.0}, {"winner_labels": ("a",)}):
        with pytest.raises(ConfigError):
            ReadOptions(**wrong)  # type: ignore[arg-type]


def test_nothing_leaks_when_a_reader_is_abandoned(tmp_path: Path) -> None:
    groups = read_groups(write(tmp_path / "a.jsonl", [PAIR] * 100))
    next(groups)
    assert isinstance(groups, Iterator)
    groups.close()  # type: ignore[attr-defined]


def test_help_texts_reach_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    tyro = pytest.importorskip("tyro")
    with pytest.raises(SystemExit):
        tyro.cli(ReadOptions, args=["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in ("--rating-gap", "are not a preference", "--winner-labels", "Seed of that draw"):
        assert words in shown


MANY = """
import json, resource, sys
from rewardsmith.data.readers import read_groups
path = sys.argv[1]
row = {"prompt": "p" * 300, "chosen": "c" * 300, "rejected": "r" * 300}
with open(path, "w") as file:
    for i in range(int(sys.argv[2])):
        file.write(json.dumps(row | {"prompt": f"{i} " + row["prompt"]}) + "\\n")
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
n = sum(1 for _ in read_groups(path))
print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MANY, str(tmp_path / "many.jsonl"), "20000"]
    n, grown_kib = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert n == 20000
    assert grown_kib < 8 << 10  # the file is 20 MB


def fuzz() -> Any:
    """The benchmark beside the package, which is no importable module."""
    spec = importlib.util.spec_from_file_location("fuzz_readers", ROOT / "benchmarks" / "fuzz_readers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_readers"] = module
    spec.loader.exec_module(module)
    return module


def test_two_hundred_mutated_rows(tmp_path: Path) -> None:
    result = fuzz().run(200, seed=7, folder=tmp_path)
    assert result["mutated_rows"] >= 200
    assert result["violations"] == []


REAL = [
    ("hh_harmless/train.jsonl.gz", "hh", 1632, 1632, 1632),
    ("hh_harmless/dev.jsonl.gz", "hh", 287, 287, 287),
    ("rm_bench/chat_filtered.json", "rm-bench", 129, 129, 129 * 9),
    ("rm_bench/safety-refuse_filtered.json", "rm-bench", 284, 284, 284 * 9),
    ("llmbar/natural.json", "pairwise", 100, 100, 100),
    ("pandalm/testset_first_500.json", "pairwise", 500, 494, 494),
    ("alpaca_eval/candidates_vs_gpt4_turbo.parquet", "scored", 24570, 585, None),
    ("alpaca_eval/candidates_vs_davinci003.parquet", "scored", 21612, 585, None),
]


@pytest.mark.parametrize(("name", "shape", "rows", "groups", "pairs"), REAL, ids=[r[0] for r in REAL])
def test_real_files(name: str, shape: str, rows: int, groups: int, pairs: int | None) -> None:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"no real data at {path} (set REWARDSMITH_SHARED)")
    options = ReadOptions(max_responses=4) if shape == "scored" else None
    found, report = read(path, options)
    file = report.files[0]
    assert (file.shape, file.rows, len(found)) == (shape, rows, groups)
    assert pairs is None or file.pairs == pairs
    assert len({g.id for g in found}) == len(found) or shape == "hh"
    if shape == "hh":
        assert all(g.prompt[-1].role == "user" and g.responses[0][0].role == "assistant" for g in found)
    if "pandalm" in name:
        # Six answers of the source are JSON true or false where text "True" was meant.
        assert {d.reason.split(" is ")[1] for d in report.dropped} == {"true/false, neither text nor messages"}
        assert any(0.5 < p.probability < 1 and p.votes for g in found for p in g.preferences)
    else:
        assert not report.dropped
