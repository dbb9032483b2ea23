"""An object of an object store, read by ranges."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from imaging_ingestion.storage.cloud_errors import is_past_the_end, port_errors
from imaging_ingestion.storage.space import ObjectMissingError

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult

#: Bytes read when an object is opened: most objects whole, and the header of any.
FIRST = 1 << 20
#: Bytes of a stream's pieces at most; the library is asked for less, since it rounds up.
PIECE = 1 << 20
_STREAMED = 1 << 18


class CloudReader:
    """An object opened for reading. Its first bytes are here already."""

    def __init__(
        self, store: ObjectStore, place: str, name: str, size: int, e_tag: str | None, first: bytes
    ) -> None:
        self.size = size
        self._store = store
        self._place = place
        self._name = name
        self._e_tag = e_tag
        self._first = first
        self._closed = False

    @classmethod
    async def open(cls, store: ObjectStore, place: str, name: str) -> CloudReader:
        """Open it: one request. Raises ObjectMissingError, OSError."""
        with port_errors(place, f"reading {name!r}"):
            try:
                found = await obstore.get_async(store, name, options={"range": (0, FIRST)})
                first = bytes(await found.bytes_async())
                meta = found.meta
            except BaseError as error:
                if not is_past_the_end(error):
                    raise
                first, meta = b"", await obstore.head_async(store, name)
        return cls(store, place, name, meta["size"], meta["e_tag"], first)

    async def read(self, offset: int, length: int) -> bytes:
        """See `ObjectReader.read`. Raises OSError, and ValueError when closed."""
        self._check()
        end = min(offset + length, self.size)
        if end <= offset:
            return b""
        if end <= len(self._first):
            return self._first[offset:end]
        with self._reading():
            found = await self._get(offset, end)
            data = bytes(await found.bytes_async())
        if len(data) != end - offset:
            raise OSError(
                errno.EIO, f"the object ends at byte {offset + len(data)}, {end} expected"
            )
        return data

    async def stream(self, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """See `ObjectReader.stream`. One request, however long it takes to read it all."""
        self._check()
        end = self.size if length is None else min(offset + length, self.size)
        if offset < min(end, len(self._first)):
            piece = self._first[offset:end]
            offset += len(piece)
            yield piece
        if offset >= end:
            return
        with self._reading():
            found = await self._get(offset, end)
            async for data in found.stream(min_chunk_size=_STREAMED):
                for start in range(0, len(data), PIECE):
                    piece = data[start : start + PIECE]
                    offset += len(piece)
                    yield piece
        if offset != end:
            raise OSError(errno.EIO, f"the object ends at byte {offset}, {end} expected")

    async def close(self) -> None:
        """See `ObjectReader.close`."""
        self._closed = True
        self._first = b""

    async def _get(self, start: int, end: int) -> GetResult:
        """Ask for a range of this very object, not of another that got its name."""
        options: GetOptions = {"range": (start, end), "if_match": self._e_tag}
        return await obstore.get_async(self._store, self._name, options=options)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            with port_errors(self._place, f"reading {self._name!r}"):
                yield
        except ObjectMissingError:
            what = f"{self._place}: {self._name!r} was deleted while it was being read"
            raise OSError(errno.ESTALE, what) from None

    def _check(self) -> None:
        if self._closed:
            raise ValueError("the object is closed")
