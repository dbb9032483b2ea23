"""Hands the log's events to a carrier, in their order: the log is the transactional outbox.

A change and its log entry are one transaction, so neither can be without the other; what is left
is to carry each entry's events away and to remember how far that came. Of all processes of a core
one does it at a time: it holds a claim, and renews it; when it dies the claim runs out. What was
carried when a process ended, and was not counted, is carried again: events have deterministic ids,
and everybody who takes them asks whether they are known.

Work waits while the carrier is away, and goes on by itself. Taking in does not wait: the log only
grows.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

import structlog

from imaging_ingestion.brokers.dispatcher import BrokerSettings, Clock
from imaging_ingestion.brokers.pause import pause
from imaging_ingestion.events.model import Event
from imaging_ingestion.manifest import outbox
from imaging_ingestion.manifest.database import Database

log = structlog.get_logger(__name__)

#: Entries of the log that are carried together at most.
BATCH: Final = 256
#: Seconds until the next try while the carrier is away; they double up to the longest.
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 15.0
#: Tries after which a process that cannot reach the carrier lets another one have the outbox.
_FAILURES: Final = 3
_MICROSECOND = timedelta(microseconds=1)


class CarrierAwayError(Exception):
    """The carrier cannot take events now. The text says why, without anything of a patient."""


class CarrierRefusedError(Exception):
    """The carrier will never take this event; others it may."""

    def __init__(self, event: Event, text: str) -> None:
        super().__init__(text)
        self.event = event


class Carrier(Protocol):
    """What takes events out of the core: a message broker.

    `start` is called once before the first `carry` and returns at once, also while the broker is
    away; `stop` once after the last.
    """

    @property
    def largest_data(self) -> int:
        """Bytes of an event's data at most; what is larger comes as a `dataref`."""

    async def start(self) -> None:
        """Begin to connect, or whatever there is to begin."""

    async def stop(self) -> None:
        """Let go of everything."""

    async def carry(self, events: Sequence[Event]) -> None:
        """Take events, durably when this returns, and keep their order.

        Called by one task, one call at a time, for at most a few hundred events. The same may come
        again, after an error or from another process, alone or among others: whoever receives them
        goes by source and id. Raises CarrierAwayError (all are offered again later), or
        CarrierRefusedError for one of them (the others are offered again without it).
        """


@dataclass(slots=True)
class OutboxState:
    """What an operator asks of an outbox; counts are of this process, since its start."""

    reads: bool = False  # this process has the claim
    away: str | None = None  # why the carrier did not take the last batch
    carried: int = 0
    refused: int = 0


