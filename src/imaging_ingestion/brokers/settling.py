"""The clock of revisions: settles each study when its time has come.

The due times are in the database. This loop only sleeps until the earliest one it knows of, and
looks again at least every few seconds, because another process may have recorded something.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from imaging_ingestion.brokers.pause import pause
from imaging_ingestion.manifest import revision
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.database_error import is_away
from imaging_ingestion.manifest.revision import Due, Endpoint

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
        """`on_commit` is called after each revision; `clock` gives nanoseconds since the epoch."""
        self._database = database
        self._endpoint = endpoint
        self._on_commit = on_commit
        self._clock = clock
        self._stopping = asyncio.Event()
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """A study may be due earlier than it was."""
        self._woken.set()

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End; a revision being made is finished first."""
        self._stopping.set()
        self._woken.set()
        if self._task is not None:
            await self._task

    async def settle_due(self) -> int:
        """Settle every study that is due now, each at most once; how many revisions that made.

        One that another process is settling is passed over, and one that cannot be settled is
        logged and holds up nobody. Raises what the database raises when it is away.
        """
        made = 0
        now = self._now()
        last: Due | None = None
        while not self._stopping.is_set():
            due = await self._database.read(revision.due, now, last)
            if not due:
                break
            for last in due:
                made += await self._settle(last.study_pk, now)
                if self._stopping.is_set():
                    break
        return made

    async def _settle(self, study_pk: int, now: int) -> int:
        try:
            revised = await self._database.write(revision.revise, study_pk, now, self._endpoint)
        except Exception as error:
            if is_away(error):
                raise
            # The error's text is left out: it may hold a patient's data.
            log.error("revision.failed", study=study_pk, error=type(error).__name__)  # noqa: TRY400
            return 0
        if revised is None:
            return 0
        log.info("study.revised", space=revised.space, revision=revised.number)
        self._on_commit()
        return 1

    def _now(self) -> int:
        return self._clock() // 1000

    async def _run(self) -> None:
        while not self._stopping.is_set():
            wait = POLL
            self._woken.clear()
            try:
                await self.settle_due()
                now = self._now()
                due = await self._database.read(revision.next_due, now)
                if due is not None:
                    wait = min(POLL, (due - now) / 1_000_000)
            except Exception as error:  # noqa: BLE001 - logged; the database comes back
                log.error("revision.waits", error=type(error).__name__)  # noqa: TRY400
            await pause(self._woken, wait)
