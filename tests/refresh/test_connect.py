"""What a store says where it cannot be opened or written, and that nothing is lost then."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing

import pytest

from rewardsmith.errors import ConfigError, StoreError
from rewardsmith.refresh.connect import location, shown
from rewardsmith.refresh.store import open_store
from rewardsmith.refresh.tables import LAYOUT, meta, sa
from tests.refresh.conftest import fill


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


def test_no_store_is_made_unasked(store_url):
    with pytest.raises(StoreError, match="no refresh store is there"):
        open_store(store_url)
    with open_store(store_url, create=True) as store:
        fill(store, 1)
    with open_store(store_url, create=True) as store:
        assert store.counts(0.0).comparisons == 1


def test_a_newer_version_is_left_alone(store, store_url):
    fill(store, 2)
    with store.writing() as connection:
        connection.execute(sa.update(meta).values(value=str(LAYOUT + 1)))
    for create in (False, True):
        with pytest.raises(StoreError, match=f"newer version .layout {LAYOUT + 1}; this one knows {LAYOUT}.") as error:
            open_store(store_url, create=create)
        one_line(error)
    assert store.counts(0.0).comparisons == 2


def test_an_older_layout_is_left_alone_and_says_what_to_do(store, store_url):
    fill(store, 2)
    with store.writing() as connection:
        connection.execute(sa.update(meta).values(value=str(LAYOUT - 1)))
    for create in (False, True):
        with pytest.raises(StoreError, match=r"older version .*: go on with it, or make a new") as error:
            open_store(store_url, create=create)
        one_line(error)
    assert store.counts(0.0).comparisons == 2


def test_other_tables_are_left_alone(store_url):
    with open_store(store_url, create=True) as store, store.writing() as connection:
        connection.exec_driver_sql("DROP TABLE refresh_meta")
    with pytest.raises(StoreError, match="holds other tables"):
        open_store(store_url, create=True)


def test_a_file_that_is_no_store(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("not a database " * 100)
    with pytest.raises(StoreError, match="no SQLite database") as error:
        open_store(file)
    assert str(file) in one_line(error)
    assert file.read_text().startswith("not a database")


def test_a_damaged_file(tmp_path):
    file = tmp_path / "store.sqlite"
    with open_store(file, create=True) as store:
        fill(store, 200)
    data = bytearray(file.read_bytes())
    data[4096:] = b"\x7f" * (len(data) - 4096)
    file.write_bytes(data)
    with pytest.raises(StoreError, match=r"damaged|no SQLite database") as error:
        open_store(file).counts(0.0)
    one_line(error)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(StoreError, match="folder is not there"):
        open_store(tmp_path / "no" / "store.sqlite", create=True)
    with pytest.raises(StoreError, match="cannot be opened"):
        open_store(tmp_path, create=True)


def test_a_writer_that_does_not_end(tmp_path):
    file = tmp_path / "store.sqlite"
    with open_store(file, create=True, busy_s=0.05) as store, closing(sqlite3.connect(file)) as other:
        (pair,) = fill(store, 1)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another process has been writing") as error:
            store.record_label(pair, "ann", "a", at=1.0)
        one_line(error)
        assert store.counts(0.0).labels == 0, "reading goes on"
        other.rollback()
        assert store.record_label(pair, "ann", "a", at=1.0).fresh


def test_a_full_disk_loses_nothing(tmp_path):
    """In a process of its own, which may write no file longer than 400 kB: rows until that is reached."""
    file = tmp_path / "store.sqlite"
    code = """
        import resource, sys
        from rewardsmith.errors import StoreError
        from rewardsmith.refresh.store import open_store
        from tests.refresh.conftest import fill
        with open_store(sys.argv[1], create=True) as store:
            pair = fill(store, 1)[0]
            store.record_label(pair, "ann", "a", at=1.0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
            try:
                for n in range(2, 10_000, 50):
                    fill(store, n)
            except StoreError as error:
                print(error)
    """
    said = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(file)], capture_output=True, text=True, timeout=60
    )
    assert said.returncode == 0, said.stderr
    assert "make room, then repeat the step" in said.stdout
    assert said.stdout.count("\n") == 1
    with closing(sqlite3.connect(file)) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    with open_store(file) as store:
        assert store.counts(0.0).labels == 1
        fill(store, 300)
        assert store.counts(0.0).comparisons >= 300


def test_a_server_that_is_not_there():
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match=r"127\.0\.0\.1") as error:
        open_store("postgresql://me:secret@127.0.0.1:9/x")
    assert "secret" not in one_line(error)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("folder/store.sqlite", "folder/store.sqlite"),
        ("sqlite:///folder/store.sqlite", "folder/store.sqlite"),
        ("postgres://me:secret@host/x", "postgresql+psycopg://me:***@host/x"),
        ("postgresql://host/x", "postgresql+psycopg://host/x"),
    ],
)
def test_where_a_store_is(given, expected):
    assert shown(location(given)) == expected


@pytest.mark.parametrize("given", ["mysql://me:secret@host/x", "sqlite://", "://", "postgresql://host:port/x"])
def test_where_none_can_be(given):
    with pytest.raises(ConfigError) as error:
        location(given)
    assert "secret" not in one_line(error)


def test_a_missing_package_is_named():
    code = "import sys; sys.modules['sqlalchemy'] = None\nimport rewardsmith.refresh.store"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'rewardsmith[refresh]'" in done.stderr


def test_writing_is_whole_or_nothing(store):
    fill(store, 1)
    before = store.counts(0.0)

    def half() -> None:
        with store.writing() as connection:
            connection.exec_driver_sql("UPDATE comparisons SET given = 7")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert store.counts(0.0) == before
