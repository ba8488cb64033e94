"""Files to rows: what a file is, is seen from its bytes; damage is named and reading goes on."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from rewardsmith.data import files
from rewardsmith.data.files import RawRow, data_files, is_hub_name, read_rows, suffix_of
from rewardsmith.errors import DataError

ROWS: list[dict[str, Any]] = [{"prompt": "héllo \u2028 x", "n": i} for i in range(5)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def write(path: Path, data: bytes | str) -> str:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


def values(path: str) -> list[dict[str, Any] | None]:
    return [row.value for row in read_rows(path)]


def reasons(path: str) -> dict[int, str]:
    return {row.line: row.reason for row in read_rows(path) if row.value is None}


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", LINES.encode()),
        ("a.jsonl.gz", gzip.compress(LINES.encode())),
        ("a.jsonl.zst", zst(LINES.encode())),
        ("two_members.gz", gzip.compress(LINES[:30].encode()) + gzip.compress(LINES[30:].encode()) + b"\0\0"),
        ("two_frames.zst", zst(LINES[:30].encode()) + zst(LINES[30:].encode())),
        ("a.json", json.dumps(ROWS).encode()),
        ("pretty.json", json.dumps(ROWS, indent=2).encode()),
        ("lines.json", LINES.encode()),
        ("array.jsonl", json.dumps(ROWS).encode()),
        ("wrapped.json", json.dumps({"version": 1, "data": ROWS}, indent=1).encode()),
        ("no_suffix", LINES.encode()),
        ("lies.gz", LINES.encode()),
        ("lies.jsonl", gzip.compress(LINES.encode())),
        ("bom.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
        ("utf16.jsonl", LINES.encode("utf-16")),
        ("utf16_bare.jsonl", LINES.encode("utf-16-be")),
        ("utf32.json", json.dumps(ROWS).encode("utf-32")),
        ("blank_lines.jsonl", LINES.replace("\n", "\r\n\r\n").encode()),
        ("no_last_newline.jsonl", LINES.rstrip().encode()),
    ],
)
def test_every_packing_and_encoding_gives_the_same_rows(tmp_path: Path, name: str, data: bytes) -> None:
    assert values(write(tmp_path / name, data)) == ROWS


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_parquet_rows_have_numbers_across_row_groups(tmp_path: Path, packed: str) -> None:
    plain = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), plain, row_group_size=2)
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zst}[packed]
    path = write(tmp_path / f"b.parquet{packed}", pack(plain.read_bytes()))
    assert list(read_rows(path)) == [RawRow(i + 1, row) for i, row in enumerate(ROWS)]


def test_parquet_text_that_is_not_utf8_costs_its_row_only(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"\xff\xfe", b"fine"]).cast(pa.binary())
    table = pa.table({"t": pa.Array.from_buffers(pa.string(), 3, texts.buffers())})
    pq.write_table(table, tmp_path / "a.parquet")
    path = str(tmp_path / "a.parquet")
    assert values(path) == [{"t": "good"}, None, {"t": "fine"}]
    assert reasons(path) == {2: "not valid UTF-8"}


def test_a_damaged_row_group_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [{"t": f"text {i} " * 50} for i in range(40)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=10, compression="gzip")
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    data = bytearray(path.read_bytes())
    data[start + 40 : start + 120] = b"\x55" * 80
    found = list(read_rows(write(path, bytes(data))))
    assert [r.value for r in found if r.value] == rows[:10] + rows[20:]
    assert [(r.line, "rows 11-20" in r.reason) for r in found if not r.value] == [(11, True)]


CSV = 'prompt,n,s\n"two\nlines, and ""quotes""",1,é\nplain,2,x\n'


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", CSV.encode()),
        ("a.csv.gz", gzip.compress(CSV.encode())),
        ("bom.csv", b"\xef\xbb\xbf" + CSV.encode()),
        ("utf16.csv", CSV.encode("utf-16")),
        ("crlf.csv", CSV.replace("\n", "\r\n").replace("two\r\n", "two\n").encode()),
        ("a.tsv", CSV.replace(",", "\t").replace("lines\t", "lines,").encode()),
        ("semicolon.csv", CSV.replace(",", ";").replace("lines;", "lines,").encode()),
    ],
)
def test_csv(tmp_path: Path, name: str, data: bytes) -> None:
    expected = [
        {"prompt": 'two\nlines, and "quotes"', "n": "1", "s": "é"},
        {"prompt": "plain", "n": "2", "s": "x"},
    ]
    found = list(read_rows(write(tmp_path / name, data)))
    assert [row.value for row in found] == expected
    assert [row.line for row in found] == [2, 4]


