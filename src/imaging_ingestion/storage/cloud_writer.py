"""Objects on their way into an object store: gathered, then sent whole."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import obstore
import structlog
from obstore.store import ObjectStore

from imaging_ingestion.storage.cloud_buffers import PART, Buffers, Content, SealedContents
from imaging_ingestion.storage.space import SealedObject

log = structlog.get_logger(__name__)

#: Parts of one object on their way together.
PARTS = 4
#: S3 and GCS take 10,000 parts of one object.
_MOST_PARTS = 9_000


class CloudWriter:
    """One object on its way into the space (see `ObjectWriter`)."""

    def __init__(
        self,
        buffers: Buffers,
        room: Callable[[], Awaitable[None]],
        contents: SealedContents,
    ) -> None:
        """`room` waits while the store is behind; `contents` takes the finished object over."""
        self._content = Content(buffers)
        self._room = room
        self._contents = contents
        self._sealed: SealedObject | None = None
        self._spent = False

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """See `ObjectWriter.write`. Raises SpaceFullError, OSError, ValueError when spent."""
        self._check()
        await self._room()
        self._content.hold(data)
        if self._content.is_due:
            self._spent = True  # if these bytes do not arrive, no others may follow
            await self._content.spill()
            self._spent = False

    async def seal(self) -> SealedObject:
        """See `ObjectWriter.seal`. Raises SpaceFullError, OSError, ValueError when spent."""
        self._check()
        self._spent = True
        sha256 = await self._content.finish()
        self._sealed = self._contents.add(self._content, sha256)
        return self._sealed

    async def abort(self) -> None:
        """See `ObjectWriter.abort`. It also takes back a `seal` that was cancelled."""
        self._spent = True
        await self._content.close()
        if self._sealed is not None:
            await self._contents.drop(self._sealed.token)

    def _check(self) -> None:
        if self._spent:
            raise ValueError("the writer is spent: its object was sealed or given up")


def weight(size: int) -> int:
    """Bytes of memory that sending an object of `size` bytes takes at most."""
    return size if size <= PART else (PARTS + 2) * _part(size)


async def send(store: ObjectStore, name: str, content: Content, attributes: dict[str, str]) -> None:
    """Put an object under its name, where it is there whole afterwards, or else not at all.

    Never cancel it: a request that is given up half-way may still take effect in the store. Raises
    what the library raises.
    """
    if content.size <= PART:
        body = await content.read(0, content.size)
        await obstore.put_async(store, name, body, attributes=attributes, use_multipart=False)
        return
    part = _part(content.size)
    upload = obstore.open_writer_async(
        store, name, attributes=attributes, buffer_size=part, max_concurrency=PARTS
    )
    try:
        for offset in range(0, content.size, part):
            await upload.write(await content.read(offset, part))
    except BaseException as error:
        try:
            await upload.__aexit__(type(error), error, None)  # tells the store to forget the parts
        except Exception as failed:  # noqa: BLE001 - the first error is the one to tell
            log.warning("upload not aborted", object_name=name, error=type(failed).__name__)
        raise
    await upload.close()


def _part(size: int) -> int:
    """Bytes of each part of an object."""
    return max(PART, -(-size // _MOST_PARTS))
