"""In which order processes write to one SQLite file.

SQLite lets one connection write at a time; the others ask again and again, in pauses of up to 100
ms, and whoever asks at the right moment is next. Two processes that write without a pause left one
another waiting for 0.8 s, four of them for 2 s, and some wrote fifteen times as often as others
(docs/decisions/0011-workers.md). So processes queue before they begin, for locks that the kernel
hands on at once, and gives back when their holder dies.

There are two: whoever waits for the right to write holds the place before it, so whoever has just
written, and wants to again, comes after. That SQLite's own lock is respected does not depend on
this: a program that does not queue is waited for as ever.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType


class WriteQueue:
    """The queue for one database file; a context in which this process writes. For one thread."""

    def __init__(self, database: Path) -> None:
        """Makes two empty files beside the database. Raises OSError."""
        self._next = _lock_file(database, "-next")
        self._writer = _lock_file(database, "-writer")

    def __enter__(self) -> None:
        """Wait for our turn. Raises OSError."""
        fcntl.flock(self._next, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._writer, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._next, fcntl.LOCK_UN)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        fcntl.flock(self._writer, fcntl.LOCK_UN)

    def close(self) -> None:
        """Leave the queue to others."""
        os.close(self._next)
        os.close(self._writer)


def _lock_file(database: Path, suffix: str) -> int:
    path = database.with_name(database.name + suffix)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
