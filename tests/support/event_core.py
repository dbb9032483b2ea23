"""What tests of the log, the ledger, revisions and the broker share."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import sqlalchemy as sa
import zstandard
from sqlalchemy.engine import Connection

from imaging_ingestion.brokers.carried import CarriedBroker
from imaging_ingestion.brokers.dispatcher import BrokerSettings
from imaging_ingestion.brokers.jetstream import JetStreamBroker
from imaging_ingestion.brokers.log_broker import LogBroker
from imaging_ingestion.events.broker import Delivered
from imaging_ingestion.events.model import Event
from imaging_ingestion.events.stored import StoredInstance
from imaging_ingestion.manifest import ledger
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.event_data import SpaceRoots
from imaging_ingestion.manifest.ledger import LedgerEntry
from imaging_ingestion.manifest.record import record_batch
from imaging_ingestion.manifest.schema import delivery, delivery_count

OfBroker = TypeVar("OfBroker", bound=LogBroker)

DEADLINE = 30.0  # seconds; a loaded machine is slow
SECOND = 1_000_000  # microseconds
_ARRIVALS = itertools.count()


def stored(
    sop: str,
    content: str = "a",
    *,
    study: str = "1",
    series: str = "1.1",
    space: str = "default",
    provider: str = "provider",
    policy: str = "replace",
    traceparent: str | None = None,
    study_attributes: str = "{}",
    series_attributes: str = "{}",
    metadata: str = '{"00080018":{"vr":"UI","Value":["1"]}}',
    number: str | None = "1",
) -> StoredInstance:
    """An instance as the intake hands it over; `content` stands for its bytes."""
    return StoredInstance(
        space=space,
        provider=provider,
        study_instance_uid=study,
        series_instance_uid=series,
        sop_instance_uid=sop,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        object_name=f"{study}/{series}/{sop}-{content}-{next(_ARRIVALS)}",
        object_size=len(content),
        sha256=hashlib.sha256(content.encode()).digest(),
        study={"patient_id": "P", "attributes": study_attributes},
        series={"modality": "CT", "series_number": number, "attributes": series_attributes},
        instance={"instance_number": number, "rows": 512},
        metadata_zstd=zstandard.ZstdCompressor(level=1).compress(metadata.encode()),
        conflict_policy=policy,
        traceparent=traceparent,
    )


async def record(database: Database, *batch: StoredInstance, now: int = 0, delay: int = 0) -> None:
    """Record instances at a time, their studies due `delay` later (microseconds)."""
    await database.write(record_batch, batch, now, delay)


def published(number: int, **fields: Any) -> Event:
    """An event from outside."""
    values = {
        "id": str(number),
        "source": "/elsewhere",
        "type": "SomethingEvent",
        "subject": f"things/{number}",
        "time": "2026-01-01T00:00:00Z",
        "data": b'{"number":%d}' % number,
    }
    return Event(**{**values, **fields})


@dataclass
class ManualClock:
    """A clock that only moves when it is told to; microseconds outside, nanoseconds for brokers."""

    now: int = 1_000 * SECOND

    def __call__(self) -> int:
        return self.now * 1000

    def forward(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)


async def until(condition: Callable[[], Any], deadline: float = DEADLINE) -> Any:
    """Wait until `condition` (it may be asynchronous) gives something true, and return that."""
    end = time.monotonic() + deadline
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert time.monotonic() < end, "the awaited condition did not come true in time"
        await asyncio.sleep(0.005)


@dataclass
class Target:
    """A handler that remembers, and fails as it is told: `fail` may raise for an event."""

    fail: Callable[[Event, int], None] = lambda _event, _times: None
    seen: list[Event] = field(default_factory=list)
    taken: list[Event] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: int = 0
    most_at_once: int = 0
    in_hand: Counter[str] = field(default_factory=Counter)  # by event id
    most_in_hand: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.gate.set()

    async def __call__(self, event: Event) -> Delivered:
        self.seen.append(event)
        self.at_once += 1
        self.in_hand[event.id] += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.most_in_hand |= self.in_hand
        try:
            await self.gate.wait()
            self.fail(event, self.times(event.id))
            self.taken.append(event)
            return Delivered(f"took {event.id}")
        finally:
            self.at_once -= 1
            self.in_hand[event.id] -= 1

    def times(self, event_id: str) -> int:
        """How often an event was tried."""
        return sum(event.id == event_id for event in self.seen)

    @property
    def ids(self) -> list[str]:
        """The ids of what was taken, in order."""
        return [event.id for event in self.taken]


def roots_of(space: str) -> SpaceRoots:
    """Where the spaces of these tests are said to be."""
    root = f"http://127.0.0.1/spaces/{space}/dicom-web"
    return SpaceRoots(root, root)


def settings(**fields: Any) -> BrokerSettings:
    """A core called `test`, in a hurry."""
    values: dict[str, Any] = {
        "core": "test",
        "revisioning_delay": timedelta(0),
        "roots_of": roots_of,
        "api_url": "http://127.0.0.1/api",
        "poll": timedelta(milliseconds=20),
        "grace": timedelta(milliseconds=200),
    }
    return BrokerSettings(**{**values, **fields})


@asynccontextmanager
async def running(broker: OfBroker) -> AsyncIterator[OfBroker]:
    """Start a broker and stop it at the end."""
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()


def kill(broker: LogBroker) -> None:
    """End a broker's work as kill -9 does: nothing is finished, nothing is given back."""
    tasks = [dispatcher._task for dispatcher in broker._dispatchers.values()]
    if isinstance(broker, CarriedBroker):
        tasks.append(broker.outbox._task)
    if isinstance(broker, JetStreamBroker):
        tasks += [consumer._task for consumer in broker._consumers]
        tasks.append(broker.link._connection._task)
        client = broker.link._connection._client
        if client is not None:
            client._transport.close()
    for task in tasks:
        assert task is not None
        task.cancel()


