"""API keys: made here, shown once, kept as hashes in a file that may change while the server runs.

    <name> <sha256 of the key, hex> [admin]        one a line; # begins a comment

A key has 256 random bits, so that a fast hash is enough: there is nothing to guess. A change of the file is one of the
whole file: who makes one holds a lock on `.NAME.lock` beside it, from reading to writing.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rewardsmith.errors import ConfigError
from rewardsmith.progress import say

PREFIX = "rws-"
SHORTEST = 16  # characters of a key of the user's own
LOOK_AGAIN_S = 1.0  # for a change of the file
LONGEST_WAIT_S = 10.0  # for another process that changes the file; a change takes milliseconds
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Key:
    """One key: who has it, its hash, and whether it may change what is served."""

    name: str
    digest: str
    admin: bool = False


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


class KeyRing:
    """The keys of a server: those given at the start, and those of a file, read again when it changes."""

    def __init__(self, given: Sequence[str] = (), file: str | Path | None = None) -> None:
        for key in given:
            if len(key) < SHORTEST:
                raise ConfigError(f"an API key of {len(key)} characters: give at least {SHORTEST}")
            if not key.isascii() or not key.isprintable() or key != key.strip():
                raise ConfigError(
                    "an API key with other than printable ASCII characters, or blanks at an end: no request could show "
                    "it in a header; take another"
                )
        self.given = [Key(f"key-{n}", digest_of(key), admin=True) for n, key in enumerate(given, 1)]
        self.file = None if file is None else Path(file)
        self.mark = self._mark()  # before the keys: a change while they are read is seen the next time
        self.from_file: list[Key] = [] if self.file is None else read_keys(self.file)
        self.looked = time.monotonic()

    def __bool__(self) -> bool:
        """Whether keys are asked for: a file without keys lets nobody in."""
        return bool(self.given) or self.file is not None

    def find(self, presented: str) -> Key | None:
        """The key that was presented. Every key is compared in full, whichever is the right one."""
        self._look_again()
        digest = digest_of(presented)
        found = None
        for key in [*self.given, *self.from_file]:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def _look_again(self) -> None:
        if self.file is None or time.monotonic() - self.looked < LOOK_AGAIN_S:
            return
        self.looked = time.monotonic()
        mark = self._mark()
        if mark == self.mark:
            return
        try:
            self.from_file, self.mark = read_keys(self.file), mark
        except ConfigError as error:
            say(f"warning: the keys stay as they were: {error}")

    def _mark(self) -> tuple[int, int, int] | None:
        try:
            status = self.file.stat() if self.file is not None else None
        except OSError:
            return None
        return None if status is None else (status.st_ino, status.st_size, status.st_mtime_ns)


def read_keys(file: Path) -> list[Key]:
    """The keys in a file; ConfigError where it cannot be read or a line is no key."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: the keys cannot be read: {getattr(error, 'strerror', None) or error}") from None
    keys = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        is_key = len(words) in (2, 3) and NAME.fullmatch(words[0]) and re.fullmatch(r"[0-9a-f]{64}", words[1])
        if not is_key or words[2:] not in ([], ["admin"]):
            raise ConfigError(f"{file}:{number} is no key; a line is: NAME SHA256 [admin]")
        keys.append(Key(words[0], words[1], admin=len(words) == 3))
    return keys


def add_key(file: str | Path, name: str, *, admin: bool = False) -> str:
    """Make a key, add its hash to the file, return the key itself: it is nowhere else."""
    file = Path(file)
    if not NAME.fullmatch(name):
        raise ConfigError(f"name {name!r}: use up to 64 letters, digits, dots, dashes and underscores")
    key = PREFIX + secrets.token_urlsafe(32)
    with _locked(file):
        keys = read_keys(file) if file.exists() else []
        if any(key.name == name for key in keys):
            raise ConfigError(f"{file} has a key named {name}; revoke it first, or take another name")
        _write(file, [*keys, Key(name, digest_of(key), admin)])
    return key


def revoke_key(file: str | Path, name: str) -> None:
    """Take a key out of the file; ConfigError where there is none of this name."""
    file = Path(file)
    if not file.exists():
        raise ConfigError(f"{file}: no such file")
    with _locked(file):
        keys = read_keys(file)
        kept = [key for key in keys if key.name != name]
        if len(kept) == len(keys):
            names = ", ".join(key.name for key in keys) or "none"
            raise ConfigError(f"{file} has no key named {name!r}; there are: {names}")
        _write(file, kept)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One writer at a time, of any process; ConfigError where another one holds the lock for longer than is sound.

    The lock is on a file of its own, which stays: the keys' file is replaced by each change, and a lock on it would be
    one on a file that is gone. It goes with the process that holds it, however that ends.
    """
    lock = file.with_name(f".{file.name}.lock")
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(f"{file}: the keys cannot be written: {error.strerror or error}") from None
    try:
        end = time.monotonic() + LONGEST_WAIT_S
        while not _taken(handle):
            if time.monotonic() > end:
                raise ConfigError(
                    f"{file}: another process has been changing the keys for {LONGEST_WAIT_S:.0f} s (it holds {lock}); "
                    "nothing was changed: try again, or end that process"
                )
            time.sleep(0.01)
        yield
    finally:
        os.close(handle)


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(file: Path, keys: Sequence[Key]) -> None:
    lines = [f"{key.name} {key.digest}{' admin' if key.admin else ''}\n" for key in keys]
    writing = file.with_name(f".{file.name}.writing-{os.getpid()}")
    try:
        handle = os.open(writing, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "w", encoding="utf-8") as out:
            out.write("".join(["# name, sha256 of the key, admin where it may reload the model\n", *lines]))
        os.replace(writing, file)
    except OSError as error:
        raise ConfigError(f"{file}: the keys cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            writing.unlink(missing_ok=True)
