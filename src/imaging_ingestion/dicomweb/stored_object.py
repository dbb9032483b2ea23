"""Objects opened for retrieval: an instance's file as it leaves, and its data set by ranges."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from imaging_ingestion.dicom.fragments import Reading
from imaging_ingestion.dicom.header import Header, ScanError
from imaging_ingestion.dicom.part10 import PREAMBLE, file_meta
from imaging_ingestion.dicom.scan import HeaderScanner
from imaging_ingestion.dicom.transfer_syntax import encoding_of
from imaging_ingestion.dicomweb.service import DicomwebService
from imaging_ingestion.manifest.retrieve import Instance, live_instance
from imaging_ingestion.storage.space import ObjectMissingError, ObjectReader

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: An object replaced while it is being looked up is looked up again, this often.
_ATTEMPTS = 4
_PREFIX = len(PREAMBLE)
_GROUP_2 = b"\x02\x00"
_HEADER_PIECE = 1 << 16
_INFLATE_INPUT = 1 << 14
_INFLATE_OUTPUT = 1 << 18


class ObjectUnavailableError(RuntimeError):
    """The manifest has the instance, but its object is missing or is not what it should be.

    The message names the SOP Instance UID; the log has it too.
    """


class InstanceGoneError(LookupError):
    """The instance was deleted, or went elsewhere, while it was being retrieved."""


async def open_object(
    service: DicomwebService, instance: Instance
) -> tuple[Instance, ObjectReader]:
    """Open an instance's object, and the instance as it is now.

    An object that is not there has been replaced or deleted since its row was read: the row is read
    again. Raises InstanceGoneError and ObjectUnavailableError.
    """
    for _ in range(_ATTEMPTS):
        try:
            reader = await service.space.open(instance.object_name)
        except ObjectMissingError:
            current = await service.database.read(
                live_instance, service.space_name, instance.sop_instance_uid
            )
            if current is None or not _same_place(instance, current):
                raise InstanceGoneError from None
            if current.object_name == instance.object_name:
                break
            instance = current
            continue
        if reader.size != instance.object_size:
            await reader.close()
            raise _unavailable(
                service, instance, f"has {reader.size} bytes instead of {instance.object_size}"
            )
        return instance, reader
    raise _unavailable(service, instance, "is missing")


def _same_place(instance: Instance, current: Instance) -> bool:
    return (
        current.study_instance_uid == instance.study_instance_uid
        and current.series_instance_uid == instance.series_instance_uid
    )


def _unavailable(service: DicomwebService, instance: Instance, what: str) -> ObjectUnavailableError:
    log.error(
        "wado.object_unavailable",
        space=service.space_name,
        sop_instance_uid=instance.sop_instance_uid,
        what=what,
    )
    return ObjectUnavailableError(
        f"the object of instance {instance.sop_instance_uid} {what}; `imaging-ingestion check` "
        "compares the space with the manifest"
    )


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
            first = await reader.read(0, max(read_ahead, _PREFIX + len(_GROUP_2)))
        except BaseException:
            await reader.close()
            raise
        made, skipped = _completion(first, instance)
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


def _completion(first: bytes, instance: Instance) -> tuple[bytes, int]:
    """What such an object lacks of a PS3.10 file, and how many of its first bytes that replaces."""
    if first[_PREFIX - 4 : _PREFIX] == b"DICM":
        if first[_PREFIX : _PREFIX + 2] == _GROUP_2:
            return b"", 0
        made, skipped = first[:_PREFIX], _PREFIX
    elif first[:4] == b"DICM":
        made, skipped = PREAMBLE, 4
    else:
        made, skipped = PREAMBLE, 0
    if first[skipped : skipped + 2] == _GROUP_2:
        return made, skipped
    meta = file_meta(
        instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid
    )
    return made + meta[_PREFIX:], skipped


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
            raise _unavailable(service, instance, f"cannot be read: {error.reason}") from error
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
