"""Objects opened for retrieval: an instance's file as it leaves, and its data set by ranges."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TypeVar

from imaging_ingestion.dicom.fragments import Reading
from imaging_ingestion.dicom.header import Header, ScanError
from imaging_ingestion.dicom.part10 import BEGINNING, completion
from imaging_ingestion.dicom.scan import HeaderScanner
from imaging_ingestion.dicom.transfer_syntax import encoding_of
from imaging_ingestion.dicomweb.service import DicomwebService
from imaging_ingestion.manifest import stored_object
from imaging_ingestion.manifest.retrieve import Instance
from imaging_ingestion.manifest.stored_object import InstanceGoneError, ObjectUnavailableError
from imaging_ingestion.storage.space import ObjectReader

__all__ = [
    "InstanceGoneError",
    "ObjectUnavailableError",
    "Part10File",
    "StoredDataset",
    "open_object",
]

T = TypeVar("T")

_HEADER_PIECE = 1 << 16
_INFLATE_INPUT = 1 << 14
_INFLATE_OUTPUT = 1 << 18


async def open_object(
    service: DicomwebService, instance: Instance
) -> tuple[Instance, ObjectReader]:
    """As `manifest.stored_object.open_object`."""
    return await stored_object.open_object(service.space, service.database, instance)


@dataclass(slots=True)
class Part10File:
    """An instance as a PS3.10 file: its object, with preamble and file meta if it has none."""

    instance: Instance
    size: int  # bytes, as it leaves
    _reader: ObjectReader
    _made: bytes  # stands before the object's bytes
    _skipped: int  # bytes of the object that `_made` stands for
    _first: bytes  # of the object, read ahead

    @classmethod
    async def open(
        cls, service: DicomwebService, instance: Instance, read_ahead: int = 0
    ) -> Part10File:
        """Open it and read the first bytes. Raises as `open_object`."""
        instance, reader = await open_object(service, instance)
        try:
            first = await reader.read(0, max(read_ahead, BEGINNING))
        except BaseException:
            await reader.close()
            raise
        made, skipped = completion(
            first,
            instance.sop_class_uid,
            instance.sop_instance_uid,
            instance.transfer_syntax_uid,
        )
        size = len(made) + reader.size - skipped
        return cls(instance, size, reader, made, skipped, first)

    @property
    def is_as_received(self) -> bool:
        """Whether its bytes are those of the object."""
        return not self._made

    async def stream(
        self, offset: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The bytes from `offset`."""
        end = self.size if length is None else min(offset + length, self.size)
        made = len(self._made)
        if offset < made:
            piece = self._made[offset:end]
            offset += len(piece)
            yield piece
        at, stop = offset - made + self._skipped, end - made + self._skipped
        if at < min(stop, len(self._first)):
            piece = self._first[at:stop]
            self._first = b""
            at += len(piece)
            yield piece
        if at < stop:
            async for piece in self._reader.stream(at, stop - at):
                yield piece

    async def close(self) -> None:
        """Release the object. Harmless twice."""
        self._first = b""
        await self._reader.close()


class StoredDataset:
    """An object whose data set is read by ranges, as `dicom.scan` and `dicom.fragments` count.

    If the data set is deflated they count in the inflated one, which is inflated as far as needed.
    """

    def __init__(self, instance: Instance, reader: ObjectReader, header: Header) -> None:
        self.instance = instance
        self.header = header
        self._reader = reader
        self._inflated: _InflatedDataset | None = None
        if encoding_of(header.transfer_syntax_uid).deflated:
            self._inflated = _InflatedDataset(reader, header.dataset_offset)

    @classmethod
    async def open(
        cls,
        service: DicomwebService,
        instance: Instance,
        is_enough: Callable[[HeaderScanner], bool],
    ) -> StoredDataset:
        """Open the object and scan it until `is_enough`, or to its end.

        Raises as `open_object`.
        """
        instance, reader = await open_object(service, instance)
        try:
            scanner = HeaderScanner()
            offset = 0
            while offset < reader.size and not is_enough(scanner):
                piece = await reader.read(offset, _HEADER_PIECE)
                offset += len(piece)
                await asyncio.to_thread(scanner.feed, piece)
            header = scanner.header_so_far() if is_enough(scanner) else scanner.finish()
        except ScanError as error:
            await reader.close()
            raise stored_object.unavailable(
                service.space, instance, f"cannot be read: {error.reason}"
            ) from error
        except BaseException:
            await reader.close()
            raise
        return cls(instance, reader, header)

    async def answer(self, reading: Reading[T]) -> T:
        """Show a reading the ranges it asks for; its result."""
        try:
            wanted = next(reading)
            while True:
                wanted = reading.send(await self.read(wanted.offset, wanted.length))
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def read(self, offset: int, length: int) -> bytes:
        """Bytes [offset, offset + length), fewer only at the end."""
        if self._inflated is None:
            return await self._reader.read(offset, length)
        return b"".join([piece async for piece in self._inflated.stream(offset, length)])

    async def stream(self, offset: int, length: int) -> AsyncGenerator[bytes, None]:
        """The bytes from `offset`; fewer only if the data set ends before."""
        pieces = (
            self._reader.stream(offset, length)
            if self._inflated is None
            else self._inflated.stream(offset, length)
        )
        async for piece in pieces:
            yield piece

    async def close(self) -> None:
        """Release the object. Harmless twice."""
        await self._reader.close()


class _InflatedDataset:
    """A deflated data set (PS3.5 A.5) by ranges: forward as it comes, backward from the start."""

    def __init__(self, reader: ObjectReader, start: int) -> None:
        self._reader = reader
        self._start = start
        self._rewind()

    def _rewind(self) -> None:
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._at = self._start  # in the object
        self._input = b""
        self._offset = 0  # of `_piece` in the inflated data set
        self._piece = b""

    async def stream(self, offset: int, length: int) -> AsyncGenerator[bytes, None]:
        """Inflated bytes, in pieces of at most 256 KiB."""
        if offset < self._offset:
            self._rewind()
        end = offset + length
        while offset < end:
            at = offset - self._offset
            if at < len(self._piece):
                piece = self._piece[at : end - self._offset]
                offset += len(piece)
                yield piece
            elif not await self._advance():
                return

    async def _advance(self) -> bool:
        """Go to the next inflated piece; False at the end."""
        self._offset += len(self._piece)
        self._piece = b""
        while not self._piece and not self._inflate.eof:
            if not self._input:
                self._input = await self._reader.read(self._at, _INFLATE_INPUT)
                self._at += len(self._input)
            is_last = not self._input  # what is left is inside the decompressor
            self._piece = await asyncio.to_thread(
                self._inflate.decompress, self._input, _INFLATE_OUTPUT
            )
            self._input = self._inflate.unconsumed_tail
            if is_last:
                break
        return bool(self._piece)