def test_csv_errors_are_named_and_reading_goes_on(tmp_path: Path) -> None:
    data = b'a,b\n1,2\n1,2,3\n"x"y,2\n\xff,2\n5,6\n"never closed,1\n7,8\n'
    path = write(tmp_path / "a.csv", data)
    assert [v for v in values(path) if v] == [{"a": "1", "b": "2"}, {"a": "5", "b": "6"}]
    found = reasons(path)
    assert list(found) == [3, 4, 5, 7]
    assert found[3] == "3 CSV fields, the header names 2"
    assert "not valid CSV in lines 4-4" in found[4]
    assert "column 'a': not valid UTF-8: byte 0xff" in found[5]
    assert "lines 7-8" in found[7]


def test_csv_large_fields_and_messages_in_cells(tmp_path: Path) -> None:
    huge = "x" * 300_000
    cell = json.dumps([{"role": "user", "content": "hi"}]).replace('"', '""')
    path = write(tmp_path / "a.csv", f'a,b\n{huge},"{cell}"\n"[1, 2]","{{""k"": 1}}"\n')
    first, second = values(path)
    assert first == {"a": huge, "b": [{"role": "user", "content": "hi"}]}
    assert second == {"a": "[1, 2]", "b": '{"k": 1}'}  # JSON that is no message stays text


@pytest.mark.parametrize("header", ["a,a\n1,2\n", "\n1,2\n", "\udcff,b\n1,2\n"])
def test_csv_header_that_cannot_be_used(tmp_path: Path, header: str) -> None:
    path = write(tmp_path / "a.csv", header.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"header|first line"):
        list(read_rows(path))


def test_bad_json_lines_are_named_and_reading_goes_on(tmp_path: Path) -> None:
    bad = [
        b'{"a": "\xff"}',
        b'{"a": "\x00"}',
        b'{"a": 1, "a": 2}',
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[1, 2]",
        b"nonsense",
        b'{"a": {"b": 1, "b": 1}}',
    ]
    good = b'{"ok": NaN}'
    path = write(tmp_path / "a.jsonl", good + b"\n" + b"\n".join(bad) + b"\n" + good + b'\n{"half": "li')
    assert [row.line for row in read_rows(path) if row.value is not None] == [1, 10]
    found = reasons(path)
    assert list(found) == [2, 3, 4, 5, 6, 7, 8, 9, 11]
    assert found[2] == "not valid UTF-8: byte 0xff at character 8"
    assert found[3] == "a NUL byte at character 8"
    assert found[4] == "the key 'a' is there twice in one object"
    assert found[5] == "nested too deeply"
    assert "4300 digits" in found[6]
    assert found[7] == "the row is list, not a JSON object"
    assert "'b' is there twice" in found[9]
    assert "half written" in found[11]


