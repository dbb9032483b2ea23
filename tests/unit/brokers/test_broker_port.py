"""The broker port: every event reaches every subscription, whatever happens on the way."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from brokers_under_test import BrokerOn
from event_core import (
    SECOND,
    ManualClock,
    Target,
    kill,
    ledger_of,
    published,
    record,
    running,
    states,
    stored,
    until,
)
from structlog.testing import capture_logs

from imaging_ingestion.events.broker import (
    Delivered,
    RefusedError,
    ReplayFilter,
    Subscription,
    TryAgainError,
)
from imaging_ingestion.events.model import (
    DICOM_AVAILABLE,
    IMAGE_STORED,
    STUDY_REVISION,
    Event,
)
from imaging_ingestion.events.retry import RetryPolicy
from imaging_ingestion.manifest import changes, deliveries, revision
from imaging_ingestion.manifest import database as database_module
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.deletion import delete_instances
from imaging_ingestion.manifest.migrate import migrate
from imaging_ingestion.manifest.schema import delivery
from imaging_ingestion.manifest.schema import subscription as subscribed

EXACT = RetryPolicy(first=1.0, longest=900.0, attempts=4, jitter=0.0)


def subscription(name: str = "b", event_type: str = DICOM_AVAILABLE, **fields: Any) -> Subscription:
    return Subscription(**{"name": name, "event_type": event_type, "retry": EXACT, **fields})


def ids(*sops: str, version: int = 1) -> list[str]:
    return [f"available/{sop}/{version}" for sop in sops]


def failing(error: Callable[[], Exception], *, times: int = 1000) -> Callable[[Event, int], None]:
    """Fails the first `times` tries of each event."""

    def fail(_event: Event, tried: int) -> None:
        if tried <= times:
            raise error()

    return fail


def settled(database: Database, name: str = "b") -> Callable[[], Any]:
    """Whether a binding has been told everything, and nothing of it is pending."""

    def unread(connection: sa.Connection) -> bool:
        position = connection.execute(
            sa.select(subscribed.c.position).where(subscribed.c.name == name)
        ).scalar_one()
        kinds = ["stored", "replaced", "revised", "published"]
        return bool(changes.since(connection, position, 1, kinds=kinds).entries)

    async def ask() -> bool:
        if await database.read(unread):
            return False
        counted = await states(database, name)
        return bool(counted) and not counted["pending"]

    return ask


async def test_what_is_accepted_reaches_every_subscription_that_wants_it(
    database: Database, broker_on: BrokerOn
) -> None:
    everything, some, images, studies = Target(), Target(), Target(), Target()
    broker = broker_on(
        database,
        (subscription("everything"), everything),
        (subscription("some", wants=lambda event: event.provider == "mr"), some),
        (subscription("images", IMAGE_STORED), images),
        (subscription("studies", STUDY_REVISION), studies),
    )
    async with running(broker):
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        await broker.accept(stored("7", provider="ct", traceparent=trace))
        await broker.accept(stored("8", provider="mr", space="research"))
        await until(lambda: len(everything.taken) == 2 and some.taken and len(images.taken) == 2)
        await until(settled(database, "everything"))
    assert [event.sop_instance_uid for event in some.taken] == ["8"]
    assert studies.seen == []
    first = everything.taken[0]
    assert first.json() == {
        "provider": "ct",
        "endpoint": ("http://127.0.0.1/spaces/default/dicom-web/studies/1/series/1.1/instances/7"),
    }
    assert first.context() == {
        "specversion": "1.0",
        "id": "available/7/1",
        "source": "/imaging-ingestion/test/default",
        "type": "DicomAvailableEvent",
        "subject": "studies/1/series/1.1/instances/7",
        "time": first.time,
        "datacontenttype": "application/json",
        "partitionkey": "1",
        "traceparent": trace,
        "lognumber": str(first.seq),
    }
    identities = {(e.source, e.id) for e in (*everything.taken, *images.taken)}
    assert len(identities) == 4  # E1
    rows = await ledger_of(database, binding="everything")
    assert [(row.state, row.attempts, row.answer) for row in rows] == [
        ("delivered", 1, "took available/7/1"),
        ("delivered", 1, "took available/8/1"),
    ]


async def test_a_failed_try_is_repeated_with_growing_delays_until_it_succeeds(
    database: Database, broker_on: BrokerOn
) -> None:
    clock = ManualClock()
    target = Target(failing(lambda: TryAgainError("503: busy"), times=2))
    broker = broker_on(database, (subscription(), target), clock=clock)
    async with running(broker):
        await broker.accept(stored("7"))
        for tried, delay in ((1, 1), (2, 2)):
            (row,) = await until(lambda n=tried: tried_times(database, n))
            assert (row.state, row.answer) == ("pending", "503: busy")
            assert row.next_at == clock.now + delay * SECOND
            clock.forward(delay - 0.001)
            await asyncio.sleep(0.1)  # several polls: nothing may happen
            assert len(target.seen) == tried
            clock.forward(0.002)
        await until(settled(database))
    (row,) = await ledger_of(database)
    assert (row.state, row.attempts, row.next_at) == ("delivered", 3, None)


async def tried_times(database: Database, attempts: int) -> list[Any] | None:
    """The ledger once its only delivery has been tried so often and is waiting."""

    def waiting(connection: sa.Connection) -> bool:
        tried = delivery.c.claim.is_(None) & (delivery.c.attempts == attempts)
        return bool(connection.execute(sa.select(delivery.c.seq).where(tried)).all())

    return await ledger_of(database) if await database.read(waiting) else None


async def test_a_target_that_says_when_is_not_asked_before(
    database: Database, broker_on: BrokerOn
) -> None:
    clock = ManualClock()
    wish = TryAgainError("429", retry_after=120.0)
    target = Target(failing(lambda: wish, times=1))
    broker = broker_on(database, (subscription(retry=RetryPolicy(jitter=0.5)), target), clock=clock)
    async with running(broker):
        await broker.accept(stored("7"))
        (row,) = await until(lambda: tried_times(database, 1))
        assert clock.now + 120 * SECOND <= row.next_at <= clock.now + 180 * SECOND
        clock.forward(180)
        await until(settled(database))


async def test_what_a_target_refuses_is_a_dead_letter_with_its_answer(
    database: Database, broker_on: BrokerOn
) -> None:
    target = Target(failing(lambda: RefusedError('409: {"title":"no"}')))
    broker = broker_on(database, (subscription(), target))
    async with running(broker):
        await broker.accept(stored("7"))
        await until(settled(database))
        await asyncio.sleep(0.1)  # several polls: it is not tried again
    (row,) = await ledger_of(database)
    assert (row.state, row.attempts, row.answer) == ("dead", 1, '409: {"title":"no"}')
    assert len(target.seen) == 1
    log = (await database.read(changes.since, 1, 10)).entries
    assert [(e.kind, e.binding, e.event_id) for e in log] == [("failed", "b", "available/7/1")]


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (TryAgainError("503: busy"), "given up after 4 tries: 503: busy"),
        (KeyError("modality"), "given up after 4 tries: KeyError: 'modality'"),
    ],
)
async def test_what_fails_too_often_is_given_up(
    database: Database, error: Exception, answer: str, broker_on: BrokerOn
) -> None:
    target = Target(failing(lambda: error))
    quick = RetryPolicy(first=0.001, attempts=4)
    broker = broker_on(database, (subscription(retry=quick), target))
    with capture_logs() as lines:
        async with running(broker):
            await broker.accept(stored("7"))
            await until(settled(database))
    (row,) = await ledger_of(database)
    assert (row.state, row.attempts, row.answer) == ("dead", 4, answer)
    assert len(target.seen) == 4
    # What a target or an error says may name a patient: it is in the ledger, not in the log.
    assert lines
    assert not [line for line in lines if "busy" in str(line) or "modality" in str(line)]


async def test_a_replay_delivers_dead_letters_and_delivers_anew(
    database: Database, broker_on: BrokerOn
) -> None:
    target = Target(failing(lambda: RefusedError("409"), times=1))
    broker = broker_on(database, (subscription(), target))
    async with running(broker):
        await asyncio.gather(*(broker.accept(stored(str(n))) for n in range(5)))
        await until(settled(database))
        assert await states(database, "b") == {"dead": 5}
        assert await broker.replay(ReplayFilter(binding="b", since_seq=2)) == 3
        await until(settled(database))
        assert await states(database, "b") == {"dead": 2, "delivered": 3}
        assert await broker.replay(ReplayFilter()) == 2
        await until(settled(database))
        assert sorted(target.ids) == ids("0", "1", "2", "3", "4")
        assert {row.attempts for row in await ledger_of(database)} == {1}
        assert await broker.replay(ReplayFilter(state="delivered")) == 5
        await until(lambda: len(target.taken) == 10)
        await until(settled(database))
    assert await states(database, "b") == {"delivered": 5}


async def test_no_more_run_at_once_than_the_subscription_says(
    database: Database, broker_on: BrokerOn
) -> None:
    target = Target()
    target.gate.clear()
    broker = broker_on(database, (subscription(concurrency=3), target))
    async with running(broker):
        await asyncio.gather(*(broker.accept(stored(str(n))) for n in range(20)))
        await until(lambda: target.at_once == 3)
        await asyncio.sleep(0.1)  # several polls
        assert len(target.seen) == 3
        target.gate.set()
        await until(settled(database))
    assert target.most_at_once == 3
    assert sorted(target.ids) == sorted(ids(*(str(n) for n in range(20))))


async def test_one_that_hangs_holds_up_no_other(database: Database, broker_on: BrokerOn) -> None:
    target = Target()
    hanging = asyncio.Event()

    async def handler(event: Event) -> Any:
        if event.sop_instance_uid == "0":
            await hanging.wait()
        return await target(event)

    broker = broker_on(database, (subscription(concurrency=2), handler))
    async with running(broker):
        await asyncio.gather(*(broker.accept(stored(str(n))) for n in range(10)))
        await until(lambda: len(target.taken) == 9)
        hanging.set()
        await until(settled(database))


async def test_the_contents_of_an_instance_arrive_in_their_order(
    database: Database, broker_on: BrokerOn
) -> None:
    target = Target(failing(lambda: TryAgainError("503"), times=1))
    quick = RetryPolicy(first=0.001, attempts=9)
    broker = broker_on(database, (subscription(concurrency=8, retry=quick), target))
    async with running(broker):
        for content in "abcde":
            await asyncio.gather(*(broker.accept(stored(sop, content)) for sop in "123"))
        await until(settled(database))
    for sop in "123":
        mine = [event.id for event in target.taken if event.sop_instance_uid == sop]
        assert mine == [f"available/{sop}/{version}" for version in range(1, 6)]


async def test_a_new_subscription_begins_at_the_end_of_the_log_and_goes_on_where_it_was(
    database: Database, broker_on: BrokerOn
) -> None:
    await record(database, stored("1"))
    target = Target()
    async with running(broker_on(database, (subscription(), target))):
        await record(database, stored("2"))
        await until(settled(database))
    await record(database, stored("3"))
    async with running(broker_on(database, (subscription(), target))):
        await until(lambda: len(target.taken) == 2)
        await until(settled(database))
    assert target.ids == ids("2", "3")


async def test_a_binding_that_left_the_site_holds_nobody_up(
    database: Database, broker_on: BrokerOn
) -> None:
    gone = broker_on(
        database, (subscription("gone"), Target(failing(lambda: TryAgainError("503"))))
    )
    async with running(gone):
        await gone.accept(stored("1"))
        await until(lambda: tried_times(database, 1))
    target = Target()
    broker = broker_on(database, (subscription(), target))
    async with running(broker):
        await broker.accept(stored("2"))
        await until(settled(database))
    assert target.ids == ids("2")
    assert await states(database, "gone") == {"pending": 1}


async def test_an_event_from_outside_is_delivered_once_by_source_and_id(
    database: Database, broker_on: BrokerOn
) -> None:
    target = Target()
    broker = broker_on(database, (subscription(event_type="SomethingEvent", concurrency=1), target))
    first = published(1, traceparent="00-1", study_instance_uid="1.2", provider="p")
    async with running(broker):
        await broker.publish([first, published(2), published(1)])
        await broker.publish([published(2), published(3, type="OtherEvent")])
        await broker.publish([published(2, source="/another")])
        await broker.publish([])
        await until(lambda: len(target.taken) == 3)
        await until(settled(database))
    assert [(event.source, event.id) for event in target.taken] == [
        ("/elsewhere", "1"),
        ("/elsewhere", "2"),
        ("/another", "2"),
    ]
    assert target.taken[0] == Event(
        **{**{f: getattr(first, f) for f in first.__struct_fields__}, "seq": 1}
    )


@pytest.mark.parametrize("lacking", ["id", "source", "type"])
async def test_an_event_without_identity_is_refused(  # E1, E8
    database: Database, lacking: str, broker_on: BrokerOn
) -> None:
    broker = broker_on(database)
    with pytest.raises(ValueError, match="an id, a source and a type"):
        await broker.publish([published(1), published(2, **{lacking: ""})])
    assert await database.read(changes.last_seq) == 0


async def test_a_name_can_be_subscribed_once(database: Database, broker_on: BrokerOn) -> None:
    broker = broker_on(database, (subscription(), Target()))
    with pytest.raises(ValueError, match="'b'"):
        broker.subscribe(subscription(), Target())


async def test_a_commit_a_free_place_and_a_due_time_each_wake_the_dispatcher(
    database: Database, broker_on: BrokerOn
) -> None:
    """Polling would take an hour here."""
    target = Target(failing(lambda: TryAgainError("503"), times=1))
    quick = RetryPolicy(first=0.05, attempts=9)
    broker = broker_on(
        database, (subscription(concurrency=1, retry=quick), target), poll=timedelta(hours=1)
    )
    async with running(broker):
        await asyncio.sleep(0.1)  # it is asleep
        await asyncio.gather(*(broker.accept(stored(str(n))) for n in range(3)))
        await until(settled(database))
    assert sorted(target.ids) == ids("0", "1", "2")


async def test_what_another_process_logs_is_seen_while_there_is_much_to_do(
    database: Database, broker_on: BrokerOn
) -> None:
    async def handler(_event: Event) -> Delivered:
        await asyncio.sleep(0.01)
        return Delivered()

    await database.write(deliveries.subscribe, "b")
    await record(database, *(stored(str(n)) for n in range(400)))
    broker = broker_on(database, (subscription(concurrency=2), handler))
    async with running(broker):
        await until(lambda: all_fanned_out(database, 400))
        await record(database, stored("late"))  # nobody tells the broker
        await until(lambda: all_fanned_out(database, 401))
        assert (await states(database, "b"))["pending"] > 100


async def all_fanned_out(database: Database, number: int) -> bool:
    return (await states(database, "b")).total() == number


async def test_an_idle_dispatcher_writes_nothing(database: Database, embedded_on: BrokerOn) -> None:
    class Watched:
        dialect = database.dialect
        reads = 0
        writes = 0

        async def read(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
            self.reads += 1
            return await database.read(fn, *args, **kwargs)

        async def write(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
            self.writes += 1
            return await database.write(fn, *args, **kwargs)

        async def close(self) -> None:
            await database.close()

    watched = Watched()
    async with running(embedded_on(watched, (subscription(), Target()))):
        await until(lambda: watched.reads > 10)
        assert watched.writes == 1  # the subscription itself


async def test_whoever_waits_for_the_next_commit_is_told_of_every_kind(
    database: Database, broker_on: BrokerOn
) -> None:
    broker = broker_on(database, (subscription(), Target()))
    commit = broker.next_commit()
    await broker.accept(stored("1"))
    assert commit.is_set()
    commit = broker.next_commit()
    await broker.publish([published(1)])
    assert commit.is_set()
    commit = broker.next_commit()
    assert not commit.is_set()
    async with running(broker):
        await broker.accept(stored("2"))
        commit = broker.next_commit()
        await asyncio.wait_for(commit.wait(), 30)  # a delivery is an entry of the log, too
    await broker.stop()


@asynccontextmanager
async def replicas(url: str, number: int) -> AsyncIterator[list[Database]]:
    opened = [open_database(url) for _ in range(number)]
    try:
        yield list(opened)
    finally:
        for one in opened:
            await one.close()


async def test_two_replicas_share_the_work_and_double_nothing(
    database_url: str, broker_on: BrokerOn
) -> None:
    async with replicas(database_url, 2) as databases:
        targets = [Target(), Target()]
        brokers = [
            broker_on(one, (subscription(concurrency=4), target))
            for one, target in zip(databases, targets, strict=True)
        ]
        async with running(brokers[0]), running(brokers[1]):
            for start in range(0, 240, 24):
                await asyncio.gather(
                    *(
                        brokers[n % 2].accept(stored(str(n % 120), content=str(n)))
                        for n in range(start, start + 24)
                    )
                )
            await until(settled(databases[0]))
        taken = targets[0].ids + targets[1].ids
        assert len(taken) == len(set(taken)) == 240
        assert targets[0].taken
        assert targets[1].taken
        assert await states(databases[0], "b") == {"delivered": 240}
        log = await databases[0].read(changes.since, 0, 1000, kinds=["delivered"])
        assert len(log.entries) == 240


async def test_a_delivery_of_a_process_that_was_killed_is_made_again(
    database_url: str, broker_on: BrokerOn
) -> None:
    async with replicas(database_url, 2) as databases:
        lease = timedelta(milliseconds=300)
        stuck, target = Target(), Target()
        stuck.gate.clear()
        first = broker_on(databases[0], (subscription(), stuck), lease=lease)
        await first.start()
        await asyncio.gather(*(first.accept(stored(str(n))) for n in range(6)))
        await until(lambda: stuck.at_once == 4)
        kill(first)
        async with running(broker_on(databases[1], (subscription(), target), lease=lease)):
            await until(settled(databases[1]))
        assert sorted(target.ids) == ids(*"012345")
        attempts = {row.event_id: row.attempts for row in await ledger_of(databases[1])}
        assert sorted(attempts.values()) == [1, 1, 2, 2, 2, 2]


async def test_a_delivery_that_kills_its_process_each_time_is_given_up(
    database: Database, broker_on: BrokerOn
) -> None:
    await database.write(deliveries.subscribe, "b")
    await record(database, stored("7"))
    await database.write(deliveries.fan_out, "b", DICOM_AVAILABLE, lambda _: True, 0)
    for turn in range(EXACT.attempts):  # claimed, and never heard of again
        assert await database.write(deliveries.claim, "b", turn * 10, 10, 1, turn)
    target = Target()
    async with running(broker_on(database, (subscription(), target))):
        await until(settled(database))
    (row,) = await ledger_of(database)
    assert (row.state, row.answer) == ("dead", "given up after 4 tries: the last never ended")
    assert target.seen == []


async def test_a_handler_slower_than_its_lease_keeps_its_delivery(
    database_url: str, broker_on: BrokerOn
) -> None:
    async with replicas(database_url, 2) as databases:
        lease = timedelta(milliseconds=300)
        target = Target()
        target.gate.clear()
        brokers = [broker_on(one, (subscription(), target), lease=lease) for one in databases]
        async with running(brokers[0]), running(brokers[1]):
            await brokers[0].accept(stored("7"))
            await until(lambda: target.at_once == 1)
            await asyncio.sleep(4 * lease.total_seconds())
            target.gate.set()
            await until(settled(databases[0]))
        assert len(target.seen) == 1


async def test_a_clock_that_leaps_makes_no_process_deliver_twice_at_once(
    database: Database, broker_on: BrokerOn
) -> None:
    clock = ManualClock()
    target = Target()
    target.gate.clear()
    broker = broker_on(database, (subscription(concurrency=3), target), clock=clock)
    async with running(broker):
        await asyncio.gather(broker.accept(stored("7")), broker.accept(stored("8")))
        await until(lambda: target.at_once == 2)
        clock.forward(3600)  # every lease is over
        await broker.accept(stored("9"))
        await until(lambda: target.at_once == 3)
        await asyncio.sleep(0.1)  # several polls
        target.gate.set()
        await until(settled(database))
    assert max(target.most_in_hand.values()) == 1
    assert len(target.seen) == 3


async def test_whoever_was_taken_for_dead_changes_nothing_any_more(
    database_url: str, broker_on: BrokerOn
) -> None:
    async with replicas(database_url, 2) as databases:
        clock = ManualClock()
        frozen, target = Target(failing(lambda: RefusedError("too late"))), Target()
        frozen.gate.clear()
        first = broker_on(databases[0], (subscription(), frozen), clock=clock)
        with capture_logs() as lines:
            async with running(first):
                await first.accept(stored("7"))
                await until(lambda: frozen.at_once == 1)
                clock.forward(3600)
                async with running(broker_on(databases[1], (subscription(), target), clock=clock)):
                    await until(settled(databases[1]))
                frozen.gate.set()
                await until(lambda: [x for x in lines if x["event"] == "broker.lease_lost"])
        assert await states(databases[0], "b") == {"delivered": 1}
        log = (await databases[0].read(changes.since, 1, 10)).entries
        assert [entry.kind for entry in log] == ["delivered"]


async def test_stopping_finishes_what_it_can_and_gives_back_the_rest(
    database: Database, broker_on: BrokerOn
) -> None:
    target, late = Target(), asyncio.Event()

    async def handler(event: Event) -> Any:
        if event.sop_instance_uid == "0":
            await late.wait()
        await asyncio.sleep(0.05)
        return await target(event)

    hour = timedelta(hours=1)
    grace = timedelta(milliseconds=500)
    broker = broker_on(database, (subscription(), handler), grace=grace, lease=hour)
    await broker.start()
    await asyncio.gather(*(broker.accept(stored(str(n))) for n in range(2)))
    started = {row.event_id for row in await until(lambda: all_tried(database, 2))}
    assert started == set(ids("0", "1"))
    await broker.stop()
    assert target.ids == ids("1")
    # The next process does not wait for the lease.
    async with running(broker_on(database, (subscription(), target))):
        await until(settled(database))
    assert target.ids == ids("1", "0")


async def all_tried(database: Database, number: int) -> list[Any] | None:
    rows = await ledger_of(database)
    return rows if len(rows) == number and all(row.attempts for row in rows) else None


async def test_a_large_revision_goes_as_a_reference_to_our_api(
    database: Database, broker_on: BrokerOn
) -> None:  # E10
    target = Target()
    broker = broker_on(database, (subscription(event_type=STUDY_REVISION), target))
    comment = '{"00104000":{"vr":"LT","Value":["' + "x" * 300_000 + '"]}}'
    async with running(broker):
        for study, attributes in (("1", comment), ("2", "{}")):
            await record(database, stored(study, study=study, study_attributes=attributes), now=0)
        for study_pk in (1, 2):
            await database.write(revision.revise, study_pk, 1, lambda *_: "http://x")
        await until(settled(database))
    large, small = sorted(target.taken, key=lambda event: event.id)
    assert large.data is None
    assert large.dataref == "http://127.0.0.1/api/revisions/default/1/0?core=test"
    assert small.dataref is None
    assert small.json()["revision"] == 0


async def test_an_instance_that_is_gone_before_it_is_told_of_is_not_told_of(
    database: Database, broker_on: BrokerOn
) -> None:
    target = Target()
    broker = broker_on(database, (subscription(event_type=IMAGE_STORED), target))
    await database.write(deliveries.subscribe, "b")
    await record(database, stored("7"))
    await database.write(delete_instances, "default", "1", None, None, 1, 0)
    async with running(broker):
        await until(settled(database))
    assert target.seen == []
    assert [row.answer for row in await ledger_of(database)] == [
        "gone: what it tells of was deleted before it could be delivered"
    ]


async def test_delivering_goes_on_after_postgresql_ended_every_connection(
    postgres_database_url: str, broker_on: BrokerOn
) -> None:
    database = open_database(postgres_database_url)
    outside = open_database(postgres_database_url, max_size=1)

    def end_all(connection: sa.Connection) -> int:
        ended = connection.execute(
            sa.text(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
        return int(ended.scalar_one())

    target = Target()
    broker = broker_on(database, (subscription(concurrency=2), target))
    try:
        with capture_logs():
            async with running(broker):
                ended = 0
                for start in range(0, 60, 6):
                    await record(outside, *(stored(str(n)) for n in range(start, start + 6)))
                    await until(lambda n=start: len(target.seen) > n)
                    ended += await outside.read(end_all)
                await until(settled(outside))
        assert ended > 0
        # A result whose commit was cut off may be unknown, then it is delivered once more.
        assert set(target.ids) == set(ids(*(str(n) for n in range(60))))
        assert await states(outside, "b") == {"delivered": 60}
    finally:
        await outside.close()
        await database.close()


async def test_a_result_that_cannot_be_written_down_holds_up_no_other(
    postgres_database_url: str, monkeypatch: pytest.MonkeyPatch, broker_on: BrokerOn
) -> None:
    monkeypatch.setattr(deliveries, "_storable", lambda answer: answer)  # PostgreSQL has no NUL
    database = open_database(postgres_database_url)
    target = Target(
        lambda event, _times: None if event.sop_instance_uid != "3" else refuse("nul \0 within")
    )
    broker = broker_on(database, (subscription(), target))
    try:
        with capture_logs() as lines:
            async with running(broker):
                await asyncio.gather(*(broker.accept(stored(str(n))) for n in range(8)))

                async def others_done() -> bool:
                    return await states(database, "b") == {"delivered": 7, "pending": 1}

                await until(others_done)
                await until(lambda: [x for x in lines if x["event"] == "broker.result_lost"])
        assert len(target.taken) == 7
    finally:
        await database.close()


def refuse(answer: str) -> None:
    raise RefusedError(answer)


async def test_delivering_goes_on_after_another_program_locked_the_sqlite_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broker_on: BrokerOn
) -> None:
    monkeypatch.setattr(database_module, "SQLITE_BUSY_TIMEOUT_MS", 50)
    monkeypatch.setattr(
        database_module,
        "_SQLITE_PRAGMAS",
        tuple(
            "PRAGMA busy_timeout=50" if "busy" in one else one
            for one in database_module._SQLITE_PRAGMAS
        ),
    )
    path = tmp_path / "manifest.db"
    database = open_database(f"sqlite:///{path}")
    await migrate(database)
    target = Target()
    broker = broker_on(database, (subscription(), target))
    other = sqlite3.connect(path, isolation_level=None)
    try:
        with capture_logs() as lines:
            async with running(broker):
                target.gate.clear()
                await broker.accept(stored("1"))
                await until(lambda: target.at_once == 1)
                other.execute("BEGIN IMMEDIATE")
                target.gate.set()
                await until(lambda: [x for x in lines if x["event"] == "broker.dispatch_failed"])
                other.execute("ROLLBACK")
                await until(settled(database))
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(Exception, match="could not record"):
                    await broker.accept(stored("2"))
                other.execute("ROLLBACK")
                await broker.accept(stored("2"))
                await until(lambda: len(target.taken) == 2)
                await until(settled(database))
        # The result waited for the file: nothing was delivered twice.
        assert target.ids == ids("1", "2")
    finally:
        other.close()
        await database.close()
