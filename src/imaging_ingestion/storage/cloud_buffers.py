"""What a space in an object store holds of objects until the store has them.

An object's name tells its digest, so nothing can be sent to a store before its last byte is here.
Small objects wait in memory, within a bound that all writers share; larger ones, and any when the
bound is reached, in a scratch folder: in files without names, of which nothing is left when the
process ends, however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import itertools
import os
import tempfile
import threading
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import ParamSpec, TypeVar

from imaging_ingestion.storage.space import SealedObject, SpaceFullError
from imaging_ingestion.threads import Threads

P = ParamSpec("P")
T = TypeVar("T")

#: Bytes that go to the store in one request. Larger objects go in parts of this size.
PART = 8 << 20
#: Bytes of objects that all writers of a space hold in memory; beyond them, objects go to files.
HELD = 64 << 20
#: Bytes gathered before they are added to a file.
PIECE = 1 << 20
THREADS = 8

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Buffers:
    """The memory that a space's writers share, its scratch folder, and threads for the latter."""

    def __init__(self, space: str, scratch: Path) -> None:
        """Files go to `scratch`, which is made if need be. Raises OSError."""
        self.held = 0  # bytes in memory; touched by the event loop's thread only
        self.scratch = scratch
        self._space = space
        self._threads = Threads(THREADS, f"space-{space}")
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` in a thread; a full scratch folder becomes a SpaceFullError."""

        def guarded() -> T:
            try:
                return fn(*args, **kwargs)
            except OSError as error:
                if error.errno in _FULL:
                    what = f"space {self._space!r}: its scratch folder is full: {error.strerror}"
                    raise SpaceFullError(error.errno, what) from error
                raise

        return await self._threads.run(guarded)

    async def close(self) -> None:
        """Finish what the threads have in hand. Harmless twice."""
        await asyncio.to_thread(self._threads.shutdown)


class Content:
    """The bytes of one object, while they come and until the store has them.

    What is in memory counts in `Buffers.held`.
    """

    def __init__(self, buffers: Buffers) -> None:
        self.size = 0
        self._buffers = buffers
        self._digest = hashlib.sha256()
        self._held = bytearray()
        self._file: FileIO | None = None
        self._closed = False
        # A cancelled wait leaves its thread running; whatever comes next waits for it here.
        self._busy = threading.Lock()

    def hold(self, data: bytes | bytearray | memoryview) -> None:
        """Take a copy of `data`."""
        before = len(self._held)
        self._held += data
        self._buffers.held += len(self._held) - before

    @property
    def is_due(self) -> bool:
        """Whether what is held has to go to the file."""
        held = len(self._held)
        if self._file is not None and held >= PIECE:
            return True
        return held > PART or (held > 0 and self._buffers.held > HELD)

    async def spill(self) -> None:
        """Put what is held into the file. Raises SpaceFullError, OSError."""
        held, self._held = self._held, bytearray()
        try:
            await self._buffers.run(self._append, held)
        finally:
            self._buffers.held -= len(held)

    async def finish(self) -> bytes:
        """The last byte is here; the SHA-256 of all. Raises SpaceFullError, OSError."""
        if self._file is not None and self._held:
            await self.spill()
        await self._buffers.run(self._hash_held)
        return self._digest.digest()

    async def read(self, offset: int, length: int) -> bytes | bytearray:
        """Bytes of a finished object; if it is in memory, all of them at once."""
        if self._file is None:
            return self._held
        return await self._buffers.run(self._read, offset, length)

    async def close(self) -> None:
        """Forget the bytes. Harmless twice, and while a thread still has to do with them."""
        self._closed = True
        self._buffers.held -= len(self._held)
        self._held = bytearray()
        if self._file is not None or self._busy.locked():
            await self._buffers.run(self._close)

    def _append(self, data: bytearray) -> None:
        with self._busy:
            if self._closed:
                return
            if self._file is None:
                self._file = tempfile.TemporaryFile(  # noqa: SIM115 - `_close` does
                    dir=self._buffers.scratch, buffering=0
                )
            self._digest.update(data)
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
            self.size += len(data)

    def _hash_held(self) -> None:
        with self._busy:
            self._digest.update(self._held)
            self.size += len(self._held)

    def _read(self, offset: int, length: int) -> bytes:
        with self._busy:
            assert self._file is not None
            return os.pread(self._file.fileno(), length, offset)

    def _close(self) -> None:
        with self._busy, contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()


class SealedContents:
    """The contents of the sealed objects that have no names yet."""

    def __init__(self) -> None:
        self._contents: dict[str, Content] = {}
        self._tokens = itertools.count()

    def add(self, content: Content, sha256: bytes) -> SealedObject:
        """Keep a finished content."""
        token = str(next(self._tokens))
        self._contents[token] = content
        return SealedObject(sha256, content.size, token)

    def find(self, token: str) -> Content | None:
        """A sealed object's content; None once it was dropped."""
        return self._contents.get(token)

    async def drop(self, token: str) -> None:
        """Forget one. Harmless twice."""
        content = self._contents.pop(token, None)
        if content is not None:
            await content.close()

    async def drop_all(self) -> None:
        """Forget all."""
        for token in list(self._contents):
            await self.drop(token)
