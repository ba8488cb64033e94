"""Groups to files: `convert` writes our own shape, TRL, OpenRLHF or NeMo, as JSON lines or parquet.

A round trip loses nothing: whatever the shape, `read_groups` of the written file gives the same groups (only
`source`, the place a group was read from, is the new file's). What the shape has no word for travels in one
extra column, `rewardsmith`, which other tools ignore (see `payload`).

What other tools see. One row per strict preference (TRL, OpenRLHF), or one row per group where its
preferences are a ranking (NeMo). Statements that a shape cannot make are not made: **ties, and groups without
a strict preference, are never written as if one side had won.** Such a group becomes a placeholder row whose
two sides are the same response, which teaches a Bradley-Terry model nothing; `ConvertReport.placeholders`
counts them. In parquet the turns are `role` and `content` only, and tool calls, template variables and names
are in the `rewardsmith` column alone.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from rewardsmith.data.fields import check_text
from rewardsmith.data.lines import PACKED, suffix_of
from rewardsmith.data.payload import COLUMN, FORMAT, dumps, follower_payload, head_payload, own_row, turns
from rewardsmith.data.schema import Group, text_of
from rewardsmith.errors import DataError

PARQUET_ROWS = 1000  # a row group: what is held in memory while writing
TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
PAIR_SCHEMA = pa.schema(
    [
        ("prompt", TURNS),
        ("chosen", TURNS),
        ("rejected", TURNS),
        ("margin", pa.float64()),
        ("tools", pa.string()),
    ]
)
COMPLETION = pa.struct([("rank", pa.int64()), ("completion", TURNS)])
# Without `prompt`: OpenRLHF takes whole dialogues in chosen and rejected by default.
SCHEMAS = {
    "trl": PAIR_SCHEMA,
    "openrlhf": PAIR_SCHEMA.remove(0),
    "nemo": pa.schema([("context", TURNS), ("completions", pa.list_(COMPLETION))]),
    "rewardsmith": pa.schema([("id", pa.string()), ("prompt", pa.string())]),
}


@dataclass
class ConvertReport:
    """What was written: groups, rows, and rows that only keep a group's place (no strict preference)."""

    path: str
    shape: str
    groups: int = 0
    rows: int = 0
    placeholders: int = 0


class Sink(Protocol):
    """Where rows go."""

    def write(self, row: dict[str, Any]) -> None: ...

    def close(self) -> None: ...

    def abandon(self) -> None: ...


def convert(groups: Iterable[Group], shape: str, path: str | Path) -> ConvertReport:
    """Write `groups` to `path` (.jsonl, .jsonl.gz, .jsonl.zst or .parquet), whole or not at all.

    Memory does not grow with the number of groups. Raises DataError for an unknown shape or suffix, where
    there is no group, and where a group cannot be written; the target is then as it was before.
    """
    target = Path(path)
    if shape not in SCHEMAS:
        raise DataError(f"cannot write the shape {shape!r}; one of {', '.join(SCHEMAS)}")
    is_parquet = check_suffix(target)
    report = ConvertReport(path=str(path), shape=shape)
    with replacing(target) as temporary:
        sink = ParquetSink(temporary, SCHEMAS[shape]) if is_parquet else JsonLines(temporary, target.suffix)
        try:
            for group in groups:
                write_group(group, shape, is_parquet, sink, report)
            if not report.groups:
                raise DataError(f"{path}: nothing to write, there is no group")
        except BaseException:
            sink.abandon()
            raise
        sink.close()
    return report


def check_suffix(path: Path) -> bool:
    """True for parquet, False for JSON lines, DataError for anything else."""
    kind, packed = suffix_of(path.name), path.suffix.lower() in PACKED
    if kind == ".jsonl" or (kind == ".parquet" and not packed):
        return kind == ".parquet"
    raise DataError(f"{path}: give a name that ends in .jsonl, .jsonl.gz, .jsonl.zst or .parquet")


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary file beside `target` that takes its place when all went well, and goes away when not."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_group(group: Group, shape: str, is_parquet: bool, sink: Sink, report: ConvertReport) -> None:
    """The group's rows, and their part of the report."""
    try:
        check_texts(group)
        rows = rows_of(group, shape, is_parquet, report)
        for row in rows:
            sink.write(row)
    except (DataError, UnicodeError) as error:
        reason = "text that cannot be encoded (a lone surrogate)" if isinstance(error, UnicodeError) else error
        raise DataError(f"group {group.id!r} ({group.source or 'no source'}): {reason}") from None
    report.groups += 1
    report.rows += len(rows)


def check_texts(group: Group) -> None:
    """Raise DataError for text that no reader would take back."""
    sides = {"prompt": group.prompt} | {f"responses[{i}]": r for i, r in enumerate(group.responses)}
    for where, side in sides.items():
        for turn in side:
            check_text(turn.content, where)


def rows_of(group: Group, shape: str, is_parquet: bool, report: ConvertReport) -> list[dict[str, Any]]:
    """The rows of one group in `shape`."""
    if shape == "rewardsmith":
        return [own_parquet(group) if is_parquet else own_row(group)]
    if shape == "nemo" and (ranks := ranks_of(group)) is not None:
        everyone = range(len(group.responses))
        payload = head_payload(group, everyone, 1, extras=not is_parquet, whole=False)
        return [nemo_row(group, list(everyone), ranks) | {COLUMN: payload}]
    return pair_rows(group, shape, is_parquet, report)


def own_parquet(group: Group) -> dict[str, Any]:
    """Our shape in columns: the whole group as JSON, and its id and prompt for people who look."""
    whole = dumps({"format": FORMAT, **own_row(group)})
    return {"id": group.id, "prompt": text_of(group.prompt), COLUMN: whole}


