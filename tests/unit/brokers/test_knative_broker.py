"""What Knative never brings back is delivered all the same."""

from __future__ import annotations

from event_core import Target, running, settings, states, stored, until
from http_recorder import Answer, http_recorder

from imaging_ingestion.brokers.knative import KnativeCarrier
from imaging_ingestion.brokers.knative_broker import KnativeBroker
from imaging_ingestion.events.broker import Subscription
from imaging_ingestion.events.model import IMAGE_STORED
from imaging_ingestion.manifest.database import Database


async def test_an_event_that_does_not_come_round_is_delivered_a_round_trip_later(
    database: Database,
) -> None:
    target = Target()
    # A sink without a trigger: it takes events and brings none back.
    async with http_recorder(lambda _: Answer(202)) as sink:
        carrier = KnativeCarrier(sink.url)
        broker = KnativeBroker(database, settings(), carrier, round_trip=0.05)
        broker.subscribe(Subscription("forward", IMAGE_STORED), target)
        async with running(broker):
            await broker.accept(stored("1"))
            await until(lambda: target.ids)
            await broker.accept(stored("2"))
            await until(lambda: len(target.ids) == 2)
        assert target.ids == ["stored/1/1", "stored/2/1"]
        assert (await states(database, "forward"))["delivered"] == 2
        assert len(sink.requests) == 4  # of each instance both events, once
