"""Threads that do what would block the event loop.

Like `loop.run_in_executor`, at a third of its cost: an instance goes to a thread and back three
times, and a ThreadPoolExecutor takes two futures, two locks and a chain of callbacks for each (25
microseconds of the event loop's time where there is a queue, against 7: benchmarks/dimse.py).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar, cast

T = TypeVar("T")

_Work = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[], Any]]


class Threads:
    """Some threads, which begin when there is something for them to do."""

    def __init__(self, number: int, name: str) -> None:
        self._number = number
        self._name = name
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._is_over = False

    async def run(self, fn: Callable[[], T]) -> T:
        """What `fn` returns in one of the threads. Raises what it raises; RuntimeError when over.

        If the caller is cancelled, `fn` is left out when it has not begun, and else goes on.
        """
        if self._is_over:
            raise RuntimeError(f"the threads {self._name!r} have been shut down")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._queue.put((loop, future, fn))
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._number:
            thread = threading.Thread(
                target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        return cast("T", await future)

    def shutdown(self) -> None:
        """Finish what has been asked for, and end the threads. Blocks. Harmless twice."""
        self._is_over = True
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            loop, future, fn = work
            if not future.cancelled():
                try:
                    result, error = fn(), None
                except BaseException as raised:  # noqa: BLE001 - it is the caller's
                    result, error = None, raised
                try:
                    loop.call_soon_threadsafe(_settle, future, result, error)
                except RuntimeError:
                    if not loop.is_closed():
                        raise  # else nobody waits any more
                del result, error
            del work, loop, future, fn  # nothing is kept while there is nothing to do
            self._idle.release()


def _settle(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.done():
        return  # its caller was cancelled
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
