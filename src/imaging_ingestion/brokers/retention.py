"""Keeps spaces within their rules: how old a study may be, and how many bytes there may be.

What is to go is asked of the manifest every time, and what is done is one transaction for each
study (`manifest.retention`), so any replica does it, and none remembers anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Final

import structlog

from imaging_ingestion.brokers.pause import pause
from imaging_ingestion.manifest import retention
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.retention import Key, Rules

log = structlog.get_logger(__name__)

POLL: Final = 30.0  # seconds
_MICROSECOND: Final = timedelta(microseconds=1)


class Retention:
    """The retention of one core."""

    def __init__(
        self,
        database: Database,
        rules: Mapping[str, Rules],
        bindings: Collection[str],
        revisioning_delay: timedelta,
        on_commit: Callable[[], None],
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """`rules` by space; `bindings` are the names of those that have to get everything.

        `on_commit` is called after each deletion; `clock` gives nanoseconds since the epoch.
        """
        self._database = database
        self._rules = rules
        self._bindings = tuple(bindings)
        self._delay_us = revisioning_delay // _MICROSECOND
        self._on_commit = on_commit
        self._clock = clock
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, if there are rules."""
        if self._rules:
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End; a study that is being deleted is finished first."""
        self._stopping.set()
        if self._task is not None:
            await self._task

    async def expire(self) -> int:
        """Delete every study that is to go now; how many. Raises what the database raises."""
        return sum([await self._expire(space, rules) for space, rules in self._rules.items()])

    async def _expire(self, space: str, rules: Rules) -> int:
        deleted = held = 0
        after: Key | None = None
        while not self._stopping.is_set():
            looked = await self._database.write(
                retention.expire_next,
                space,
                rules,
                self._bindings,
                self._clock() // 1000,
                self._delay_us,
                after,
            )
            held += looked.held
            after = looked.after
            if after is None:
                break
            if looked.deleted is not None:
                deleted += 1
                log.info(
                    "study.expired",
                    space=space,
                    study_instance_uid=looked.deleted,
                    instances=looked.instances,
                )
                self._on_commit()
        if held:
            log.warning("retention.held_up", space=space, studies=held, why="not delivered yet")
        return deleted

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                await self.expire()
            except Exception as error:  # noqa: BLE001 - logged; what is to go, goes later
                log.error("retention.waits", error=type(error).__name__)  # noqa: TRY400
            await pause(self._stopping, POLL)
