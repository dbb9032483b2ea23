"""ImageStoredEvents that arrive: what is known, what is recorded, and what is not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from event_core import settings
from events_site import image_stored
from instances import with_uids

from imaging_ingestion.brokers.embedded import EmbeddedBroker
from imaging_ingestion.events.model import Event
from imaging_ingestion.intake.announced import (
    AnnouncedInstances,
    AnnouncedSpace,
    NotRecordedError,
)
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.deletion import delete_instances
from imaging_ingestion.manifest.event_data import SpaceRoots
from imaging_ingestion.manifest.retrieve import live_instance
from imaging_ingestion.storage.directory import DirectorySpace


class Announced:
    """A core with three spaces: one by itself, two in a bucket."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self.database = database
        self.broker = EmbeddedBroker(database, settings())
        self.spaces = {
            name: DirectorySpace(name, folder / name) for name in ("default", "whole", "part")
        }
        places = {"default": (None, None), "whole": ("bucket", None), "part": ("bucket", "a/b")}
        self.instances = AnnouncedInstances(
            "core",
            database,
            self.broker,
            {
                name: AnnouncedSpace(space, bucket=places[name][0], prefix=places[name][1])
                for name, space in self.spaces.items()
            },
            lambda name: SpaceRoots(f"http://x/{name}", f"http://x/{name}"),
        )

    def put(self, space: str, name: str, content: bytes) -> None:
        file = self.folder / space / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    async def take(self, bucket: str, name: str, sop: str = "1.2.1.1") -> Event | None:
        data = image_stored(bucket, name, ("0008", "0018", "UI", sop))
        event = Event(
            id="1", source="upstream", type="ImageStoredEvent", subject="", time="",
            data=msgspec.json.encode(data),
        )  # fmt: skip
        return await self.instances.record(await self.instances.look(event))

    async def object_of(self, space: str, sop: str = "1.2.1.1") -> str | None:
        found = await self.database.read(live_instance, space, sop)
        return None if found is None else found.object_name


@pytest.fixture
async def announced(tmp_path: Path, database: Database) -> AsyncIterator[Announced]:
    made = Announced(tmp_path, database)
    yield made
    await made.broker.stop()
    for space in made.spaces.values():
        await space.close()


@pytest.fixture
def content(dicom_file: Callable[[str], Path]) -> bytes:
    return with_uids(dicom_file("CT_small.dcm"), "1.2", "1.2.1", "1.2.1.1")


async def test_a_space_is_found_by_its_name_or_by_bucket_and_longest_prefix(
    announced: Announced, content: bytes
) -> None:
    for space, name in (("default", "x"), ("whole", "y"), ("part", "z")):
        announced.put(space, name, content)
    await announced.take("default", "x")
    await announced.take("bucket", "y")
    await announced.take("bucket", "a/b/z")
    found = [await announced.object_of(name) for name in ("default", "whole", "part")]
    assert found == ["x", "y", "z"]


async def test_what_follows_an_event_is_the_same_whenever_it_comes(
    announced: Announced, content: bytes
) -> None:
    announced.put("default", "x", content)
    first = await announced.take("default", "x")
    assert first is not None
    assert (first.id, first.seq) == ("available/1.2.1.1/1", 1)
    assert await announced.take("default", "x") == first
    assert await announced.take("default", "x", sop="1.9") == first


async def test_what_was_deleted_is_not_taken_up_again_by_a_late_event(
    announced: Announced, content: bytes
) -> None:
    announced.put("default", "x", content)
    await announced.take("default", "x")
    await announced.database.write(delete_instances, "default", "1.2", None, None, 1, 0)
    assert await announced.take("default", "x") is None
    assert await announced.take("default", "x", sop="") is None
    assert await announced.object_of("default") is None


async def test_what_was_replaced_is_not_taken_up_again_by_a_late_event(
    announced: Announced, content: bytes
) -> None:
    announced.put("default", "old", content)
    announced.put("default", "new", content + b"\xfc\xff\xfc\xffOB\0\0\2\0\0\0\1\2")
    await announced.take("default", "old")
    await announced.take("default", "new")
    assert await announced.take("default", "old") is None
    assert await announced.object_of("default") == "new"


async def test_what_was_deleted_and_is_stored_again_under_another_name_is_recorded(
    announced: Announced, content: bytes
) -> None:
    announced.put("default", "x", content)
    await announced.take("default", "x")
    await announced.database.write(delete_instances, "default", "1.2", None, None, 1, 0)
    announced.put("default", "y", content)
    again = await announced.take("default", "y")
    assert again is not None
    assert (again.id, await announced.object_of("default")) == ("available/1.2.1.1/2", "y")


async def test_an_object_that_is_not_there_may_come(announced: Announced) -> None:
    with pytest.raises(NotRecordedError, match="it is not in the space") as caught:
        await announced.take("default", "x")
    assert (caught.value.may_come, caught.value.is_ours) == (True, False)
