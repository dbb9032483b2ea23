"""The embedded broker: a durable queue in the manifest's own database.

There is no queue beside the log (docs/decisions/0002): a subscription is a position in the log and
rows of the delivery ledger. One dispatcher for each subscription fans new entries out, claims what
is due, and runs the handler, a bounded number at a time. Deliveries of one instance, and of one
study's revisions, run one after the other. Tries that ended are written down in groups.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import msgspec
import structlog

from imaging_ingestion.brokers.group_commit import GroupCommit, Groups
from imaging_ingestion.events.broker import (
    Delivered,
    Handler,
    RefusedError,
    ReplayFilter,
    Subscription,
    TryAgainError,
)
from imaging_ingestion.events.model import ChangeKind, Event
from imaging_ingestion.events.stored import StoredInstance, StoreOutcome
from imaging_ingestion.manifest import changes, deliveries
from imaging_ingestion.manifest.changes import Change
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.deliveries import Claim, Result
from imaging_ingestion.manifest.event_data import SpaceUrl, event_of, with_data

log = structlog.get_logger(__name__)

#: How long a claimed delivery belongs to its process without a sign of life.
LEASE = timedelta(seconds=30)
#: How often a dispatcher looks for work that another process left: commits here wake it at once.
POLL = timedelta(seconds=1)
#: How long `stop` waits for handlers before it gives their deliveries back.
GRACE = timedelta(seconds=10)
_MICROSECOND = timedelta(microseconds=1)

Clock = Callable[[], int]  # nanoseconds since the epoch


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """What the broker needs to know of its surroundings.

    `space_url` gives the internal DICOMweb root of a space, `api_url` is the root of our API.
    """

    core: str
    revisioning_delay: timedelta
    space_url: SpaceUrl
    api_url: str
    lease: timedelta = LEASE
    poll: timedelta = POLL


class EmbeddedBroker:
    """The broker port on the manifest's database."""

    def __init__(
        self, database: Database, settings: BrokerSettings, *, clock: Clock = time.time_ns
    ) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._listeners: list[Callable[[], None]] = []
        self._commits = GroupCommit(
            database, settings.revisioning_delay, self.committed, clock=clock
        )
        self._dispatchers: list[_Dispatcher] = []

    async def accept(self, stored: StoredInstance) -> StoreOutcome:
        """See `Broker.accept`: recorded, logged and so announced in one transaction."""
        return await self._commits.accept(stored)

    async def publish(self, events: Sequence[Event]) -> None:
        """See `Broker.publish`."""
        now = self._clock() // 1000
        rows = [
            {
                "at": now,
                "kind": ChangeKind.PUBLISHED.value,
                "space": event.space,
                "study_instance_uid": event.study_instance_uid,
                "series_instance_uid": event.series_instance_uid,
                "sop_instance_uid": event.sop_instance_uid,
                "provider": event.provider,
                "event_id": event.id,
                "detail": msgspec.json.encode(event).decode(),
                "traceparent": event.traceparent,
            }
            for event in events
        ]
        if rows and await self._database.write(changes.publish, rows):
            self.committed()

    def on_commit(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each commit that this process makes."""
        self._listeners.append(listener)

    def committed(self) -> None:
        """The log has grown: wake whoever waits for that."""
        for listener in self._listeners:
            listener()

    def subscribe(self, subscription: Subscription, handler: Handler) -> None:
        """See `Broker.subscribe`."""
        dispatcher = _Dispatcher(self._database, self._settings, self._clock, subscription, handler)
        self._dispatchers.append(dispatcher)
        self.on_commit(dispatcher.wake)

    async def start(self) -> None:
        """See `Broker.start`."""
        for dispatcher in self._dispatchers:
            await dispatcher.start()

    async def stop(self) -> None:
        """See `Broker.stop`."""
        await asyncio.gather(*(dispatcher.stop() for dispatcher in self._dispatchers))
        await self._commits.stop()

    async def replay(self, which: ReplayFilter) -> int:
        """See `Broker.replay`."""
        count = await self._database.write(deliveries.replay, which, self._clock() // 1000)
        self.committed()
        return count


@dataclass(slots=True)
class _Turns:
    """Lets deliveries with one key go one after the other, others side by side."""

    locks: dict[str, tuple[asyncio.Lock, int]] = field(default_factory=dict)

    async def enter(self, key: str) -> None:
        lock, users = self.locks.get(key, (asyncio.Lock(), 0))
        self.locks[key] = (lock, users + 1)
        await lock.acquire()

    def leave(self, key: str) -> None:
        lock, users = self.locks[key]
        lock.release()
        if users == 1:
            del self.locks[key]
        else:
            self.locks[key] = (lock, users - 1)


class _Dispatcher:
    """Hands one subscription's events to its handler."""

    def __init__(
        self,
        database: Database,
        settings: BrokerSettings,
        clock: Clock,
        subscription: Subscription,
        handler: Handler,
    ) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._subscription = subscription
        self._handler = handler
        self._lease = settings.lease // _MICROSECOND
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._in_hand: dict[int, asyncio.Task[None]] = {}
        self._turns = _Turns()
        self._random = random.SystemRandom()  # jitter
        self._results: Groups[Result, None] = Groups(self._complete, hopeless=lambda _error: True)

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    async def start(self) -> None:
        await self._database.write(deliveries.subscribe, self._subscription.name)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Take nothing more; wait for what is in hand, `GRACE` at most."""
        self._stopping = True
        self.wake()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            renewing = tasks.create_task(self._renew())
            while not self._stopping:
                self._wake.clear()
                try:
                    busy = await self._turn(tasks)
                except Exception:
                    log.exception("broker.dispatch_failed", binding=self._name)
                    busy = False
                if not busy:
                    await self._wait()
            if self._in_hand:
                _, late = await asyncio.wait(self._in_hand.values(), timeout=GRACE.total_seconds())
                for task in late:
                    task.cancel()
            renewing.cancel()
        await self._results.stop()

    @property
    def _name(self) -> str:
        return self._subscription.name

    def _now(self) -> int:
        return self._clock() // 1000

    async def _turn(self, tasks: asyncio.TaskGroup) -> bool:
        """Fan out, claim, begin; whether there may be more to do at once."""
        passed = await self._database.write(
            deliveries.fan_out, self._name, self._subscription.event_type, self._wants, self._now()
        )
        free = self._subscription.concurrency - len(self._in_hand)
        if free <= 0:
            return False
        claims = await self._database.write(
            deliveries.claim, self._name, self._now(), self._lease, free
        )
        for claim in claims:
            task = tasks.create_task(self._deliver(claim))
            self._in_hand[claim.change.seq] = task
        return bool(passed) or len(claims) == free

    async def _wait(self) -> None:
        """Until a commit, a free place, the next due time, or the next look at the others' work."""
        timeout = self._settings.poll.total_seconds()
        try:
            due = await self._database.read(deliveries.next_due, self._name)
        except Exception:
            log.exception("broker.dispatch_failed", binding=self._name)
            due = None
        if due is not None and len(self._in_hand) < self._subscription.concurrency:
            timeout = min(timeout, max(0.0, (due - self._now()) / 1_000_000))
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            return

    def _wants(self, entry: Change) -> bool:
        return self._subscription.wants(self._event(entry))

    def _event(self, entry: Change) -> Event:
        return event_of(entry, self._subscription.event_type, self._settings.core)

    async def _deliver(self, claim: Claim) -> None:
        key = claim.change.sop_instance_uid or claim.change.study_instance_uid or ""
        try:
            await self._turns.enter(key)
            try:
                result = await self._try(claim)
            finally:
                self._turns.leave(key)
            await self._results.take(result)
        except Exception:
            log.exception("broker.result_lost", binding=self._name)
        finally:
            del self._in_hand[claim.change.seq]
            self.wake()

    async def _try(self, claim: Claim) -> Result:
        """One try of one delivery, and what is to follow from how it ended."""
        event = self._event(claim.change)
        retry_after = None
        state = deliveries.DELIVERED
        try:
            event = await self._database.read(
                with_data,
                event,
                claim.change,
                self._settings.space_url,
                self._settings.api_url,
            )
            delivered: Delivered = await self._handler(event)
            answer = delivered.answer
        except RefusedError as error:
            state, answer = deliveries.DEAD, error.answer
        except TryAgainError as error:
            state, answer, retry_after = deliveries.PENDING, error.answer, error.retry_after
        except Exception as error:  # the port's rule: any other error is "try again"
            state, answer = deliveries.PENDING, f"{type(error).__name__}: {error}"
            log.exception("broker.handler_failed", binding=self._name, event_id=event.id)
        next_at = None
        if state == deliveries.PENDING:
            delay = self._subscription.retry.delay(
                claim.attempt,
                random=self._random.random(),
                retry_after=retry_after,
            )
            if delay is None:
                state, answer = deliveries.DEAD, f"given up after {claim.attempt} tries: {answer}"
            else:
                next_at = self._now() + int(delay * 1_000_000)
        if state != deliveries.DELIVERED:
            log.warning(
                "broker.not_delivered",
                binding=self._name,
                event_id=event.id,
                state=state,
                attempt=claim.attempt,
                answer=answer[:200],
            )
        return Result(
            binding=self._name,
            change=claim.change,
            event_id=event.id,
            state=state,
            attempt=claim.attempt,
            answer=answer,
            next_at=next_at,
        )

    async def _complete(self, results: Sequence[Result]) -> Sequence[None]:
        await self._database.write(deliveries.complete, results, self._now())
        return [None] * len(results)

    async def _renew(self) -> None:
        """Hold on to what is in hand while it takes longer than its lease."""
        while True:
            await asyncio.sleep(self._settings.lease.total_seconds() / 3)
            if not self._in_hand:
                continue
            try:
                await self._database.write(
                    deliveries.renew, self._name, list(self._in_hand), self._now() + self._lease
                )
            except Exception:
                log.exception("broker.renewal_failed", binding=self._name)
