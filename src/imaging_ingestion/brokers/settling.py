"""The clock of revisions: settles each study when its time has come.

The due times are in the database. This loop only sleeps until the earliest one it knows of, and
looks again at least every few seconds, because another process may have recorded something.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from imaging_ingestion.manifest import revision
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.revision import Endpoint

log = structlog.get_logger(__name__)

POLL = 2.0  # seconds


class Settling:
    """Makes the revisions of one core."""

    def __init__(
        self,
        database: Database,
        endpoint: Endpoint,
        on_commit: Callable[[], None],
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._database = database
        self._endpoint = endpoint
        self._on_commit = on_commit
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End; a revision being made is finished first."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def settle_due(self) -> int:
        """Settle every study that is due now; how many revisions that made."""
        made = 0
        while True:
            now = self._clock() // 1000
            due = await self._database.read(revision.next_due)
            if due is None or due > now:
                return made
            revised = await asyncio.shield(
                self._database.write(revision.revise_due, now, self._endpoint)
            )
            for one in revised:
                log.info("study.revised", space=one.space, revision=one.number)
            if revised:
                made += len(revised)
                self._on_commit()

    async def _run(self) -> None:
        while True:
            wait = POLL
            try:
                await self.settle_due()
                due = await self._database.read(revision.next_due)
                if due is not None:
                    wait = min(POLL, max(0.01, due / 1_000_000 - self._clock() / 1_000_000_000))
            except Exception:  # the database is away: it comes back
                log.exception("revision.failed")
            await asyncio.sleep(wait)
