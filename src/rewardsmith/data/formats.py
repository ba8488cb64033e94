"""Rows out of JSON lines, JSON documents, CSV and parquet.

Nothing here raises for a bad row. It comes out as a `RawRow` without a `value` and with the `reason`: invalid
UTF-8, a NUL, a half-written line, a key given twice, nesting too deep.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from itertools import chain
from typing import IO, Any, NamedTuple

from rewardsmith.data.lines import DAMAGE, MAX_ROW, Line, suffix_of, undecodable
from rewardsmith.errors import DataError

PARQUET_BATCH = 256  # rows decoded at a time
# Objects that hold the rows under one key, as many exports do.
WRAPPERS = ("data", "rows", "examples", "instances")


class RawRow(NamedTuple):
    """One row: its 1-based line (jsonl, csv) or row number (json, parquet, hub); the value or the reason."""

    line: int
    value: dict[str, Any] | None
    reason: str = ""


class DuplicateKey(ValueError):
    """A JSON object names a key twice: which of the two was meant cannot be known."""


def read_json(path: str, lines: Iterator[Line]) -> Iterator[RawRow]:
    """JSON lines, a JSON array or one JSON object, whichever the first two lines show, whatever the name."""
    begin, filled = [], []
    for line in lines:
        begin.append(line)
        if line.text.strip() or line.lost:
            filled.append(line.text.strip())
        if len(filled) == 2:
            break
    if not filled:
        raise DataError(f"{path}: the file holds only blank lines")
    if is_document(filled[0], filled[1] if len(filled) == 2 else "", suffix_of(path)):
        yield from read_json_document(begin, lines)
        return
    for line in chain(begin, lines):
        yield from json_line(line)


def is_document(first: str, second: str, suffix: str) -> bool:
    """True where the first two filled lines begin one JSON document and are no JSON lines.

    A bad first row must not turn JSON lines into a document: a second line that is a row by itself speaks for
    lines, unless the first plainly stays open (a document's first line is then short).
    """
    if not first.startswith("[") and not (first.startswith("{") and suffix == ".json"):
        return False
    stays_open = len(first) < 200 and first[-1] in "[{,:"
    if second.startswith("{") and not stays_open and is_json(second):
        return False
    return first.startswith("[") or not is_json(first)


def is_json(text: str) -> bool:
    """True where `text` is complete JSON on its own."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def json_line(line: Line) -> Iterator[RawRow]:
    """The row of one line, or nothing for a blank line."""
    if line.lost:
        yield RawRow(line.number, None, line.lost)
    elif line.text.strip(" \t\r\n"):
        value, reason = decode_json(line.text, ended=line.text.endswith("\n"))
        yield row_of(line.number, value, reason)


def row_of(number: int, value: object, reason: str = "") -> RawRow:
    """A RawRow, with everything that is no object refused."""
    if reason or isinstance(value, dict):
        return RawRow(number, value if isinstance(value, dict) and not reason else None, reason)
    return RawRow(number, None, f"the row is {type(value).__name__}, not a JSON object")


def decode_json(text: str, *, ended: bool = True) -> tuple[object, str]:
    """(value, "") or (None, reason). NaN and Infinity pass: whoever uses such a number refuses it by name."""
    reason = undecodable(text)
    if reason:
        return None, reason
    try:
        return UNIQUE.decode(text), ""
    except RecursionError:
        return None, "nested too deeply"
    except DuplicateKey as error:
        return None, str(error)
    except ValueError as error:
        return None, json_reason(error, text, ended)


def json_reason(error: ValueError, text: str, ended: bool) -> str:
    """Why JSON failed, with the two usual causes in words."""
    if "\0" in text:
        return f"a NUL byte at character {text.index(chr(0)) + 1}"
    half = "" if ended else " (the last line, which has no line end: half written?)"
    place = f" at character {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
    what = error.msg if isinstance(error, json.JSONDecodeError) else str(error).split(";")[0]
    return f"not valid JSON: {what}{place}{half}"


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict, or DuplicateKey: Python would silently keep the last of two."""
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise DuplicateKey(f"the key {twice[:60]!r} is there twice in one object")
    return made


# Made once: making a decoder costs as much as decoding a short row.
UNIQUE = json.JSONDecoder(object_pairs_hook=unique_keys)
BLANKS = re.compile(r"\s*")


def read_json_document(begin: list[Line], lines: Iterator[Line]) -> Iterator[RawRow]:
    """Rows of a whole JSON document, one array element at a time so that damage costs only what follows."""
    parts, lost = [], ""
    for line in (*begin, *lines):
        parts.append(line.text)
        lost = lost or line.lost
    document = "".join(parts).lstrip()
    del parts
    if document.startswith("["):
        yield from array_rows(document, lost)
        return
    value, reason = decode_json(document)
    rows = wrapped_rows(value)
    if rows is None:
        yield row_of(1, value, lost or reason)
        return
    for number, row in enumerate(rows, 1):
        yield row_of(number, row)


def wrapped_rows(value: object) -> list[Any] | None:
    """The list inside `{"data": [...]}` and its kin."""
    if isinstance(value, dict):
        for key in WRAPPERS:
            if isinstance(value.get(key), list):
                return list(value[key])
    return None


def array_rows(document: str, lost: str) -> Iterator[RawRow]:
    """Elements of the array that `document` begins with; a syntax error ends it with one named row."""
    number, at = 0, skip(document, 1)
    while at < len(document) and document[at] != "]":
        number += 1
        value, end, reason = decode_element(document, at)
        if end < 0:
            yield RawRow(number, None, lost or f"{reason}; the rest of the array is lost")
            return
        yield row_of(number, value, reason or undecodable(document[at:end]))
        at = skip(document, end)
        if document[at : at + 1] == ",":
            at = skip(document, at + 1)
        elif document[at : at + 1] not in ("]", ""):
            reason = f"not valid JSON: ',' or ']' expected after row {number}; the rest is lost"
            yield RawRow(number + 1, None, reason)
            return
    if at >= len(document):
        yield RawRow(number + 1, None, lost or f"the array is cut after row {number}: no closing ']'")
    elif document[at + 1 :].strip():
        yield RawRow(number + 1, None, "text after the end of the array is not read")


def decode_element(document: str, at: int) -> tuple[object, int, str]:
    """(value, end, reason) of the array element at `at`; the end is -1 where it has none."""
    try:
        return *UNIQUE.raw_decode(document, at), ""
    except RecursionError:
        return None, -1, "nested too deeply"
    except DuplicateKey as error:
        reason = str(error)
    except ValueError as error:
        return None, -1, json_reason(error, document[at : at + 1000], True)
    try:  # a key given twice: the row is lost, but where it ends can be found without that check
        return None, json.JSONDecoder().raw_decode(document, at)[1], reason
    except (ValueError, RecursionError):
        return None, -1, reason


def skip(document: str, at: int) -> int:
    """The position of the first character at or behind `at` that is no white space."""
    found = BLANKS.match(document, at)
    return found.end() if found else at


def read_csv(path: str, lines: Iterator[Line]) -> Iterator[RawRow]:
    """Rows of a CSV file with a header. A stray quote is an error of its lines, not one huge cell."""
    csv.field_size_limit(MAX_ROW)
    source = CsvLines(lines)
    header = source.first()
    reader = csv.reader(source, delimiter=delimiter_of(path, header), strict=True)
    try:
        names = next(reader, [])
    except csv.Error as error:
        raise DataError(f"{path}: the CSV header cannot be read: {error}") from None
    check_header(path, names)
    while True:
        start = source.number + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            yield RawRow(start, None, f"not valid CSV in lines {start}-{source.number}: {error}")
            continue
        if cells:
            yield csv_row(start, names, cells)
    if source.lost:
        yield RawRow(source.number + 1, None, source.lost)


class CsvLines:
    """Feeds `csv.reader` and remembers the line it is at, and how the file ended."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self.lines = lines
        self.number = 0
        self.lost = ""
        self.kept: list[Line] = []

    def first(self) -> str:
        """The header line, without taking it."""
        self.kept = [line for line in [next(self.lines, None)] if line is not None]
        return self.kept[0].text if self.kept else ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.kept.pop() if self.kept else next(self.lines)
        if line.lost:
            self.lost = line.lost
            raise StopIteration
        self.number = line.number
        return line.text


def delimiter_of(path: str, header: str) -> str:
    """The tab of a .tsv, the comma of a .csv, or what the header holds instead of it."""
    usual = "\t" if suffix_of(path) == ".tsv" else ","
    return next((d for d in (usual, ",", "\t", ";") if d in header), usual)


def check_header(path: str, names: list[str]) -> None:
    """Raise DataError for a header under which cells could not be told apart."""
    if not any(names):
        raise DataError(f"{path}: the first line is empty; a CSV file begins with the column names")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: the CSV header names {twice[0]!r} twice; rename one of the columns")
    if any(undecodable(name) or "\0" in name for name in names):
        raise DataError(f"{path}: the CSV header is not valid UTF-8; save the file as UTF-8")


def csv_row(number: int, names: list[str], cells: list[str]) -> RawRow:
    """The row under the header, or why it does not fit it."""
    if len(cells) != len(names):
        return RawRow(number, None, f"{len(cells)} CSV fields, the header names {len(names)}")
    for name, cell in zip(names, cells, strict=True):
        reason = undecodable(cell)
        if reason:
            return RawRow(number, None, f"column {name!r}: {reason}")
    return RawRow(number, {name: cell_value(cell) for name, cell in zip(names, cells, strict=True)})


def cell_value(cell: str) -> object:
    """A cell as text; a cell that holds JSON messages, or a list or object of them, is decoded.

    Only JSON that begins like a message list or a completion list counts, so that an answer which happens
    to be JSON stays text.
    """
    if not re.match(r'\[?\s*\{\s*"(role|content|from|value|rank|completion|response)"', cell):
        return cell
    value, reason = decode_json(cell)
    return cell if reason else value


def read_parquet(path: str, stream: io.BufferedReader) -> Iterator[RawRow]:
    """Rows of a parquet file by row group, a batch at a time; an unreadable row group costs only itself."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # ValueError: a flipped bit in the index can make names that are not UTF-8 and counts that make no sense.
    broken = (*DAMAGE, pa.ArrowException, ValueError, TypeError, OverflowError)
    with seekable(path, stream) as source:
        try:
            table = pq.ParquetFile(source)
            sizes = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
            if min(sizes, default=0) < 0 or sum(sizes) != table.metadata.num_rows:
                raise ValueError("its index contradicts itself on the number of rows")
        except broken as error:
            yield RawRow(1, None, f"not a readable parquet file: {one_line(error)}")
            return
        base = 0
        for group, size in enumerate(sizes):
            number, base = base, base + size
            try:
                for batch in table.iter_batches(PARQUET_BATCH, row_groups=[group]):
                    for row in batch_rows(batch):
                        number += 1
                        yield row._replace(line=number)
                if number != base:
                    raise ValueError(f"{number} rows were found")
            except broken as error:
                yield RawRow(number + 1, None, f"parquet rows {number + 1}-{base} are damaged: {one_line(error)}")


def one_line(error: BaseException) -> str:
    """An error's message on one line, bounded."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def seekable(path: str, stream: io.BufferedReader) -> IO[bytes]:
    """The file itself where it is not compressed, else a decompressed copy in a temporary file."""
    with open(path, "rb") as raw:
        if raw.read(4) == b"PAR1":
            return open(path, "rb")
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it, which deletes it
    # Of a cut archive too: parquet keeps its index at the end, so opening the copy names the damage.
    with contextlib.suppress(*DAMAGE):
        shutil.copyfileobj(stream, copy, 1 << 20)
    copy.seek(0)
    return copy


def batch_rows(batch: Any) -> list[RawRow]:
    """The rows of an Arrow batch; where one does not decode, each on its own."""
    try:
        return [RawRow(0, row) for row in batch.to_pylist()]
    except (UnicodeError, ValueError, OverflowError, RecursionError) as error:
        if batch.num_rows == 1:
            return [RawRow(0, None, "not valid UTF-8" if isinstance(error, UnicodeError) else one_line(error))]
        return [row for index in range(batch.num_rows) for row in batch_rows(batch.slice(index, 1))]