@pytest.mark.parametrize("pack", [gzip.compress, zst])
@pytest.mark.parametrize("cut", [3, 20, 60])
def test_a_cut_archive_gives_what_was_read_and_one_named_row(tmp_path: Path, pack: Any, cut: int) -> None:
    rows = [{"i": i, "t": f"{i * 7919 % 1000} words"} for i in range(3000)]
    whole = pack("".join(json.dumps(row) + "\n" for row in rows).encode())
    found = list(read_rows(write(tmp_path / "a.jsonl", whole[: -len(whole) * cut // 100])))
    read = [row.value for row in found[:-1]]
    assert read == rows[: len(read)]
    assert found[-1].value is None
    assert "cut or damaged" in found[-1].reason
    assert len(read) > 500 or pack is zst  # zstandard blocks are large: little may be there to read


def test_a_cut_json_array_gives_its_whole_rows(tmp_path: Path) -> None:
    text = json.dumps([{"a": i} for i in range(4)])
    assert values(write(tmp_path / "a.json", text[:-5])) == [{"a": 0}, {"a": 1}, {"a": 2}, None]
    assert values(write(tmp_path / "b.json", text[:-1])) == [{"a": 0}, {"a": 1}, {"a": 2}, {"a": 3}, None]
    mixed = b'[{"a": 1}, 3, {"a": 1, "a": 2}, {"a": "\xff"}, null, {"a": 2}]'
    path = write(tmp_path / "c.json", mixed)
    assert values(path) == [{"a": 1}, None, None, None, None, {"a": 2}]
    assert "twice" in reasons(path)[3]
    assert "byte 0xff" in reasons(path)[4]


@pytest.mark.parametrize("data", [b"PAR1 not really", b"", b"\n \n"])
def test_what_is_no_file(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path / "a.parquet", data)
    if data:
        assert "not a readable parquet file" in reasons(path)[1]
    else:
        with pytest.raises(DataError, match="empty"):
            list(read_rows(path))


def test_only_blank_lines(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only blank lines"):
        list(read_rows(write(tmp_path / "a.jsonl", b"\n\n")))


def test_names_folders_and_hub_names(tmp_path: Path) -> None:
    assert suffix_of("x/a.b.JSONL.gz") == ".jsonl"
    assert is_hub_name("owner/name")
    assert is_hub_name("owner/name:config@test")
    assert not is_hub_name("data/missing.jsonl")
    for name in ("b.jsonl", "a.csv.gz", "notes.txt", ".hidden.jsonl"):
        write(tmp_path / name, "x")
    assert [Path(p).name for p in data_files(tmp_path)] == ["a.csv.gz", "b.jsonl"]
    with pytest.raises(DataError, match="no such file"):
        data_files(tmp_path / "missing.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.jsonl"):
        data_files(tmp_path / "empty")


def fake_datasets(monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
    module = types.ModuleType("datasets")
    module.load_dataset = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setattr("rewardsmith.data.files.check_network", lambda: None)


def test_hub_rows_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(*args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        asked.append((args, kwargs))
        return ROWS

    fake_datasets(monkeypatch, load)
    assert values("owner/name:small@test") == ROWS
    assert asked == [(("owner/name", "small"), {"split": "test", "streaming": True})]


def test_a_name_that_does_not_resolve_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    with pytest.raises(DataError, match="owner/name: no file of that name here"):
        list(read_rows("owner/name"))


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_offline_the_cache_is_tried(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("the network was asked")

    real = files.check_network
    fake_datasets(monkeypatch, lambda *args, **kwargs: ROWS)
    monkeypatch.setattr("rewardsmith.data.files.check_network", real)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "1")
    assert values("owner/name") == ROWS
    monkeypatch.setenv(variable, "0")
    with pytest.raises(DataError, match="the network was asked"):
        values("owner/name")


def test_offline_without_a_cache_is_one_clear_line(tmp_path: Path) -> None:
    """The real client, in a process of its own: it reads the variable once, when it is imported."""
    code = "from rewardsmith.data.files import read_rows; list(read_rows('owner/name'))"
    empty = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_DATASETS_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **empty})
    assert "DataError: owner/name: no file of that name here" in done.stderr.splitlines()[-1]


def test_an_unreachable_hub_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no\nroute")

    fake_datasets(monkeypatch, load)
    with pytest.raises(DataError, match=r"owner/name: no file of that name here.*no route.*download it first"):
        list(read_rows("owner/name"))
