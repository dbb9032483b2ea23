"""Associations with one target that stay open between the instances that go over them.

The presentation contexts of an association are agreed once and for all. So what is proposed is what
is needed now and the kinds of instances seen lately, as many as there is room for; an association
that has not proposed what is needed makes room for one that has.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.connect import ConnectSettings, connect
from imaging_ingestion.association.error import (
    AssociationError,
    AssociationRejectedError,
    AssociationReleasedError,
    PeerTimeoutError,
)
from imaging_ingestion.association.services.transcoder import Transcoder
from imaging_ingestion.association.store_user import Kind, propose
from imaging_ingestion.dimse.negotiation import MAX_CONTEXTS
from imaging_ingestion.dimse.requestor import Proposal

log = structlog.get_logger(__name__)

#: Seconds a target may take to agree to a release.
_RELEASE: Final = 5.0
#: Seconds after which a target that does not answer may be waiting for the end of another one.
_PATIENCE: Final = 2.0
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

    async def call(self, proposals: Sequence[Proposal]) -> Association:
        """An association with it. Raises AssociationError."""
        return await connect(
            self.host,
            self.port,
            proposals,
            called_ae_title=self.ae_title,
            calling_ae_title=self.calling_ae_title,
            settings=self.settings,
        )


#: Gets one more association; raises AssociationError.
Call = Callable[[Sequence[Proposal]], Awaitable[Association]]


@dataclass(slots=True)
class Pooled:
    """An association that is somebody's for now. `is_new`: nothing has gone over it yet."""

    association: Association
    proposed: frozenset[Kind]
    is_new: bool = True
    idle_since: float = 0.0


class AssociationPool:
    """Up to `size` associations with a target; they are released after `idle` seconds unused.

    Who needs one takes one that is idle, or asks the target for one more and takes whichever comes
    first: some targets leave a request unanswered until another association has ended.
    """

    def __init__(
        self,
        target: StoreTarget | Call,
        transcoder: Transcoder | None,
        *,
        size: int,
        idle: float = 30.0,
    ) -> None:
        """`target`: whom to call, or how."""
        self._call = target.call if isinstance(target, StoreTarget) else target
        self._transcoder = transcoder
        self._size = size
        self._idle_time = idle
        self._in_use = 0
        self._idle: list[Pooled] = []  # the one used last at the end
        self._asking: set[asyncio.Task[None]] = set()
        self._fewer = size  # for a while after the target had enough
        self._fewer_until = 0.0
        self._seen: OrderedDict[Kind, None] = OrderedDict()  # the one seen last at the end
        self._changed = asyncio.Event()
        self._reaper: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def open_associations(self) -> int:
        """How many there are, in use or not."""
        return self._in_use + len(self._idle)

    @property
    def is_used(self) -> bool:
        """Whether there are associations, or there may be in a moment."""
        return bool(self.open_associations or self._asking)

    def expect(self, kinds: Iterable[Kind]) -> None:
        """Propose these, too, from now on."""
        for kind in kinds:
            self._seen[kind] = None
            self._seen.move_to_end(kind)
        while len(self._seen) > MAX_CONTEXTS:
            self._seen.popitem(last=False)

    @asynccontextmanager
    async def association(self, kind: Kind, *, new: bool = False) -> AsyncIterator[Pooled]:
        """An association on which this kind of instance was proposed, when there is one.

        `new`: one that nothing has gone over. What is under way when the caller leaves must be
        finished, or the association ended. Raises AssociationError.
        """
        self.expect([kind])
        pooled = await self._take(kind, new=new)
        try:
            yield pooled
        except BaseException:
            if pooled.association.is_busy:  # what it was in the middle of, nobody can finish
                await pooled.association.abort()
            raise
        finally:
            self._in_use -= 1
            pooled.is_new = False
            await self._keep(pooled)

    async def close(self) -> None:
        """Release all that are not in use; one that is ends when it is given back."""
        self._is_closed = True
        self._notify()
        tasks = [*self._asking, *([self._reaper] if self._reaper is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        idle, self._idle = self._idle, []
        await asyncio.gather(*map(self._release, idle))

    # ---- taking

    async def _take(self, kind: Kind, *, new: bool) -> Pooled:
        asked: asyncio.Task[None] | None = None
        while True:
            if self._is_closed:
                raise AssociationReleasedError("the pool of associations is closed")
            pooled = self._pick(kind, new=new)
            if pooled is not None:
                return pooled
            if asked is not None and asked.done():
                error, asked = asked.exception(), None
                if error is not None and not (self._is_enough(error) and self.open_associations):
                    raise error
            if asked is None and self._has_room:
                asked = self._ask()
            changed = self._changed
            if asked is None and self._idle:
                await self._release(self._idle.pop(0))  # none of them fits: it makes room
                continue
            try:
                async with asyncio.timeout(_PATIENCE):
                    await changed.wait()
            except TimeoutError:
                if self._idle:  # perhaps the target waits for its end
                    await self._release(self._idle.pop(0))

    def _pick(self, kind: Kind, *, new: bool) -> Pooled | None:
        """An idle association that fits, the one used last."""
        self._idle = [pooled for pooled in self._idle if pooled.association.is_open]
        for index in range(len(self._idle) - 1, -1, -1):
            pooled = self._idle[index]
            if kind in pooled.proposed and (pooled.is_new or not new):
                del self._idle[index]
                self._in_use += 1
                return pooled
        return None

    @property
    def _has_room(self) -> bool:
        is_over = asyncio.get_running_loop().time() >= self._fewer_until
        most = self._size if is_over else min(self._size, self._fewer)
        return self.open_associations + len(self._asking) < most

    def _ask(self) -> asyncio.Task[None]:
        """Ask the target for one more; it will be idle when it is there."""
        task = asyncio.create_task(self._connect())
        self._asking.add(task)
        task.add_done_callback(self._asked)
        return task

    async def _connect(self) -> None:
        proposed = propose(reversed(self._seen), self._transcoder)
        association = await self._call(proposed.proposals)
        await self._keep(Pooled(association, proposed.kinds))

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and self._is_enough(error) and self.open_associations:
            self._fewer = self.open_associations
            self._fewer_until = asyncio.get_running_loop().time() + _FEWER_FOR
        self._notify()

    def _is_enough(self, error: BaseException) -> bool:
        """Whether a target that refuses so may just have enough associations."""
        is_rejected = isinstance(error, AssociationRejectedError) and error.is_transient
        return is_rejected or isinstance(error, PeerTimeoutError)

    # ---- keeping

    async def _keep(self, pooled: Pooled) -> None:
        """Keep an association for the next one, or end it."""
        if self._is_closed:
            await self._release(pooled)
        elif pooled.association.is_open:
            pooled.idle_since = asyncio.get_running_loop().time()
            self._idle.append(pooled)
            if self._reaper is None or self._reaper.done():
                self._reaper = asyncio.create_task(self._reap())
        self._notify()

    def _notify(self) -> None:
        """Wake those who wait for an association, or for room for one."""
        self._changed.set()
        self._changed = asyncio.Event()

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
