"""A space in a directory: what it does beside what every space does (test_space.py)."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from spaces import get, names, put

from imaging_ingestion.storage import directory
from imaging_ingestion.storage.directory import GATHERED, PIECE, DirectorySpace
from imaging_ingestion.storage.space import SpaceFullError


@pytest.fixture
async def space(tmp_path: Path) -> AsyncIterator[DirectorySpace]:
    opened = DirectorySpace("clinical", tmp_path / "space")
    yield opened
    await opened.close()


def unpublished(space: DirectorySpace) -> list[Path]:
    return [path for path in (space.root / ".incoming").rglob("*") if path.is_file()]


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
