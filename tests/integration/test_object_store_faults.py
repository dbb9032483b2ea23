"""Object stores that break, stop, fill up and are slow: nothing is half there, nothing is lost."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from cloud_spaces import cloud_space
from object_stores import AzuriteStore, SwiftStore, running
from spaces import get, names, put
from store_link import store_link

from imaging_ingestion.storage import cloud
from imaging_ingestion.storage.cloud import CloudSpace
from imaging_ingestion.storage.cloud_buffers import HELD, PART
from imaging_ingestion.storage.cloud_store import Patience
from imaging_ingestion.storage.space import (
    SealedObject,
    SpaceFullError,
    SpaceUnavailableError,
)

Store = SwiftStore | AzuriteStore
LARGE = 3 * PART + 5


async def seal(space: CloudSpace, content: bytes) -> SealedObject:
    writer = space.writer()
    await writer.write(content)
    return await writer.seal()


async def test_a_connection_cut_in_the_middle_of_an_upload_is_got_over(
    object_store: Store, tmp_path: Path
) -> None:
    content = os.urandom(LARGE)
    bucket = object_store.new_bucket()
    async with (
        store_link(object_store.port) as link,
        cloud_space(object_store.settings(bucket, link.port), tmp_path) as space,
    ):
        link.cut_after = LARGE // 2
        await put(space, "a/b", content)
        assert link.cuts == 1
        assert await get(space, "a/b") == content
        assert await names(space) == ["a/b"]


async def test_a_connection_cut_in_the_middle_of_reading_is_got_over(
    object_store: Store, tmp_path: Path
) -> None:
    content = os.urandom(LARGE)
    bucket = object_store.new_bucket()
    async with (
        store_link(object_store.port) as link,
        cloud_space(object_store.settings(bucket, link.port), tmp_path) as space,
    ):
        await put(space, "a/b", content)
        reader = await space.open("a/b")
        got = bytearray()
        async for piece in reader.stream():
            if not link.cuts and len(got) >= LARGE // 2:
                link.cut()
            got += piece
        assert (bytes(got), link.cuts) == (content, 1)


@pytest.mark.parametrize("size", [100_000, LARGE])
async def test_what_a_store_that_is_gone_did_not_take_is_not_there_and_may_be_published_later(
    object_store: Store, tmp_path: Path, size: int
) -> None:
    content = os.urandom(size)
    bucket = object_store.new_bucket()
    async with (
        store_link(object_store.port) as link,
        cloud_space(object_store.settings(bucket, link.port), tmp_path) as space,
    ):
        sealed = await seal(space, content)
        link.is_down = True
        with pytest.raises(SpaceUnavailableError, match=r"'clinical'.*writing 'a/b': the conn"):
            await space.publish([(sealed, "a/b")])
        with pytest.raises(SpaceUnavailableError, match="listing: the conn"):
            await names(space)
        link.is_down = False
        assert await names(space) == []
        await space.publish([(sealed, "a/b")])
        assert await get(space, "a/b") == content
        assert space.gathered == 0


@pytest.mark.parametrize("fails", ["a part in the middle", "the last parts", "the end"])
async def test_an_upload_that_fails_takes_back_the_parts_that_arrived(
    swift: SwiftStore, tmp_path: Path, fails: str
) -> None:
    bucket = swift.new_bucket()
    parts = f"{bucket}+segments"  # where Swift keeps them, and a note of the upload
    swift.behind("PUT", parts)
    size = LARGE  # few enough parts to be sent all together
    if fails == "a part in the middle":
        size = 12 * PART
        swift.limit(parts, bytes=5 * PART)
    elif fails == "the last parts":
        swift.limit(parts, count=1)
    else:
        swift.limit(bucket, count=0)
    async with cloud_space(swift.settings(bucket), tmp_path) as space:
        sealed = await seal(space, b"x" * size)
        with pytest.raises(SpaceFullError, match="writing 'a/b': it is full"):
            await space.publish([(sealed, "a/b")])
        assert (await names(space), swift.parts(bucket)) == ([], [])
        for container in (bucket, parts):
            swift.limit(container, bytes=100 * PART, count=100)
        await space.publish([(sealed, "a/b")])
        assert await names(space) == ["a/b"]


async def test_of_a_group_those_that_can_be_published_are_and_the_rest_may_be_tried_again(
    swift: SwiftStore, tmp_path: Path
) -> None:
    bucket = swift.new_bucket()
    swift.limit(bucket, bytes=1000)
    async with cloud_space(swift.settings(bucket), tmp_path) as space:
        group = [(await seal(space, b"s"), "small"), (await seal(space, b"l" * 5000), "large")]
        with pytest.raises(SpaceFullError, match="writing 'large': it is full"):
            await space.publish(group)
        assert await names(space) == ["small"]
        swift.limit(bucket, bytes=100_000)
        await space.publish(group)
        assert await names(space) == ["large", "small"]


async def test_a_store_that_is_killed_and_started_again_in_the_middle_is_waited_for(
    tmp_path: Path,
) -> None:
    content = os.urandom(LARGE)
    with running(SwiftStore) as store:
        bucket = store.new_bucket()
        async with store_link(store.port) as link:
            values = store.settings(bucket, link.port)
            async with cloud_space(values, tmp_path, Patience()) as space:
                link.rate = LARGE / 2  # bytes a second
                publishing = asyncio.create_task(put(space, "a/b", content))
                await link.until(LARGE // 2)
                assert not publishing.done()
                store.kill()
                link.rate = None
                await asyncio.to_thread(store.start)
                await publishing
                assert await get(space, "a/b") == content


async def test_a_slow_store_makes_writers_wait_in_memory_that_does_not_grow(
    swift: SwiftStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, count, behind = 4 << 20, 48, 16 << 20
    monkeypatch.setattr(cloud, "BEHIND", behind)
    values = swift.settings(swift.new_bucket())
    content = os.urandom(size)
    publishing: list[asyncio.Task[None]] = []
    most_held = most_memory = 0

    async def produce() -> None:
        nonlocal most_held, most_memory
        for number in range(count):
            writer = space.writer()
            for start in range(0, size, 1 << 16):
                await writer.write(content[start : start + (1 << 16)])
            sealed = await writer.seal()
            publishing.append(asyncio.create_task(space.publish([(sealed, f"o/{number}")])))
            await asyncio.sleep(0)
            most_held = max(most_held, space.gathered)
            most_memory = max(most_memory, psutil.Process().memory_info().rss - before)

    async with (
        store_link(swift.port) as link,
        cloud_space(values | {"BUCKET_PORT": str(link.port)}, tmp_path, Patience()) as space,
    ):
        before = psutil.Process().memory_info().rss
        link.flows.clear()
        producing = asyncio.create_task(produce())
        await asyncio.wait({producing}, timeout=1)  # nothing can happen that could be awaited
        assert not producing.done()
        assert len(publishing) <= behind // size + 2
        link.flows.set()
        await producing
        await asyncio.gather(*publishing)
        assert most_held <= HELD
        assert most_memory < count * size // 2
        assert len(await names(space)) == count


async def test_publishing_that_is_cancelled_ends_when_nothing_is_under_way_any_more(
    object_store: Store, tmp_path: Path
) -> None:
    content = os.urandom(LARGE)
    bucket = object_store.new_bucket()
    async with (
        store_link(object_store.port) as link,
        cloud_space(object_store.settings(bucket, link.port), tmp_path) as space,
    ):
        sealed = await seal(space, content)
        publishing = asyncio.create_task(space.publish([(sealed, "a/b")]))
        await link.until(PART)
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        carried = link.carried
        assert await get(space, "a/b") == content
        assert link.carried - carried < 10_000  # only what was asked for now
        await space.delete("a/b")
        assert await names(space) == []


DIE = """
import asyncio, json, os, sys
from pathlib import Path
from imaging_ingestion.storage.cloud_settings import cloud_settings
from imaging_ingestion.storage.open_space import open_space
async def main():
    space = open_space("s", cloud_settings(json.loads(sys.argv[1])), Path(sys.argv[2]))
    sealed = []
    for size in (100_000, int(sys.argv[3])):
        writer = space.writer()
        await writer.write(b"x" * size)
        sealed.append(await writer.seal())
    print("sealed", flush=True)
    sys.stdin.readline()
    await space.publish([(each, f"a/{each.size}") for each in sealed])
