"""Fuzz the readers: every mutated row ends read, or dropped with its line and a reason. Never a traceback.

    python benchmarks/fuzz_readers.py --rows 2000 --json fuzz.json

Each case is a small file of one shape and one file type: good rows, and among them rows with one mutation each
(missing key, wrong type, null, lone surrogate, huge string, NUL, NaN, deep nesting ...), or a file damaged as a
whole (cut archive, flipped bytes, wrong encoding ...). Checked after reading it:

* nothing but DataError is raised, its message is one line, and only for a file that is damaged as a whole;
* rows in the file = rows used in groups + rows named, and each named row has a line and a one-line reason;
* every untouched row is used, unless the damage is to the file behind it;
* a mutated row that is named is named under its own line.
"""

from __future__ import annotations

import argparse
import base64
import csv
import gzip
import io
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from rewardsmith.data.convert import convert
from rewardsmith.data.readers import ReadOptions, ReadReport, read_groups
from rewardsmith.data.schema import Group, Message, Preference
from rewardsmith.errors import RewardsmithError

Row = dict[str, Any]
ROWS_PER_FILE = 8
MUTATED_PER_FILE = 2


# --- good rows of every shape --------------------------------------------------------------------------------


def chat(*turns: str) -> list[Row]:
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": turn} for i, turn in enumerate(turns)]


def assistant(text: str) -> list[Row]:
    return [{"role": "assistant", "content": text}]


def good_rows(shape: str, n: int) -> list[Row]:
    """`n` rows of a shape, with different prompts."""
    return [MAKERS[shape](f"question {i}, größer?", f"answer {i} 好", f"worse {i}") for i in range(n)]


def completions(key: str, rate: str, a: str, b: str) -> list[Row]:
    return [{key: a, rate: 0}, {key: b, rate: 1}, {key: a + b, rate: 1}]


MAKERS: dict[str, Callable[[str, str, str], Row]] = {
    "trl": lambda q, a, b: {"prompt": q, "chosen": a, "rejected": b, "margin": 1.0, "id": q},
    "trl-messages": lambda q, a, b: {"chosen": chat(q, a), "rejected": chat(q, b), "subset": "s"},
    "hh": lambda q, a, b: {
        "chosen": f"\n\nHuman: {q}\n\nAssistant: {a}",
        "rejected": f"\n\nHuman: {q}\n\nAssistant: {b}",
    },
    "ultrafeedback": lambda q, a, b: {"prompt": q, "completions": completions("response", "overall_score", a, b)},
    "scored": lambda q, a, b: {"prompt": q, "response": a, "score": 0.5, "prompt_id": q[:10]},
    "nemo": lambda q, a, b: {"context": chat(q), "completions": completions("completion", "rank", a, b)},
    "ms-swift": lambda q, a, b: {"messages": chat(q, a), "rejected_response": b, "margin": 0.1},
    "llama-factory": lambda q, a, b: {"instruction": q, "input": "more", "chosen": a, "rejected": b},
    "axolotl": lambda q, a, b: {"system": "be kind", "input": q, "chosen": a, "rejected": b},
    "openrlhf": lambda q, a, b: {"question": q, "good": a, "bad": b},
    "pairwise": lambda q, a, b: {"prompt": q, "response_a": a, "response_b": b, "winner": "model_b"},
    "annotators": lambda q, a, b: {
        "instruction": q,
        "input": "",
        "response1": a,
        "response2": b,
        "annotator1": 2,
        "annotator2": 0,
        "annotator3": 1,
    },
    "rm-bench": lambda q, a, b: {"prompt": q, "chosen": [a, a * 2], "rejected": [b, b * 2]},
    "rewardsmith": lambda q, a, b: {
        "prompt": q,
        "responses": [a, assistant(b)],
        "tags": {"k": "v"},
        "ratings": [1, 0.5],
        "preferences": [{"chosen": 0, "rejected": 1, "probability": 0.75, "votes": [1, 1, 0.5]}],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    },
}
NAMED = {"openrlhf": ReadOptions(shape="openrlhf", prompt_key="question", chosen_key="good", rejected_key="bad")}
SHAPE_OF = {"trl-messages": "trl", "annotators": "pairwise"}


