"""The broker over NATS JetStream: what is in its streams, and what it does when they are not."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import msgspec
import nats as nats_py
import pytest
from brokers_under_test import BrokerOn, jetstream_on
from event_core import (
    Target,
    kill,
    ledger_of,
    published,
    record,
    running,
    settings,
    states,
    stored,
    until,
)
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError
from nats_servers import NatsServer, nats_cluster, nats_server
from platform_process import free_port
from structlog.testing import capture_logs

from imaging_ingestion.brokers.jetstream import JetStreamBroker, JetStreamSettings
from imaging_ingestion.brokers.jetstream_carrier import message_id
from imaging_ingestion.brokers.outbox import CarrierRefusedError
from imaging_ingestion.events.broker import RefusedError, ReplayFilter, Subscription
from imaging_ingestion.events.model import DICOM_AVAILABLE, STUDY_REVISION, Event
from imaging_ingestion.events.nats_binding import event_of_message, message_of
from imaging_ingestion.manifest import changes, outbox, revision
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.nats_client.settings import NatsSettings

#: A server takes a while to elect leaders; those who were cut off must not give up before.
QUICK: dict[str, Any] = {
    "idle": timedelta(seconds=2),
    "heartbeat": timedelta(milliseconds=500),
    "ack_wait": timedelta(seconds=2),
}


def subscription(name: str = "b", event_type: str = DICOM_AVAILABLE, **more: Any) -> Subscription:
    return Subscription(**{"name": name, "event_type": event_type, **more})


def broker_over(
    database: Database,
    jetstream: JetStreamSettings,
    *subscribed: tuple[Subscription, Target],
    **fields: Any,
) -> JetStreamBroker:
    broker = JetStreamBroker(database, settings(**fields), jetstream)
    for one, target in subscribed:
        broker.subscribe(one, target)
    return broker


@pytest.fixture
def jetstream(jetstream_server: NatsServer) -> JetStreamSettings:
    return jetstream_on(jetstream_server, **QUICK)


@asynccontextmanager
async def client_of(jetstream: JetStreamSettings) -> AsyncIterator[JetStreamContext]:
    """Somebody else at the same server."""
    client = await nats_py.connect(list(jetstream.nats.servers))
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def messages_in(
    context: JetStreamContext, broker: JetStreamBroker, *, dead: bool = False
) -> list[Msg]:
    """All that a stream has."""
    names = broker.link.names
    stream = names.dead if dead else names.events
    try:
        number = (await context.stream_info(stream)).state.messages
    except NotFoundError:
        number = 0
    if not number:
        return []
    reader = await context.subscribe(
        names.all_dead if dead else names.all_events,
        stream=stream,
        ordered_consumer=True,
        config=ConsumerConfig(deliver_policy=DeliverPolicy.ALL),
    )
    try:
        return [await reader.next_msg(timeout=10) for _ in range(number)]
    finally:
        await reader.unsubscribe()


def headers(messages: Sequence[Msg], name: str) -> list[str]:
    return [(message.headers or {}).get(name, "") for message in messages]


def ids(*sops: object) -> list[str]:
    return [f"available/{sop}/1" for sop in sops]


def carried(broker: JetStreamBroker, number: int) -> Callable[[], bool]:
    return lambda: broker.outbox.state.carried >= number


async def test_the_stream_has_every_event_once_in_binary_mode(  # E9, E11
    database: Database, jetstream: JetStreamSettings
) -> None:
    broker = broker_over(database, jetstream)
    async with running(broker), client_of(jetstream) as client:
        await broker.accept(stored("7", space="clinical ct"))
        await until(carried(broker, 2))
        image, available = await messages_in(client, broker)
        root = f"{jetstream.subject_root}.test.events"
        assert image.subject == f"{root}.ImageStoredEvent.clinical%20ct"
        assert available.subject == f"{root}.DicomAvailableEvent.clinical%20ct"
        event = event_of_message(available.headers or {}, available.data)
        assert (event.id, event.seq) == ("available/7/1", 1)
        assert event.source == "/imaging-ingestion/test/clinical%20ct"
        given = dict(available.headers or {})
        assert given["ce-specversion"] == "1.0"
        assert given["ce-datacontenttype"] == "application/json"
        assert given["ce-subject"] == "studies/1/series/1.1/instances/7"
        assert given["ce-partitionkey"] == "1"
        assert given["Nats-Msg-Id"] == message_id(event)
        assert msgspec.json.decode(available.data)["provider"] == "provider"
        # Again, as after a crash: nothing is added.
        await broker.carrier.carry([event])
        assert len(await messages_in(client, broker)) == 2


async def test_what_was_carried_but_not_counted_is_carried_again_and_is_one(
    database: Database, jetstream: JetStreamSettings
) -> None:
    target = Target()

    class DiesBeforeItCounts:
        dialect = database.dialect
        asked = asyncio.Event()

        async def read(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
            return await database.read(fn, *args, **kwargs)

        async def write(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
            if fn is outbox.advance:
                self.asked.set()
                await asyncio.Event().wait()
            return await database.write(fn, *args, **kwargs)

        async def close(self) -> None:
            await database.close()

    dying = DiesBeforeItCounts()
    lease = timedelta(milliseconds=300)
    first = broker_over(dying, jetstream, (subscription(), target), lease=lease)
    await first.start()
    await record(database, *(stored(str(n)) for n in range(5)))
    await dying.asked.wait()
    kill(first)
    assert await database.read(outbox.position) == 0
    second = broker_over(database, jetstream, (subscription(), target), lease=lease)
    async with running(second), client_of(jetstream) as client:
        await until(carried(second, 10))
        await until(lambda: len(target.taken) >= 5)
        assert sorted(target.ids) == ids(*range(5))
        assert len(await messages_in(client, second)) == 10
    assert await states(database, "b") == {"delivered": 5}


async def test_one_of_two_replicas_reads_the_log_and_the_other_takes_over(
    database_url: str, jetstream: JetStreamSettings
) -> None:
    databases = [open_database(database_url) for _ in range(2)]
    try:
        targets = [Target(), Target()]
        lease = timedelta(seconds=3)
        brokers = [
            broker_over(one, jetstream, (subscription(), target), lease=lease)
            for one, target in zip(databases, targets, strict=True)
        ]
        for broker in brokers:
            await broker.start()
        await until(lambda: any(one.outbox.state.reads for one in brokers))
        for content in "ab":
            await asyncio.gather(
                *(brokers[n % 2].accept(stored(str(n), content)) for n in range(20))
            )
        await until(lambda: len(targets[0].taken) + len(targets[1].taken) == 40)
        reads = [one.outbox.state.reads for one in brokers]
        assert sorted(reads) == [False, True]
        reader, other = reads.index(True), reads.index(False)
        # On a loaded machine a claim may run out, and a batch be carried by both.
        assert sum(one.outbox.state.carried for one in brokers) >= 80
        before = brokers[other].outbox.state.carried
        kill(brokers[reader])
        await asyncio.gather(*(brokers[other].accept(stored(str(n), "c")) for n in range(20)))
        await until(lambda: brokers[other].outbox.state.carried >= before + 40)

        async def all_delivered() -> bool:
            return await states(databases[other], "b") == {"delivered": 60}

        await until(all_delivered)
        await brokers[other].stop()
    finally:
        for one in databases:
            await one.close()


async def test_a_replica_that_does_not_reach_nats_leaves_the_outbox_to_one_that_does(
    database_url: str, jetstream: JetStreamSettings
) -> None:
    nowhere = NatsSettings((f"nats://127.0.0.1:{free_port()}",))
    cut_off = dataclasses.replace(jetstream, nats=nowhere)
    databases = [open_database(database_url) for _ in range(2)]
    try:
        target = Target()
        alone = broker_over(databases[0], cut_off)
        async with running(alone):
            await alone.accept(stored("1"))
            await until(lambda: alone.outbox.state.away is not None)
            other = broker_over(databases[1], jetstream, (subscription(), target))
            async with running(other):
                await alone.accept(stored("2"))
                await until(lambda: target.ids == ids("2"))
    finally:
        for one in databases:
            await one.close()


async def test_work_goes_on_whenever_nats_comes_and_whatever_it_has_lost(
    database: Database,
) -> None:
    """It is not there at the start; then it ends and comes back with everything; then empty."""
    target = Target()
    with nats_server(jetstream=True) as server:
        jetstream = jetstream_on(server, **QUICK)
        server.kill()
        broker = broker_over(database, jetstream, (subscription(), target))
        async with running(broker):
            assert not broker.is_connected
            await broker.accept(stored("1"))
            await until(lambda: broker.outbox.state.away is not None)
            assert broker.standing() == {"kind": "jetstream", "connected": False}
            server.start()
            await until(lambda: target.ids == ids("1"))
            await until(lambda: broker.is_connected)
            server.kill()
            await broker.accept(stored("2"))
            server.start()
            await until(lambda: target.ids == ids("1", "2"))
            async with client_of(jetstream) as client:
                await client.delete_stream(broker.link.names.events)
            await broker.accept(stored("3"))
            await until(lambda: target.ids == ids("1", "2", "3"))
    assert await states(database, "b") == {"delivered": 3}


async def test_what_a_stream_lost_before_a_binding_had_it_is_made_good(
    database: Database, jetstream: JetStreamSettings
) -> None:
    target = Target()
    with_binding = broker_over(database, jetstream, (subscription(), target))
    async with running(with_binding):  # it is known, and then goes away
        pass
    alone = broker_over(database, jetstream)
    async with running(alone), client_of(jetstream) as client:
        await alone.accept(stored("1"))
        await alone.accept(stored("2"))
        await until(carried(alone, 4))
        await client.purge_stream(alone.link.names.events)
        await alone.accept(stored("3"))
        await until(carried(alone, 6))
        await client.delete_stream(alone.link.names.events)
    again = broker_over(database, jetstream, (subscription(), target))
    async with running(again), client_of(jetstream) as client:
        await until(lambda: len(target.taken) == 3)
        # Others find there again what the binding had not had.
        await until(carried(again, 6))
        assert len(await messages_in(client, again)) == 6
    assert target.ids == ids("1", "2", "3")


async def test_a_cluster_may_lose_a_server(postgres_database_url: str) -> None:
    database = open_database(postgres_database_url)
    target = Target()
    with nats_cluster(jetstream=True) as servers:
        jetstream = jetstream_on(*servers, replicas=3, **QUICK)
        broker = broker_over(database, jetstream, (subscription(), target))
        try:
            async with running(broker):
                await until(lambda: broker.link.is_up)
                await broker.accept(stored("0"))
                await until(lambda: len(target.taken) == 1)
                at = broker.link._connection.server  # the one that we talk to
                victim = next(one for one in servers if at.endswith(f":{one.port}"))
                for number in range(1, 20):
                    await broker.accept(stored(str(number)))
                    if number == 10:
                        victim.kill()
                await until(lambda: len(target.taken) == 20, 60)
                async with client_of(
                    jetstream_on(*(one for one in servers if one is not victim))
                ) as client:
                    info = await client.stream_info(broker.link.names.events)
                    assert info.config.num_replicas == 3
            assert sorted(target.ids) == sorted(ids(*range(20)))
        finally:
            await database.close()


async def test_a_dead_letter_is_in_a_stream_of_its_own_until_it_is_driven_again(
    database: Database, jetstream: JetStreamSettings
) -> None:
    refuse = True

    def fail(_event: Event, _times: int) -> None:
        if refuse:
            raise RefusedError('409: {"patient":"DOE^JANE"}')

    target = Target(fail)
    broker = broker_over(database, jetstream, (subscription("to.pacs"), target))
    async with running(broker), client_of(jetstream) as client:
        await asyncio.gather(*(broker.accept(stored(str(n))) for n in range(3)))

        async def buried() -> bool:
            return len(await messages_in(client, broker, dead=True)) == 3

        await until(buried)
        dead = await messages_in(client, broker, dead=True)
        assert {message.subject for message in dead} == {
            f"{jetstream.subject_root}.test.dead.to%2Epacs.{number}" for number in (1, 2, 3)
        }
        assert headers(dead, "Imaging-Binding") == ["to.pacs"] * 3
        assert headers(dead, "Imaging-Attempts") == ["1"] * 3
        assert headers(dead, "Imaging-Reason") == ['409: {"patient":"DOE^JANE"}'] * 3
        told = msgspec.json.decode(dead[0].data)
        assert told["eventId"] == f"available/{told['number'] - 1}/1"
        refuse = False
        assert await broker.replay(ReplayFilter(binding="to.pacs", since_seq=1)) == 2
        await until(lambda: len(target.taken) == 2)
        assert len(await messages_in(client, broker, dead=True)) == 1
        assert await broker.replay(ReplayFilter()) == 1
        await until(lambda: len(target.taken) == 3)
        assert await messages_in(client, broker, dead=True) == []
    assert await states(database, "to.pacs") == {"delivered": 3}


async def test_what_is_no_event_is_put_away_and_holds_up_nothing(
    database: Database, jetstream: JetStreamSettings
) -> None:
    target = Target()
    broker = broker_over(database, jetstream, (subscription(), target))
    async with running(broker), client_of(jetstream) as client:
        await broker.link.ready()
        subject = broker.link.names.event(published(1, type=DICOM_AVAILABLE))
        await client.publish(subject, b"\x00\xff no event", headers={"Any": "thing"})
        await client.publish(subject, b"{}", headers={"ce-id": "1", "ce-specversion": "1.0"})
        await broker.accept(stored("7"))
        await until(lambda: target.ids == ids("7"))

        async def buried() -> bool:
            return len(await messages_in(client, broker, dead=True)) == 2

        await until(buried)
        dead = await messages_in(client, broker, dead=True)
        assert [message.data for message in dead] == [b"\x00\xff no event", b"{}"]
        assert "source is missing" in headers(dead, "Imaging-Reason")[1]
        consumer = await client.consumer_info(broker.link.names.events, "b")
        assert consumer.num_ack_pending == 0


async def test_an_event_of_another_program_is_delivered_once_and_not_sent_back(
    database: Database, jetstream: JetStreamSettings
) -> None:
    target = Target()
    broker = broker_over(database, jetstream, (subscription(event_type="SomethingEvent"), target))
    # It says a number, but in another log.
    event = published(1, space="elsewhere", seq=1)
    message = message_of(event)
    async with running(broker), client_of(jetstream) as client:
        await broker.link.ready()
        for _ in range(2):
            await client.publish(
                broker.link.names.event(event), message.body, headers=message.headers
            )
        await broker.accept(stored("7"))
        await until(carried(broker, 2))
        await until(lambda: len(target.taken) == 1)
        consumer = broker.link.names.consumer("b")

        async def done() -> bool:
            info = await client.consumer_info(broker.link.names.events, consumer)
            return info.num_pending == 0 and info.num_ack_pending == 0

        await until(done)
        assert len(await messages_in(client, broker)) == 4
        kinds = [entry.kind for entry in (await database.read(changes.since, 0, 10)).entries]
        assert kinds.count("published") == 1
    (taken,) = target.taken
    assert (taken.source, taken.id, taken.json()) == ("/elsewhere", "1", {"number": 1})


async def test_a_message_waits_for_a_database_that_is_away(
    database: Database, jetstream: JetStreamSettings
) -> None:
    class Away:
        dialect = database.dialect
        away = False
        refused = 0

        async def read(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
            if self.away and fn is outbox.owned:
                self.refused += 1
                raise ConnectionRefusedError("no")
            return await database.read(fn, *args, **kwargs)

        async def write(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
            return await database.write(fn, *args, **kwargs)

        async def close(self) -> None:
            await database.close()

    away, target = Away(), Target()
    calm = dataclasses.replace(jetstream, idle=timedelta(minutes=1))
    broker = broker_over(away, calm, (subscription(), target))
    async with running(broker):
        await broker.accept(stored("1"))
        await until(lambda: target.ids == ids("1"))
        away.away = True
        await broker.accept(stored("2"))
        await until(lambda: away.refused >= 2)
        assert target.ids == ids("1")
        away.away = False
        await until(lambda: target.ids == ids("1", "2"))


async def test_a_large_revision_and_a_large_event_travel_as_references(  # E10
    database: Database, jetstream: JetStreamSettings
) -> None:
    target = Target()
    broker = broker_over(database, jetstream, (subscription(event_type=STUDY_REVISION), target))
    comment = '{"00104000":{"vr":"LT","Value":["' + "x" * 300_000 + '"]}}'
    async with running(broker), client_of(jetstream) as client:
        await record(database, stored("1", study_attributes=comment))
        await database.write(revision.revise, 1, 1, lambda *_: "http://x")
        await broker.publish([published(5, data=b'"%s"' % (b"y" * 2_000_000))])
        await until(carried(broker, 4))
        await until(lambda: len(target.taken) == 1)
        found = [
            event_of_message(one.headers or {}, one.data)
            for one in await messages_in(client, broker)
        ]
        references = {event.type: event.dataref for event in found if event.dataref}
        assert references == {
            STUDY_REVISION: "http://127.0.0.1/api/revisions/default/1/0?core=test",
            "SomethingEvent": "http://127.0.0.1/api/events/3?core=test",
        }
        assert all(event.data is None for event in found if event.dataref)


async def test_what_nats_never_takes_is_passed_over_and_delivered_all_the_same(
    database: Database,
) -> None:
    target = Target()
    with nats_server("max_payload: 2048\n", jetstream=True) as server:
        jetstream = jetstream_on(server, **QUICK)
        broker = broker_over(
            database, jetstream, (subscription(event_type="LongEvent", concurrency=1), target)
        )
        async with running(broker):
            await until(lambda: broker.link.is_up)
            long = published(1, type="LongEvent", extensions={"note": "n" * 3000})
            await broker.publish([long, published(2, type="LongEvent")])
            await until(lambda: [event.id for event in target.taken] == ["1", "2"])
            await until(carried(broker, 1))
            assert broker.outbox.state.refused == 1
            with pytest.raises(CarrierRefusedError, match="2048 bytes at most"):
                await broker.carrier.carry([long])


async def test_streams_and_consumers_become_what_they_are_configured_to_be(
    database: Database, jetstream: JetStreamSettings
) -> None:
    async with running(broker_over(database, jetstream, (subscription(), Target()))) as broker:
        await until(lambda: broker.link.is_up)
        async with client_of(jetstream) as client:

            async def there() -> bool:
                try:
                    await client.consumer_info(broker.link.names.events, "b")
                except NotFoundError:
                    return False
                return True

            await until(there)
    changed = dataclasses.replace(
        jetstream,
        max_age=timedelta(hours=1),
        duplicates=timedelta(seconds=30),
        ack_wait=timedelta(seconds=7),
    )
    other = broker_over(database, changed, (subscription(event_type=STUDY_REVISION), Target()))
    async with running(other), client_of(jetstream) as client:

        async def changed_now() -> bool:
            stream = await client.stream_info(other.link.names.events)
            consumer = await client.consumer_info(other.link.names.events, "b")
            return (
                stream.config.max_age,
                stream.config.duplicate_window,
                consumer.config.ack_wait,
                consumer.config.filter_subject,
            ) == (3600, 30, 7, other.link.names.of_type(STUDY_REVISION))

        await until(changed_now)


async def test_a_user_who_may_do_only_what_is_documented_is_enough(database: Database) -> None:
    allowed = (
        'publish: ["$JS.API.>", "$JS.ACK.>", "imaging.test.>"], subscribe: "imaging.test._INBOX.>"'
    )
    config = (
        "authorization { users: [{ user: core, password: secret, "
        f"permissions: {{ {allowed} }} }}] }}\n"
    )
    target = Target()
    with nats_server(config, jetstream=True) as server:
        reached = NatsSettings((f"nats://{server.address}",), user="core", password="secret")
        jetstream = jetstream_on(nats=reached, subject_root="imaging", **QUICK)
        broker = broker_over(database, jetstream, (subscription(), target))
        with capture_logs() as lines:
            async with running(broker):
                await broker.accept(stored("7"))
                await until(lambda: target.ids == ids("7"))
                await until(carried(broker, 2))
    assert [line for line in lines if line["log_level"] != "info"] == []


async def test_bindings_that_are_not_in_the_ledger_yet_get_nothing_of_before(
    database: Database, jetstream_broker_on: BrokerOn
) -> None:
    first = jetstream_broker_on(database)
    async with running(first):
        await first.accept(stored("1"))
        await until(lambda: first.outbox.state.carried == 2)
    target = Target()
    second = jetstream_broker_on(database, (subscription(), target))
    async with running(second):
        await second.accept(stored("2"))
        await until(lambda: len(target.taken) == 1)
    assert target.ids == ids("2")
    assert [row.event_id for row in await ledger_of(database)] == ids("2")
