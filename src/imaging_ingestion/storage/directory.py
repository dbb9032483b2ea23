"""A storage space in a local directory.

An object streams into a file under `.incoming/`, is made durable there (`fdatasync`), and gets its
name by a rename followed by an `fsync` of the directory: after a crash it is either there whole or
not at all.

What is not published when a process dies stays in `.incoming/<process>/`, where nothing reads it.
Each process holds a lock on its own directory there, so that the next one to start can tell the
leftovers of the dead from the work of the living, and removes only the former.

Directories are never removed while the space is in use: a directory that another process knows to
be durable must not be replaced by one that is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from imaging_ingestion.storage.object_name import INCOMING, check_object_name
from imaging_ingestion.storage.space import (
    ListedObject,
    ObjectMissingError,
    SealedObject,
    SpaceFullError,
)
from imaging_ingestion.threads import Threads

P = ParamSpec("P")
T = TypeVar("T")
Piece = bytes | bytearray | memoryview

#: Bytes of one piece: what a writer gathers before it goes to the disk, what a stream yields.
PIECE = 1 << 20
#: Bytes that all writers of a space may gather together; beyond them each goes to disk at once.
GATHERED = 64 << 20
#: Fewer bytes than this are copied into one buffer, so that a trickle costs no object a write.
SMALL = 16 << 10
THREADS = 8
#: Directories remembered as durable.
REMEMBERED = 4096

#: The disk, the user's quota, or what one file may hold (RLIMIT_FSIZE, or the file system's).
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_IOV_MAX = min(os.sysconf("SC_IOV_MAX"), 1024)
_sync_data: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


class DirectorySpace:
    """A space whose objects are the files of one directory tree (the port is `storage.space`)."""

    def __init__(self, name: str, root: Path) -> None:
        """Open the space, making `root` if need be, and remove what dead processes left.

        Raises OSError when `root` cannot be used.
        """
        self.name = name
        self.root = root.absolute()
        self.gathered = 0  # bytes in the writers' buffers; touched by the event loop's thread only
        self._threads = Threads(THREADS, f"space-{name}")
        self._root = str(self.root)  # paths are plain text below: pathlib costs 20 us an object
        self._durable: dict[str, None] = {}
        self._durable_lock = threading.Lock()
        _make_directories(self._root)
        self._incoming, self._lock = _claim_incoming(self.root / INCOMING)
        self._numbers = itertools.count()

    def writer(self) -> DirectoryWriter:
        """See `Space.writer`."""
        return DirectoryWriter(self, f"{self._incoming}/{next(self._numbers)}")

    async def publish(self, objects: Sequence[tuple[SealedObject, str]]) -> None:
        """See `Space.publish`. May be repeated: what is published already stays so.

        Raises SpaceFullError, OSError, and ValueError for a name outside the space.
        """
        places = [(sealed.token, self._path(name)) for sealed, name in objects]
        await self.run(self._publish, places)

    async def discard(self, sealed: SealedObject) -> None:
        """See `Space.discard`."""
        await self.run(_unlink, sealed.token)

    async def open(self, name: str) -> DirectoryReader:
        """See `Space.open`."""
        path = self._path(name)
        try:
            descriptor, size = await self.run(_open, path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ObjectMissingError(f"space {self.name!r} has no object {name!r}") from None
        return DirectoryReader(self, descriptor, size)

    async def delete(self, name: str) -> None:
        """See `Space.delete`."""
        await self.run(_unlink, self._path(name))

    async def names(self) -> AsyncIterator[str]:
        """See `Space.names`. Holds the names of one directory at a time."""
        async for prefix, files in self._files():
            for file in files:
                yield prefix + file

    async def objects(self) -> AsyncIterator[ListedObject]:
        """See `Space.objects`. Holds those of one directory at a time."""
        async for prefix, files in self._files():
            for listed in await self.run(_look_at, f"{self._root}/{prefix}", prefix, files):
                yield listed

    async def _files(self) -> AsyncIterator[tuple[str, list[str]]]:
        """The path of each directory inside the space, and the files in it."""
        waiting = [""]
        while waiting:
            prefix = waiting.pop()
            directories, files = await self.run(_list, f"{self._root}/{prefix}")
            yield prefix, files
            waiting += [
                f"{prefix}{directory}/"
                for directory in directories
                if prefix or directory != INCOMING
            ]

    async def close(self) -> None:
        """Finish what the threads have in hand and give up `.incoming`. Harmless twice."""
        await asyncio.to_thread(self._close)

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` in one of the space's threads; a full disk becomes a SpaceFullError."""

        def guarded() -> T:
            try:
                return fn(*args, **kwargs)
            except OSError as error:
                if error.errno in _FULL:
                    raise SpaceFullError(
                        error.errno, f"space {self.name!r} is full: {error.strerror}"
                    ) from error
                raise

        return await self._threads.run(guarded)

    def _path(self, name: str) -> str:
        """The file of an object. Raises ValueError for a name that is not inside the space."""
        return f"{self._root}/{check_object_name(name)}"

    def _publish(self, places: Iterable[tuple[str, str]]) -> None:
        touched: dict[str, None] = {}
        for source, target in places:
            directory = os.path.dirname(target)
            touched[directory] = None
            try:
                os.rename(source, target)
            except FileNotFoundError:
                if os.path.exists(target):  # an earlier try got this far
                    continue
                _make_directories(directory)
                os.rename(source, target)
        for directory in touched:
            _sync_directory(directory)
            self._make_parents_durable(directory)

    def _make_parents_durable(self, directory: str) -> None:
        """Make the entries that lead from the root to `directory` durable, once a process.

        Another process may have made them a moment ago and not have come to its own `fsync`.
        """
        with self._durable_lock:
            if directory in self._durable:
                del self._durable[directory]
                self._durable[directory] = None  # once more the youngest
                return
        parent = directory
        while parent != self._root:
            parent = os.path.dirname(parent)
            _sync_directory(parent)
        with self._durable_lock:
            self._durable[directory] = None
            while len(self._durable) > REMEMBERED:
                del self._durable[next(iter(self._durable))]

    def _close(self) -> None:
        self._threads.shutdown()
        if self._lock >= 0:
            shutil.rmtree(self._incoming, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


class DirectoryWriter:
    """One object on its way into the space. Up to a piece, it costs a single hop to a thread."""

    def __init__(self, space: DirectorySpace, path: str) -> None:
        self._space = space
        self._path = path
        self._pieces: list[Piece] = []
        self._gathered = 0  # bytes in `_pieces`
        self._size = 0  # bytes on disk
        self._digest = hashlib.sha256()
        self._descriptor = -1
        self._hopped = False  # a thread has, or had, something to do with it
        self._spent = False
        # A cancelled wait leaves its thread running; whatever comes next waits for it here.
        self._busy = threading.Lock()

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """See `ObjectWriter.write`. Raises SpaceFullError, OSError, ValueError when spent."""
        if self._spent:
            raise ValueError("the writer is spent: its object was sealed or given up")
        length = len(data) if not isinstance(data, memoryview) else data.nbytes
        self._gather(data, length)
        self._gathered += length
        self._space.gathered += length
        if self._gathered >= PIECE or self._space.gathered > GATHERED:
            self._spent = True  # if these bytes do not arrive, no others may follow
            await self._hop(self._append)
            self._spent = False

    async def seal(self) -> SealedObject:
        """See `ObjectWriter.seal`. Raises SpaceFullError, OSError, ValueError when spent."""
        if self._spent:
            raise ValueError("the writer is spent: its object was sealed or given up")
        self._spent = True
        return await self._hop(self._seal)

    async def abort(self) -> None:
        """See `ObjectWriter.abort`. It also takes back a `seal` that was cancelled."""
        self._spent = True
        self._space.gathered -= self._gathered
        self._pieces, self._gathered = [], 0
        if self._hopped:
            await self._space.run(self._remove)

    def _gather(self, data: bytes | bytearray | memoryview, length: int) -> None:
        whole = data.obj if isinstance(data, memoryview) else data
        if isinstance(whole, bytes) and length >= SMALL:
            self._pieces.append(data)  # nobody can change it
        elif length < SMALL and self._pieces and isinstance(self._pieces[-1], bytearray):
            self._pieces[-1] += data
        elif length:
            self._pieces.append(bytearray(data))

    async def _hop(self, fn: Callable[[list[Piece]], T]) -> T:
        pieces, gathered = self._pieces, self._gathered
        self._pieces, self._gathered = [], 0
        self._hopped = True
        try:
            return await self._space.run(fn, pieces)
        finally:
            self._space.gathered -= gathered

    def _append(self, pieces: list[Piece]) -> None:
        with self._busy:
            self._put(pieces)

    def _seal(self, pieces: list[Piece]) -> SealedObject:
        with self._busy:
            self._put(pieces)
            _sync_data(self._descriptor)
            self._close()
            return SealedObject(self._digest.digest(), self._size, self._path)

    def _put(self, pieces: list[Piece]) -> None:
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, _NEW_FILE, 0o600)
        for piece in pieces:
            self._digest.update(piece)
        self._size += _write_all(self._descriptor, pieces)

    def _remove(self) -> None:
        with self._busy:
            self._close()
            _unlink(self._path)

    def _close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


