"""A space in a directory: whole objects or none, durable, back-pressed, tidy."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaging_ingestion.storage import directory
from imaging_ingestion.storage.directory import GATHERED, PIECE, DirectorySpace
from imaging_ingestion.storage.space import ObjectMissingError, SealedObject, SpaceFullError


@pytest.fixture
async def space(tmp_path: Path) -> AsyncIterator[DirectorySpace]:
    opened = DirectorySpace("clinical", tmp_path / "space")
    yield opened
    await opened.close()


async def put(space: DirectorySpace, name: str, *pieces: bytes) -> SealedObject:
    writer = space.writer()
    for piece in pieces:
        await writer.write(piece)
    sealed = await writer.seal()
    await space.publish([(sealed, name)])
    return sealed


async def get(space: DirectorySpace, name: str) -> bytes:
    reader = await space.open(name)
    try:
        return b"".join([piece async for piece in reader.stream()])
    finally:
        await reader.close()


async def names(space: DirectorySpace) -> list[str]:
    return sorted([name async for name in space.names()])


def unpublished(space: DirectorySpace) -> list[Path]:
    return [path for path in (space.root / ".incoming").rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", [0, 1, 5000, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 17])
async def test_what_is_read_is_what_was_written(space: DirectorySpace, size: int) -> None:
    content = os.urandom(size)
    sealed = await put(
        space, "aa/1/2/3.dcm", *(content[o : o + 70_000] for o in range(0, size, 70_000))
    )
    assert (sealed.sha256, sealed.size) == (hashlib.sha256(content).digest(), size)
    assert await get(space, "aa/1/2/3.dcm") == content
    reader = await space.open("aa/1/2/3.dcm")
    assert reader.size == size
    assert await reader.read(max(size - 10, 0), 100) == content[max(size - 10, 0) :]
    assert await reader.read(size, 10) == b""
    await reader.close()
    await reader.close()
    assert unpublished(space) == []


@settings(max_examples=25, deadline=None)
@given(pieces=st.lists(st.binary(max_size=40_000), max_size=12))
def test_any_pieces_make_the_same_object_and_their_buffers_may_be_reused(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    async def run() -> None:
        space = DirectorySpace("s", tmp_path_factory.mktemp("space"))
        try:
            writer = space.writer()
            for number, piece in enumerate(pieces):
                if number % 3 == 0:
                    await writer.write(piece)
                    continue
                buffer = bytearray(piece)
                await writer.write(buffer if number % 3 == 1 else memoryview(buffer))
                buffer[:] = bytes(len(buffer))
            sealed = await writer.seal()
            await space.publish([(sealed, "o")])
            assert await get(space, "o") == b"".join(pieces)
            assert sealed.sha256 == hashlib.sha256(b"".join(pieces)).digest()
        finally:
            await space.close()

    asyncio.run(run())


async def test_an_object_is_not_there_before_it_is_published(space: DirectorySpace) -> None:
    writer = space.writer()
    await writer.write(b"x" * (PIECE + 1))
    sealed = await writer.seal()
    assert await names(space) == []
    await space.publish([(sealed, "a/b")])
    assert await names(space) == ["a/b"]


async def test_many_objects_are_published_at_once_and_again_without_harm(
    space: DirectorySpace,
) -> None:
    batch = []
    for number in range(20):
        writer = space.writer()
        await writer.write(b"%d" % number)
        batch.append((await writer.seal(), f"{number % 3}/x/{number}"))
    await space.publish(batch)
    await space.publish(batch)
    assert await names(space) == sorted(name for _, name in batch)
    for number, (_, name) in enumerate(batch):
        assert await get(space, name) == b"%d" % number


async def test_publishing_replaces_an_object_of_that_name_and_readers_keep_the_old_one(
    space: DirectorySpace,
) -> None:
    await put(space, "a/b", b"old")
    reader = await space.open("a/b")
    await put(space, "a/b", b"new")
    assert await reader.read(0, 10) == b"old"
    await reader.close()
    assert await get(space, "a/b") == b"new"


async def test_a_published_object_is_durable_with_every_directory_above_it(
    space: DirectorySpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync_data, sync = directory._sync_data, os.fsync

    def path_of(descriptor: int) -> str:
        return os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), space.root)

    def record_data(descriptor: int) -> None:
        sync_data(descriptor)
        synced.append("data")

    def record(descriptor: int) -> None:
        sync(descriptor)
        synced.append(path_of(descriptor))

    monkeypatch.setattr(directory, "_sync_data", record_data)
    monkeypatch.setattr(os, "fsync", record)
    await put(space, "a/b/c/object", b"x")
    assert synced[0] == "data"
    assert {".", "a", "a/b", "a/b/c"} <= set(synced)
    synced.clear()
    await put(space, "a/b/c/another", b"x")
    assert synced == ["data", "a/b/c"]  # what is known to be durable is not made so again


async def test_what_is_aborted_or_discarded_leaves_nothing(space: DirectorySpace) -> None:
    writer = space.writer()
    await writer.write(b"x" * (2 * PIECE))
    await writer.abort()
    await writer.abort()
    with pytest.raises(ValueError, match="spent"):
        await writer.write(b"more")
    unused = space.writer()
    await unused.write(b"few")
    await unused.abort()
    sealed_writer = space.writer()
    await sealed_writer.write(b"few")
    sealed = await sealed_writer.seal()
    await space.discard(sealed)
    await space.discard(sealed)
    assert (unpublished(space), await names(space), space.gathered) == ([], [], 0)


async def test_aborting_after_a_cancelled_seal_leaves_nothing(space: DirectorySpace) -> None:
    writer = space.writer()
    await writer.write(b"x" * 100_000)
    sealing = asyncio.create_task(writer.seal())
    await asyncio.sleep(0)
    sealing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sealing
    await writer.abort()
    assert unpublished(space) == []


async def test_beyond_the_common_bound_each_writer_writes_through(space: DirectorySpace) -> None:
    half = b"x" * (PIECE // 2)
    writers = [space.writer() for _ in range(2 * GATHERED // PIECE + 40)]
    for writer in writers:
        await writer.write(half)
    assert space.gathered <= GATHERED
    assert len(unpublished(space)) == 40
    await asyncio.gather(*(writer.abort() for writer in writers))
    assert (unpublished(space), space.gathered) == ([], 0)


async def test_an_object_that_is_not_there_is_missing(space: DirectorySpace) -> None:
    await put(space, "a/b", b"x")
    for name in ("a/c", "z", "a", "a/b/c"):
        with pytest.raises(ObjectMissingError, match="no object"):
            await space.open(name)
        if name != "a":
            await space.delete(name)
    await space.delete("a/b")
    with pytest.raises(ObjectMissingError):
        await space.open("a/b")


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/", ".incoming/x", "a\0b"]
)
async def test_no_name_leads_out_of_the_space(space: DirectorySpace, name: str) -> None:
    with pytest.raises(ValueError, match="names no object"):
        await space.open(name)
    with pytest.raises(ValueError, match="names no object"):
        await space.delete(name)
    writer = space.writer()
    sealed = await writer.seal()
    with pytest.raises(ValueError, match="names no object"):
        await space.publish([(sealed, name)])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_is_told_and_leaves_nothing(
    space: DirectorySpace, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(_descriptor: int, _pieces: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "writev", full)
    writer = space.writer()
    with pytest.raises(SpaceFullError, match="'clinical' is full"):
        await writer.write(b"x" * PIECE)
    with pytest.raises(ValueError, match="spent"):  # no object with a hole in it
        await writer.write(b"more")
    await writer.abort()
    assert (unpublished(space), space.gathered) == ([], 0)


async def test_a_kernel_that_writes_less_than_asked_for_loses_nothing(
    space: DirectorySpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        os, "writev", lambda descriptor, views: os.write(descriptor, views[0][:777])
    )
    content = os.urandom(50_000)
    await put(space, "a", content[:20_000], content[20_000:])
    assert await get(space, "a") == content


DIE = """
import asyncio, os, sys
from pathlib import Path
from imaging_ingestion.storage.directory import DirectorySpace
async def main():
    space = DirectorySpace("s", Path(sys.argv[1]))
    writer = space.writer()
    await writer.write(b"x" * (1 << 21))
    print("written", flush=True)
    sys.stdin.read()
asyncio.run(main())
"""


async def test_only_what_dead_processes_left_is_removed_at_the_start(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DIE, str(tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"written\n"
        beside = DirectorySpace("s", tmp_path)
        assert len(unpublished(beside)) == 1  # of a living process
        await beside.close()
    finally:
        process.kill()
        await process.communicate()
    (tmp_path / ".incoming" / "stray").write_bytes(b"not ours")
    after = DirectorySpace("s", tmp_path)
    assert [path.name for path in unpublished(after)] == ["stray"]
    await after.close()
    await after.close()


async def test_a_large_object_takes_no_memory_of_its_size(space: DirectorySpace) -> None:
    piece = os.urandom(1 << 16)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    writer = space.writer()
    for _ in range(3200):  # 200 MiB
        await writer.write(piece)
        assert space.gathered <= PIECE
    await writer.abort()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB
