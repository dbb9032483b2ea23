"""Taking instances into a bucket: what is acknowledged is there, what is refused is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from cloud_spaces import cloud_space
from instances import padded, with_uids
from object_stores import AzuriteStore, SwiftStore
from removals import remove_unneeded
from spaces import get, names
from store_link import store_link

from imaging_ingestion.brokers.group_commit import GroupCommit
from imaging_ingestion.dicom import failure_reason
from imaging_ingestion.events.broker import ReplayFilter, Subscription
from imaging_ingestion.events.model import Event
from imaging_ingestion.events.stored import StoredInstance, StoreOutcome, StoreResult
from imaging_ingestion.intake import Intake, IntakeRefused, Received
from imaging_ingestion.manifest.database import SqliteDatabase
from imaging_ingestion.manifest.migrate import migrate
from imaging_ingestion.storage.cloud import CloudSpace
from imaging_ingestion.storage.cloud_buffers import PART

Store = SwiftStore | AzuriteStore


class RecordingBroker(GroupCommit):
    """The accepting half of a broker: group commit into a real manifest."""

    database: SqliteDatabase

    async def accept(self, stored: StoredInstance) -> StoreOutcome:
        return await super().accept(stored)

    async def publish(self, events: Sequence[Event]) -> None:
        raise NotImplementedError

    def subscribe(self, subscription: Subscription, handler: object) -> None:
        raise NotImplementedError

    async def start(self) -> None: ...

    async def replay(self, which: ReplayFilter) -> int:
        raise NotImplementedError


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[RecordingBroker]:
    database = SqliteDatabase(tmp_path / "manifest.db")
    await migrate(database)
    recording = RecordingBroker(database, timedelta(seconds=30), lambda: None)
    recording.database = database
    yield recording
    await recording.stop()
    await database.close()


@pytest.fixture
def ct(dicom_file: Callable[[str], Path]) -> Path:
    return dicom_file("CT_small.dcm")


async def send(space: CloudSpace, broker: RecordingBroker, data: bytes) -> Received:
    intake = Intake(space, broker)  # type: ignore[arg-type]
    reception = intake.receive(source="test", provider="p")
    try:
        for offset in range(0, len(data), 1 << 16):
            await reception.write(data[offset : offset + (1 << 16)])
        return await reception.finish()
    finally:
        await intake.close()


async def test_instances_of_any_size_are_stored_byte_for_byte_and_replaced_ones_go(
    object_store: Store, broker: RecordingBroker, tmp_path: Path, ct: Path
) -> None:
    small = [with_uids(ct, "1.2", "1.2.3", f"1.2.3.{number}") for number in range(12)]
    large = padded(with_uids(ct, "1.2", "1.2.3", "1.2.3.99"), 2 * PART)
    values = object_store.settings(object_store.new_bucket())
    async with cloud_space(values, tmp_path / "scratch") as space:
        await asyncio.gather(*(send(space, broker, data) for data in [*small, large]))
        contents = [await get(space, name) for name in await names(space)]
        assert sorted(contents) == sorted([*small, large])
        again = await send(space, broker, small[0])
        assert again.result is StoreResult.UNCHANGED
        other = padded(small[0], 1000)
        assert (await send(space, broker, other)).result is StoreResult.REPLACED
        assert await remove_unneeded(broker.database, space) == 1
        contents = [await get(space, name) for name in await names(space)]
        assert sorted(contents) == sorted([other, *small[1:], large])
        assert space.gathered == 0


async def test_what_a_full_bucket_or_a_lost_store_refuses_leaves_nothing(
    swift: SwiftStore, broker: RecordingBroker, tmp_path: Path, ct: Path
) -> None:
    instance = with_uids(ct, "1.2", "1.2.3", "1.2.3.4")
    bucket = swift.new_bucket()
    async with (
        store_link(swift.port) as link,
        cloud_space(swift.settings(bucket, link.port), tmp_path / "scratch") as space,
    ):
        swift.limit(bucket, bytes=100)
        with pytest.raises(IntakeRefused) as refused:
            await send(space, broker, instance)
        assert refused.value.failure_reason == failure_reason.OUT_OF_RESOURCES
        swift.limit(bucket, bytes=100 * PART)
        link.is_down = True
        with pytest.raises(IntakeRefused) as refused:
            await send(space, broker, instance)
        assert refused.value.failure_reason == failure_reason.PROCESSING_FAILURE
        link.is_down = False
        assert (await names(space), space.gathered) == ([], 0)
        assert (await send(space, broker, instance)).result is StoreResult.CREATED
