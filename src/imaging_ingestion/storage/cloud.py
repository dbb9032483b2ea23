"""A storage space in an object store: S3, Azure Blob or GCS, through the library obstore.

A store is told an object's name with its first byte, and ours have their digest in it: what is
written is gathered here (`cloud_buffers`), and `publish` puts it under its name, in one request or
as an upload in parts that the store joins at the end. Either way the object is there whole or not
at all, and there is nothing to rename. docs/decisions/0009-object-store-spaces.md compares this
with other ways.

Every request may be repeated by the library: names are not used twice, so a put that comes late
puts what is there already.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import obstore
from obstore.store import ObjectStore

from imaging_ingestion.storage.budget import Budget
from imaging_ingestion.storage.cloud_buffers import Buffers, Content, SealedContents
from imaging_ingestion.storage.cloud_errors import port_errors
from imaging_ingestion.storage.cloud_reader import CloudReader
from imaging_ingestion.storage.cloud_writer import CloudWriter, send, weight
from imaging_ingestion.storage.object_name import check_object_name
from imaging_ingestion.storage.space import ListedObject, ObjectMissingError, SealedObject

#: Bytes on their way to the store together, beside those that wait in memory.
SENDING = 96 << 20
#: Objects on their way to the store together.
SENDINGS = 32
#: Bytes that may wait for the store; beyond them writers wait.
BEHIND = 256 << 20
#: Names the library hands over at a time; a store lists up to 1,000 of them in one answer.
PAGE = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class CloudSpace:
    """A space whose objects are those of one bucket, under a prefix (the port is `storage.space`).

    No request is made before the first call; `probe` tells whether the space can be used.
    """

    def __init__(self, name: str, store: ObjectStore, place: str, scratch: Path) -> None:
        """`place` is the store in words; `scratch` a folder for what is too large for memory."""
        self.name = name
        self._store = store
        self._place = f"space {name!r} ({place})"
        self._buffers = Buffers(name, scratch)
        self._contents = SealedContents()
        self._sending = Budget(SENDING)
        self._behind = 0  # bytes given to `publish` that the store does not have yet
        self._caught_up = asyncio.Event()
        self._caught_up.set()

    @property
    def gathered(self) -> int:
        """Bytes of objects in memory that the store does not have yet."""
        return self._buffers.held

    async def probe(self) -> None:
        """See whether the space is there and may be listed. Raises OSError."""
        with port_errors(self._place, "listing"):
            async for _ in obstore.list(self._store, chunk_size=1):
                return

    def writer(self) -> CloudWriter:
        """See `Space.writer`."""
        return CloudWriter(self._buffers, self._room, self._contents)

    async def publish(self, objects: Sequence[tuple[SealedObject, str]]) -> None:
        """See `Space.publish`. May be repeated: what is published already stays so.

        It returns, even when cancelled, only when nothing of them is under way any more: whoever is
        told that it failed may delete the names. Raises OSError, and ValueError for a name outside
        the space.
        """
        for _, name in objects:
            check_object_name(name)
        await _all_of([self._publish(sealed, name) for sealed, name in objects])

    async def discard(self, sealed: SealedObject) -> None:
        """See `Space.discard`."""
        await self._contents.drop(sealed.token)

    async def open(self, name: str) -> CloudReader:
        """See `Space.open`."""
        check_object_name(name)
        return await CloudReader.open(self._store, self._place, name)

    async def delete(self, name: str) -> None:
        """See `Space.delete`."""
        check_object_name(name)
        try:
            with port_errors(self._place, f"deleting {name!r}"):
                await obstore.delete_async(self._store, name)
        except ObjectMissingError:
            pass

    async def names(self) -> AsyncIterator[str]:
        """See `Space.names`. Holds one page of names at a time."""
        async for listed in self.objects():
            yield listed.name

    async def objects(self) -> AsyncIterator[ListedObject]:
        """See `Space.objects`. Holds one page of them at a time."""
        with port_errors(self._place, "listing"):
            async for page in obstore.list(self._store, chunk_size=PAGE):
                for meta in page:
                    if meta["path"]:  # else the folder that a console made for the prefix
                        modified = (meta["last_modified"] - _EPOCH) // _MICROSECOND
                        yield ListedObject(meta["path"], meta["size"], modified)

    async def close(self) -> None:
        """Forget what was not published and end the threads. Harmless twice."""
        await self._contents.drop_all()
        await self._buffers.close()

    async def _publish(self, sealed: SealedObject, name: str) -> None:
        content = self._contents.find(sealed.token)
        if content is None:
            await self._check_published(sealed, name)
            return
        self._fall_behind(sealed.size)
        try:
            await self._send(content, sealed, name)
        finally:
            self._fall_behind(-sealed.size)
        await self._contents.drop(sealed.token)

    async def _send(self, content: Content, sealed: SealedObject, name: str) -> None:
        attributes = {"Content-Type": "application/dicom", "sha256": sealed.sha256.hex()}
        async with self._sending.hold(max(weight(sealed.size), SENDING // SENDINGS)):
            try:
                with port_errors(self._place, f"writing {name!r}"):
                    await send(self._store, name, content, attributes)
            except ObjectMissingError as error:  # an upload that the store has lost in between
                raise OSError(errno.EIO, str(error)) from None

    async def _check_published(self, sealed: SealedObject, name: str) -> None:
        """An earlier try got this far. Raises OSError if it did not."""
        try:
            reader = await self.open(name)
        except ObjectMissingError:
            what = f"{self._place}: what is to be {name!r} was given up"
            raise OSError(errno.ENOENT, what) from None
        await reader.close()
        if reader.size != sealed.size:
            what = f"{self._place}: {name!r} has {reader.size} bytes, {sealed.size} expected"
            raise OSError(errno.EIO, what)

    def _fall_behind(self, size: int) -> None:
        self._behind += size
        if self._behind > BEHIND:
            self._caught_up.clear()
        else:
            self._caught_up.set()

    async def _room(self) -> None:
        """Wait while the store is too far behind.

        What it waits for is being published already, so nobody waits for himself.
        """
        if not self._caught_up.is_set():
            await self._caught_up.wait()


async def _all_of(works: Sequence[Coroutine[None, None, None]]) -> None:
    """Do them together, to the end of each whatever becomes of the others or of the caller.

    Raises the first one's error.
    """
    tasks = [asyncio.create_task(work) for work in works]
    cancelled: asyncio.CancelledError | None = None
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as cancellation:
            cancelled = cancellation
    errors = [error for task in tasks if (error := task.exception()) is not None]
    if cancelled is not None:
        raise cancelled
    if errors:
        raise errors[0]
