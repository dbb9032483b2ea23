"""Associations with one target that stay open between the instances that go over them.

The presentation contexts of an association are agreed once and for all. So what is proposed is what
is needed now and the kinds of instances seen lately, as many as there is room for; an association
that has not proposed what is needed makes room for one that has.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.connect import ConnectSettings, connect
from imaging_ingestion.association.error import AssociationError, AssociationRejectedError
from imaging_ingestion.association.services.transcoder import Transcoder
from imaging_ingestion.association.store_user import Kind, propose
from imaging_ingestion.dimse.negotiation import MAX_CONTEXTS

log = structlog.get_logger(__name__)

#: Seconds a target may take to agree to a release.
_RELEASE: Final = 5.0
#: Seconds for which a target that had enough associations is asked for no more of them.
_FEWER_FOR: Final = 60.0


@dataclass(frozen=True, slots=True)
class StoreTarget:
    """An application entity that takes instances, and how we call it."""

    host: str
    port: int
    ae_title: str
    calling_ae_title: str
    settings: ConnectSettings = field(default_factory=ConnectSettings)


@dataclass(slots=True)
class Pooled:
    """An association that is somebody's for now. `is_new`: nothing has gone over it yet."""

    association: Association
    proposed: frozenset[Kind]
    is_new: bool = True
    idle_since: float = 0.0


class AssociationPool:
    """Up to `size` associations with a target; they are released after `idle` seconds unused."""

    def __init__(
        self,
        target: StoreTarget,
        transcoder: Transcoder | None,
        *,
        size: int,
        idle: float = 30.0,
    ) -> None:
        self._target = target
        self._transcoder = transcoder
        self._size = size
        self._idle_time = idle
        self._in_use = 0
        self._left = asyncio.Condition()
        self._fewer = size  # for a while after the target had enough
        self._fewer_until = 0.0
        self._idle: list[Pooled] = []  # the one used last at the end
        self._seen: OrderedDict[Kind, None] = OrderedDict()  # the one seen last at the end
        self._reaper: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def open_associations(self) -> int:
        """How many there are, in use or not."""
        return self._in_use + len(self._idle)

    def expect(self, kinds: Iterable[Kind]) -> None:
        """Propose these, too, from now on."""
        for kind in kinds:
            self._seen[kind] = None
            self._seen.move_to_end(kind)
        while len(self._seen) > MAX_CONTEXTS:
            self._seen.popitem(last=False)

    @asynccontextmanager
    async def association(self, kind: Kind, *, new: bool = False) -> AsyncIterator[Pooled]:
        """An association on which this kind of instance was proposed, when it is one's turn.

        `new`: one that nothing has gone over. What is under way when the caller leaves must be
        finished, or the association ended. Raises AssociationError.
        """
        pooled = await self._enter(kind, new=new)
        try:
            yield pooled
        except BaseException:
            if pooled.association.is_busy:  # what it was in the middle of, nobody can finish
                await pooled.association.abort()
            raise
        finally:
            try:
                await self._give_back(pooled)
            finally:
                await self._leave()

    async def close(self) -> None:
        """Release all that are not in use; one that is ends when it is given back."""
        self._is_closed = True
        if self._reaper is not None:
            self._reaper.cancel()
            with suppress(asyncio.CancelledError):
                await self._reaper
        idle, self._idle = self._idle, []
        await asyncio.gather(*map(self._release, idle))

    @property
    def _most(self) -> int:
        """How many associations there may be now."""
        is_over = asyncio.get_running_loop().time() >= self._fewer_until
        return self._size if is_over else min(self._size, self._fewer)

    async def _enter(self, kind: Kind, *, new: bool) -> Pooled:
        """Wait for one's turn, and for an association.

        A target that has enough of them for now, while others of ours go on, is content with those.
        """
        while True:
            async with self._left:
                await self._left.wait_for(lambda: self._in_use < self._most)
                self._in_use += 1
            try:
                return await self._take(kind, new=new)
            except AssociationRejectedError as error:
                await self._leave()
                if not error.is_transient or self._in_use == 0:
                    raise
                self._fewer = self._in_use
                self._fewer_until = asyncio.get_running_loop().time() + _FEWER_FOR
            except BaseException:
                await self._leave()
                raise

    async def _leave(self) -> None:
        self._in_use -= 1
        async with self._left:
            self._left.notify()

    async def _take(self, kind: Kind, *, new: bool) -> Pooled:
        self.expect([kind])
        self._idle = [pooled for pooled in self._idle if pooled.association.is_open]
        if not new:
            for index in range(len(self._idle) - 1, -1, -1):
                if kind in self._idle[index].proposed:
                    return self._idle.pop(index)
        while self._idle and self.open_associations > self._most:
            await self._release(self._idle.pop(0))
        return await self._connect()

    async def _connect(self) -> Pooled:
        target = self._target
        proposed = propose(reversed(self._seen), self._transcoder)
        association = await connect(
            target.host,
            target.port,
            proposed.proposals,
            called_ae_title=target.ae_title,
            calling_ae_title=target.calling_ae_title,
            settings=target.settings,
        )
        return Pooled(association, proposed.kinds)

    async def _give_back(self, pooled: Pooled) -> None:
        if not pooled.association.is_open:
            return
        pooled.is_new = False
        pooled.idle_since = asyncio.get_running_loop().time()
        if self._is_closed:
            await self._release(pooled)
            return
        self._idle.append(pooled)
        if self._reaper is None or self._reaper.done():
            self._reaper = asyncio.create_task(self._reap())

    async def _reap(self) -> None:
        """Release what has been idle for too long, until nothing is idle."""
        loop = asyncio.get_running_loop()
        while self._idle:
            oldest = min(self._idle, key=lambda pooled: pooled.idle_since)
            left = oldest.idle_since + self._idle_time - loop.time()
            if left > 0:
                await asyncio.sleep(left)
                continue
            self._idle.remove(oldest)
            await self._release(oldest)

    async def _release(self, pooled: Pooled) -> None:
        try:
            await pooled.association.release(_RELEASE)
        except AssociationError as error:
            log.debug("dimse.not_released", peer=pooled.association.peer, error=str(error))
