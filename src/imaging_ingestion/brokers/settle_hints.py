"""Hints that a study is complete before it has been quiet for the whole revisioning delay.

    association released ─┬─ its sender is a named source ── ask it how many instances the study has
    STOW request answered ┘                                   ├─ we have as many: settle now
                                                              ├─ it has more: the quiet time decides
                                                              └─ it does not say ┐
    association released, no source ─────────────────────────────────────────────┴─ settle soon

A hint only ever brings the due time forward, so nothing is lost with it: it is kept in memory, and
a process that dies leaves the study to its quiet time. A study that is still arriving is asked
about only when it has paused, and whatever arrives after the hint sets the whole delay again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import structlog

from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.settle_hint import Unsettled, hasten, unsettled

log = structlog.get_logger(__name__)

#: Seconds without news of a study before its source is asked.
PAUSE = 1.0
#: Studies that are thought of at a time; more are left to their quiet time.
REMEMBERED = 10_000
#: Sources that are asked at a time, and the seconds that one has to answer.
ASKED = 4
PATIENCE = 20.0
_MICROSECOND = timedelta(microseconds=1)


class SourceError(Exception):
    """A source did not answer; the text says why."""


class Source(Protocol):
    """Whoever sends a study, and can say how much of it there is."""

    async def expected(self, study_instance_uid: str) -> int | None:
        """How many instances it has of the study; None if it does not say.

        Raises SourceError.
        """


@dataclass(slots=True)
class _Hint:
    """What is known of one study. `at` is on the loop's clock."""

    at: float
    source: Source | None
    was_released: bool


class SettleHints:
    """The hints for the studies of one core."""

    def __init__(
        self,
        database: Database,
        after_release: timedelta | None,
        on_hastened: Callable[[], None],
        *,
        pause: float = PAUSE,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """`after_release`: how long after an association's release its studies are settled.

        None: a release says nothing. `on_hastened` is called when a study's time was brought
        forward; `pause` is in seconds, `clock` gives nanoseconds since the epoch.
        """
        self._database = database
        self._after_release = after_release
        self._on_hastened = on_hastened
        self._pause = pause
        self._clock = clock
        self._hints: dict[tuple[str, str], _Hint] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End; hints that wait are forgotten."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def released(self, space: str, studies: Iterable[str], source: Source | None) -> None:
        """An association that brought these studies was released."""
        if source is not None or self._after_release is not None:
            self._note(space, studies, source, was_released=True)

    def stored(self, space: str, studies: Iterable[str], source: Source | None) -> None:
        """A request that brought these studies was answered."""
        if source is not None:
            self._note(space, studies, source, was_released=False)

    def _note(
        self, space: str, studies: Iterable[str], source: Source | None, *, was_released: bool
    ) -> None:
        # Without a source there is nobody to spare, and the release is now.
        at = asyncio.get_running_loop().time() + (0.0 if source is None else self._pause)
        for uid in studies:
            if len(self._hints) < REMEMBERED or (space, uid) in self._hints:
                self._hints[space, uid] = _Hint(at, source, was_released)
        self._news.set()

    async def _run(self) -> None:
        turn = asyncio.Semaphore(ASKED)
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._news.clear()
                now = loop.time()
                for key in [key for key, hint in self._hints.items() if hint.at <= now]:
                    await turn.acquire()
                    task = tasks.create_task(self._follow(*key, self._hints.pop(key)))
                    task.add_done_callback(lambda _task: turn.release())
                earliest = min((hint.at for hint in self._hints.values()), default=None)
                try:
                    async with asyncio.timeout_at(earliest):
                        await self._news.wait()
                except TimeoutError:
                    continue

    async def _follow(self, space: str, study: str, hint: _Hint) -> None:
        try:
            await self._hasten(space, study, hint)
        except Exception as error:  # noqa: BLE001 - logged; the quiet time decides
            log.error(  # noqa: TRY400 - the text may hold a patient's data
                "revision.hint_lost", space=space, error=type(error).__name__
            )

    async def _hasten(self, space: str, study: str, hint: _Hint) -> None:
        now = self._clock() // 1000
        expected = await self._ask(space, study, hint.source)
        found: Unsettled | None = await self._database.read(unsettled, space, study)
        if found is None:
            return
        if expected is not None:
            if found.number_of_instances < expected:
                return
            at, why = self._clock() // 1000, "complete"
        elif hint.was_released and self._after_release is not None:
            at, why = now + self._after_release // _MICROSECOND, "released"
        else:
            return
        if await self._database.write(hasten, space, study, found.changed_at, at):
            log.info("revision.hastened", space=space, why=why)
            self._on_hastened()

    async def _ask(self, space: str, study: str, source: Source | None) -> int | None:
        if source is None:
            return None
        try:
            async with asyncio.timeout(PATIENCE):
                return await source.expected(study)
        except (SourceError, TimeoutError) as error:
            why = str(error) or "no answer in time"
            log.info("revision.source_silent", space=space, why=why)
            return None