def converted_rows(n: int, folder: Path) -> list[Row]:
    """Rows that `convert` wrote, with their `rewardsmith` column."""
    made = [
        Group(
            prompt=(Message("user", f"q{i}"),),
            responses=tuple((Message("assistant", f"{text}{i}"),) for text in "abc"),
            preferences=(Preference(chosen=0, rejected=1), Preference(chosen=1, rejected=2, probability=0.5)),
            ratings=(3.0, 2.0, None),
            id=f"g{i}",
        )
        for i in range(n)
    ]
    convert(made, "trl", folder / "converted.jsonl")
    return [json.loads(line) for line in (folder / "converted.jsonl").read_text(encoding="utf-8").splitlines()]


# --- mutations of one row ------------------------------------------------------------------------------------


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything inside a row."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [p for key, item in items for p in places(item, (*path, key))]


def change(row: Row, rng: random.Random, make: Callable[[Any], Any]) -> Row:
    """A copy of the row with one of its values, at any depth, replaced; `DELETE` removes it."""
    copy: Any = json.loads(json.dumps(row))
    *parents, last = rng.choice(places(copy))
    inside = copy
    for step in parents:
        inside = inside[step]
    new = make(inside[last])
    if new is DELETE:
        del inside[last]
    else:
        inside[last] = new
    return dict(copy)


DELETE = object()
WRONG: list[Any] = [
    0,
    -1,
    3.5,
    True,
    "text",
    "",
    [],
    {},
    [[]],
    [None],
    {"role": "user"},
    {"a": {"b": 1}},
    10**30,
]


def deep(n: int) -> Any:
    value: Any = "x"
    for _ in range(n):
        value = [value]
    return value


def inserted(value: Any, piece: str, rng: random.Random) -> str:
    text = value if isinstance(value, str) else "text"
    at = rng.randint(0, len(text))
    return text[:at] + piece + text[at:]


