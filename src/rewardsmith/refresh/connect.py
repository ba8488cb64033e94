"""Opening a store: SQLite in a file, or PostgreSQL by URL; and what a database says, in one line.

SQLite keeps a write-ahead log, so that readers never wait for a writer. Every change is one transaction that takes
the write lock as it begins (BEGIN IMMEDIATE), and is on the disk when it returns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

from rewardsmith.errors import ConfigError, StoreError
from rewardsmith.refresh.tables import LAYOUT, meta, metadata, sa

Row = TypeVar("Row")

BUSY_S = 30.0  # that a writer waits for another one
AT_ONCE = 1000  # rows of one transaction, where many are added
CACHE_KIB = 65536  # of the database's pages in memory
POSTGRES = ("postgresql", "postgres")
SAYS = {  # what a database says -> what happened, and what to do; the first that fits
    "disk is full|No space left|disk quota": "the disk is full; what was being added was not kept: make room, then "
    "repeat the step",
    "disk I/O error|unable to extend": "a write failed (no room, a limit on file sizes, or a bad disk); what was being "
    "added was not kept: make room, then repeat the step",
    "database is locked|lock timeout": "another process has been writing for longer than the time-out; repeat the step",
    "readonly database|read-only": "it may not be written: check its permissions and those of its folder",
    "unable to open database": "it cannot be opened: check the folder, its permissions and the room on the disk",
    "not a database|file is encrypted": "the file is no SQLite database, so no refresh store",
    "malformed": "the file is damaged: restore a copy of it",
}


def location(where: str | Path) -> sa.URL:
    """The URL of a store given as a path or a URL. ConfigError for a database that is neither of the two."""
    text = str(where)
    if "://" not in text:
        return sa.URL.create("sqlite", database=str(Path(text).expanduser()))
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigError(
            "store: a URL such as postgresql://user@host/name cannot be read from what was given"
        ) from None
    kind = url.drivername.partition("+")[0]
    if kind == "sqlite" and url.database:
        return url.set(drivername="sqlite")
    if kind in POSTGRES:
        return url.set(drivername="postgresql+psycopg")
    raise ConfigError(f"store {shown(url)!r}: give a file, or a URL that begins with postgresql://")


def shown(url: sa.URL) -> str:
    """A URL as people may see it: a file's path, or the address without its password."""
    return str(url.database) if url.drivername == "sqlite" else url.render_as_string(hide_password=True)


def connect(url: sa.URL, *, create: bool, busy_s: float = BUSY_S) -> sa.Engine:
    """An engine whose database holds a store of this version.

    StoreError where there is none and `create` is not set, where what is there is something else, and where another
    version wrote it.
    """
    if url.drivername == "sqlite":
        file = Path(str(url.database))
        if not file.exists() and not create:
            raise StoreError(f"{file}: no refresh store is there; make one: rewardsmith refresh init FOLDER")
        if not file.parent.is_dir():
            raise StoreError(f"{file}: the folder is not there")
        engine = sa.create_engine(url, connect_args={"timeout": busy_s})
        prepare_sqlite(engine)
    else:
        try:
            engine = sa.create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
        except ImportError:
            raise ConfigError(
                "PostgreSQL needs psycopg, which is not installed: pip install 'rewardsmith[postgres]'"
            ) from None
    try:
        with plain_words(url):
            check_layout(engine, url, create=create)
    except BaseException:
        engine.dispose()
        raise
    return engine


def prepare_sqlite(engine: sa.Engine) -> None:
    """Transactions that begin where they are told to, and take the write lock at once where they will write."""

    @sa.event.listens_for(engine, "connect")
    def _settings(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"cache_size=-{CACHE_KIB}"):
            connection.execute(f"PRAGMA {setting}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def check_layout(engine: sa.Engine, url: sa.URL, *, create: bool) -> None:
    """Make the tables where nothing is; StoreError where the tables are not those of this version."""
    with engine.connect().execution_options(writes=create) as connection, connection.begin():
        if create and engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7211)")  # two that make it at the same time
        there = set(sa.inspect(connection).get_table_names())
        if meta.name not in there:
            if there:
                raise StoreError(f"{shown(url)}: holds other tables ({', '.join(sorted(there)[:3])}), no refresh store")
            if not create:
                raise StoreError(f"{shown(url)}: no refresh store is there; make one: rewardsmith refresh init FOLDER")
            metadata.create_all(connection)
            connection.execute(sa.insert(meta).values(name="layout", value=str(LAYOUT)))
            return
        found = connection.execute(sa.select(meta.c.value).where(meta.c.name == "layout")).scalar()
    if found is None or not found.isdigit():
        raise StoreError(f"{shown(url)}: does not say which layout it has; restore a copy of it")
    if int(found) == LAYOUT:
        return
    states = f"layout {found}; this one knows {LAYOUT}"
    if int(found) > LAYOUT:
        raise StoreError(f"{shown(url)}: was written by a newer version ({states}); update rewardsmith")
    raise StoreError(
        f"{shown(url)}: was written by an older version ({states}): go on with it, or make a new project and "
        "ingest the answers again"
    )


@contextmanager
def plain_words(url: sa.URL) -> Iterator[None]:
    """What a database refuses, as a StoreError of one line that does not hold a password or a statement."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        said = " ".join(str(error.orig).split())
        for pattern, words in SAYS.items():
            if re.search(pattern, said, re.IGNORECASE):
                raise StoreError(f"{shown(url)}: {words}") from None
        if isinstance(error, sa.exc.OperationalError | sa.exc.IntegrityError):
            raise StoreError(f"{shown(url)}: {said[:300]}") from None
        raise


class Database:
    """A connected store: the two ways to use it that everything else is built of."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. A process that was forked opens a store of its own."""
        self.engine.dispose()

    @property
    def where(self) -> str:
        """The file, or the address without its password."""
        return shown(self.engine.url)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection that sees one state of the store."""
        with (
            plain_words(self.engine.url),
            self.engine.connect().execution_options(**self._one_state()) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction: all of it is kept, or nothing."""
        with (
            plain_words(self.engine.url),
            self.engine.connect().execution_options(writes=True) as connection,
            connection.begin(),
        ):
            yield connection

    def _one_state(self) -> dict[str, Any]:
        return {} if self.engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}

    def insert_new(self, connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> int:
        """Add the rows that are not there yet; returns how many were added."""
        if not rows:
            return 0
        dialect = sa.dialects.sqlite if self.engine.dialect.name == "sqlite" else sa.dialects.postgresql
        done = connection.execute(
            dialect.insert(table).on_conflict_do_nothing(), list(rows), execution_options={"preserve_rowcount": True}
        )
        return int(done.rowcount)


def insert_one(connection: sa.Connection, table: sa.Table, row: Mapping[str, Any]) -> int:
    """Add a row; returns its number."""
    (number,) = table.primary_key
    return int(connection.execute(sa.insert(table).values(**row).returning(number)).scalar_one())


def parts(rows: Iterable[Row], size: int = AT_ONCE) -> Iterator[list[Row]]:
    """The rows, `size` at a time: what one transaction adds."""
    stream = iter(rows)
    while part := list(islice(stream, size)):
        yield part
