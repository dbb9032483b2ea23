"""Each kind of broker, for the tests of the broker port."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, Protocol

import pytest
from event_core import ManualClock, settings
from knative_hub import KnativeHub, KnativeReplica
from nats_servers import NatsServer, nats_server

from imaging_ingestion.brokers.embedded import EmbeddedBroker
from imaging_ingestion.brokers.jetstream import JetStreamBroker, JetStreamSettings
from imaging_ingestion.brokers.log_broker import LogBroker
from imaging_ingestion.events.broker import Handler, Subscription
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.nats_client.settings import NatsSettings


class BrokerOn(Protocol):
    """Makes brokers of one kind; those of one test are replicas of each other."""

    kind: str

    def __call__(
        self,
        database: Database,
        *subscribed: tuple[Subscription, Handler],
        clock: ManualClock | None = None,
        **fields: Any,
    ) -> LogBroker:
        """A broker with subscriptions, not started; `fields` are of its settings."""


class _BrokerOn:
    def __init__(
        self, kind: str, jetstream: JetStreamSettings | None, hub: KnativeHub | None = None
    ) -> None:
        self.kind = kind
        self._jetstream = jetstream
        self._hub = hub

    def __call__(
        self,
        database: Database,
        *subscribed: tuple[Subscription, Handler],
        clock: ManualClock | None = None,
        **fields: Any,
    ) -> LogBroker:
        more: dict[str, Any] = {} if clock is None else {"clock": clock}
        broker: LogBroker
        if self._hub is not None:
            broker = KnativeReplica(self._hub, database, settings(**fields), **more)
        elif self._jetstream is None:
            broker = EmbeddedBroker(database, settings(**fields), **more)
        else:
            broker = JetStreamBroker(database, settings(**fields), self._jetstream, **more)
        for one, handler in subscribed:
            broker.subscribe(one, handler)
        return broker


@pytest.fixture(scope="session")
def jetstream_server() -> Iterator[NatsServer]:
    """A server with JetStream of this test process, for whoever has a subject root of its own."""
    with nats_server(jetstream=True) as server:
        yield server


def jetstream_on(*servers: NatsServer, **fields: Any) -> JetStreamSettings:
    """How to use a server, or a cluster, under a root that nobody else has."""
    urls = tuple(f"nats://{server.address}" for server in servers)
    values = {"nats": NatsSettings(urls), "subject_root": f"t{uuid.uuid4().hex}", **fields}
    return JetStreamSettings(**values)


@pytest.fixture(params=["embedded", "jetstream", "knative"])
def broker_on(request: pytest.FixtureRequest) -> BrokerOn:
    """Makes brokers of each kind."""
    if request.param == "embedded":
        return _BrokerOn(request.param, None)
    if request.param == "knative":
        return _BrokerOn(request.param, None, request.getfixturevalue("knative_hub"))
    return _BrokerOn(request.param, jetstream_on(request.getfixturevalue("jetstream_server")))


@pytest.fixture
def embedded_on() -> BrokerOn:
    """Makes embedded brokers."""
    return _BrokerOn("embedded", None)


@pytest.fixture
def jetstream_broker_on(jetstream_server: NatsServer) -> BrokerOn:
    """Makes brokers over JetStream."""
    return _BrokerOn("jetstream", jetstream_on(jetstream_server))