class DirectoryReader:
    """An object opened for reading."""

    def __init__(self, space: DirectorySpace, descriptor: int, size: int) -> None:
        self.size = size
        self._space = space
        self._descriptor = descriptor
        self._busy = threading.Lock()

    async def read(self, offset: int, length: int) -> bytes:
        """See `ObjectReader.read`. Raises OSError, and ValueError when closed."""
        return await self._space.run(self._read, offset, length)

    async def stream(self, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """See `ObjectReader.stream`."""
        end = self.size if length is None else min(offset + length, self.size)
        while offset < end:
            piece = await self.read(offset, min(PIECE, end - offset))
            if not piece:
                raise OSError(errno.EIO, f"the object ends at byte {offset}, {end} expected")
            offset += len(piece)
            yield piece

    async def close(self) -> None:
        """See `ObjectReader.close`."""
        await self._space.run(self._close)

    def _read(self, offset: int, length: int) -> bytes:
        with self._busy:
            if self._descriptor < 0:
                raise ValueError("the object is closed")
            pieces: list[bytes] = []
            while length > 0:
                piece = os.pread(self._descriptor, length, offset)
                if not piece:
                    break
                pieces.append(piece)
                offset += len(piece)
                length -= len(piece)
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _close(self) -> None:
        with self._busy:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1


def _claim_incoming(incoming: Path) -> tuple[Path, int]:
    """Remove the directories of dead processes, and make and lock one of our own.

    Returns it and the open descriptor that holds its lock.
    """
    _make_directories(str(incoming))
    # Nobody may take a directory for a dead one's between its making and its locking.
    gate = os.open(incoming, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(gate, fcntl.LOCK_EX)
        for left in filter(Path.is_dir, incoming.iterdir()):
            lock = _try_lock(left)
            if lock is not None:
                shutil.rmtree(left)
                os.close(lock)
        mine = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=incoming))
        lock = _try_lock(mine)
        if lock is None:
            raise OSError(errno.EBUSY, f"{mine} is locked by somebody else")
        return mine, lock
    finally:
        os.close(gate)


