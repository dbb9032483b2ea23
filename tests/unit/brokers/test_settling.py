"""The clock of revisions: each study in its time, once, whoever else is in trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from event_core import SECOND, ManualClock, record, stored, until
from structlog.testing import capture_logs

from imaging_ingestion.brokers import settling as settling_module
from imaging_ingestion.brokers.settling import Settling
from imaging_ingestion.manifest import changes, revision
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.schema import study

DELAY = 30 * SECOND


def endpoint(space: str, study_uid: str, series_uid: str) -> str:
    return f"http://127.0.0.1/{space}/studies/{study_uid}/series/{series_uid}"


def settling_on(
    database: Database, clock: ManualClock, on_commit: Callable[[], None] = lambda: None
) -> Settling:
    return Settling(database, endpoint, on_commit, clock=clock)


async def revised(database: Database) -> list[tuple[str | None, int | None]]:
    page = await database.read(changes.since, 0, 1000, kinds=["revised"])
    return [(entry.study_instance_uid, entry.version) for entry in page.entries]


async def test_a_study_is_settled_when_it_has_been_quiet_and_every_change_puts_that_off(
    database: Database,
) -> None:
    clock = ManualClock()
    settling = settling_on(database, clock)
    await record(database, stored("1"), now=clock.now, delay=DELAY)
    clock.forward(29)
    assert await settling.settle_due() == 0
    await record(database, stored("2"), now=clock.now, delay=DELAY)
    clock.forward(29)
    assert await settling.settle_due() == 0
    # The very same again is no change.
    await record(database, stored("2"), now=clock.now, delay=DELAY)
    clock.forward(1)
    assert await settling.settle_due() == 1
    assert await settling.settle_due() == 0
    assert await revised(database) == [("1", 0)]


async def test_due_times_survive_a_restart(database_url: str) -> None:
    clock = ManualClock()
    first = open_database(database_url)
    await record(first, stored("1"), stored("2", study="2"), now=clock.now, delay=DELAY)
    await first.close()
    clock.forward(30)
    second = open_database(database_url)
    try:
        assert await settling_on(second, clock).settle_due() == 2
        assert await revised(second) == [("1", 0), ("2", 0)]
    finally:
        await second.close()


async def test_the_loop_settles_in_time_tells_of_it_and_stops(database: Database) -> None:
    clock = ManualClock()
    told: list[int] = []
    settling = settling_on(database, clock, lambda: told.append(1))
    await record(database, stored("1"), now=clock.now, delay=SECOND // 10)
    await record(database, stored("2", study="2"), now=clock.now, delay=DELAY)
    settling.start()
    clock.forward(0.1)
    await until(lambda: told)
    clock.forward(30)
    await until(lambda: len(told) == 2)
    await settling.stop()
    assert await revised(database) == [("1", 0), ("2", 0)]


async def test_the_loop_neither_spins_nor_ends_while_the_database_is_away(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling_module, "POLL", 0.02)

    class Away:
        dialect = database.dialect
        away = True
        asked = 0

        async def read(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
            self.asked += 1
            if self.away:
                raise ConnectionRefusedError("no")
            return await database.read(fn, *args, **kwargs)

        async def write(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
            return await database.write(fn, *args, **kwargs)

        async def close(self) -> None:
            raise AssertionError("not ours to close")

    clock, away = ManualClock(), Away()
    await record(database, stored("1"), now=clock.now)
    settling = settling_on(away, clock)
    with capture_logs() as lines:
        settling.start()
        await until(lambda: away.asked >= 3)
        assert {line["event"] for line in lines} == {"revision.waits"}
        away.away = False

        async def done() -> bool:
            return bool(await revised(database))

        await until(done)
        await settling.stop()


async def test_a_study_that_cannot_be_settled_holds_up_no_other(database: Database) -> None:
    clock = ManualClock()
    for number in range(4):
        await record(
            database, stored(f"1.{number}", study=str(number)), now=clock.now + number, delay=0
        )
    broken = sa.update(study).where(study.c.study_instance_uid.in_(["0", "2"]))
    await database.write(lambda c: c.execute(broken.values(attributes="not JSON")) and None)
    clock.forward(1)
    settling = settling_on(database, clock)
    with capture_logs() as lines:
        assert await settling.settle_due() == 2
    assert await revised(database) == [("1", 0), ("3", 0)]
    failed = [line for line in lines if line["event"] == "revision.failed"]
    assert len(failed) == 2
    # It is still due, and settled as soon as that can be.
    await database.write(lambda c: c.execute(broken.values(attributes="{}")) and None)
    assert await settling.settle_due() == 2


async def test_more_studies_than_a_page_are_settled_in_one_go(database: Database) -> None:
    clock = ManualClock()
    for start in range(0, 120, 60):
        await record(
            database,
            *(stored(str(n), study=str(n)) for n in range(start, start + 60)),
            now=clock.now,
        )
    clock.forward(1)
    assert await settling_on(database, clock).settle_due() == 120
    assert len(set(await revised(database))) == 120


async def test_two_replicas_settle_each_study_once(database_url: str) -> None:
    databases = [open_database(database_url) for _ in range(3)]
    try:
        clock = ManualClock()
        for turn in range(3):
            await record(
                databases[0],
                *(stored(f"{n}.{turn}", study=str(n)) for n in range(40)),
                now=clock.now,
            )
            clock.forward(1)
            made = await asyncio.gather(
                *(settling_on(database, clock).settle_due() for database in databases)
            )
            # One that another held is left to it, and it is settled all the same.
            assert sum(made) == 40
        assert sorted(await revised(databases[0])) == sorted(
            (str(n), turn) for n in range(40) for turn in range(3)
        )
    finally:
        for one in databases:
            await one.close()


async def test_a_study_that_another_holds_is_passed_over_without_waiting(
    postgres_database_url: str,
) -> None:
    database = open_database(postgres_database_url)
    clock = ManualClock()
    try:
        await record(database, stored("1"), stored("2", study="2"), now=clock.now)
        clock.forward(1)
        async with database._engine.connect() as connection, connection.begin():
            await connection.exec_driver_sql(
                "SELECT 1 FROM study WHERE study_instance_uid = '1' FOR UPDATE"
            )
            settling = settling_on(database, clock)
            assert await asyncio.wait_for(settling.settle_due(), 10) == 1
            # The loop does not ask again and again for the one it cannot have.
            assert await database.read(revision.next_due, clock.now) is None
        assert await settling.settle_due() == 1
        assert await revised(database) == [("2", 0), ("1", 0)]
    finally:
        await database.close()
