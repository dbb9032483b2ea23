"""What every space does, whatever keeps its objects: whole or not there, back-pressed, tidy."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spaces import AnySpace, get, names, put

from imaging_ingestion.storage import cloud_buffers, directory
from imaging_ingestion.storage.cloud_buffers import PART
from imaging_ingestion.storage.directory import PIECE
from imaging_ingestion.storage.space import ObjectMissingError


@pytest.mark.parametrize(
    "size", [0, 1, 5000, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 17, PART, PART + 1, 3 * PART + 5]
)
async def test_what_is_read_is_what_was_written(space: AnySpace, size: int) -> None:
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
    assert space.gathered == 0


async def test_any_range_is_read_and_streamed_in_pieces_of_a_megabyte_at_most(
    space: AnySpace,
) -> None:
    content = os.urandom(3 * PIECE + 17)
    await put(space, "o", content)
    reader = await space.open("o")
    for offset, length in [(0, 10), (PIECE - 5, 10), (PIECE, 2 * PIECE), (2 * PIECE + 1, 1)]:
        assert await reader.read(offset, length) == content[offset : offset + length]
        pieces = [piece async for piece in reader.stream(offset, length)]
        assert b"".join(pieces) == content[offset : offset + length]
        assert max(map(len, pieces)) <= PIECE
    assert b"".join([piece async for piece in reader.stream(5)]) == content[5:]
    assert [piece async for piece in reader.stream(len(content), 10)] == []
    await reader.close()
    with pytest.raises(ValueError, match="closed"):
        await reader.read(0, 1)


async def test_objects_are_listed_with_their_sizes_and_times(space: AnySpace) -> None:
    before = time.time() - 2  # a store may count in whole seconds
    for name, size in [("a/1", 10), ("a/2", 0), ("b", PIECE)]:
        await put(space, name, bytes(size))
    after = time.time() + 2
    listed = [one async for one in space.objects()]
    assert {one.name: one.size for one in listed} == {"a/1": 10, "a/2": 0, "b": PIECE}
    assert all(before <= one.modified / 1e6 <= after for one in listed)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(pieces=st.lists(st.binary(max_size=40_000), max_size=12))
def test_any_pieces_make_the_same_object_and_their_buffers_may_be_reused(
    new_space: Callable[[str], AnySpace], pieces: list[bytes]
) -> None:
    async def run() -> None:
        space = new_space("pieces")
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


async def test_an_object_is_not_there_before_it_is_published(space: AnySpace) -> None:
    writer = space.writer()
    await writer.write(b"x" * (PART + 1))
    sealed = await writer.seal()
    assert await names(space) == []
    await space.publish([(sealed, "a/b")])
    assert await names(space) == ["a/b"]


async def test_many_objects_are_published_at_once_and_again_without_harm(space: AnySpace) -> None:
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


async def test_an_object_of_a_name_that_is_there_replaces_it(space: AnySpace) -> None:
    await put(space, "a/b", b"old")
    reader = await space.open("a/b")
    await put(space, "a/b", b"new")
    assert await reader.read(0, 10) == b"old"
    await reader.close()
    assert await get(space, "a/b") == b"new"


async def test_what_is_read_is_of_one_object_even_if_another_gets_its_name(
    space: AnySpace,
) -> None:
    await put(space, "a/b", b"o" * (3 * PIECE))
    reader = await space.open("a/b")
    await put(space, "a/b", b"n" * (3 * PIECE))
    try:
        assert await reader.read(2 * PIECE, 10) == b"o" * 10
    except OSError as error:
        assert "replaced" in str(error)  # noqa: PT017 - a store need not keep it
    await reader.close()


async def test_what_is_read_of_a_deleted_object_is_right_or_an_error(space: AnySpace) -> None:
    await put(space, "a/b", b"o" * (3 * PIECE))
    reader = await space.open("a/b")
    await space.delete("a/b")
    try:
        assert await reader.read(2 * PIECE, 10) == b"o" * 10
    except OSError as error:
        assert "deleted" in str(error)  # noqa: PT017 - a store need not keep it
    await reader.close()


@pytest.mark.parametrize("size", [3, 2 * PIECE, 2 * PART])
async def test_what_is_aborted_or_discarded_leaves_nothing(space: AnySpace, size: int) -> None:
    writer = space.writer()
    await writer.write(b"x" * size)
    await writer.abort()
    await writer.abort()
    with pytest.raises(ValueError, match="spent"):
        await writer.write(b"more")
    discarded, aborted = space.writer(), space.writer()
    await discarded.write(b"x" * size)
    sealed = await discarded.seal()
    await space.discard(sealed)
    await space.discard(sealed)
    await aborted.write(b"x" * size)
    sealed = await aborted.seal()
    await aborted.abort()
    with pytest.raises(OSError):  # noqa: PT011 - each space has its own words
        await space.publish([(sealed, "never")])
    assert (await names(space), space.gathered) == ([], 0)


async def test_nothing_of_a_writer_that_was_only_made_needs_to_be_undone(space: AnySpace) -> None:
    await space.writer().abort()
    assert (await names(space), space.gathered) == ([], 0)


@pytest.mark.parametrize("size", [100_000, 2 * PART + 5])
async def test_aborting_after_a_cancelled_seal_leaves_nothing(space: AnySpace, size: int) -> None:
    writer = space.writer()
    await writer.write(b"x" * size)
    sealing = asyncio.create_task(writer.seal())
    await asyncio.sleep(0)
    sealing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sealing
    await writer.abort()
    assert (await names(space), space.gathered) == ([], 0)


async def test_writers_share_a_bound_of_what_they_hold_in_memory(
    space: AnySpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "GATHERED", 4 << 20)
    monkeypatch.setattr(cloud_buffers, "HELD", 4 << 20)
    contents = [bytes([number]) * (PIECE // 2) for number in range(20)]
    writers = [space.writer() for _ in contents]
    for writer, content in zip(writers, contents, strict=True):
        await writer.write(content)
        assert space.gathered <= 4 << 20
    batch = [(await writer.seal(), f"o/{number}") for number, writer in enumerate(writers)]
    await space.publish(batch)
    assert space.gathered == 0
    for number, content in enumerate(contents):
        assert await get(space, f"o/{number}") == content


async def test_an_object_that_is_not_there_is_missing(space: AnySpace) -> None:
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
async def test_no_name_leads_out_of_the_space(space: AnySpace, name: str) -> None:
    with pytest.raises(ValueError, match="names no object"):
        await space.open(name)
    with pytest.raises(ValueError, match="names no object"):
        await space.delete(name)
    writer = space.writer()
    sealed = await writer.seal()
    with pytest.raises(ValueError, match="names no object"):
        await space.publish([(sealed, name)])


async def test_spaces_beside_each_other_do_not_see_each_others_objects(
    space: AnySpace, new_space: Callable[[str], AnySpace]
) -> None:
    beside = new_space("space-beside")
    await put(space, "a/b", b"mine")
    await put(beside, "a/c", b"yours")
    assert (await names(space), await names(beside)) == (["a/b"], ["a/c"])
    with pytest.raises(ObjectMissingError):
        await beside.open("a/b")
    await beside.close()
    await beside.close()