def _try_lock(directory: Path) -> int | None:
    """The descriptor of the now locked directory; None if a living process has it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _make_directories(path: str) -> None:
    """Make a directory and the parents it lacks, each durable in its own parent."""
    lacking = []
    while not os.path.isdir(path):
        lacking.append(path)
        path = os.path.dirname(path)
    for directory in reversed(lacking):
        with contextlib.suppress(FileExistsError):  # somebody else was faster
            os.mkdir(directory, 0o700)
        _sync_directory(os.path.dirname(directory))


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(path: str) -> tuple[int, int]:
    """The descriptor and the size of a file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise IsADirectoryError(errno.EISDIR, "not a file", path)
    return descriptor, status.st_size


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(path)


def _list(path: str) -> tuple[list[str], list[str]]:
    """The names of the directories and of the files in a directory."""
    directories: list[str] = []
    files: list[str] = []
    with os.scandir(path) as entries:
        for entry in entries:
            (directories if entry.is_dir(follow_symlinks=False) else files).append(entry.name)
    return directories, files


def _look_at(directory: str, prefix: str, files: Sequence[str]) -> list[ListedObject]:
    """Those of a directory's files that are still there."""
    found: list[ListedObject] = []
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(directory + file, follow_symlinks=False)
            listed = ListedObject(prefix + file, status.st_size, status.st_mtime_ns // 1000)
            found.append(listed)
    return found


def _write_all(descriptor: int, pieces: Sequence[Piece]) -> int:
    """Write the pieces, however often the kernel stops short; how many bytes."""
    views = [memoryview(piece) for piece in pieces]
    total, first = 0, 0
    while first < len(views):
        written = os.writev(descriptor, views[first : first + _IOV_MAX])
        total += written
        while first < len(views) and written >= len(views[first]):
            written -= len(views[first])
            first += 1
        if written:
            views[first] = views[first][written:]
    return total
