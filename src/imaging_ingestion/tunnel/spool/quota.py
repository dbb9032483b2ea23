"""How much the spool may hold, and a storage space that keeps to it.

Bytes are counted as they come, so that many instances under way together cannot exceed what one
after the other may not. Whoever writes beyond it gets a SpaceFullError, which the intake answers by
A700, as it answers a disk that is full.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

from imaging_ingestion.storage.space import (
    ListedObject,
    ObjectMissingError,
    ObjectReader,
    ObjectWriter,
    SealedObject,
    Space,
    SpaceFullError,
)

#: How far the answer of the disk holds: seconds, and bytes written since.
_SECONDS: Final = 0.5
_BYTES: Final = 16 << 20


class Quota:
    """Counts the bytes of a spool's objects. `limit` and `min_free` in bytes."""

    def __init__(self, folder: Path, limit: int | None, min_free: int) -> None:
        self.kept = 0  # of objects that have their rows
        self.coming = 0  # of those that do not have them yet
        #: How often something was refused.
        self.refusals = 0
        self._folder = folder
        self._limit = limit
        self._min_free = min_free
        self._room = 0  # bytes that the disk has beyond `min_free`, at the last look
        self._look_again = 0.0

    @property
    def used(self) -> int:
        """Bytes of all objects."""
        return self.kept + self.coming

    def take(self, count: int) -> None:
        """So many bytes come. Raises SpaceFullError if they may not."""
        if self._limit is not None and self.used + count > self._limit:
            self.refusals += 1
            raise SpaceFullError(errno.EDQUOT, f"the quota of {self._limit} bytes is used up")
        now = time.monotonic()
        if now >= self._look_again or self._room < count:
            found = os.statvfs(self._folder)
            self._room = min(found.f_bavail * found.f_frsize - self._min_free, _BYTES)
            self._look_again = now + _SECONDS
        if self._room < count:
            self.refusals += 1
            raise SpaceFullError(errno.ENOSPC, f"less than {self._min_free} bytes of the disk")
        self._room -= count
        self.coming += count

    def came(self, count: int) -> None:
        """What came has its row now."""
        self.coming = max(0, self.coming - count)
        self.kept += count

    def give_back(self, count: int) -> None:
        """Bytes that came are not kept."""
        self.coming = max(0, self.coming - count)

    def went(self, count: int) -> None:
        """So many bytes were removed."""
        self.kept = max(0, self.kept - count)


class SpoolSpace:
    """A part of the spool's space under a name of its own: all objects are in one directory."""

    def __init__(self, name: str, space: Space, quota: Quota) -> None:
        self.name = name
        self._space = space
        self._quota = quota

    def writer(self) -> ObjectWriter:
        """See `Space.writer`."""
        return _Writer(self._space.writer(), self._quota)

    async def publish(self, objects: Sequence[tuple[SealedObject, str]]) -> None:
        """See `Space.publish`."""
        await self._space.publish(objects)
        self._quota.came(sum(sealed.size for sealed, _ in objects))

    async def discard(self, sealed: SealedObject) -> None:
        """See `Space.discard`."""
        await self._space.discard(sealed)
        self._quota.give_back(sealed.size)

    async def open(self, name: str) -> ObjectReader:
        """See `Space.open`."""
        return await self._space.open(name)

    async def delete(self, name: str) -> None:
        """See `Space.delete`."""
        try:
            reader = await self._space.open(name)
        except ObjectMissingError:
            return
        await reader.close()
        await self.remove(name, reader.size)

    async def remove(self, name: str, size: int) -> None:
        """Remove an object of `size` bytes."""
        await self._space.delete(name)
        self._quota.went(size)

    def names(self) -> AsyncIterator[str]:
        """See `Space.names`: those of all parts."""
        return self._space.names()

    def objects(self) -> AsyncIterator[ListedObject]:
        """See `Space.objects`: those of all parts."""
        return self._space.objects()


class _Writer:
    """An `ObjectWriter` that counts."""

    def __init__(self, writer: ObjectWriter, quota: Quota) -> None:
        self._writer = writer
        self._quota = quota
        self._taken = 0

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        length = data.nbytes if isinstance(data, memoryview) else len(data)
        self._quota.take(length)
        self._taken += length
        await self._writer.write(data)

    async def seal(self) -> SealedObject:
        sealed = await self._writer.seal()
        self._taken = 0  # whoever has the object answers for it
        return sealed

    async def abort(self) -> None:
        taken, self._taken = self._taken, 0
        self._quota.give_back(taken)
        await self._writer.abort()
