"""Brings data sets into other transfer syntaxes, as they stream or through files.

Between uncompressed ones nothing is kept. Where pixels have to be decoded or encoded, the data set
goes to a file and its result comes from another: in memory there is one piece at a time.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from imaging_ingestion.dicom.dataset_convert import DataSetConverter
from imaging_ingestion.dicom.header import ScanError
from imaging_ingestion.dicom.reencode import Hole, Piece
from imaging_ingestion.dicom.transcode import NATIVE, TranscodeError, targets
from imaging_ingestion.transcoding.worker import Job
from imaging_ingestion.transcoding.worker_pool import WorkerError, WorkerPool

__all__ = ["TranscodeError", "Transcoder", "TranscoderSettings", "WorkerError"]

_PIECE: Final = 1 << 20  # bytes
_WORKED: Final = 1 << 20  # bytes a second that a conversion manages at least


@dataclass(frozen=True, slots=True)
class TranscoderSettings:
    """How much of the machine it may take.

    `memory` is bytes of address space of each process; `idle`: seconds without work after which one
    ends; `timeout`: seconds for a conversion, to which come some for each byte. `folder` is for the
    files of what is being converted; None: the system's.
    """

    processes: int = 2
    memory: int = 4 << 30
    idle: float = 60.0
    timeout: float = 60.0
    folder: Path | None = None


class Transcoder:
    """Converts data sets; `close` it at the end."""

    def __init__(self, settings: TranscoderSettings | None = None) -> None:
        settings = settings or TranscoderSettings()
        self._timeout = settings.timeout
        self._folder = str(settings.folder or tempfile.gettempdir())
        self._pool = WorkerPool(
            size=settings.processes,
            memory=settings.memory,
            idle=settings.idle,
            folder=self._folder,
        )

    def targets(self, transfer_syntax_uid: str) -> Sequence[str]:
        """What a data set in that transfer syntax can be brought into, the best first."""
        return targets(transfer_syntax_uid)

    @asynccontextmanager
    async def converted(
        self, data_set: AsyncIterator[bytes], source_uid: str, target_uid: str
    ) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """The data set, as it streams, in the transfer syntax `target_uid`.

        Raises TranscodeError, WorkerError, and OSError, also of `data_set` itself; on entry, where
        pixels are decoded or encoded.
        """
        if source_uid in NATIVE and target_uid in NATIVE:
            converter = DataSetConverter(source_uid, target_uid)
            async with aclosing(_converted(data_set, converter)) as pieces:
                yield pieces
            return
        async with AsyncExitStack() as stack:
            source = await self._file(stack)
            target = await self._file(stack)
            size = 0
            async for piece in data_set:
                size += await asyncio.to_thread(source.write, piece)
            await asyncio.to_thread(source.flush)
            job, timeout = Job(source_uid, target_uid), self._timeout + size / _WORKED
            await self._pool.run(job, source.fileno(), target.fileno(), timeout)
            await asyncio.to_thread(target.seek, 0)
            yield _pieces(target)

    async def close(self) -> None:
        """End the processes."""
        await self._pool.close()

    async def _file(self, stack: AsyncExitStack) -> IO[bytes]:
        """A file without a name."""
        file: IO[bytes] = await asyncio.to_thread(tempfile.TemporaryFile, dir=self._folder)
        stack.push_async_callback(asyncio.to_thread, file.close)
        return file


async def _converted(
    data_set: AsyncIterator[bytes], converter: DataSetConverter
) -> AsyncGenerator[bytes, None]:
    """In a thread: thousands of small elements would keep the event loop."""
    try:
        async for data in data_set:
            pieces = converter.feed(data)
            while joined := await asyncio.to_thread(_joined, pieces):
                yield joined
        pieces = converter.finish()
        while joined := await asyncio.to_thread(_joined, pieces):
            yield joined
    except ScanError as error:
        raise TranscodeError(error.reason) from error


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, _PIECE):
        yield piece


def _joined(pieces: Iterator[Piece]) -> bytes:
    """The next pieces, about 1 MiB of them; nothing when there are no more."""
    joined = bytearray()
    for piece in pieces:
        assert not isinstance(piece, Hole)
        joined += piece
        if len(joined) >= _PIECE:
            break
    return bytes(joined)
