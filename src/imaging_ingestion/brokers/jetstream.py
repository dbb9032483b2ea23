"""The broker over NATS JetStream (docs/events.md, docs/decisions/0010)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Final

import structlog
from nats import errors

from imaging_ingestion.brokers.carried import CarriedBroker
from imaging_ingestion.brokers.dispatcher import BrokerSettings, Clock
from imaging_ingestion.brokers.jetstream_carrier import JetStreamCarrier
from imaging_ingestion.brokers.jetstream_consumer import JetStreamConsumer
from imaging_ingestion.brokers.jetstream_link import JetStreamLink, NotConnectedError
from imaging_ingestion.brokers.jetstream_settings import JetStreamSettings
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.ledger import Key

__all__ = ["JetStreamBroker", "JetStreamSettings"]

log = structlog.get_logger(__name__)

#: Requests to purge that are on their way together.
_PURGES: Final = 32


class JetStreamBroker(CarriedBroker):
    """The broker port over a core's streams."""

    kind = "jetstream"

    def __init__(
        self,
        database: Database,
        settings: BrokerSettings,
        jetstream: JetStreamSettings,
        *,
        clock: Clock = time.time_ns,
    ) -> None:
        """`clock` gives nanoseconds since the epoch. Raises SettingsError."""
        self.link = JetStreamLink(settings.core, jetstream, self._events_are_lost)
        super().__init__(database, settings, JetStreamCarrier(self.link), clock=clock)
        self.link.on_change(self._link_changed)
        self._consumers: list[JetStreamConsumer] = []

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to NATS, and it took what it was given last."""
        return self.link.is_up and super().is_connected

    async def start(self) -> None:
        """See `Broker.start`. Returns also while NATS is away."""
        await super().start()
        self._consumers = [
            JetStreamConsumer(self.link, self._database, one, self.inbox)
            for one in self.subscriptions
        ]
        for consumer in self._consumers:
            consumer.start()

    async def stop(self) -> None:
        """See `Broker.stop`."""
        await asyncio.gather(*(consumer.stop() for consumer in self._consumers))
        await super().stop()

    async def _replayed(self, dead: Collection[Key]) -> None:
        """They are dead no more: take them out of the stream of dead letters.

        The ledger is what counts. If NATS is away they stay there until they are replaced.
        """
        if not dead:
            return
        limit = asyncio.Semaphore(_PURGES)
        try:
            context = await self.link.ready()

            async def purge(binding: str, number: int) -> None:
                async with limit:
                    subject = self.link.names.dead_letter(binding, number)
                    await context.purge_stream(self.link.names.dead, subject=subject)

            await asyncio.gather(*(purge(*key) for key in dead))
        except (errors.Error, NotConnectedError, OSError, TimeoutError) as error:
            log.warning("jetstream.not_purged", error=type(error).__name__, number=len(dead))

    async def _events_are_lost(self) -> None:
        await self.outbox.rewind()

    def _link_changed(self) -> None:
        if self.link.is_up:
            self.outbox.carrier_is_back()
