"""Hints that a study is complete: they bring its revision forward, and never put it off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import sqlalchemy as sa
from event_core import SECOND, ManualClock, record, stored, until
from structlog.testing import capture_logs

from imaging_ingestion.brokers.settle_hints import SettleHints, SourceError
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.schema import study
from imaging_ingestion.manifest.settle_hint import hasten

DELAY = 30 * SECOND
SOON = timedelta(seconds=5)


class Archive:
    """A source with so many instances of each study; None does not say, an error is raised."""

    def __init__(self, answer: int | Exception | None) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.before: Callable[[], Awaitable[None]] | None = None

    async def expected(self, study_instance_uid: str) -> int | None:
        self.asked.append(study_instance_uid)
        if self.before is not None:
            await self.before()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def due_times(database: Database) -> dict[str, int | None]:
    rows = await database.read(
        lambda connection: connection.execute(
            sa.select(study.c.study_instance_uid, study.c.revision_due_at)
        ).all()
    )
    return {row.study_instance_uid: row.revision_due_at for row in rows}


class Hints:
    """Hints at work, and how often they have brought a study forward."""

    def __init__(self, database: Database, clock: ManualClock, soon: timedelta | None) -> None:
        self.hastened = 0
        self.hints = SettleHints(database, soon, self._count, pause=0.01, clock=clock)

    def _count(self) -> None:
        self.hastened += 1


@asynccontextmanager
async def hints_on(
    database: Database, clock: ManualClock, soon: timedelta | None = SOON
) -> AsyncIterator[Hints]:
    running = Hints(database, clock, soon)
    running.hints.start()
    try:
        yield running
    finally:
        await running.hints.stop()


async def test_a_release_brings_the_studies_of_the_association_forward(database: Database) -> None:
    clock = ManualClock()
    await record(database, stored("1"), stored("2", study="2"), now=clock.now, delay=DELAY)
    async with hints_on(database, clock) as running:
        running.hints.released("default", ["1"], None)
        await until(lambda: running.hastened == 1)
    assert await due_times(database) == {"1": clock.now + 5 * SECOND, "2": clock.now + DELAY}


async def test_a_release_never_puts_a_revision_off(database: Database) -> None:
    clock = ManualClock()
    await record(database, stored("1"), now=clock.now, delay=2 * SECOND)
    await record(database, stored("2", study="2"), now=clock.now, delay=DELAY)
    async with hints_on(database, clock) as running:
        running.hints.released("default", ["1", "2"], None)
        await until(lambda: running.hastened == 1)
    assert (await due_times(database))["1"] == clock.now + 2 * SECOND


async def test_what_comes_after_a_hint_sets_the_whole_delay_again(database: Database) -> None:
    clock = ManualClock()
    await record(database, stored("1"), now=clock.now, delay=DELAY)
    async with hints_on(database, clock) as running:
        running.hints.released("default", ["1"], None)
        await until(lambda: running.hastened == 1)
        clock.forward(3)
        await record(database, stored("2"), now=clock.now, delay=DELAY)
        assert await due_times(database) == {"1": clock.now + DELAY}


async def test_without_the_setting_and_without_a_source_a_release_means_nothing(
    database: Database,
) -> None:
    clock, archive = ManualClock(), Archive(1)
    await record(database, stored("1"), stored("2", study="2"), now=clock.now, delay=DELAY)
    async with hints_on(database, clock, soon=None) as running:
        running.hints.released("default", ["1"], None)
        running.hints.stored("default", ["1"], None)
        running.hints.released("default", ["2"], archive)  # so that there is an end to wait for
        await until(lambda: running.hastened == 1)
    assert (await due_times(database))["1"] == clock.now + DELAY


async def test_a_study_of_which_the_source_has_no_more_is_settled_at_once(
    database: Database,
) -> None:
    clock, archive = ManualClock(), Archive(2)
    await record(database, stored("1"), stored("2"), now=clock.now, delay=DELAY)
    async with hints_on(database, clock) as running:
        running.hints.stored("default", ["1"], archive)
        await until(lambda: running.hastened == 1)
    assert await due_times(database) == {"1": clock.now}
    assert archive.asked == ["1"]


async def test_a_study_of_which_the_source_has_more_waits_although_it_was_released(
    database: Database,
) -> None:
    clock, more, all_of_it = ManualClock(), Archive(3), Archive(1)
    await record(database, stored("1"), stored("2"), now=clock.now, delay=DELAY)
    await record(database, stored("3", study="2"), now=clock.now, delay=DELAY)
    async with hints_on(database, clock) as running:
        running.hints.released("default", ["1"], more)
        running.hints.released("default", ["2"], all_of_it)
        await until(lambda: running.hastened == 1 and more.asked == ["1"])
    assert await due_times(database) == {"1": clock.now + DELAY, "2": clock.now}


async def test_a_source_that_does_not_say_or_answer_leaves_it_to_the_release(
    database: Database,
) -> None:
    clock = ManualClock()
    await record(database, stored("1"), stored("2", study="2"), now=clock.now, delay=DELAY)
    with capture_logs() as logs:
        async with hints_on(database, clock) as running:
            running.hints.released("default", ["1"], Archive(None))
            running.hints.released("default", ["2"], Archive(SourceError("PACS: no connection")))
            await until(lambda: running.hastened == 2)
    soon = clock.now + 5 * SECOND
    assert await due_times(database) == {"1": soon, "2": soon}
    assert [one["why"] for one in logs if one["event"] == "revision.source_silent"] == [
        "PACS: no connection"
    ]


async def test_an_instance_that_arrives_while_the_source_is_asked_counts(
    database: Database,
) -> None:
    clock, archive = ManualClock(), Archive(2)
    await record(database, stored("1"), now=clock.now, delay=DELAY)

    async def one_more() -> None:
        clock.forward(1)
        await record(database, stored("2"), now=clock.now, delay=DELAY)

    archive.before = one_more
    async with hints_on(database, clock) as running:
        running.hints.stored("default", ["1"], archive)
        await until(lambda: running.hastened == 1)
    assert await due_times(database) == {"1": clock.now}


async def test_a_study_that_has_changed_since_it_was_counted_is_not_hastened(
    database: Database,
) -> None:
    await record(database, stored("1"), now=100, delay=DELAY)
    await record(database, stored("2"), now=200, delay=DELAY)
    assert not await database.write(hasten, "default", "1", 100, 300)
    assert await due_times(database) == {"1": 200 + DELAY}
    assert await database.write(hasten, "default", "1", 200, 300)
    assert await due_times(database) == {"1": 300}


async def test_an_error_that_nobody_expected_costs_one_hint_only(database: Database) -> None:
    clock, broken, archive = ManualClock(), Archive(ArithmeticError("?")), Archive(1)
    await record(database, stored("1"), stored("2", study="2"), now=clock.now, delay=DELAY)
    with capture_logs() as logs:
        async with hints_on(database, clock) as running:
            running.hints.stored("default", ["1"], broken)
            await until(lambda: broken.asked == ["1"])
            running.hints.stored("default", ["2"], archive)
            await until(lambda: running.hastened == 1)
    assert await due_times(database) == {"1": clock.now + DELAY, "2": clock.now}
    assert [one["error"] for one in logs if one["event"] == "revision.hint_lost"] == [
        "ArithmeticError"
    ]


async def test_many_notes_of_a_study_that_is_arriving_ask_its_source_once(
    database: Database,
) -> None:
    clock, archive = ManualClock(), Archive(200)
    await record(
        database, *(stored(str(number)) for number in range(200)), now=clock.now, delay=DELAY
    )
    async with hints_on(database, clock) as running:
        for _ in range(200):
            running.hints.released("default", ["1"], archive)
        await until(lambda: running.hastened == 1)
    assert archive.asked == ["1"]


async def test_a_study_that_is_settled_or_unknown_is_left_alone(database: Database) -> None:
    clock, archive = ManualClock(), Archive(0)
    async with hints_on(database, clock) as running:
        running.hints.stored("default", ["unknown"], archive)
        await until(lambda: archive.asked == ["unknown"])
        await asyncio.sleep(0)
    assert running.hastened == 0
