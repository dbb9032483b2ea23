"""One way to run a transaction on SQLite and on PostgreSQL.

Everything the manifest asks or changes is a plain function `fn(connection, *args)` over a
SQLAlchemy Core `Connection`: it reads from top to bottom, and runs unchanged on both databases.
`Database.read` and `Database.write` run it in one transaction without blocking the event loop:

- PostgreSQL: on asyncpg, through SQLAlchemy's greenlet bridge (`postgres_database`).
- SQLite: in a thread. One thread owns the only connection that writes, so that a whole batch costs
  one hop and writers of one process never wait for the file lock; those of several processes queue
  for it (`write_queue`); a few more threads read. (An async driver would hop at every statement;
  see docs/decisions/0001-sqlite-threads.md.)

SQLite runs in WAL mode with synchronous=FULL: a committed transaction survives a power cut.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine

from imaging_ingestion.manifest.write_queue import WriteQueue
from imaging_ingestion.threads import Threads

if TYPE_CHECKING:
    from imaging_ingestion.manifest.postgres_database import PostgresDatabase
    from imaging_ingestion.manifest.postgres_settings import PostgresSettings

P = ParamSpec("P")
T = TypeVar("T")

SQLITE_READERS = 4
SQLITE_BUSY_TIMEOUT_MS = 30_000

_SQLITE_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    f"PRAGMA busy_timeout={SQLITE_BUSY_TIMEOUT_MS}",
    "PRAGMA cache_size=-16384",
    "PRAGMA wal_autocheckpoint=4000",
    "PRAGMA temp_store=MEMORY",
)


class Database(Protocol):
    """Where the manifest lives."""

    @property
    def dialect(self) -> str:
        """ "sqlite" or "postgresql"."""

    async def read(
        self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `fn(connection, ...)` in a transaction that only reads."""

    async def write(
        self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `fn(connection, ...)` in one transaction, durable when this returns.

        `fn` may run more than once (after a deadlock, say), each time on a clean transaction.
        """

    async def maintain(
        self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `write`, however long it takes."""

    async def close(self) -> None:
        """Release connections and threads."""


class SqliteDatabase:
    """A manifest in one SQLite file."""

    dialect = "sqlite"

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        url = URL.create("sqlite+pysqlite", database=str(path))
        self._writer_engine = _sqlite_engine(url, pool_size=1, begin="BEGIN IMMEDIATE")
        self._reader_engine = _sqlite_engine(url, pool_size=SQLITE_READERS, begin="BEGIN")
        self._writer = Threads(1, "manifest-write")
        self._readers = Threads(SQLITE_READERS, "manifest-read")
        self._path = path
        # Kept: the writing thread's own.
        self._writing: Connection | None = None
        self._queue: WriteQueue | None = None

    async def read(
        self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See `Database.read`."""

        def run() -> T:
            with self._reader_engine.connect() as connection:
                return fn(connection, *args, **kwargs)

        return await self._readers.run(run)

    async def write(
        self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See `Database.write`."""

        def run() -> T:
            if self._queue is None:
                self._queue = WriteQueue(self._path)
            if self._writing is None:
                self._writing = self._writer_engine.connect()
            with self._queue, self._writing.begin():
                return fn(self._writing, *args, **kwargs)

        return await self._writer.run(run)

    async def maintain(
        self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See `Database.maintain`."""
        return await self.write(fn, *args, **kwargs)

    async def close(self) -> None:
        """See `Database.close`."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.shutdown()
        self._readers.shutdown()
        if self._writing is not None:
            self._writing.close()
        if self._queue is not None:
            self._queue.close()
        self._reader_engine.dispose()
        self._writer_engine.dispose()


def open_database(
    url: str | URL, *, max_size: int = 16, settings: PostgresSettings | None = None
) -> SqliteDatabase | PostgresDatabase:
    """The database at a SQLAlchemy URL (`sqlite:///path` or `postgresql://…`), not yet migrated.

    `max_size` connections to PostgreSQL at most, used as `settings` say.

    Raises ValueError for any other kind of database, OSError for certificates of `settings` that
    cannot be read.
    """
    parsed = sa.make_url(url)
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise ValueError("a SQLite manifest needs a file: sqlite:///path/to/manifest.db")
        return SqliteDatabase(Path(parsed.database))
    if backend == "postgresql":
        # Here, because it brings SQLAlchemy's ORM with it: 6 MiB that a site on SQLite never uses.
        from imaging_ingestion.manifest.postgres_database import PostgresDatabase

        return PostgresDatabase(parsed, max_size=max_size, settings=settings)
    raise ValueError(f"unknown kind of database {backend!r}: sqlite or postgresql expected")


def _sqlite_engine(url: URL, *, pool_size: int, begin: str) -> Engine:
    engine = sa.create_engine(
        url,
        poolclass=sa.QueuePool,
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,  # an error's text goes to the log, patient data does not
        connect_args={"check_same_thread": False, "timeout": SQLITE_BUSY_TIMEOUT_MS / 1000},
    )
    first = threading.Lock()  # switching a new file to WAL must not race with itself

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        with first:
            for pragma in _SQLITE_PRAGMAS:
                connection.execute(pragma)

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
