"""An instance's data set as it is stored, without preamble and file meta, to be sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from imaging_ingestion.dicom.header import NotDicomError, ScanError
from imaging_ingestion.dicom.scan import HeaderScanner
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.retrieve import Instance
from imaging_ingestion.manifest.stored_object import open_object, unavailable
from imaging_ingestion.storage.space import ObjectReader, Space

#: File meta information has a few hundred bytes; where it has more, more is read.
_FIRST: Final = 4096


@dataclass(slots=True)
class StoredDataSet:
    """An open object. `instance` is what it is now, which may be newer than what was asked for."""

    instance: Instance
    _reader: ObjectReader
    _offset: int  # bytes before the data set

    @property
    def size(self) -> int:
        """Bytes of the data set."""
        return self._reader.size - self._offset

    @classmethod
    async def open(cls, space: Space, database: Database, instance: Instance) -> StoredDataSet:
        """Open the object and find its data set. Raises as `manifest.stored_object.open_object`."""
        instance, reader = await open_object(space, database, instance)
        try:
            offset = await _data_set_offset(reader)
        except ScanError as error:
            await reader.close()
            raise unavailable(space, instance, f"cannot be read: {error.reason}") from error
        except BaseException:
            await reader.close()
            raise
        return cls(instance, reader, offset)

    def stream(self) -> AsyncIterator[bytes]:
        """The data set's bytes, in pieces of at most 1 MiB."""
        return self._reader.stream(self._offset)

    async def close(self) -> None:
        """Release the object. Harmless twice."""
        await self._reader.close()


async def _data_set_offset(reader: ObjectReader) -> int:
    """Where the data set begins. Raises ScanError."""
    scanner = HeaderScanner()
    at = 0
    size = _FIRST
    while True:
        piece = await reader.read(at, size)
        at += len(piece)
        scanner.feed(piece)
        try:
            return scanner.header_so_far().dataset_offset
        except NotDicomError:
            if not piece:
                raise
        size *= 4
