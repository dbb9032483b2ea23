"""Objects that are to go: only those, once their time has come, whatever happens in between."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from event_core import SECOND, ManualClock, record, stored

from imaging_ingestion.brokers.removal import Removing
from imaging_ingestion.events.stored import StoredInstance
from imaging_ingestion.manifest import removal
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.deletion import delete_instances
from imaging_ingestion.manifest.removal import GRACE, Unneeded
from imaging_ingestion.manifest.schema import object_removal
from imaging_ingestion.storage.directory import DirectorySpace

GRACE_SECONDS = GRACE / SECOND


@dataclass
class Failing(DirectorySpace):
    """A space of which some objects cannot be deleted."""

    failing: set[str] = field(default_factory=set)
    tried: list[str] = field(default_factory=list)

    def __init__(self, root: Path) -> None:
        DirectorySpace.__init__(self, "default", root)
        self.failing, self.tried = set(), []

    async def delete(self, name: str) -> None:
        self.tried.append(name)
        if name in self.failing:
            raise OSError("not now")
        await super().delete(name)


@pytest.fixture
async def space(tmp_path: Path) -> AsyncIterator[Failing]:
    opened = Failing(tmp_path / "space")
    yield opened
    await opened.close()


async def put(space: DirectorySpace, sop: str, content: str) -> StoredInstance:
    """An object in the space, and what is to be recorded of it."""
    writer = space.writer()
    await writer.write(content.encode())
    sealed = await writer.seal()
    one = stored(sop, content)
    await space.publish([(sealed, one.object_name)])
    assert sealed.sha256 == hashlib.sha256(content.encode()).digest()
    return one


async def names(space: DirectorySpace) -> set[str]:
    return {name async for name in space.names()}


async def left(database: Database) -> int:
    return await database.read(
        lambda c: c.execute(sa.select(sa.func.count()).select_from(object_removal)).scalar_one()
    )


def removing(database: Database, space: DirectorySpace, clock: ManualClock) -> Removing:
    return Removing(database, {"default": space}, clock=clock)


async def test_what_was_replaced_or_deleted_goes_after_a_while_and_what_is_live_stays(
    database: Database, space: Failing
) -> None:
    clock = ManualClock()
    first, second = await put(space, "7", "a"), await put(space, "7", "b")
    gone, kept = await put(space, "8", "c"), await put(space, "9", "d")
    await record(database, first, gone, kept, now=clock.now)
    await record(database, second, now=clock.now)
    await database.write(delete_instances, "default", "1", "1.1", "8", clock.now, 0)
    worker = removing(database, space, clock)
    clock.forward(GRACE_SECONDS - 1)
    assert await worker.remove_due() == 0
    assert len(await names(space)) == 4
    clock.forward(1)
    assert await worker.remove_due() == 2
    assert await names(space) == {second.object_name, kept.object_name}
    assert await left(database) == 0


async def test_of_two_processes_each_object_is_removed_by_one(
    database: Database, space: Failing
) -> None:
    clock = ManualClock()
    for number in range(20):
        await record(database, await put(space, f"7.{number}", "a"), now=clock.now)
    await database.write(delete_instances, "default", "1", None, None, clock.now, 0)
    clock.forward(GRACE_SECONDS)
    two = [removing(database, space, clock) for _ in range(2)]
    assert sum(await asyncio.gather(*(one.remove_due() for one in two))) == 20
    assert sorted(space.tried) == sorted(set(space.tried))
    assert (await names(space), await left(database)) == (set(), 0)


async def test_what_cannot_be_removed_is_tried_again_later_each_time_and_holds_up_nobody(
    database: Database, space: Failing
) -> None:
    clock = ManualClock()
    stuck, other = await put(space, "7", "a"), await put(space, "8", "b")
    await record(database, stuck, other, now=clock.now)
    await database.write(delete_instances, "default", "1", None, None, clock.now, 0)
    space.failing.add(stuck.object_name)
    worker = removing(database, space, clock)
    clock.forward(GRACE_SECONDS)
    assert await worker.remove_due() == 1
    assert await names(space) == {stuck.object_name}
    clock.forward(5)
    assert await worker.remove_due() == 0
    assert len(space.tried) == 2
    clock.forward(10)
    assert await worker.remove_due() == 0
    assert len(space.tried) == 3
    space.failing.clear()
    clock.forward(15)
    assert await worker.remove_due() == 0  # it waits longer now
    clock.forward(15)
    assert await worker.remove_due() == 1
    assert (await names(space), await left(database)) == (set(), 0)


async def test_a_process_that_dies_over_it_leaves_it_to_others(
    database: Database, space: Failing
) -> None:
    clock = ManualClock()
    await record(database, await put(space, "7", "a"), now=clock.now)
    await database.write(delete_instances, "default", "1", None, None, clock.now, 0)
    clock.forward(GRACE_SECONDS)
    until = clock.now + 120 * SECOND
    (claimed,) = await database.write(removal.claim, ["default"], clock.now, until, 10)
    await space.delete(claimed.object_name)  # and here it dies: the row is left
    worker = removing(database, space, clock)
    assert await worker.remove_due() == 0
    clock.forward(120)
    assert await worker.remove_due() == 1  # to remove it twice is to remove it once
    assert await left(database) == 0


async def test_a_row_that_names_what_is_live_removes_nothing(
    database: Database, space: Failing
) -> None:
    clock = ManualClock()
    live = await put(space, "7", "a")
    await record(database, live, now=clock.now)
    wrong = Unneeded("7", live.object_name)
    await database.write(removal.schedule, "default", [wrong], clock.now)
    clock.forward(GRACE_SECONDS)
    assert await removing(database, space, clock).remove_due() == 0
    assert (await names(space), await left(database)) == ({live.object_name}, 0)


async def test_what_is_to_go_is_not_recorded_when_it_is_told_of_again(
    database: Database, space: Failing
) -> None:
    clock = ManualClock()
    first, second = await put(space, "7", "a"), await put(space, "7", "b")
    for one in (first, second, first, msgspec.structs.replace(first, provider="late")):
        await record(database, one, now=clock.now)
    clock.forward(GRACE_SECONDS)
    assert await removing(database, space, clock).remove_due() == 1
    assert await names(space) == {second.object_name}


async def test_another_cores_spaces_are_left_alone(database: Database, space: Failing) -> None:
    clock = ManualClock()
    await database.write(removal.schedule, "elsewhere", [Unneeded("7", "x")], clock.now)
    clock.forward(GRACE_SECONDS)
    assert await removing(database, space, clock).remove_due() == 0
    assert (space.tried, await left(database)) == ([], 1)
