"""A core's broker over Knative as a whole, for the tests of the broker port: out to a broker's
ingress, and back by a trigger to `/events` of whichever replica answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from knative_broker import KnativeBroker as BrokerBetween
from knative_broker import Trigger

from imaging_ingestion.api.arrivals import Arrivals, EventsEndpoint
from imaging_ingestion.brokers.dispatcher import BrokerSettings
from imaging_ingestion.brokers.knative import KnativeCarrier
from imaging_ingestion.brokers.knative_broker import KnativeBroker
from imaging_ingestion.http_server import HttpServer
from imaging_ingestion.intake.announced import AnnouncedInstances
from imaging_ingestion.manifest.database import Database


class KnativeHub:
    """The broker in between, with the replicas that its one trigger may reach."""

    def __init__(self, broker: BrokerBetween) -> None:
        self.broker = broker
        self.replicas: list[str] = []
        self._trigger: Trigger | None = None

    def attach(self, url: str) -> None:
        """A replica answers."""
        self.replicas.append(url)
        if self._trigger is None:
            self._trigger = Trigger(None, url)
            self.broker.subscribe(self._trigger)
        self._trigger.subscriber = self.replicas[-1]

    def detach(self, url: str) -> None:
        """A replica answers no more."""
        self.replicas.remove(url)
        if self.replicas and self._trigger is not None:
            self._trigger.subscriber = self.replicas[-1]


class KnativeReplica(KnativeBroker):
    """One replica of the core, with its `/events`."""

    def __init__(
        self, hub: KnativeHub, database: Database, settings: BrokerSettings, **more: Any
    ) -> None:
        super().__init__(database, settings, KnativeCarrier(hub.broker.sink), **more)
        instances = AnnouncedInstances(settings.core, database, self, {}, settings.roots_of)
        endpoint = EventsEndpoint(Arrivals(instances, self.inbox, {}))
        self._hub = hub
        self._server = HttpServer(endpoint, "127.0.0.1", 0)
        self._url = f"http://127.0.0.1:{self._server.port}/events"

    async def start(self) -> None:
        await self._server.start()
        await super().start()
        self._hub.attach(self._url)

    async def stop(self) -> None:
        if self._url in self._hub.replicas:
            self._hub.detach(self._url)
        await self._server.stop()
        await super().stop()


@pytest.fixture
async def knative_hub() -> AsyncIterator[KnativeHub]:
    """A broker of Knative's kind, without replicas yet."""
    broker = BrokerBetween()
    await broker.start()
    try:
        yield KnativeHub(broker)
    finally:
        await broker.close()
