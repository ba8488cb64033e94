"""Bytes to lines: compression, encoding and damage.

What a file is packed with and encoded in is read from its first bytes (magic numbers, byte order marks), not
from its name. Lines come one at a time, in constant memory. Damage - a cut archive, a bad checksum, a disk
that fails - ends them with one last `Line` that says what was lost.
"""

from __future__ import annotations

import codecs
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import zstandard

PACKED = (".gz", ".zst")
BUFFER = 1 << 16
PIECE = 1 << 12  # compressed bytes at a time: a small piece may unpack to megabytes
MAX_ROW = 1 << 28  # bytes of one line or CSV field: beyond it the file is damaged, not generous
# What a reader of a damaged archive, disk or network file meets; each becomes one dropped row.
DAMAGE = (EOFError, OSError, zlib.error, zstandard.ZstdError)


def suffix_of(name: str) -> str:
    """The suffix that says what a file holds: `.jsonl` of `a.jsonl.gz`, in lower case."""
    parts = [s.lower() for s in Path(name).suffixes]
    while parts and parts[-1] in PACKED:
        parts.pop()
    return parts[-1] if parts else ""


def open_bytes(path: str) -> io.BufferedReader:
    """The file's bytes, decompressed where its first bytes say gzip or zstandard (whatever its name says)."""
    raw = open(path, "rb", buffering=0)  # noqa: SIM115 - the caller closes the reader, which closes this
    magic = raw.read(4)
    raw.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return io.BufferedReader(Unpacked(raw, lambda: zlib.decompressobj(wbits=31)), BUFFER)
    if magic == b"\x28\xb5\x2f\xfd":
        return io.BufferedReader(Unpacked(raw, lambda: zstandard.ZstdDecompressor().decompressobj()), BUFFER)
    return io.BufferedReader(raw, BUFFER)


class Unpacked(io.RawIOBase):
    """A gzip or zstandard stream of one or more members that gives all it has before it reports a cut.

    The packages' own readers lose the last block of a cut gzip file and end silently in a cut zstandard file.
    """

    def __init__(self, raw: IO[bytes], new_member: Callable[[], Any]) -> None:
        self.raw, self.new_member = raw, new_member
        self.member = new_member()
        self.inside = False  # a member has begun and not ended
        self.pending = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.pending:
            rest = b""
            if self.member.eof:
                rest = self.member.unused_data.lstrip(b"\0")  # gzip allows zeros between and after members
                self.member, self.inside = self.new_member(), False
            chunk = rest or self.raw.read(PIECE)
            if not chunk and self.inside:
                raise EOFError("the archive ends in the middle")
            if not chunk:
                return 0
            self.inside = True
            self.pending = self.member.decompress(chunk)
        size = min(len(buffer), len(self.pending))
        buffer[:size], self.pending = self.pending[:size], self.pending[size:]
        return size

    def close(self) -> None:
        self.raw.close()
        super().close()


def damage(error: BaseException, after: int) -> str:
    """The reason of the one row that stands for everything behind a damaged place."""
    what = " ".join(str(error).split()) or type(error).__name__
    return f"the file is cut or damaged after line {after}, what follows is lost: {what}"


def sniff_encoding(head: bytes) -> str:
    """utf-8 unless a byte order mark, or zeros beside ASCII, say utf-16 or utf-32."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    # Without a mark: ASCII text in utf-16 has a zero in every second byte.
    sample = head[: min(len(head), 64) & ~1]
    first, second = sample[0::2].count(0), sample[1::2].count(0)
    if len(sample) >= 4 and max(first, second) > len(sample) // 3 and not min(first, second):
        return "utf-16-be" if first else "utf-16-le"
    return "utf-8"


class Line(NamedTuple):
    """One line as text, with undecodable bytes kept as surrogates, or the reason why reading ends here."""

    number: int
    text: str
    lost: str = ""


def text_lines(stream: io.BufferedReader, encoding: str) -> Iterator[Line]:
    """Lines with their 1-based numbers. Only "\\n" ends a line: U+2028 and the like are text in JSON."""
    if encoding == "utf-8":
        yield from lines_from(stream)
        return
    wide = io.TextIOWrapper(stream, encoding=encoding, errors="surrogatepass", newline="\n")
    try:
        yield from lines_from(wide)
    finally:
        wide.detach()  # whoever opened the stream closes it


def lines_from(source: IO[bytes] | IO[str]) -> Iterator[Line]:
    """Lines of an open file; bytes are taken as UTF-8, and those that are not are kept as surrogates."""
    number = 0
    while True:
        try:
            line = source.readline(MAX_ROW)
        except (*DAMAGE, UnicodeError) as error:
            yield Line(number + 1, "", damage(error, number))
            return
        if not line:
            return
        number += 1
        if isinstance(line, bytes):
            mark = number == 1 and line.startswith(codecs.BOM_UTF8)
            line = line[3 if mark else 0 :].decode("utf-8", "surrogateescape")
        if len(line) >= MAX_ROW:  # the rest of the line is damage too: there is no telling where a row begins
            yield Line(number, "", f"a line of more than {MAX_ROW >> 20} MiB: the file is damaged from here on")
            return
        yield Line(number, line)


def undecodable(line: str) -> str:
    """Why a line is not text in its encoding, or "" where it is."""
    if line.isascii():
        return ""
    try:
        line.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(line[error.start])
        if 0xDC80 <= code <= 0xDCFF:
            return f"not valid UTF-8: byte 0x{code - 0xDC00:02x} at character {error.start + 1}"
        return f"not valid Unicode: a lone surrogate at character {error.start + 1}"
    return ""
