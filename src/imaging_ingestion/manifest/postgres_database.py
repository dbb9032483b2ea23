"""A manifest on PostgreSQL: asyncpg through SQLAlchemy's greenlet bridge, in a bounded pool.

What a transaction may cost others is bounded on every side. A connection is waited for no longer
than `pool_timeout`; the server ends a statement, a wait for a lock and a session that does nothing
in the midst of a transaction; and whatever the server or the network does, a transaction is given
up after `transaction_timeout`.

Nobody asks a connection whether it is alive before it is used (three round trips with asyncpg): one
that has been closed knows that itself. Where one turns out to be broken in the midst of a
transaction, nothing has been committed, and the transaction is run once more on a new one. What
became of a COMMIT that is never answered nobody can tell: that is an error for the caller, who may
simply try again, since recording the same instance again changes nothing.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from imaging_ingestion.manifest.database_error import BeginAgainError, sqlstate
from imaging_ingestion.manifest.postgres_settings import PostgresSettings

P = ParamSpec("P")
T = TypeVar("T")

#: Attempts of one write before a serialization failure or deadlock reaches the caller, and the
#: seconds of the longest pause before the second; it doubles for each.
WRITE_ATTEMPTS: Final = 8
FIRST_PAUSE: Final = 0.01
#: serialization_failure, deadlock_detected, unique_violation (a concurrent insert of the same row:
#: the second attempt finds it).
_RETRIED_SQLSTATES: Final = {"40001", "40P01", "23505"}
#: A process that is stopped dead (a frozen virtual machine) in the middle of a transaction holds
#: its locks, the log's among them. The server ends such a session before those who wait for the
#: locks give up, and everybody else goes on.
_IDLE_IN_TRANSACTION: Final = 15.0
_LOCK_TIMEOUT: Final = 20.0
#: Seconds of silence after which a connection that nobody uses is asked for by the kernel, between
#: two such questions, and how many may stay unanswered; milliseconds that sent data may.
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
_UNACKNOWLEDGED_MS: Final = 30_000


class PostgresDatabase:
    """A manifest in a PostgreSQL database."""

    dialect = "postgresql"

    def __init__(
        self, url: URL, *, max_size: int = 16, settings: PostgresSettings | None = None
    ) -> None:
        """`max_size` connections at most.

        Raises OSError if the file of the trusted certificates cannot be read.
        """
        self._settings = settings = settings or PostgresSettings()
        self._engine: AsyncEngine = create_async_engine(
            url.set(drivername="postgresql+asyncpg"),
            pool_size=max_size,
            max_overflow=0,
            pool_timeout=settings.pool_timeout,
            pool_use_lifo=True,  # few connections are busy, and know their statements
            isolation_level="READ COMMITTED",
            hide_parameters=True,  # an error's text goes to the log, patient data does not
            connect_args={"timeout": settings.connect_timeout, **_tls(settings)},
        )
        event.listen(self._engine.sync_engine, "connect", self._configure)
        event.listen(self._engine.sync_engine, "checkout", _check)

    async def read(
        self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See `Database.read`."""

        async def run() -> T:
            async with self._engine.connect() as connection:
                return await connection.run_sync(fn, *args, **kwargs)

        try:
            return await self._in_time(run)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
        return await self._in_time(run)

    async def write(
        self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See `Database.write`. What is raised by COMMIT leaves open whether it took place."""

        async def run() -> T:
            return await self._transaction(lambda c: fn(c, *args, **kwargs))

        return await self._in_time(run)

    async def maintain(
        self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See `Database.maintain`."""

        def at_length(connection: Connection) -> T:
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
            return fn(connection, *args, **kwargs)

        return await self._transaction(at_length)

    async def close(self) -> None:
        """See `Database.close`."""
        await self._engine.dispose()

    async def _in_time(self, run: Callable[[], Awaitable[T]]) -> T:
        async with asyncio.timeout(self._settings.transaction_timeout):
            return await run()

    async def _transaction(self, fn: Callable[[Connection], T]) -> T:
        attempt = 1
        while True:
            is_committing = False
            try:
                async with self._engine.begin() as connection:
                    result = await connection.run_sync(fn)
                    is_committing = True
                return result
            except BeginAgainError:
                continue  # somebody else has made progress meanwhile, or it would not have been
            except DBAPIError as error:
                is_lost = error.connection_invalidated
                if attempt == WRITE_ATTEMPTS or (is_lost and is_committing):
                    raise
                if not is_lost and sqlstate(error) not in _RETRIED_SQLSTATES:
                    raise
            # Of those who ran into each other, not all come back at the same moment.
            await asyncio.sleep(random.uniform(0, FIRST_PAUSE * 2**attempt))  # noqa: S311
            attempt += 1

    def _configure(self, connection: Any, _record: object) -> None:
        """Prepare a new connection."""
        transport = connection.driver_connection._transport  # asyncpg has no other way to it
        own = transport.get_extra_info("socket")
        if own.family != socket.AF_UNIX:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in (*_KEEPALIVE, ("TCP_USER_TIMEOUT", _UNACKNOWLEDGED_MS)):
                if hasattr(socket, name):  # not everywhere
                    own.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        limits = {
            "statement_timeout": self._settings.statement_timeout,
            "lock_timeout": min(_LOCK_TIMEOUT, self._settings.statement_timeout),
            "idle_in_transaction_session_timeout": _IDLE_IN_TRANSACTION,
        }
        # Not in the startup message, which a pooler between us would refuse.
        settings = (f"set_config('{name}', '{limits[name] * 1000:.0f}', false)" for name in limits)
        cursor = connection.cursor()
        cursor.execute(f"SELECT {', '.join(settings)}")
        cursor.close()
        connection.commit()


def _check(connection: Any, _record: object, _proxy: object) -> None:
    """Have the pool replace a connection that was closed while nobody used it."""
    if connection.driver_connection.is_closed():
        raise sa.exc.DisconnectionError("the server closed the connection")


def _tls(settings: PostgresSettings) -> dict[str, Any]:
    if settings.tls in {"disable", "prefer"}:
        return {"ssl": settings.tls}
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca)
    except OSError as error:
        reason = f"the certificates in {settings.tls_ca}: {error.strerror}"
        raise OSError(error.errno, reason) from error
    context.check_hostname = settings.tls == "verify-full"
    if settings.tls == "require":
        context.verify_mode = ssl.CERT_NONE
    return {"ssl": context}
