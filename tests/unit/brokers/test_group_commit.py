"""Many callers, one commit: nobody waits for a group, nobody suffers from another's trouble."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from imaging_ingestion.brokers.group_commit import GroupCommit, Groups, NotAcceptedError
from imaging_ingestion.events.stored import StoredInstance, StoreResult
from imaging_ingestion.manifest.database import SqliteDatabase
from imaging_ingestion.manifest.migrate import migrate
from imaging_ingestion.manifest.schema import change, instance, study


class Carrier:
    """Carries numbers, each to its double, when it is let go; odd thousands cannot pass."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.gate = asyncio.Event()
        self.away = False

    async def carry(self, group: Sequence[int]) -> Sequence[int]:
        self.groups.append(list(group))
        await self.gate.wait()
        if self.away:
            raise ConnectionError("away")
        if any(number % 1000 == 999 for number in group):
            raise ValueError("999 cannot pass")
        return [2 * number for number in group]

    def groups_of(self, largest: int = 256) -> Groups[int, int]:
        return Groups(
            self.carry, hopeless=lambda error: isinstance(error, OSError), largest=largest
        )


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_arrives_while_one_group_is_carried_makes_the_next() -> None:
    carrier = Carrier()
    groups = carrier.groups_of(largest=3)
    first = asyncio.create_task(groups.take(1))
    await settle()
    others = [asyncio.create_task(groups.take(number)) for number in range(2, 9)]
    await settle()
    assert carrier.groups == [[1]]
    carrier.gate.set()
    assert await asyncio.gather(first, *others) == [2 * number for number in range(1, 9)]
    assert carrier.groups == [[1], [2, 3, 4], [5, 6, 7], [8]]


async def test_one_that_cannot_pass_fails_alone() -> None:
    carrier = Carrier()
    carrier.gate.set()
    groups = carrier.groups_of()
    results = await asyncio.gather(
        *(groups.take(number) for number in (1, 2, 999, 3)), return_exceptions=True
    )
    assert [results[0], results[1], results[3]] == [2, 4, 6]
    assert isinstance(results[2], ValueError)


async def test_an_error_that_all_would_meet_is_given_to_all_at_once() -> None:
    carrier = Carrier()
    carrier.away = True
    carrier.gate.set()
    groups = carrier.groups_of()
    results = await asyncio.gather(
        *(groups.take(number) for number in range(5)), return_exceptions=True
    )
    assert all(isinstance(result, ConnectionError) for result in results)
    assert len(carrier.groups) == 1
    carrier.away = False
    assert await groups.take(7) == 14


async def test_a_caller_that_is_cancelled_disturbs_nobody() -> None:
    carrier = Carrier()
    groups = carrier.groups_of()
    under_way = asyncio.create_task(groups.take(1))
    await settle()
    waiting = [asyncio.create_task(groups.take(number)) for number in (2, 3)]
    await settle()
    under_way.cancel()
    waiting[0].cancel()
    await settle()
    carrier.gate.set()
    assert await waiting[1] == 6
    assert carrier.groups == [[1], [3]]  # 2 was taken back in time
    with pytest.raises(asyncio.CancelledError):
        await under_way


async def test_stopping_waits_for_what_was_taken() -> None:
    carrier = Carrier()
    groups = carrier.groups_of(largest=1)
    taken = [asyncio.create_task(groups.take(number)) for number in (1, 2)]
    await settle()
    stopping = asyncio.create_task(groups.stop())
    await settle()
    assert not stopping.done()
    carrier.gate.set()
    await stopping
    assert [task.result() for task in taken] == [2, 4]
    await groups.stop()


@pytest.fixture
async def manifest(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    database = SqliteDatabase(tmp_path / "manifest.db")
    await migrate(database)
    yield database
    await database.close()


def stored(sop: str, number: str = "1") -> StoredInstance:
    return StoredInstance(
        space="default",
        provider="p",
        study_instance_uid="1",
        series_instance_uid="1.1",
        sop_instance_uid=sop,
        sop_class_uid="1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        object_name=sop,
        object_size=1,
        sha256=hashlib.sha256(sop.encode()).digest(),
        study={"attributes": "{}"},
        series={"attributes": "{}"},
        instance={"instance_number": number},
        metadata_zstd=b"",
    )


async def test_many_instances_share_a_commit_and_are_durable(manifest: SqliteDatabase) -> None:
    commits = 0

    def committed() -> None:
        nonlocal commits
        commits += 1

    group_commit = GroupCommit(
        manifest, timedelta(seconds=2), committed, clock=lambda: 7_000_000_000
    )
    outcomes = await asyncio.gather(*(group_commit.accept(stored(f"1.{n}")) for n in range(100)))
    await group_commit.stop()
    assert {outcome.result for outcome in outcomes} == {StoreResult.CREATED}
    assert commits < 10
    rows = await manifest.read(lambda connection: connection.execute(sa.select(study)).all())
    assert [(row.number_of_instances, row.changed_at, row.revision_due_at) for row in rows] == [
        (100, 7_000_000, 9_000_000)
    ]


async def test_a_poison_instance_fails_alone(manifest: SqliteDatabase) -> None:
    group_commit = GroupCommit(manifest, timedelta(seconds=2), lambda: None)
    results = await asyncio.gather(
        *(group_commit.accept(stored(f"1.{n}")) for n in range(5)),
        group_commit.accept(stored("1.9", "\ud800")),
        *(group_commit.accept(stored(f"2.{n}")) for n in range(5)),
        return_exceptions=True,
    )
    assert [isinstance(result, NotAcceptedError) for result in results] == [
        *[False] * 5,
        True,
        *[False] * 5,
    ]

    def found(connection: sa.Connection) -> tuple[int, int]:
        return tuple(
            connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            for table in (instance, change)
        )

    assert await manifest.read(found) == (10, 10)


async def test_a_database_that_is_away_is_told_to_everybody(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "manifest.db")  # without tables
    group_commit = GroupCommit(database, timedelta(seconds=2), lambda: None)
    results = await asyncio.gather(
        *(group_commit.accept(stored(f"1.{n}")) for n in range(5)), return_exceptions=True
    )
    assert all(isinstance(result, NotAcceptedError) for result in results)
    await database.close()