class Outbox:
    """The outbox of one core in this process."""

    def __init__(
        self,
        database: Database,
        settings: BrokerSettings,
        carrier: Carrier,
        on_uncarried: Callable[[Event], Awaitable[None]],
        *,
        clock: Clock,
        batch: int = BATCH,
    ) -> None:
        """`on_uncarried` is told of what the carrier will not take, and of what is not carried
        because it tells of what is gone: of each type the last of a batch."""
        self.state = OutboxState()
        self._database = database
        self._settings = settings
        self._carrier = carrier
        self._on_uncarried = on_uncarried
        self._clock = clock
        self._batch = batch
        self._lease = settings.lease // _MICROSECOND
        self._random = random.SystemRandom()
        self._token = self._random.getrandbits(63)
        self._news = asyncio.Event()  # the log may have grown
        self._again = asyncio.Event()  # the carrier may be back, or this is the end
        self._stopping = False
        self._position = 0
        self._held_at = 0
        self._failures = 0
        self._refused: set[tuple[str, str]] = set()  # of the batch in hand
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """The log has grown."""
        self._news.set()

    def carrier_is_back(self) -> None:
        """Do not wait any longer until the next try."""
        self._news.set()
        self._again.set()

    async def register(self) -> None:
        """Make it known to the database, after the bindings."""
        await self._database.write(outbox.register)

    def start(self) -> None:
        """Begin. It is known to the database."""
        self._task = asyncio.create_task(self._run())

    async def rewind(self) -> None:
        """The carrier has lost what it carried: carry again what a binding may not have."""
        before, position = await self._database.write(outbox.rewind)
        if position < before:
            log.warning(
                "outbox.rewound", core=self._settings.core, position=position, before=before
            )
        self._news.set()

    async def stop(self) -> None:
        """Let go at once: a batch in hand is carried again by whoever comes next."""
        self._stopping = True
        self._news.set()
        self._again.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while not self._stopping:
            self._news.clear()
            self._again.clear()
            if not await self._turn():
                # A new entry is a reason to look, but none to press a carrier that is away.
                waits_for = self._again if self._failures else self._news
                await pause(waits_for, self._pause())
        await self._release()

    async def _turn(self) -> bool:
        """Carry a batch if there is one; whether there may be more at once."""
        try:
            more = await self._holds() and await self._carry_next()
        except CarrierAwayError as error:
            self._carrier_is_away(str(error))
            if self._failures >= _FAILURES:
                await self._release()  # another process may reach it
            return False
        except Exception as error:  # noqa: BLE001 - logged, and tried again
            self._failures += 1
            self._log_failure("outbox.failed", error)
            return False
        self._failures = 0
        return more

    async def _holds(self) -> bool:
        """Whether it is ours to carry; it is taken if it is nobody's."""
        if self.state.reads:
            await self._keep()
        elif await self._database.read(outbox.is_open, self._token, self._now(), self._lease):
            await self._acquire()
        return self.state.reads

    async def _carry_next(self) -> bool:
        """One batch; whether there is more."""
        if not await self._database.read(outbox.has_news, self._position):
            return False
        batch = await self._database.read(
            outbox.next_batch,
            self._position,
            self._batch,
            self._settings.core,
            self._settings.roots_of,
            self._settings.api_url,
            self._carrier.largest_data,
        )
        events = [event for event in batch.events if _key(event) not in self._refused]
        if events:
            await self._renewing(self._carry(events))
            self._carrier_has_taken(len(events))
        for event in {event.type: event for event in batch.gone}.values():
            await self._on_uncarried(event)
        self._held_at = self._now()
        counted = await self._database.write(
            outbox.advance, self._token, self._position, batch.last, self._held_at + self._lease
        )
        if not counted:  # it was rewound, or taken over
            await self._acquire()
            return self.state.reads
        self._position = batch.last
        self._refused.clear()
        return batch.more

    async def _carry(self, events: Sequence[Event]) -> None:
        """Carry a batch, without what is refused. Raises CarrierAwayError."""
        left = list(events)
        while left:
            try:
                await self._carrier.carry(left)
            except CarrierRefusedError as error:
                await self._refuse(error)
                left = [event for event in left if _key(event) != _key(error.event)]
            else:
                return

    async def _refuse(self, error: CarrierRefusedError) -> None:
        self._refused.add(_key(error.event))
        self.state.refused += 1
        log.error(
            "outbox.event_refused",
            core=self._settings.core,
            event_id=error.event.id,
            event_type=error.event.type,
            number=error.event.seq,
            why=str(error),
        )
        await self._on_uncarried(error.event)

    async def _renewing(self, carrying: Awaitable[None]) -> None:
        """Hold on to the claim while a batch takes its time; it ends with the claim."""
        task = asyncio.ensure_future(carrying)
        try:
            while True:
                done, _ = await asyncio.wait(
                    {task}, timeout=self._settings.lease.total_seconds() / 3
                )
                if done or self._stopping:
                    break
                if not await self._holds():
                    raise CarrierAwayError("another process has taken over")
            if not task.done():
                raise CarrierAwayError("this process ends")
            task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    async def _keep(self) -> None:
        """Renew the claim when a third of its time is over."""
        if not 0 <= self._now() - self._held_at < self._lease // 3:
            await self._acquire()

    async def _acquire(self) -> None:
        held, now = self.state.reads, self._now()
        position = await self._database.write(outbox.acquire, self._token, now, self._lease)
        self.state.reads = position is not None
        if position is not None:
            self._position = position  # it may have been rewound
            self._held_at = now
        elif held:
            log.warning("outbox.claim_lost", core=self._settings.core)

    async def _release(self) -> None:
        if not self.state.reads:
            return
        self.state.reads = False
        try:
            await self._database.write(outbox.release, self._token)
        except Exception as error:  # noqa: BLE001 - logged; the claim runs out
            self._log_failure("outbox.not_released", error)

    def _carrier_has_taken(self, number: int) -> None:
        self.state.carried += number
        if self.state.away is not None:
            self.state.away = None
            log.info("outbox.carrier_back", core=self._settings.core)

    def _carrier_is_away(self, why: str) -> None:
        self._failures += 1
        if self._stopping:
            return
        if self.state.away is None:
            log.warning("outbox.carrier_away", core=self._settings.core, why=why)
        self.state.away = why

    def _pause(self) -> float:
        """Seconds until the next look, or the next try."""
        if not self._failures:
            return self._settings.poll.total_seconds()
        pause = min(_FIRST_PAUSE * 2.0 ** min(self._failures - 1, 16), _LONGEST_PAUSE)
        return pause * self._random.uniform(0.5, 1.0)

    def _now(self) -> int:
        return self._clock() // 1000

    def _log_failure(self, what: str, error: Exception) -> None:
        """Where an error came from, without its text: that may hold a patient's data."""
        log.error(
            what,
            core=self._settings.core,
            error=type(error).__name__,
            stack="".join(traceback.format_tb(error.__traceback__)[-4:]),
        )


def _key(event: Event) -> tuple[str, str]:
    return event.source, event.id
