"""What every broker here is: the log takes events in, the ledger delivers them.

An instance is recorded and its log entry written in one transaction, whichever broker there is; a
binding's deliveries are rows of the ledger, worked on by its `Dispatcher` (docs/decisions/0002 and
0010). Brokers differ in how an entry of the log becomes rows of the ledger.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from imaging_ingestion.brokers.dispatcher import BrokerSettings, Clock, Dispatcher
from imaging_ingestion.brokers.group_commit import GroupCommit
from imaging_ingestion.events.broker import Handler, ReplayFilter, Subscription
from imaging_ingestion.events.model import ChangeKind, Event
from imaging_ingestion.events.stored import StoredInstance, StoreOutcome
from imaging_ingestion.manifest import changes, deliveries, ledger
from imaging_ingestion.manifest.database import Database


class LogBroker:
    """The broker port, but for the way from the log to the ledger."""

    kind = "embedded"
    #: Whether the dispatchers take entries from the log themselves.
    reads_log = True

    def __init__(
        self, database: Database, settings: BrokerSettings, *, clock: Clock = time.time_ns
    ) -> None:
        """`clock` gives nanoseconds since the epoch."""
        self._database = database
        self._settings = settings
        self._clock = clock
        self._next_commit = asyncio.Event()
        self._tell: Callable[[], None] | None = None
        self._commits = GroupCommit(
            database, settings.revisioning_delay, self.committed, clock=clock
        )
        self._dispatchers: dict[str, Dispatcher] = {}

    def standing(self) -> Mapping[str, object]:
        """What an operator asks first: the kind of broker, and whether it is there."""
        return {"kind": self.kind}

    async def accept(self, stored: StoredInstance) -> StoreOutcome:
        """See `Broker.accept`: recorded, logged and so announced in one transaction."""
        return await self._commits.accept(stored)

    async def publish(self, events: Sequence[Event]) -> None:
        """See `Broker.publish`."""
        now = self._now()
        rows = [published_row(event, now) for event in events]
        if not rows:
            return
        new = await self._database.write(changes.publish, rows)
        if new:
            self.committed()

    def next_commit(self) -> asyncio.Event:
        """Set once the log has grown after this call, by this process or one that tells it so.

        Whoever reads the log and then waits asks for it before reading, so as to miss nothing.
        """
        return self._next_commit

    def committed(self) -> None:
        """The log has new events: wake the dispatchers, and whoever waits for a commit."""
        self.wake_dispatchers(self._dispatchers)
        self._logged()

    def wake_dispatchers(self, names: Iterable[str]) -> None:
        """There is something to deliver for these bindings."""
        for name in names:
            self._dispatchers[name].wake()

    def on_commit(self, tell: Callable[[], None]) -> None:
        """Call `tell` after each commit of this process that adds to the log."""
        self._tell = tell

    def others_committed(self) -> None:
        """Another process has added to the log: whoever follows it looks.

        The dispatchers do not: those of the other process do its work, and looks that find nothing
        would cost a transaction each. What is left over they find when they look next.
        """
        self._grown()

    def _logged(self) -> None:
        self._grown()
        if self._tell is not None:
            self._tell()

    def _grown(self) -> None:
        grown, self._next_commit = self._next_commit, asyncio.Event()
        grown.set()

    def subscribe(self, subscription: Subscription, handler: Handler) -> None:
        """See `Broker.subscribe`. Raises ValueError for a name that is taken."""
        if subscription.name in self._dispatchers:
            raise ValueError(f"there is a subscription {subscription.name!r} already")
        self._dispatchers[subscription.name] = Dispatcher(
            self._database,
            self._settings,
            self._clock,
            subscription,
            handler,
            self._logged,
            reads_log=self.reads_log,
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
            number, after, dead = await self._database.write(
                ledger.replayed, which, self._now(), after
            )
            total += number
            await self._replayed(dead)
            if after is None:
                break
        if total:
            self.wake_dispatchers(self._dispatchers)
        return total

    async def _replayed(self, dead: Collection[ledger.Key]) -> None:
        """These dead letters are none any more."""

    def _now(self) -> int:
        return self._clock() // 1000


def published_row(event: Event, now: int, *, by_carrier: bool = False) -> Mapping[str, object]:
    """The log entry that an event from outside becomes. Raises ValueError for one without identity.

    `by_carrier`: it came from the broker that the log's events go to.
    """
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
        "detail": changes.published_detail(event, by_carrier=by_carrier),
        "traceparent": event.traceparent,
    }