async def ledger_of(database: Database, **filters: Any) -> list[LedgerEntry]:
    """The ledger, or what matches of it."""
    return await database.read(ledger.page, **{"limit": 10_000, **filters})


async def states(database: Database, binding: str) -> Counter[str]:
    """How many deliveries a binding has in each state, counted one by one.

    Also checks that the maintained counts say the same.
    """

    def ask(connection: Connection) -> tuple[Counter[str], Counter[str]]:
        # One statement, so that PostgreSQL answers both from one moment.
        of_binding = delivery.c.binding == binding
        counted = sa.select(sa.literal("counted"), delivery.c.state, sa.func.count()).where(
            of_binding
        )
        maintained = sa.select(
            sa.literal("maintained"), delivery_count.c.state, delivery_count.c.number
        ).where(delivery_count.c.binding == binding, delivery_count.c.number != 0)
        found: dict[str, Counter[str]] = {"counted": Counter(), "maintained": Counter()}
        for which, state, number in connection.execute(
            sa.union_all(counted.group_by(delivery.c.state), maintained)
        ):
            found[which][state] = number
        return found["counted"], found["maintained"]

    counted, maintained = await database.read(ask)
    assert counted == maintained, (counted, maintained)
    return counted


async def plans_of(
    database: Database, fn: Callable[..., Any], *args: Any, **kwargs: Any
) -> list[tuple[str, str]]:
    """Each statement that `fn(connection, ...)` makes, with the plan that the database has for it.

    PostgreSQL is kept from reading a table whole, which it rightly does with a small one.
    """

    def run(connection: Connection) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        postgres = connection.dialect.name == "postgresql"
        word = "EXPLAIN " if postgres else "EXPLAIN QUERY PLAN "

        def explain(
            of: Connection, _cursor: Any, sql: str, parameters: Any, _context: Any, many: bool
        ) -> None:
            if not sql.startswith(("EXPLAIN", "INSERT")):
                one = parameters[0] if many else parameters
                rows = of.exec_driver_sql(word + sql, one)
                found.append((sql, "\n".join(str(row) for row in rows)))

        connection.exec_driver_sql("ANALYZE")
        if postgres:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
        sa.event.listen(connection, "before_cursor_execute", explain)
        try:
            fn(connection, *args, **kwargs)
        finally:
            sa.event.remove(connection, "before_cursor_execute", explain)
        return found

    return await database.write(run)


def reads_a_table_whole(plan: str, *, sorting: bool = False) -> bool:
    """Whether a plan walks a table, or sorts what it found although that is not expected."""
    marks = ("Seq Scan", "SCAN ") + (() if sorting else ("TEMP B-TREE", "Sort"))
    lines = [line for line in plan.splitlines() if "CONSTANT ROW" not in line]
    return any(mark in line for line in lines for mark in marks)
