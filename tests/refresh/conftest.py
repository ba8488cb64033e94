"""A store in SQLite and one in a PostgreSQL that is started for the tests, where Debian's package is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from rewardsmith.data.schema import Message, Messages
from rewardsmith.refresh.records import NewComparison, NewPrompt, NewResponse
from rewardsmith.refresh.store import Store, open_store


def programs() -> Path | None:
    """The folder of initdb and pg_ctl: on the path, or where Debian puts them."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "pg_ctl").exists()), None)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The address of a server of its own, without a database name; it is gone at the end."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    bin_folder = programs()
    if bin_folder is None:
        pytest.skip("PostgreSQL is not installed (Debian's package: postgresql)")
    user: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="rewardsmith-postgres-"))
    if os.getuid() == 0:  # the server refuses to run as root
        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
        user = ["runuser", "-u", "postgres", "--"]

    def run(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*user, str(bin_folder / program), *arguments], cwd=folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"
    try:
        run("initdb", "-D", str(data), "-U", "tester", "--auth=trust", "--encoding=UTF8", "--no-sync")
        options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off -c shared_buffers=16MB -c max_connections=50"
        # The log goes to a file: a server that holds our pipe would keep us waiting for its end.
        run("pg_ctl", "-D", str(data), "-l", str(folder / "log"), "-o", options, "-w", "start")
        try:
            yield f"postgresql://tester@127.0.0.1:{port}"
        finally:
            run("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request, tmp_path) -> Iterator[str]:
    """Where a new store may be made."""
    if request.param == "sqlite":
        yield str(tmp_path / "store.sqlite")
        return
    import psycopg

    server = request.getfixturevalue("postgres_url")
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as admin:
        admin.execute(f"CREATE SCHEMA {name}")  # much quicker than a database for each test
    yield f"{server}/postgres?options=-csearch_path%3D{name}"


@pytest.fixture
def store(store_url) -> Iterator[Store]:
    """An empty store."""
    with open_store(store_url, create=True) as opened:
        yield opened


def turns(text: str, role: str = "user") -> Messages:
    return (Message(role, text),)


def fill(store: Store, n: int = 3, *, overlap: int = 1, round: int = 0) -> list[int]:
    """`n` prompts with two answers each, compared; returns the ids of the comparisons, the next one first."""
    asked = store.add_prompts(NewPrompt(messages=turns(f"question {i}")) for i in range(n)).ids
    said = store.add_responses(
        NewResponse(prompt_id=p, messages=turns(f"answer {side}", "assistant"), policy="base", round=round)
        for p in asked
        for side in "xy"
    ).ids
    store.add_comparisons(
        [
            NewComparison(
                prompt_id=p, a_id=said[2 * i], b_id=said[2 * i + 1], round=round, kind="new-new",
                why="both are new", score=float(n - i), overlap=overlap,
            )
            for i, p in enumerate(asked)
        ],
        at=1.0,
    )  # fmt: skip
    return [pair.id for pair in store.open_comparisons()]


def set_of(prompt: int, answers: list[int], **changes: object) -> list[NewComparison]:
    """All pairs among the answers, as a set to propose."""
    stated = {"round": 0, "kind": "new-new", "why": "ranked together", "score": 1.0} | changes
    return [NewComparison(prompt_id=prompt, a_id=a, b_id=b, **stated) for a, b in combinations(answers, 2)]


def fill_sets(store: Store, sizes: list[int], *, overlap: int = 1) -> list[int]:
    """A set of so many answers for each size; returns the numbers of the sets, the next one first."""
    for i, size in enumerate(sizes):
        (prompt,) = store.add_prompts([NewPrompt(messages=turns(f"ranked question {i}"))]).ids
        said = store.add_responses(
            NewResponse(prompt_id=prompt, messages=turns(f"answer {j}", "assistant"), policy="base", round=0)
            for j in range(size)
        ).ids
        store.add_sets([set_of(prompt, said, score=float(len(sizes) - i), overlap=overlap)], at=1.0)
    return list(dict.fromkeys(pair.set_id or pair.id for pair in store.open_comparisons()))
