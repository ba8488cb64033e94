"""Files to rows: .jsonl, .json, .parquet, .csv and .tsv, any of them .gz or .zst, and Hugging Face hub names.

What a file is, is read from its first bytes; its name only settles what bytes cannot: CSV from JSON, a comma
from a tab. Rows come one at a time. JSON lines, CSV and parquet are read in constant memory; **a .json array
is loaded whole**, and a .parquet.gz is first decompressed to a temporary file.

A bad row does not raise: it comes out as a `RawRow` with its line and the reason. A damaged archive gives the
rows before the damage and then one such row.
"""

from __future__ import annotations

import io
import os
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rewardsmith.data.formats import RawRow, read_csv, read_json, read_parquet, row_of
from rewardsmith.data.lines import DAMAGE, damage, open_bytes, sniff_encoding, suffix_of, text_lines
from rewardsmith.errors import DataError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
HUB_NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(:[\w.-]+)?(@[\w.-]+)?")


def data_files(path: str | Path) -> list[str]:
    """The files that `path` stands for: itself, a folder's supported files in sorted order, or a hub name.

    Raises DataError where nothing is there.
    """
    found = Path(path)
    if found.is_dir():
        inside = sorted(str(p) for p in found.iterdir() if p.is_file() and is_supported(p.name))
        if not inside:
            raise DataError(f"{path}: the folder holds no {', '.join(SUFFIXES)} file (.gz and .zst are read too)")
        return inside
    if found.exists() or is_hub_name(str(path)):
        return [str(path)]
    raise DataError(f"{path}: no such file; give a {', '.join(SUFFIXES)} file, a folder or a hub name (owner/name)")


def is_supported(name: str) -> bool:
    """True for the names of files that are read out of a folder."""
    return not name.startswith(".") and suffix_of(name) in SUFFIXES


def is_hub_name(path: str) -> bool:
    """True for `owner/name`, `owner/name:config` and `owner/name@split` that are no file here."""
    return bool(HUB_NAME.fullmatch(path)) and not Path(path).exists() and suffix_of(path) not in SUFFIXES


def read_rows(path: str) -> Iterator[RawRow]:
    """Every row of one file or hub data set, the bad ones with their reason.

    Raises DataError where the file cannot be opened, is empty, or is a CSV without a usable header.
    """
    if is_hub_name(path):
        yield from read_hub(path)
        return
    try:
        stream = open_bytes(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be opened: {error.strerror or error}") from None
    with stream:
        try:
            head = stream.peek(1 << 16)[: 1 << 16]
        except DAMAGE as error:
            yield RawRow(1, None, damage(error, 0))
            return
        if not head:
            raise DataError(f"{path}: the file is empty")
        yield from read_stream(path, stream, head)


def read_stream(path: str, stream: io.BufferedReader, head: bytes) -> Iterator[RawRow]:
    """Rows of an open, decompressed stream, by what its first bytes say it is."""
    if head.startswith(b"PAR1") or suffix_of(path) == ".parquet":
        yield from read_parquet(path, stream)
        return
    lines = text_lines(stream, sniff_encoding(head))
    if suffix_of(path) in (".csv", ".tsv"):
        yield from read_csv(path, lines)
    else:
        yield from read_json(path, lines)


def read_hub(name: str) -> Iterator[RawRow]:
    """Rows of a hub data set, streamed: `owner/name` is its train split, `owner/name:config@split` any."""
    rows = open_hub(name)
    number = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # any network or format error ends the stream: rows so far stand
            yield RawRow(number + 1, None, damage(error, number))
            return
        number += 1
        yield row_of(number, row)


def open_hub(name: str) -> Iterator[dict[str, Any]]:
    """The streamed split, or DataError where the hub or the data set cannot be reached."""
    where, _, split = name.partition("@")
    repository, _, config = where.partition(":")
    try:
        check_network()
        import datasets

        return iter(datasets.load_dataset(repository, config or None, split=split or "train", streaming=True))
    except Exception as error:
        what = " ".join(str(error).split())[:160] or type(error).__name__
        raise DataError(
            f"{name}: no file of that name here, and the hub does not give it ({what}); "
            "check the name, or download it first"
        ) from None


def check_network() -> None:
    """Raise OSError where the hub's name does not resolve: its client would retry for half a minute.

    Not where the client is told to be offline: it then reads its cache, or says that nothing is in it.
    """
    if any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in OFFLINE):
        return
    endpoint = urllib.parse.urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    if not urllib.request.getproxies():  # a proxy resolves names itself
        socket.getaddrinfo(endpoint.hostname, endpoint.port or 443)