asyncio.run(main())
"""


@pytest.mark.parametrize("is_publishing", [False, True])
async def test_of_what_was_not_published_when_a_process_is_killed_nothing_is_seen(
    object_store: Store, tmp_path: Path, *, is_publishing: bool
) -> None:
    bucket = object_store.new_bucket()
    scratch = tmp_path / "scratch"
    async with store_link(object_store.port) as link:
        values = json.dumps(object_store.settings(bucket, link.port))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", DIE, values, str(scratch), str(LARGE)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            assert process.stdin is not None
            assert await process.stdout.readline() == b"sealed\n"
            if is_publishing:
                link.rate = 2 * PART  # bytes a second
                process.stdin.write(b"go\n")
                await link.until(PART + PART // 2)
        finally:
            process.send_signal(signal.SIGKILL)
            await process.communicate()
    assert list(scratch.iterdir()) == []
    async with cloud_space(object_store.settings(bucket), scratch) as space:
        # Small objects go in one request, which may have come to its end.
        assert set(await names(space)) <= ({"a/100000"} if is_publishing else set())
        content = os.urandom(LARGE)
        sealed = await put(space, f"a/{LARGE}", content)  # the leftovers are in nobody's way
        assert sealed.sha256 == hashlib.sha256(content).digest()
        assert await get(space, f"a/{LARGE}") == content
