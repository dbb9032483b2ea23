"""The broker over Knative Eventing, which makes good what never comes back.

A trigger that has tried in vain for long enough gives an event up, or hands it to a dead-letter
sink. Our log has it: what was carried a while ago is given to the bindings whether it came round or
not. That changes nothing where it did.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog

from imaging_ingestion.brokers.carried import CarriedBroker
from imaging_ingestion.brokers.dispatcher import BrokerSettings, Clock
from imaging_ingestion.brokers.knative import KnativeCarrier
from imaging_ingestion.brokers.pause import pause
from imaging_ingestion.manifest import outbox
from imaging_ingestion.manifest.database import Database

log = structlog.get_logger(__name__)

#: Seconds that an event has to come round: Knative's own retries are over by then.
ROUND: Final = 300.0


class KnativeBroker(CarriedBroker):
    """The broker port over a sink and triggers."""

    kind = "knative"

    def __init__(
        self,
        database: Database,
        settings: BrokerSettings,
        carrier: KnativeCarrier,
        *,
        round_trip: float = ROUND,
        clock: Clock = time.time_ns,
    ) -> None:
        """`round_trip`: seconds after which what was carried is given to the bindings anyway.

        `clock` gives nanoseconds since the epoch.
        """
        super().__init__(database, settings, carrier, clock=clock)
        self._round_trip = round_trip
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """See `Broker.start`. Returns also while the sink is away."""
        await super().start()
        self._task = asyncio.create_task(self._make_good())

    async def stop(self) -> None:
        """See `Broker.stop`."""
        self._stopping.set()
        if self._task is not None:
            await self._task
        await super().stop()

    async def _make_good(self) -> None:
        carried: int | None = None  # one round trip ago
        while not self._stopping.is_set():
            try:
                if carried is not None:
                    await self.inbox.reach(carried)
                carried = await self._database.read(outbox.position)
            except Exception as error:  # noqa: BLE001 - logged, and tried again
                log.error("knative.waits", error=type(error).__name__)  # noqa: TRY400
            await pause(self._stopping, self._round_trip)
