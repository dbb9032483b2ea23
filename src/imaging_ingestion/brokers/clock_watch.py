"""Notices when the machine's clock was set back, and brings back what would wait for that long.

Due times are rows with times of day, as they have to outlive a process and mean the same to all
replicas. A clock that ran ahead and is put right leaves them in the future: a study would be
settled hours late. (Set forward, it only makes things due early.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta

import structlog

from imaging_ingestion.brokers.pause import pause
from imaging_ingestion.manifest.clock import bring_back
from imaging_ingestion.manifest.database import Database

log = structlog.get_logger(__name__)

#: Seconds between looks, and seconds of difference that are a jump; slewing stays below.
POLL = 2.0
JUMP = 1.0
#: What nobody waits for, if no clock was changed: over the longest pause between two tries.
LONGEST = timedelta(hours=1)
_MICROSECOND = timedelta(microseconds=1)


class ClockWatch:
    """Watches the clock for one core."""

    def __init__(
        self,
        database: Database,
        revisioning_delay: timedelta,
        on_changed: Callable[[], None],
        *,
        poll: float = POLL,
        clock: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_changed` is called when due times were changed; `poll` is in seconds.

        `clock` gives nanoseconds since the epoch, `monotonic` seconds that nobody can set.
        """
        self._database = database
        self._delay = revisioning_delay // _MICROSECOND
        self._on_changed = on_changed
        self._poll = poll
        self._clock = clock
        self._monotonic = monotonic
        self._ahead = self._offset()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; at once with what was left while nobody watched."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End."""
        self._stopping.set()
        if self._task is not None:
            await self._task

    def _offset(self) -> float:
        """Seconds that the clock is ahead of the one that nobody can set."""
        return self._clock() / 1e9 - self._monotonic()

    async def _run(self) -> None:
        longest: int | None = LONGEST // _MICROSECOND
        while not self._stopping.is_set():
            ahead = self._offset()
            if self._ahead - ahead > JUMP:
                log.warning("clock.set_back", seconds=round(self._ahead - ahead))
                longest = 0
            self._ahead = ahead
            if longest is not None and await self._bring_back(longest):
                longest = None
            await pause(self._stopping, self._poll)

    async def _bring_back(self, longest: int) -> bool:
        """Whether it was done; if the database is away, it is still to do."""
        now = self._clock() // 1000
        try:
            rows = await self._database.write(bring_back, now, self._delay, longest)
        except Exception as error:  # noqa: BLE001 - logged, and tried again
            log.error("clock.waits", error=type(error).__name__)  # noqa: TRY400
            return False
        if rows:
            log.warning("clock.due_times_brought_back", rows=rows)
            self._on_changed()
        return True
