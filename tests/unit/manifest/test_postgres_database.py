"""PostgreSQL under stress: limits that hold, connections that break, and what a caller is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
import sqlalchemy as sa
from certificates import Authority
from network_relay import network_relay
from postgres_servers import PostgresServer, own_postgres_server, tls_front
from recorded import data_set, stored_instance
from sqlalchemy.engine import Connection

from imaging_ingestion.brokers.group_commit import GroupCommit, NotAcceptedError
from imaging_ingestion.events.stored import StoreResult
from imaging_ingestion.manifest.database import open_database
from imaging_ingestion.manifest.database_error import is_away
from imaging_ingestion.manifest.postgres_settings import PostgresSettings, TlsMode
from imaging_ingestion.manifest.record import record_batch
from imaging_ingestion.manifest.schema import change, instance

pytestmark = pytest.mark.asyncio(loop_scope="module")

END_ALL_OTHERS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE pid <> pg_backend_pid() AND datname = current_database()"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[PostgresServer]:
    """A server that these tests may stop."""
    async with own_postgres_server() as started:
        yield started


def one(connection: Connection) -> int:
    """What any live connection answers."""
    return connection.execute(sa.text("SELECT 1")).scalar_one()


def sleep(connection: Connection, seconds: float) -> int:
    """Keep the server busy; how many sessions it has in this database."""
    connection.execute(sa.text("SELECT pg_sleep(:s)"), {"s": seconds})
    sessions = sa.text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'limited'")
    return connection.execute(sessions).scalar_one()


def count(connection: Connection, table: sa.Table) -> int:
    """The rows of a table."""
    return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


async def test_there_are_never_more_connections_than_allowed(postgres_database_url: str) -> None:
    named = sa.make_url(postgres_database_url)
    database = open_database(named, max_size=3)

    def named_sleep(connection: Connection) -> int:
        connection.execute(sa.text("SET application_name = 'limited'"))
        return sleep(connection, 0.02)

    try:
        sessions = await asyncio.gather(*(database.write(named_sleep) for _ in range(24)))
        assert 1 <= max(sessions) <= 3
    finally:
        await database.close()


async def test_who_finds_all_connections_in_use_waits_and_is_told_in_time(
    postgres_database_url: str,
) -> None:
    settings = PostgresSettings(pool_timeout=0.8)
    database = open_database(postgres_database_url, max_size=1, settings=settings)
    try:
        busy = asyncio.create_task(database.read(sleep, 0.1))
        await asyncio.sleep(0)
        assert await database.read(one) == 1  # waited
        await busy
        busy = asyncio.create_task(database.read(sleep, 2))
        await asyncio.sleep(0)
        began = time.monotonic()
        with pytest.raises(sa.exc.TimeoutError, match="limit of size 1") as raised:
            await database.write(one)
        assert time.monotonic() - began < 1.8
        assert is_away(raised.value)
        await busy
    finally:
        await database.close()


async def test_a_statement_that_takes_too_long_is_ended_but_for_maintenance(
    postgres_database_url: str,
) -> None:
    settings = PostgresSettings(statement_timeout=0.2)
    database = open_database(postgres_database_url, max_size=1, settings=settings)
    try:
        for run in (database.read, database.write):
            with pytest.raises(sa.exc.DBAPIError, match="statement timeout") as raised:
                await run(sleep, 5)
            assert is_away(raised.value)
        assert await database.maintain(sleep, 0.4) == 0
        with pytest.raises(sa.exc.DBAPIError, match="statement timeout"):
            await database.write(sleep, 5)
    finally:
        await database.close()


async def test_whoever_waits_for_a_lock_too_long_is_told(postgres_database_url: str) -> None:
    settings = PostgresSettings(statement_timeout=0.3)
    database = open_database(postgres_database_url, settings=settings)
    other = open_database(postgres_database_url)
    stored = stored_instance(data_set())
    locked, enough = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def hold() -> None:
        async with other._engine.begin() as connection:  # type: ignore[union-attr]
            await connection.exec_driver_sql("LOCK TABLE study")
            loop.call_soon(locked.set)
            await enough.wait()

    holder = asyncio.create_task(hold())
    try:
        await locked.wait()
        with pytest.raises(sa.exc.DBAPIError, match=r"(lock|statement) timeout") as raised:
            await database.write(record_batch, [stored], 1, 0)
        assert is_away(raised.value)
        enough.set()
        await holder
        (outcome,) = await database.write(record_batch, [stored], 1, 0)
        assert outcome.result is StoreResult.CREATED
    finally:
        enough.set()
        await holder
        await database.close()
        await other.close()


async def test_connections_that_ended_while_nobody_used_them_are_replaced_unnoticed(
    postgres_database_url: str,
) -> None:
    database = open_database(postgres_database_url, max_size=4)
    other = open_database(postgres_database_url, max_size=1)
    try:
        await asyncio.gather(*(database.read(sleep, 0.05) for _ in range(4)))
        ended = await other.read(lambda c: c.execute(sa.text(END_ALL_OTHERS)).scalar_one())
        assert ended == 4
        stored = stored_instance(data_set())
        assert await asyncio.gather(*(database.read(one) for _ in range(4))) == [1] * 4
        await database.write(record_batch, [stored], 1, 0)
    finally:
        await database.close()
        await other.close()


async def test_a_transaction_whose_connection_breaks_is_run_again_and_takes_effect_once(
    postgres_database_url: str,
) -> None:
    database = open_database(postgres_database_url)
    other = open_database(postgres_database_url, max_size=1)
    stored = stored_instance(data_set())
    runs = 0

    def record_and_break(connection: Connection) -> None:
        nonlocal runs
        runs += 1
        record_batch(connection, [stored], 1, 0)
        if runs == 1:
            connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))

    def break_before(connection: Connection) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            connection.execute(sa.text("SELECT 1"))
            pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
            other_connection_ends(pid)
        record_batch(connection, [stored], 1, 0)

    def other_connection_ends(pid: int) -> None:
        sa.util.await_only(
            other.read(lambda c: c.execute(sa.text(f"SELECT pg_terminate_backend({pid})")))
        )

    try:
        await database.write(record_and_break)
        assert runs == 2
        runs = 0
        await database.write(break_before)  # found out by a prepared statement
        assert runs == 2
        assert await database.read(count, instance) == 1
        assert await database.read(count, change) == 1
    finally:
        await database.close()
        await other.close()


async def test_a_commit_that_is_never_answered_is_an_error_and_trying_again_changes_nothing(
    server: PostgresServer,
) -> None:
    settings = PostgresSettings(transaction_timeout=1)
    made = data_set()
    async with network_relay(server.port) as relay:
        database = open_database(server.url(relay.port), settings=settings)
        commits = GroupCommit(database, timedelta(0), lambda: None)
        try:
            runs = 0

            def record_and_stall(connection: Connection) -> None:
                nonlocal runs
                runs += 1
                record_batch(connection, [stored_instance(made)], 1, 0)
                relay.stall()

            with pytest.raises(TimeoutError) as raised:
                await database.write(record_and_stall)
            assert is_away(raised.value)
            assert runs == 1
            relay.mend()  # what was under way arrives, the COMMIT with it
            outcome = await commits.accept(stored_instance(made))
            assert outcome.result in {StoreResult.UNCHANGED, StoreResult.CREATED}
            of_it = change.c.sop_instance_uid == str(made.SOPInstanceUID)
            told = sa.select(sa.func.count()).where(of_it)
            assert await database.read(lambda c: c.execute(told).scalar_one()) == 1
        finally:
            relay.mend()
            await commits.stop()
            await database.close()


@pytest.mark.parametrize("fault", ["stopped", "crashed", "cut off", "connections ended"])
async def test_recording_goes_on_by_itself_and_loses_nothing_when_the_server_is_back(
    server: PostgresServer, fault: str
) -> None:
    async with network_relay(server.port) as relay:
        database = open_database(server.url(relay.port), max_size=4)
        replicas = [GroupCommit(database, timedelta(0), lambda: None) for _ in range(2)]
        acknowledged: dict[str, float] = {}
        refused = 0
        over = asyncio.Event()
        arrival = asyncio.Condition()

        async def sender(number: int) -> None:
            nonlocal refused
            while not over.is_set():
                stored = stored_instance(data_set())
                while True:  # as a sender does, until it is told that it was taken
                    try:
                        await replicas[number % 2].accept(stored)
                        break
                    except NotAcceptedError:
                        refused += 1
                        await asyncio.sleep(0.02)
                async with arrival:
                    acknowledged[stored.sop_instance_uid] = time.monotonic()
                    arrival.notify_all()

        async def reach(number: int) -> None:
            async with asyncio.timeout(20), arrival:
                await arrival.wait_for(lambda: len(acknowledged) >= number)

        senders = [asyncio.create_task(sender(number)) for number in range(8)]
        try:
            await reach(40)
            if fault == "cut off":
                relay.cut()
                await asyncio.sleep(0.3)
                relay.mend()
            elif fault == "connections ended":
                await server.execute(END_ALL_OTHERS)
            else:
                await server.stop("immediate" if fault == "crashed" else "fast")
                await server.start()
            back, before = time.monotonic(), len(acknowledged)
            await reach(before + 40)
            first = min(at for at in acknowledged.values() if at >= back)
            assert first - back < 2
        finally:
            over.set()
            await asyncio.gather(*senders)
            for replica in replicas:
                await replica.stop()
        assert refused or fault == "connections ended"
        uids = await database.read(_uids, instance)
        logged = await database.read(_uids, change)
        assert acknowledged.keys() <= set(uids)
        assert len(uids) == len(set(uids))
        assert sorted(logged) == sorted(uids)
        await database.close()


def _uids(connection: Connection, table: sa.Table) -> list[str]:
    return list(connection.execute(sa.select(table.c.sop_instance_uid)).scalars())


@pytest.mark.parametrize(
    ("mode", "trusted", "host", "problem"),
    [
        ("prefer", False, "127.0.0.1", None),
        ("require", False, "127.0.0.1", None),
        ("verify-ca", True, "localhost", None),
        ("verify-full", True, "127.0.0.1", None),
        ("verify-full", True, "localhost", "not valid for 'localhost'"),
        ("verify-ca", False, "127.0.0.1", "CERTIFICATE_VERIFY_FAILED"),
        ("disable", False, "127.0.0.1", None),
    ],
)
async def test_the_servers_certificate_is_checked_as_it_is_said(
    server: PostgresServer,
    tmp_path: Path,
    mode: TlsMode,
    host: str,
    problem: str | None,
    *,
    trusted: bool,
) -> None:
    authority = Authority()
    trust = authority if trusted else Authority("Another CA")
    settings = PostgresSettings(tls=mode, tls_ca=trust.file(tmp_path / "ca.pem"))
    issued = authority.issue(hosts=("127.0.0.1",))
    async with tls_front(server.port, issued, tmp_path) as front:
        database = open_database(server.url(front.port, host), settings=settings)
        try:
            if problem is None:
                assert await database.read(one) == 1
                assert front.encrypted == (mode != "disable")
            else:
                with pytest.raises(OSError, match=problem) as raised:
                    await database.read(one)
                assert is_away(raised.value)
        finally:
            await database.close()


async def test_a_server_without_tls_is_not_spoken_to_where_tls_is_asked_for(
    server: PostgresServer,
) -> None:
    database = open_database(server.url(), settings=PostgresSettings(tls="require"))
    try:
        with pytest.raises(OSError, match="rejected SSL upgrade"):
            await database.read(one)
    finally:
        await database.close()
