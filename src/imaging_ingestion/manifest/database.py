"""One way to run a transaction on SQLite and on PostgreSQL.

Everything the manifest asks or changes is a plain function `fn(connection, *args)` over a
SQLAlchemy Core `Connection`: it reads from top to bottom, and runs unchanged on both databases.
`Database.read` and `Database.write` run it in one transaction without blocking the event loop:

- PostgreSQL: on asyncpg, through SQLAlchemy's greenlet bridge.
- SQLite: in a thread. One thread owns the only connection that writes, so that a whole batch costs
  one hop and writers of one process never wait for the file lock; a few more threads read. (An
  async driver would hop at every statement; see docs/decisions/0001-sqlite-threads.md.)

SQLite runs in WAL mode with synchronous=FULL: a committed transaction survives a power cut.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from imaging_ingestion.threads import Threads

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

P = ParamSpec("P")
T = TypeVar("T")

#: Attempts of one write before a serialization failure or deadlock reaches the caller, and the
#: seconds of the longest pause before the second; it doubles for each.
WRITE_ATTEMPTS = 8
FIRST_PAUSE = 0.01
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
#: PostgreSQL: serialization_failure, deadlock_detected, unique_violation (a concurrent insert of
#: the same row: the second attempt finds it).
_RETRIED_SQLSTATES = {"40001", "40P01", "23505"}
#: PostgreSQL: classes of errors that are not the statement's: connection exception, insufficient
#: resources, lock not available and the like, operator intervention, system error.
_AWAY_CLASSES = ("08", "53", "55", "57", "58")
#: A process that is stopped dead (a frozen virtual machine) in the middle of a transaction holds
#: its locks, the log's among them. The server ends such a session, and everybody else goes on.
_POSTGRES_SETTINGS = "SET idle_in_transaction_session_timeout = '30s'"


class BeginAgainError(Exception):
    """A write found, with locks in its hands, that it has to take them in another order.

    `Database.write` ends the transaction and runs it anew.
    """


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
        self._writing: Connection | None = None  # kept: the writing thread's own

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
            if self._writing is None:
                self._writing = self._writer_engine.connect()
            with self._writing.begin():
                return fn(self._writing, *args, **kwargs)

        return await self._writer.run(run)

    async def close(self) -> None:
        """See `Database.close`."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.shutdown()
        self._readers.shutdown()
        if self._writing is not None:
            self._writing.close()
        self._reader_engine.dispose()
        self._writer_engine.dispose()


class PostgresDatabase:
    """A manifest in a PostgreSQL database."""

    dialect = "postgresql"

    def __init__(self, url: URL, *, max_size: int = 16) -> None:
        # Here, because it brings SQLAlchemy's ORM with it: 6 MiB that a site on SQLite never uses.
        from sqlalchemy.ext.asyncio import create_async_engine

        self._engine: AsyncEngine = create_async_engine(
            url.set(drivername="postgresql+asyncpg"),
            pool_size=max_size,
            max_overflow=0,
            pool_pre_ping=True,
            isolation_level="READ COMMITTED",
        )

        @event.listens_for(self._engine.sync_engine, "connect")
        def configure(connection: Any, _record: object) -> None:
            cursor = connection.cursor()
            cursor.execute(_POSTGRES_SETTINGS)
            cursor.close()
            connection.commit()

    async def read(
        self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See `Database.read`."""
        async with self._engine.connect() as connection:
            return await connection.run_sync(fn, *args, **kwargs)

    async def write(
        self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See `Database.write`."""
        attempt = 1
        while True:
            try:
                async with self._engine.begin() as connection:
                    return await connection.run_sync(fn, *args, **kwargs)
            except BeginAgainError:
                continue  # somebody else has made progress meanwhile, or it would not have been
            except DBAPIError as error:
                if attempt == WRITE_ATTEMPTS or _sqlstate(error) not in _RETRIED_SQLSTATES:
                    raise
            # Of those who ran into each other, not all come back at the same moment.
            await asyncio.sleep(random.uniform(0, FIRST_PAUSE * 2**attempt))  # noqa: S311
            attempt += 1

    async def close(self) -> None:
        """See `Database.close`."""
        await self._engine.dispose()


def open_database(url: str | URL, *, max_size: int = 16) -> SqliteDatabase | PostgresDatabase:
    """The database at a SQLAlchemy URL (`sqlite:///path` or `postgresql://…`), not yet migrated.

    Raises ValueError for any other kind of database.
    """
    parsed = sa.make_url(url)
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise ValueError("a SQLite manifest needs a file: sqlite:///path/to/manifest.db")
        return SqliteDatabase(Path(parsed.database))
    if backend == "postgresql":
        return PostgresDatabase(parsed, max_size=max_size)
    raise ValueError(f"unknown kind of database {backend!r}: sqlite or postgresql expected")


def is_away(error: BaseException) -> bool:
    """Whether an error is the database's own (gone, locked, full), whatever was asked of it."""
    if isinstance(error, DBAPIError):
        state = _sqlstate(error)
        return (
            error.connection_invalidated
            or isinstance(error, OperationalError | InterfaceError)
            or (state is not None and state.startswith(_AWAY_CLASSES))
        )
    return isinstance(error, OSError | PoolTimeoutError)


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


def _sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)
