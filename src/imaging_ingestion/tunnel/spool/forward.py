"""Sends what waits: a study at a time in its order, several studies side by side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final
from weakref import WeakValueDictionary

import structlog

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.error import AssociationError
from imaging_ingestion.association.services.stored_data_set import StoredDataSet
from imaging_ingestion.association.store_user import Kind, context_for, store
from imaging_ingestion.bindings.association_pool import Pooled
from imaging_ingestion.bindings.cstore import judge
from imaging_ingestion.brokers.group_commit import Groups
from imaging_ingestion.dimse.command import Response
from imaging_ingestion.dimse.negotiation import AcceptedContext
from imaging_ingestion.events.broker import Delivered, RefusedError, TryAgainError
from imaging_ingestion.events.model import Event
from imaging_ingestion.manifest.changes import Change
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.database_error import is_away
from imaging_ingestion.manifest.deliveries import DEAD, DELIVERED
from imaging_ingestion.manifest.retrieve import Instance
from imaging_ingestion.manifest.spooled import Settled, Waiting, settle, waiting
from imaging_ingestion.manifest.stored_object import InstanceGoneError, ObjectUnavailableError
from imaging_ingestion.tunnel.spool.courtesy import Courtesy
from imaging_ingestion.tunnel.spool.origin import Origin
from imaging_ingestion.tunnel.spool.quota import SpoolSpace
from imaging_ingestion.tunnel.spool.settings import SUBSCRIPTION
from imaging_ingestion.tunnel.spool.status import TARGET_AWAY, UNTRIED, WINDOW
from imaging_ingestion.tunnel.spool.way import Way

log = structlog.get_logger(__name__)

#: Deliveries read at once, and sent before another study may have its turn.
_PAGE: Final = 2 * WINDOW
_MOST: Final = 500
#: Seconds between two transactions that write down what was answered; and while instances come.
_PACE: Final = 0.05
_BUSY_PACE: Final = 0.5
_GONE: Final = "gone: other bytes came for the instance, and were sent"


class Forwarder:
    """The handler of the subscription."""

    def __init__(self, database: Database, space: SpoolSpace, way: Way, courtesy: Courtesy) -> None:
        self.courtesy = courtesy
        self.database = database
        self.space = space
        self.way = way
        self._studies: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._settling: Groups[Settled, None] = Groups(self._settle, hopeless=is_away)
        self._settle_at = 0.0

    async def deliver(self, event: Event) -> Delivered:
        """Send the instance of a DicomAvailableEvent, and what of its study waits behind it.

        Raises TryAgainError, RefusedError.
        """
        key = f"{event.space}/{event.study_instance_uid}"
        # Usually nobody else has it; but dead letters that are driven again come before the first.
        async with self._studies.setdefault(key, asyncio.Lock()):
            while await self.way.open():
                turn = Turn(self, key, event.seq or 0)
                await turn.run()
                if turn.blocked is not None:
                    self.way.is_closed(turn.blocked)
                ended = turn.own_end()
                if ended is not None:
                    return ended
        raise TryAgainError("the proxy stops")

    async def settled(self, one: Settled) -> None:
        """Write down how a delivery ended; many share one transaction."""
        await self._settling.take(one)

    async def stop(self) -> None:
        """Wait for what is being written down."""
        await self._settling.stop()

    async def _settle(self, group: Sequence[Settled]) -> Sequence[None]:
        # Others gather meanwhile: each commit keeps those waiting who send to us.
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._settle_at - loop.time()))
        self._settle_at = loop.time() + (_BUSY_PACE if self.courtesy.is_busy else _PACE)
        await self.database.write(settle, SUBSCRIPTION, group, time.time_ns() // 1000)
        for one in group:
            instance = one.of.instance
            if one.state == DELIVERED and instance is not None:
                try:
                    await self.space.remove(instance.object_name, instance.object_size)
                except OSError as error:
                    # The next start finds it.
                    log.warning("spool.object_not_removed", error=error.strerror)
        return [None] * len(group)


class Turn:
    """A study's turn: deliveries go one behind the other, until one cannot."""

    def __init__(self, forwarder: Forwarder, key: str, own: int) -> None:
        """`own`: the number of the delivery in our hand."""
        #: Why nothing can be sent at all; None if that is not so.
        self.blocked: str | None = None
        self._forwarder = forwarder
        self._key = key
        self._own = own
        self._own_end: tuple[str, str] | None = None  # its state and the answer
        self._failed: tuple[int, str] | None = None  # the first that is to be tried again
        self._is_over = False
        self._is_spent = False  # of the association
        self._sent = 0

    def own_end(self) -> Delivered | None:
        """How the delivery in our hand ended; None if it has to be tried once more.

        Raises TryAgainError, RefusedError.
        """
        if self._own_end is not None:
            state, answer = self._own_end
            if state == DEAD:
                raise RefusedError(answer)
            return Delivered(answer)
        if self._failed is not None:
            number, answer = self._failed
            raise TryAgainError(answer if number == self._own else f"one before it: {answer}")
        return None

    async def run(self) -> None:
        """Send them."""
        page = await self._page(0)
        if not page:
            self._own_end = (DELIVERED, _GONE)
        while page and not self._is_over and self._sent < _MOST:
            page = await self._run_on_one_association(page)

    async def _page(self, after: int) -> list[Waiting]:
        forwarder = self._forwarder
        return await forwarder.database.read(waiting, SUBSCRIPTION, self._key, after, _PAGE)

    async def _run_on_one_association(self, page: list[Waiting]) -> list[Waiting]:
        """Send what one association can take; what is left."""
        while page and page[0].instance is None:
            await self._end(page.pop(0), DELIVERED, _GONE)
        if not page:
            return page
        first = page[0]
        assert first.instance is not None
        titles = _titles(first.change)
        pool = self._forwarder.way.pool(*titles)
        pool.expect(_kind(one.instance) for one in page if one.instance is not None)
        try:
            async with pool.association(_kind(first.instance)) as pooled:
                async with asyncio.TaskGroup() as tasks:
                    page = await self._pipeline(tasks, pooled, titles, page)
                if self._is_spent:
                    # The far proxy tries nothing more on it.
                    await pooled.association.release()
        except AssociationError as error:
            self._stop(str(error))
        return page

    async def _pipeline(
        self,
        tasks: asyncio.TaskGroup,
        pooled: Pooled,
        titles: tuple[str, str],
        page: list[Waiting],
    ) -> list[Waiting]:
        """Begin one after the other; what is left for another association."""
        last = 0
        while page and not self._is_over and self._sent < _MOST:
            for number, one in enumerate(page):
                last = one.change.seq
                if one.instance is None:
                    await self._end(one, DELIVERED, _GONE)
                    continue
                if _titles(one.change) != titles or _kind(one.instance) not in pooled.proposed:
                    return page[number:]
                age = time.time() - one.change.at / 1e6
                await self._forwarder.courtesy.wait(one.instance.object_size, age)
                is_sent = asyncio.Event()
                tasks.create_task(self._send(pooled.association, one, is_sent))
                await is_sent.wait()
                self._sent += 1
                if self._is_over or self._forwarder.way.is_stopping:
                    self._is_over = True
                    return []
            page = await self._page(last)
        return page

    async def _send(self, association: Association, one: Waiting, is_sent: asyncio.Event) -> None:
        """Send one; `is_sent` is set when all of it is on its way, or never will be."""
        try:
            await self._send_instance(association, one, is_sent)
        finally:
            is_sent.set()

    async def _send_instance(
        self, association: Association, one: Waiting, is_sent: asyncio.Event
    ) -> None:
        assert one.instance is not None
        forwarder = self._forwarder
        context = context_for(association.agreement, _kind(one.instance), None)
        if context is None:  # a DIMSE service at the far end: a proxy accepts everything
            await self._end(one, DEAD, f"SOP class {one.instance.sop_class_uid} is not accepted")
            return
        try:
            stored = await StoredDataSet.open(forwarder.space, forwarder.database, one.instance)
        except InstanceGoneError:
            await self._end(one, DELIVERED, _GONE)
            return
        except ObjectUnavailableError as error:
            await self._end(one, DEAD, str(error))
            return
        except OSError as error:
            self._try_again(one, f"the object cannot be read: {error.strerror}")
            return
        try:
            response = await self._store(association, context, one.change, stored, is_sent)
        except AssociationError as error:
            self._stop(str(error))
            return
        except OSError as error:
            self._try_again(one, f"the object cannot be read: {error.strerror}")
            return
        finally:
            await stored.close()
        await self._answered(one, stored.instance, response)

    async def _store(
        self,
        association: Association,
        context: AcceptedContext,
        change: Change,
        stored: StoredDataSet,
        is_sent: asyncio.Event,
    ) -> Response:
        """Raises AssociationError, OSError."""
        instance = stored.instance
        request = Origin.read(change.provider or "").request(
            instance.sop_class_uid, instance.sop_instance_uid
        )
        pieces = _until_sent(stored.stream(), is_sent)
        return await store(
            association, context, request, pieces, instance.transfer_syntax_uid, None
        )

    async def _answered(self, one: Waiting, sent: Instance, response: Response) -> None:
        if response.status == UNTRIED:
            self._is_over = self._is_spent = True
            return
        if response.status == TARGET_AWAY:
            self._stop(response.error_comment or "the target cannot be reached")
            return
        self._forwarder.way.is_open()
        one = Waiting(one.change, one.event_id, sent)
        try:
            await self._end(one, DELIVERED, judge(response).answer)
        except RefusedError as error:
            await self._end(one, DEAD, error.answer)
        except TryAgainError as error:
            self._try_again(one, error.answer)

    async def _end(self, one: Waiting, state: str, answer: str) -> None:
        await self._forwarder.settled(Settled(one, state, answer))
        if one.change.seq == self._own:
            self._own_end = (state, answer)
        if state == DEAD:
            # The answer is in the ledger only: it may quote the patient.
            log.warning("spool.dead_letter", event_id=one.event_id)

    def _try_again(self, one: Waiting, answer: str) -> None:
        self._is_over = self._is_spent = True
        if self._failed is None or one.change.seq < self._failed[0]:
            self._failed = (one.change.seq, answer)

    def _stop(self, why: str) -> None:
        """The way is closed."""
        self._is_over = self._is_spent = True
        self.blocked = self.blocked or why


def _titles(entry: Change) -> tuple[str, str]:
    """Called and calling."""
    return entry.space, Origin.read(entry.provider or "").calling_ae_title


def _kind(instance: Instance) -> Kind:
    return instance.sop_class_uid, instance.transfer_syntax_uid


async def _until_sent(pieces: AsyncIterator[bytes], is_sent: asyncio.Event) -> AsyncIterator[bytes]:
    async for piece in pieces:
        yield piece
    is_sent.set()
