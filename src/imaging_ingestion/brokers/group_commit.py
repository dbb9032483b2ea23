"""Many callers, one commit: what arrives while a commit runs goes into the next one together.

Nobody waits for a group to fill up: a lone caller's item leaves at once, in a group of one. Under
load the groups grow by themselves, as long as a commit takes.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from imaging_ingestion.events.stored import StoredInstance, StoreOutcome
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.database_error import is_away
from imaging_ingestion.manifest.record import record_batch

T = TypeVar("T")
R = TypeVar("R")

#: Instances in one commit at most.
LARGEST_GROUP = 256


class NotAcceptedError(Exception):
    """The event was not accepted, or nobody can tell whether it was; it may be sent again."""


class ManifestFullError(NotAcceptedError):
    """The database has no room for the event: it was certainly not accepted."""


@dataclass(slots=True)
class _Member(Generic[T, R]):
    item: T
    result: asyncio.Future[R]


class Groups(Generic[T, R]):
    """Carries items in groups, one group after the other.

    `carry` takes a group and gives a result for each item, in its order. If it raises, the items
    are carried one by one, so that one that cannot pass holds up nobody else; but an error for
    which `hopeless` is true (the database is away) would meet each of them, and is given to all.
    """

    def __init__(
        self,
        carry: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        hopeless: Callable[[BaseException], bool],
        largest: int = LARGEST_GROUP,
    ) -> None:
        self._carry = carry
        self._hopeless = hopeless
        self._largest = largest
        self._waiting: deque[_Member[T, R]] = deque()
        self._runner: asyncio.Task[None] | None = None

    async def take(self, item: T) -> R:
        """Carry `item` with whatever else is waiting. Raises what `carry` raised for it.

        A caller that is cancelled before its group left takes its item back; later, the item is
        carried although nobody waits for it.
        """
        member: _Member[T, R] = _Member(item, asyncio.get_running_loop().create_future())
        self._waiting.append(member)
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return await member.result

    async def stop(self) -> None:
        """Wait until everything taken so far has been carried."""
        while self._runner is not None:
            await asyncio.wait({self._runner})

    async def _run(self) -> None:
        try:
            while self._waiting:
                group: list[_Member[T, R]] = []
                while self._waiting and len(group) < self._largest:
                    member = self._waiting.popleft()
                    if not member.result.cancelled():
                        group.append(member)
                if group:
                    await self._carry_group(group)
        finally:
            self._runner = None

    async def _carry_group(self, group: Sequence[_Member[T, R]]) -> None:
        done = asyncio.ensure_future(self._carry([member.item for member in group]))
        await asyncio.wait({done})
        if done.cancelled():  # the event loop is being shut down
            for member in group:
                member.result.cancel()
            return
        error = done.exception()
        if error is None:
            for member, result in zip(group, done.result(), strict=True):
                if not member.result.done():
                    member.result.set_result(result)
        elif len(group) == 1 or self._hopeless(error):
            for member in group:
                if not member.result.done():
                    member.result.set_exception(error)
        else:
            for member in group:
                await self._carry_group([member])


class GroupCommit:
    """Records stored instances in the manifest; many share one transaction."""

    def __init__(
        self,
        database: Database,
        revisioning_delay: timedelta,
        on_commit: Callable[[], None],
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """`on_commit` is called after each commit, in the event loop; `clock` gives nanoseconds."""
        self._database = database
        self._delay_us = revisioning_delay // timedelta(microseconds=1)
        self._on_commit = on_commit
        self._clock = clock
        self._groups: Groups[StoredInstance, StoreOutcome] = Groups(self._record, hopeless=is_away)

    async def accept(self, stored: StoredInstance) -> StoreOutcome:
        """Record one instance, durably when this returns. Raises NotAcceptedError."""
        try:
            return await self._groups.take(stored)
        except (SQLAlchemyError, OSError, ValueError, OverflowError) as error:
            if _is_full(error):
                raise ManifestFullError("the database is full") from error
            raise NotAcceptedError(
                f"the manifest could not record the instance: {type(error).__name__}"
            ) from error

    async def stop(self) -> None:
        """Wait for everything accepted so far to be recorded or refused."""
        await self._groups.stop()

    async def _record(self, batch: Sequence[StoredInstance]) -> Sequence[StoreOutcome]:
        now = self._clock() // 1000
        outcomes = await self._database.write(record_batch, batch, now, self._delay_us)
        self._on_commit()
        return outcomes


def _is_full(error: Exception) -> bool:
    """Whether the database refused a transaction because its disk is full."""
    if not isinstance(error, DBAPIError) or error.orig is None:
        return False
    sqlite_error = getattr(error.orig, "sqlite_errorcode", None)
    return sqlite_error == sqlite3.SQLITE_FULL or getattr(error.orig, "sqlstate", None) == "53100"
