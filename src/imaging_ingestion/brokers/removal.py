"""Removes the objects that nothing refers to any more from their spaces, when their time has come.

Any replica does it: the rows are claimed (`manifest.removal`). What fails is tried again, later
each time; nobody waits for it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

from imaging_ingestion.brokers.pause import pause
from imaging_ingestion.events.retry import RetryPolicy
from imaging_ingestion.manifest import removal
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.removal import Removal
from imaging_ingestion.storage.space import Space

log = structlog.get_logger(__name__)

POLL: Final = 10.0  # seconds; what is due has waited for a while, it is in no hurry
#: Objects that are claimed together, and seconds until somebody else may have them.
BATCH: Final = 256
_LEASE: Final = 120.0
#: Objects that are removed at once.
_AT_ONCE: Final = 8
_RETRY: Final = RetryPolicy(first=10.0, longest=1800.0, attempts=1 << 31)


class Removing:
    """Removes objects of one core's spaces."""

    def __init__(
        self,
        database: Database,
        spaces: Mapping[str, Space],
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """`spaces` by name; `clock` gives nanoseconds since the epoch."""
        self._database = database
        self._spaces = spaces
        self._clock = clock
        self._random = random.SystemRandom()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End; what is in hand is finished first."""
        self._stopping.set()
        if self._task is not None:
            await self._task

    async def remove_due(self) -> int:
        """Remove every object that is due now, each tried once; how many are gone.

        Raises what the database raises.
        """
        gone = 0
        now = self._now()
        while not self._stopping.is_set():
            claimed = await self._database.write(
                removal.claim, tuple(self._spaces), now, now + int(_LEASE * 1e6), BATCH
            )
            gone += await self._remove(claimed)
            if len(claimed) < BATCH:
                break
        return gone

    async def _remove(self, claimed: Sequence[Removal]) -> int:
        done: list[Removal] = []
        left = iter(claimed)

        async def work() -> None:
            for one in left:
                if await self._remove_one(one):
                    done.append(one)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, len(claimed))):
                group.create_task(work())
        if done:
            await self._database.write(removal.finish, done)
        return len(done)

    async def _remove_one(self, one: Removal) -> bool:
        """Whether the object is gone; else it is tried again."""
        try:
            await self._spaces[one.space].delete(one.object_name)
        except (OSError, ValueError) as error:
            delay = _RETRY.delay(one.attempt, random=self._random.random())
            log.warning(
                "object.not_removed",
                space=one.space,
                object_name=one.object_name,
                attempt=one.attempt,
                error=str(error),
            )
            at = self._now() + int((delay or _RETRY.longest) * 1e6)
            await self._database.write(removal.put_off, one, at)
            return False
        return True

    def _now(self) -> int:
        return self._clock() // 1000

    async def _run(self) -> None:
        while not self._stopping.is_set():
            wait = POLL
            try:
                due = await self._database.read(removal.next_due, tuple(self._spaces))
                if due is not None and due <= self._now():
                    gone = await self.remove_due()
                    if gone:
                        log.info("objects.removed", number=gone)
                elif due is not None:
                    wait = min(POLL, (due - self._now()) / 1_000_000)
            except Exception as error:  # noqa: BLE001 - logged; what is due stays due
                log.error("removal.waits", error=type(error).__name__)  # noqa: TRY400
            await pause(self._stopping, wait)
