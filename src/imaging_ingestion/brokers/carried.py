"""A broker whose events travel: out of the log by a carrier, and back into the ledger.

    log -> outbox -> carrier (NATS, Knative) -> inbox -> ledger -> dispatcher -> target

See docs/decisions/0010.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from imaging_ingestion.brokers.dispatcher import BrokerSettings, Clock
from imaging_ingestion.brokers.inbox import Inbox
from imaging_ingestion.brokers.log_broker import LogBroker
from imaging_ingestion.brokers.outbox import Carrier, Outbox
from imaging_ingestion.events.broker import Handler, Subscription
from imaging_ingestion.events.model import Event
from imaging_ingestion.manifest.database import Database


class CarriedBroker(LogBroker):
    """The broker port over a carrier. What comes back from it is given to `inbox`."""

    kind = "carried"
    reads_log = False

    def __init__(
        self,
        database: Database,
        settings: BrokerSettings,
        carrier: Carrier,
        *,
        clock: Clock = time.time_ns,
    ) -> None:
        """`clock` gives nanoseconds since the epoch."""
        super().__init__(database, settings, clock=clock)
        self.carrier = carrier
        self.inbox = Inbox(database, settings, self.committed, self.wake_dispatchers, clock=clock)
        self.outbox = Outbox(database, settings, carrier, self._deliver_uncarried, clock=clock)

    @property
    def is_connected(self) -> bool:
        """Whether the carrier took what it was given last."""
        return self.outbox.state.away is None

    def standing(self) -> Mapping[str, object]:
        """See `LogBroker.standing`. Intake goes on without it, so it says nothing of readiness."""
        return {"kind": self.kind, "connected": self.is_connected}

    def committed(self) -> None:
        """The log has new events: they are to be carried."""
        self.outbox.wake()
        self._logged()

    def others_committed(self) -> None:
        """Another process has added to the log; if this one has the outbox, it carries that."""
        self.outbox.wake()
        super().others_committed()

    def subscribe(self, subscription: Subscription, handler: Handler) -> None:
        """See `Broker.subscribe`. Raises ValueError for a name that is taken."""
        super().subscribe(subscription, handler)
        self.inbox.add(subscription)

    async def start(self) -> None:
        """See `Broker.start`. Returns also while the carrier is away."""
        await super().start()
        await self.outbox.register()
        await self.carrier.start()
        self.outbox.start()

    async def stop(self) -> None:
        """See `Broker.stop`."""
        await self.outbox.stop()
        await self.carrier.stop()
        await self.inbox.stop()
        await super().stop()

    async def _deliver_uncarried(self, event: Event) -> None:
        """Our own bindings get what the carrier will not take."""
        if event.seq is not None:
            await self.inbox.reach(event.seq, self._bindings_for(event.type))

    def _bindings_for(self, event_type: str) -> list[str]:
        return [one.name for one in self.subscriptions if one.event_type == event_type]

    @property
    def subscriptions(self) -> Iterable[Subscription]:
        """Of the bindings of this process."""
        return self.inbox.subscriptions
