"""Keys are kept as hashes, may change while the server runs, and are compared in full."""

from __future__ import annotations

import fcntl
import hashlib
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rewardsmith.errors import ConfigError
from rewardsmith.serving import keys
from rewardsmith.serving.keys import KeyRing, add_key, read_keys, revoke_key


def test_the_file_holds_hashes_only(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    key = add_key(file, "trainer")
    assert key.startswith("rws-")
    assert len(key) > 40
    assert key not in file.read_text()
    assert hashlib.sha256(key.encode()).hexdigest() in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_keys_come_and_go_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "LOOK_AGAIN_S", 0.0)
    file = tmp_path / "keys.txt"
    first = add_key(file, "first", admin=True)
    ring = KeyRing([], file)
    found = ring.find(first)
    assert found is not None
    assert (found.name, found.admin) == ("first", True)
    second = add_key(file, "second")
    found = ring.find(second)
    assert found is not None
    assert (found.name, found.admin) == ("second", False)
    revoke_key(file, "first")
    assert ring.find(first) is None
    assert ring.find(second) is not None
    file.write_text("nonsense\n")
    assert ring.find(second) is not None, "a file that cannot be read changes nothing"


def test_given_keys() -> None:
    ring = KeyRing(["a-key-of-sixteen-or-more"])
    assert ring
    assert not KeyRing()
    assert ring.find("a-key-of-sixteen-or-more") is not None
    for wrong in ("", "a-key-of-sixteen-or-mor", "a-key-of-sixteen-or-more ", "\ud800"):
        assert ring.find(wrong) is None
    with pytest.raises(ConfigError, match="at least 16"):
        KeyRing(["short"])
    for unusable in ("a-key-that-ends-in-a-line\n", "ein-langer-schlüssel-mit-umlaut"):
        with pytest.raises(ConfigError, match="no request could show"):
            KeyRing([unusable])


def test_a_key_revoked_while_the_file_is_read_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "LOOK_AGAIN_S", 0.0)
    file = tmp_path / "keys.txt"
    key = add_key(file, "leaving")

    def read_then_changed(path: Path) -> list[keys.Key]:
        found = read_keys(path)
        monkeypatch.undo()
        revoke_key(path, "leaving")
        return found

    monkeypatch.setattr(keys, "read_keys", read_then_changed)
    ring = KeyRing([], file)
    ring.looked -= 2
    assert ring.find(key) is None


def test_two_processes_at_once_lose_no_key(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    code = "import sys; from rewardsmith.serving.keys import add_key, revoke_key\n"
    code += "for n in range(60): print(add_key(sys.argv[1], f'{sys.argv[2]}-{n}'), flush=True)\n"
    code += "for n in range(0, 60, 2): revoke_key(sys.argv[1], f'{sys.argv[2]}-{n}')"
    words = [sys.executable, "-c", code, str(file)]
    running = [subprocess.Popen([*words, who], stdout=subprocess.PIPE, text=True) for who in ("ann", "ben")]
    printed = [one.communicate(timeout=60)[0].split() for one in running]
    assert [(one.returncode, len(keys)) for one, keys in zip(running, printed, strict=True)] == [(0, 60)] * 2
    kept = {key.name: key.digest for key in read_keys(file)}
    assert kept == {
        f"{who}-{n}": hashlib.sha256(keys[n].encode()).hexdigest()
        for who, keys in zip(("ann", "ben"), printed, strict=True)
        for n in range(1, 60, 2)
    }


def test_a_lock_that_is_held_on_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "LONGEST_WAIT_S", 0.05)
    file = tmp_path / "keys.txt"
    add_key(file, "one")
    before = file.read_bytes()
    with (tmp_path / ".keys.txt.lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for change in (lambda: add_key(file, "two"), lambda: revoke_key(file, "one")):
            with pytest.raises(ConfigError, match=r"another process has been changing .*\.keys\.txt\.lock.*try again"):
                change()
    assert file.read_bytes() == before
    add_key(file, "two")
    assert [key.name for key in read_keys(file)] == ["one", "two"]


def test_revoking_from_nothing_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        revoke_key(tmp_path / "keys.txt", "one")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file"):
        add_key(tmp_path / "nowhere" / "keys.txt", "one")


def test_mistakes_are_named(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    add_key(file, "one")
    with pytest.raises(ConfigError, match="has a key named one"):
        add_key(file, "one")
    with pytest.raises(ConfigError, match="letters"):
        add_key(file, "two words")
    with pytest.raises(ConfigError, match="there are: one"):
        revoke_key(file, "two")
    file.write_text(f"one {'0' * 64} owner\n")
    with pytest.raises(ConfigError, match=r"keys.txt:1 is no key"):
        read_keys(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "missing.txt")