# name -> (row, rng) -> mutated row
ROW_MUTATIONS: dict[str, Callable[[Row, random.Random], Row]] = {
    "missing key": lambda row, rng: change(row, rng, lambda v: DELETE),
    "null": lambda row, rng: change(row, rng, lambda v: None),
    "wrong type": lambda row, rng: change(row, rng, lambda v: rng.choice(WRONG)),
    "lone surrogate": lambda row, rng: change(row, rng, lambda v: inserted(v, rng.choice(["\ud800", "\udfff"]), rng)),
    "NUL": lambda row, rng: change(row, rng, lambda v: inserted(v, "\0", rng)),
    "control characters": lambda row, rng: change(row, rng, lambda v: inserted(v, "\x01\x1b\r\n\u2028\ufeff\x7f", rng)),
    "huge string": lambda row, rng: change(row, rng, lambda v: inserted(v, "long " * 60_000, rng)),
    "empty string": lambda row, rng: change(row, rng, lambda v: ""),
    "NaN or infinite number": lambda row, rng: change(
        row, rng, lambda v: rng.choice([float("nan"), float("inf"), -1e999])
    ),
    "huge number": lambda row, rng: change(row, rng, lambda v: rng.choice([10**400, -(10**400), 1e308])),
    "deep nesting": lambda row, rng: change(row, rng, lambda v: deep(rng.choice([60, 200, 900]))),
    "unknown key": lambda row, rng: row | {rng.choice(["x", "", "é" * 500, "rewardsmith"]): rng.choice(WRONG)},
    "duplicated list": lambda row, rng: change(row, rng, lambda v: v * 2 if isinstance(v, list | str) else [v, v]),
}
# What only the text of a JSON line can be.
LINE_MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut line": lambda line, rng: line[: rng.randint(1, len(line) - 1)],
    "invalid UTF-8": lambda line, rng: splice(line, rng, rng.choice([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xe9"])),
    "raw NUL": lambda line, rng: splice(line, rng, b"\0"),
    "random byte": lambda line, rng: splice(line, rng, bytes([rng.choice([*range(10), *range(11, 256)])])),
    "key twice": lambda line, rng: line[:1] + line[1:-1] + b", " + line[1:],
    "not an object": lambda line, rng: rng.choice([b"[1]", b"null", b"NaN", b'"x"', b"12", b"{}", b"[" * 5000]),
    "digits without end": lambda line, rng: line[:-1] + b', "n": ' + b"9" * 5000 + b"}",
}


def splice(line: bytes, rng: random.Random, piece: bytes) -> bytes:
    at = rng.randint(0, len(line))
    return line[:at] + piece + line[at:]


# --- files ---------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """One file: what it holds, which lines are mutated, and what may be lost."""

    name: str
    shape: str
    kind: str
    data: bytes
    lines: list[int]  # the line or row number of each row
    mutated: set[int]  # those of them that are mutated
    whole: bool = False  # the file is damaged as a whole: any row may be lost
    suffix: str = ".jsonl"
    mutations: list[str] = field(default_factory=list)


def json_line(row: Row, rng: random.Random) -> bytes:
    """A JSON line; as plain UTF-8 where the row allows it, else with escapes."""
    plain = json.dumps(row, ensure_ascii=rng.random() < 0.5)
    try:
        return plain.encode()
    except UnicodeEncodeError:
        return json.dumps(row).encode()


def jsonl_case(shape: str, rows: list[Row], rng: random.Random) -> Case:
    encoded = [json_line(row, rng) for row in rows]
    mutated, names = set(), []
    for index in rng.sample(range(len(rows)), MUTATED_PER_FILE):
        if rng.random() < 0.35:
            name = rng.choice(list(LINE_MUTATIONS))
            encoded[index] = LINE_MUTATIONS[name](encoded[index], rng)
        else:
            name = rng.choice(list(ROW_MUTATIONS))
            encoded[index] = json_line(ROW_MUTATIONS[name](rows[index], rng), rng)
        names.append(name)
        mutated.add(index + 1)
    lines = list(range(1, len(rows) + 1))
    return Case("rows", shape, "jsonl", b"\n".join(encoded) + b"\n", lines, mutated, mutations=names)


def mutated_rows(rows: list[Row], rng: random.Random) -> tuple[list[Row], set[int], list[str]]:
    """Rows of which some carry a mutation, and their 1-based numbers."""
    changed, mutated, names = list(rows), set(), []
    for index in rng.sample(range(len(rows)), MUTATED_PER_FILE):
        name = rng.choice(list(ROW_MUTATIONS))
        changed[index] = ROW_MUTATIONS[name](rows[index], rng)
        mutated.add(index + 1)
        names.append(name)
    return changed, mutated, names


def json_case(shape: str, rows: list[Row], rng: random.Random) -> Case:
    changed, mutated, names = mutated_rows(rows, rng)
    data = json.dumps(changed, indent=rng.choice([None, 2])).encode()
    return Case("rows", shape, "json", data, list(range(1, len(rows) + 1)), mutated, suffix=".json", mutations=names)


def parquet_case(shape: str, rows: list[Row], rng: random.Random) -> Case | None:
    """Columns have one type each: a mutation that Arrow cannot hold makes no file, and another is tried."""
    changed, mutated, names = mutated_rows(rows, rng)
    columns = sorted({key for row in changed for key in row})
    out = io.BytesIO()
    try:
        table = pa.table({key: pa.array([row.get(key) for row in changed]) for key in columns})
        pq.write_table(table, out, row_group_size=3)
    except (pa.ArrowException, OverflowError, UnicodeError, TypeError, ValueError, RecursionError):
        return None
    lines = list(range(1, len(rows) + 1))
    return Case("rows", shape, "parquet", out.getvalue(), lines, mutated, suffix=".parquet", mutations=names)


def csv_case(shape: str, rows: list[Row], rng: random.Random) -> Case | None:
    """Cells are text; lists become JSON. Quotes are broken in some rows."""
    changed, mutated, names = mutated_rows(rows, rng)
    columns = list(rows[0])
    out, lines, data = io.StringIO(), [], ""
    writer = csv.writer(out, lineterminator="\n")
    for index, row in enumerate([dict.fromkeys(columns), *changed]):
        out.seek(0)
        out.truncate()
        cells = columns if index == 0 else [cell(row[key]) if key in row else "" for key in columns]
        writer.writerow(cells)
        record = out.getvalue()
        if index and index in mutated and rng.random() < 0.3:
            names.append("broken CSV")
            record = rng.choice([record[:-1] + ",extra\n", 'x"y,"z"w\n', record.replace(",", " ")])
        if index:
            lines.append(data.count("\n") + 1)
        data += record
    try:
        encoded = data.encode()
    except UnicodeEncodeError:
        encoded = data.encode("utf-8", "surrogatepass")
    places_ = {lines[number - 1] for number in mutated}
    return Case("rows", shape, "csv", encoded, lines, places_, suffix=".csv", mutations=names)


def cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


MAKE_FILE = {"jsonl": jsonl_case, "json": json_case, "parquet": parquet_case, "csv": csv_case}

# Damage to a file of good rows: name -> bytes -> bytes.
FILE_MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut gzip": lambda data, rng: cut(gzip.compress(data), rng),
    "cut zstandard": lambda data, rng: cut(zstandard.ZstdCompressor().compress(data), rng),
    "flipped byte in gzip": lambda data, rng: flip(gzip.compress(data), rng),
    "flipped byte in zstandard": lambda data, rng: flip(
        zstandard.ZstdCompressor(write_checksum=True).compress(data), rng
    ),
    "cut file": lambda data, rng: cut(data, rng),
    "flipped byte": lambda data, rng: flip(data, rng),
    "utf-16": lambda data, rng: recode(data, rng.choice(["utf-16", "utf-16-le", "utf-16-be"])),
    "cut utf-16": lambda data, rng: cut(recode(data, "utf-16"), rng),
    "latin-1": lambda data, rng: recode(data, "latin-1"),
    "utf-8 with a mark": lambda data, rng: b"\xef\xbb\xbf" + data,
    "random bytes": lambda data, rng: rng.randbytes(200),
    "base64": lambda data, rng: base64.b64encode(data),
    "NULs in the file": lambda data, rng: splice(data, rng, b"\0" * rng.randint(1, 5000)),
}


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randint(1, len(data) - 1)]


