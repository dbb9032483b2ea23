"""The embedded broker: a durable queue in the manifest's own database.

There is no queue beside the log (docs/decisions/0002): a subscription is a position in the log and
rows of the delivery ledger, worked on by its `Dispatcher`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

import msgspec

from imaging_ingestion.brokers.dispatcher import BrokerSettings, Clock, Dispatcher
from imaging_ingestion.brokers.group_commit import GroupCommit
from imaging_ingestion.events.broker import Handler, ReplayFilter, Subscription
from imaging_ingestion.events.model import ChangeKind, Event
from imaging_ingestion.events.stored import StoredInstance, StoreOutcome
from imaging_ingestion.manifest import changes, deliveries, ledger
from imaging_ingestion.manifest.database import Database

__all__ = ["BrokerSettings", "EmbeddedBroker"]


class EmbeddedBroker:
    """The broker port on the manifest's database."""

    def __init__(
        self, database: Database, settings: BrokerSettings, *, clock: Clock = time.time_ns
    ) -> None:
        """`clock` gives nanoseconds since the epoch."""
        self._database = database
        self._settings = settings
        self._clock = clock
        self._next_commit = asyncio.Event()
        self._commits = GroupCommit(
            database, settings.revisioning_delay, self.committed, clock=clock
        )
        self._dispatchers: dict[str, Dispatcher] = {}

    async def accept(self, stored: StoredInstance) -> StoreOutcome:
        """See `Broker.accept`: recorded, logged and so announced in one transaction."""
        return await self._commits.accept(stored)

    async def publish(self, events: Sequence[Event]) -> None:
        """See `Broker.publish`."""
        now = self._now()
        rows = [_published(event, now) for event in events]
        if not rows:
            return
        new = await self._database.write(changes.publish, rows)
        if new:
            self.committed()

    def next_commit(self) -> asyncio.Event:
        """Set once this process has added to the log after this call.

        Whoever reads the log and then waits asks for it before reading, so as to miss nothing.
        """
        return self._next_commit

    def committed(self) -> None:
        """The log has new events: wake the dispatchers, and whoever waits for a commit."""
        for dispatcher in self._dispatchers.values():
            dispatcher.wake()
        self._logged()

    def _logged(self) -> None:
        logged, self._next_commit = self._next_commit, asyncio.Event()
        logged.set()

    def subscribe(self, subscription: Subscription, handler: Handler) -> None:
        """See `Broker.subscribe`. Raises ValueError for a name that is taken."""
        if subscription.name in self._dispatchers:
            raise ValueError(f"there is a subscription {subscription.name!r} already")
        self._dispatchers[subscription.name] = Dispatcher(
            self._database, self._settings, self._clock, subscription, handler, self._logged
        )

    async def start(self) -> None:
        """See `Broker.start`."""
        for name in self._dispatchers:
            await self._database.write(deliveries.subscribe, name)
        for dispatcher in self._dispatchers.values():
            dispatcher.start()

    async def stop(self) -> None:
        """See `Broker.stop`."""
        await asyncio.gather(*(one.stop() for one in self._dispatchers.values()))
        await self._commits.stop()

    async def replay(self, which: ReplayFilter) -> int:
        """See `Broker.replay`. In batches: intake goes on between them."""
        total = 0
        after: ledger.Key | None = None
        while True:
            number, after = await self._database.write(ledger.replay, which, self._now(), after)
            total += number
            if after is None:
                break
        if total:
            self.committed()
        return total

    def _now(self) -> int:
        return self._clock() // 1000


def _published(event: Event, now: int) -> Mapping[str, object]:
    """The log entry that an event from outside becomes."""
    if not (event.id and event.source and event.type):
        raise ValueError("an event needs an id, a source and a type (CloudEvents 1.0)")
    return {
        "at": now,
        "kind": ChangeKind.PUBLISHED.value,
        "space": event.space,
        "study_instance_uid": event.study_instance_uid,
        "series_instance_uid": event.series_instance_uid,
        "sop_instance_uid": event.sop_instance_uid,
        "provider": event.provider,
        "event_id": event.id,
        "source": event.source,
        "detail": msgspec.json.encode(event).decode(),
        "traceparent": event.traceparent,
    }