def pair_rows(group: Group, shape: str, is_parquet: bool, report: ConvertReport) -> list[dict[str, Any]]:
    """One row per strict preference; the first carries the group, the others its name."""
    strict = [p for p in group.preferences if not p.is_tie]
    if not strict:
        report.placeholders += 1
    pairs = [(p.chosen, p.rejected, p.margin) for p in strict] or [(0, 0, 0.0)]
    keeps, whole = not is_parquet, shape == "openrlhf"
    rows = []
    for number, (chosen, rejected, margin) in enumerate(pairs, 1):
        row = PAIR_WRITERS[shape](group, chosen, rejected, margin)
        if number == 1:
            at = (chosen, rejected)
            row[COLUMN] = head_payload(group, at, len(pairs), extras=keeps, whole=whole)
        else:
            row[COLUMN] = follower_payload(group, number, len(pairs))
        rows.append(row)
    return rows


def trl_row(group: Group, chosen: int, rejected: int, margin: float) -> dict[str, Any]:
    """TRL with an explicit prompt."""
    sides = {"chosen": turns(group.responses[chosen]), "rejected": turns(group.responses[rejected])}
    return {"prompt": turns(group.prompt), **sides, "margin": margin, **template_columns(group)}


def openrlhf_row(group: Group, chosen: int, rejected: int, margin: float) -> dict[str, Any]:
    """OpenRLHF without `--prompt_key`: whole dialogues."""
    sides = {"chosen": group.responses[chosen], "rejected": group.responses[rejected]}
    whole = {key: turns((*group.prompt, *side)) for key, side in sides.items()}
    return {**whole, "margin": margin, **template_columns(group)}


def template_columns(group: Group) -> dict[str, Any]:
    """What the chat template reads beside the turns, under TRL's names."""
    columns: dict[str, Any] = {}
    if group.tools is not None:
        columns["tools"] = dumps([dict(tool) for tool in group.tools])
    if group.template_kwargs:
        columns["chat_template_kwargs"] = dict(group.template_kwargs)
    return columns


def nemo_pair(group: Group, chosen: int, rejected: int, margin: float) -> dict[str, Any]:
    """NeMo with two completions."""
    return nemo_row(group, [chosen, rejected], [0, 0 if chosen == rejected else 1])


def nemo_row(group: Group, at: list[int], ranks: list[int]) -> dict[str, Any]:
    """NeMo: rank 0 is best."""
    items = [{"rank": rank, "completion": turns(group.responses[i])} for i, rank in zip(at, ranks, strict=True)]
    return {"context": turns(group.prompt), "completions": items}


PAIR_WRITERS: dict[str, Callable[[Group, int, int, float], dict[str, Any]]] = {
    "trl": trl_row,
    "openrlhf": openrlhf_row,
    "nemo": nemo_pair,
}


def ranks_of(group: Group) -> list[int] | None:
    """Ranks (0 is best) that say exactly the group's preferences, or None where no ranking does.

    Every strict preference must be between different ranks and every two different ranks must be backed by
    one: an incomplete or circular order would otherwise turn into statements nobody made.
    """
    k = len(group.responses)
    strict = {(p.chosen, p.rejected) for p in group.preferences if not p.is_tie}
    if not strict and not group.preferences:
        return None
    losses = [sum((i, j) in strict for i in range(k)) for j in range(k)]
    for i, j in combinations(range(k), 2):
        stated = ((i, j) in strict) - ((j, i) in strict)
        if stated != (losses[i] < losses[j]) - (losses[i] > losses[j]):
            return None
    order = sorted(set(losses))
    return [order.index(lost) for lost in losses]


class JsonLines:
    """Rows as JSON lines, compressed as the name says."""

    def __init__(self, path: Path, suffix: str) -> None:
        self.raw = open(path, "wb")  # noqa: SIM115 - closed by close()
        self.packed: Any = self.raw
        if suffix.lower() == ".gz":
            # No name and no time inside: the same groups give the same bytes.
            self.packed = gzip.GzipFile(filename="", fileobj=self.raw, mode="wb", mtime=0)
        elif suffix.lower() == ".zst":
            self.packed = zstandard.ZstdCompressor().stream_writer(self.raw, closefd=False)
        self.stream = io.BufferedWriter(self.packed, 1 << 16) if self.packed is not self.raw else self.raw

    def write(self, row: dict[str, Any]) -> None:
        self.stream.write(dumps(row).encode("utf-8") + b"\n")

    def close(self) -> None:
        self.stream.flush()
        if self.packed is not self.raw:
            self.stream.close()
        self.raw.flush()
        os.fsync(self.raw.fileno())
        self.raw.close()

    def abandon(self) -> None:
        self.raw.close()


class ParquetSink:
    """Rows as parquet, a row group at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema = schema.append(pa.field(COLUMN, pa.string()))
        self.writer = pq.ParquetWriter(path, self.schema, compression="zstd")
        self.rows: list[dict[str, Any]] = []

    def write(self, row: dict[str, Any]) -> None:
        dumps(row).encode("utf-8")  # what Arrow would refuse later is refused while the group is known
        self.rows.append({name: row.get(name) for name in self.schema.names})
        if len(self.rows) >= PARQUET_ROWS:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            self.writer.write_table(pa.Table.from_pylist(self.rows, schema=self.schema))
            self.rows = []

    def close(self) -> None:
        self.flush()
        self.writer.close()

    def abandon(self) -> None:
        self.rows = []
        self.writer.close()