def flip(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def recode(data: bytes, encoding: str) -> bytes:
    try:
        return data.decode().encode(encoding, "replace")
    except UnicodeDecodeError:  # parquet
        return data


def damaged(case: Case, rng: random.Random) -> Case:
    """The case's file, damaged as a whole."""
    name = rng.choice(list(FILE_MUTATIONS))
    case.data = FILE_MUTATIONS[name](case.data, rng)
    case.name, case.whole = name, True
    case.mutations.append(name)
    return case


def packed(case: Case, rng: random.Random) -> Case:
    """Now and then the sound file in an archive."""
    if case.whole or rng.random() < 0.7:
        return case
    pack = rng.choice([gzip.compress, zstandard.ZstdCompressor().compress])
    case.data = pack(case.data)
    case.kind += ".gz" if pack is gzip.compress else ".zst"
    case.suffix += rng.choice([".gz", ".zst", ""])
    return case


def make_case(rng: random.Random, folder: Path) -> Case:
    """A random case; parquet cannot hold every mutation, so some are drawn again."""
    kind = rng.choice(list(MAKE_FILE))
    while True:
        shape = rng.choice([*MAKERS, "converted"])
        rows = converted_rows(ROWS_PER_FILE, folder) if shape == "converted" else good_rows(shape, ROWS_PER_FILE)
        case = MAKE_FILE[kind](shape, rows, rng)
        if case is not None:
            return packed(damaged(case, rng) if rng.random() < 0.2 else case, rng)


# --- the check -----------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What became of one case."""

    used: int = 0
    named: int = 0
    error: str = ""
    violations: list[str] = field(default_factory=list)


def check(case: Case, path: Path, rng: random.Random) -> Outcome:
    """Read the file and hold the result against the four promises."""
    path.write_bytes(case.data)
    shape = SHAPE_OF.get(case.shape, case.shape)
    named = ReadOptions() if shape == "converted" else ReadOptions(shape=shape)
    options = NAMED.get(case.shape, rng.choice([ReadOptions(), named]))
    report, outcome = ReadReport(), Outcome()
    groups: list[Group] = []
    try:
        groups = list(read_groups(path, options, report=report))
        json.dumps([g.id for g in groups], ensure_ascii=False).encode()  # what is read can be written
    except RewardsmithError as error:
        outcome.error = str(error)
        if "\n" in outcome.error:
            outcome.violations.append(f"an error of several lines: {outcome.error!r}")
        if not case.whole:
            outcome.violations.append(f"a file with good rows was refused: {outcome.error}")
    except Exception as error:  # any other exception is what this looks for
        outcome.violations.append(f"{type(error).__name__}: {error}")
        return outcome
    compare(case, report, groups, outcome)
    return outcome


def compare(case: Case, report: ReadReport, groups: list[Group], outcome: Outcome) -> None:
    """Rows in = rows used + rows named, and the named ones are those that were touched."""
    if not report.files or (outcome.error and not report.files[0].rows):
        return  # refused before the first row
    file, wrong = report.files[0], outcome.violations
    outcome.used, outcome.named = file.rows_used, len(report.dropped)
    if file.rows != file.rows_used + len(report.dropped):
        wrong.append(f"{file.rows} rows, {file.rows_used} used, {len(report.dropped)} named")
    if not outcome.error and len(groups) != file.groups:
        wrong.append(f"{len(groups)} groups came, {file.groups} reported")
    for dropped in report.dropped:
        if dropped.line < 1 or not dropped.reason or "\n" in dropped.reason:
            wrong.append(f"no line or reason: {dropped}")
    if case.whole:
        return
    if file.rows != len(case.lines) and not swallowed(case):
        wrong.append(f"{len(case.lines)} rows in the file, {file.rows} seen")
    lost = {d.line for d in report.dropped} - case.mutated - after_mutation(case)
    if lost and not swallowed(case):
        wrong.append(f"untouched rows dropped: {sorted(lost)}: {report.dropped}")


def after_mutation(case: Case) -> set[int]:
    """In a file of `convert` the second row of a group falls with its first."""
    return {line + 1 for line in case.mutated} if case.shape == "converted" else set()


def swallowed(case: Case) -> bool:
    """A broken quote may take the lines behind it into its CSV row; the row is then named with its lines."""
    return "broken CSV" in case.mutations


def run(rows: int, seed: int, folder: Path) -> dict[str, Any]:
    """Fuzz until `rows` single rows are mutated; files damaged as a whole come on top."""
    rng = random.Random(seed)
    start = time.perf_counter()
    counts: dict[str, Counter[str]] = {}
    violations: list[str] = []
    files = mutated = damaged_files = 0
    while mutated < rows:
        case = make_case(rng, folder)
        path = folder / f"case{files}{case.suffix}"
        outcome = check(case, path, rng)
        files += 1
        mutated += 0 if case.whole else len(case.mutated)
        damaged_files += case.whole
        tally(counts, case, outcome)
        violations += [
            f"case {files - 1} ({case.shape}, {case.kind}, {case.mutations}): {v}" for v in outcome.violations
        ]
        if not outcome.violations:
            path.unlink()
    return {
        "mutated_rows": mutated,
        "files": files,
        "damaged_files": damaged_files,
        "seed": seed,
        "seconds": round(time.perf_counter() - start, 1),
        "by_shape_and_type": {key: dict(counter) for key, counter in sorted(counts.items())},
        "violations": violations,
    }


def tally(counts: dict[str, Counter[str]], case: Case, outcome: Outcome) -> None:
    for key in (f"shape {case.shape}", f"type {case.kind}", *(f"mutation {name}" for name in case.mutations)):
        counter = counts.setdefault(key, Counter())
        counter.update(files=1, used=outcome.used, named=outcome.named, refused=int(bool(outcome.error)))
        counter.update(violations=len(outcome.violations))


def table(result: dict[str, Any]) -> str:
    """One line per shape, file type and mutation."""
    columns = ("files", "used", "named", "refused", "violations")
    lines = [f"{'':40}" + "".join(f"{name:>12}" for name in columns)]
    for key, counter in result["by_shape_and_type"].items():
        lines.append(f"{key:40}" + "".join(f"{counter.get(name, 0):>12}" for name in columns))
    total = (
        f"{result['mutated_rows']} mutated rows and {result['damaged_files']} files damaged as a whole, "
        f"{result['files']} files in {result['seconds']} s"
    )
    return "\n".join([*lines, "", f"{total}, {len(result['violations'])} violations"])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000, help="mutated rows to read")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the result here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(args.rows, args.seed, Path(folder))
    print(table(result))
    for violation in result["violations"]:
        print("VIOLATION", violation[:500], file=sys.stderr)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 1 if result["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
