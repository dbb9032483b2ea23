"""A clock that was set back keeps nothing waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from event_core import SECOND, ManualClock, record, stored, until

from imaging_ingestion.brokers.clock_watch import ClockWatch
from imaging_ingestion.manifest import deliveries
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.schema import delivery, object_removal, study

HOUR = 3600 * SECOND
DELAY = 30 * SECOND


async def due_times(database: Database) -> tuple[int | None, int | None, int | None]:
    """Of the study, the delivery, the removal."""
    columns = (study.c.revision_due_at, delivery.c.next_at, object_removal.c.next_at)
    return await database.read(
        lambda connection: tuple(
            connection.execute(sa.select(column)).scalar_one() for column in columns
        )
    )


async def owe(database: Database, now: int) -> None:
    """A study, a delivery and a removal, due as if it were `now`."""
    await database.write(deliveries.subscribe, "forward")
    await record(database, stored("1"), now=now, delay=DELAY)
    await database.write(
        deliveries.fan_out, "forward", "ImageStoredEvent", lambda _entry: True, now
    )
    await database.write(
        lambda connection: connection.execute(
            sa.insert(object_removal).values(space="default", object_name="x", next_at=now + SECOND)
        )
    )


@dataclass
class Monotonic:
    """Seconds that only pass when they are told to, and how often they were asked for."""

    seconds: float = 0.0
    looks: int = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.seconds


@asynccontextmanager
async def watched(
    database: Database, clock: ManualClock, passed: Monotonic
) -> AsyncIterator[list[None]]:
    """The watch at work; it notes each change of due times."""
    changes: list[None] = []
    watch = ClockWatch(
        database,
        timedelta(microseconds=DELAY),
        lambda: changes.append(None),
        poll=0.01,
        clock=clock,
        monotonic=passed,
    )
    watch.start()
    try:
        yield changes
    finally:
        await watch.stop()


async def test_what_is_due_after_a_jump_back_is_due_as_if_the_clock_had_been_right(
    database: Database,
) -> None:
    clock, passed = ManualClock(), Monotonic()
    async with watched(database, clock, passed) as changes:
        await owe(database, clock.now)
        await asyncio.sleep(0)
        clock.forward(-600)  # less than anything that is noticed at a start
        await until(lambda: changes)
    assert await due_times(database) == (clock.now + DELAY, clock.now, clock.now)


async def test_time_that_passes_and_a_clock_set_forward_change_nothing(
    database: Database,
) -> None:
    clock, passed = ManualClock(), Monotonic()
    await owe(database, clock.now)
    before = await due_times(database)
    async with watched(database, clock, passed) as changes:
        for seconds, jump in ((5, 0), (1, 7200), (2, -0.5)):
            passed.seconds += seconds
            clock.forward(seconds + jump)
            seen = passed.looks
            await until(lambda seen=seen: passed.looks > seen + 2)
        assert changes == []
    assert await due_times(database) == before


async def test_a_jump_back_while_nobody_watched_is_found_at_the_next_start(
    database: Database,
) -> None:
    clock, passed = ManualClock(), Monotonic()
    await owe(database, clock.now + 5 * HOUR)
    async with watched(database, clock, passed) as changes:
        await until(lambda: changes)
    assert await due_times(database) == (clock.now + DELAY, clock.now, clock.now)


async def test_what_is_to_be_tried_later_is_left_at_a_start(database: Database) -> None:
    clock, passed = ManualClock(), Monotonic()
    await owe(database, clock.now + 900 * SECOND - DELAY)
    async with watched(database, clock, passed) as changes:
        await until(lambda: changes)  # the study: nothing waits longer than the delay
    assert await due_times(database) == (
        clock.now + DELAY,
        clock.now + 900 * SECOND - DELAY,
        clock.now + 901 * SECOND - DELAY,
    )
