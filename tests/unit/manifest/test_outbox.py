"""How far the log has been carried, who carries it, and what there is to be carried."""

from __future__ import annotations

from typing import Any

from event_core import plans_of, published, reads_a_table_whole, record, roots_of, stored

from imaging_ingestion.brokers.log_broker import published_row
from imaging_ingestion.events.model import DICOM_AVAILABLE, IMAGE_STORED
from imaging_ingestion.manifest import changes, deliveries, outbox
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.deletion import delete_instances

LEASE = 10


def batch(database: Database, after: int = 0, limit: int = 100, largest: int = 10**6) -> Any:
    return database.read(
        outbox.next_batch, after, limit, "core", roots_of, "http://here/api", largest
    )


async def test_a_new_outbox_begins_where_the_last_binding_is_or_at_the_end(
    database: Database,
) -> None:
    await record(database, stored("1"), stored("2"))
    await database.write(outbox.register)
    assert await database.read(outbox.position) == 2
    await database.write(outbox.register)  # it is known
    assert await database.read(outbox.position) == 2


async def test_an_outbox_of_a_site_that_had_another_broker_begins_at_its_bindings(
    database: Database,
) -> None:
    await database.write(deliveries.subscribe, "behind")
    await record(database, stored("1"))
    await database.write(deliveries.subscribe, "ahead")
    await database.write(outbox.register)
    assert await database.read(outbox.position) == 0


async def test_one_has_it_at_a_time_until_its_lease_is_over_or_it_lets_go(
    database: Database,
) -> None:
    await database.write(outbox.register)
    assert await database.write(outbox.acquire, 1, 100, LEASE) == 0
    assert await database.write(outbox.acquire, 2, 105, LEASE) is None
    assert not await database.read(outbox.is_open, 2, 105, LEASE)
    assert await database.write(outbox.acquire, 1, 105, LEASE) == 0  # renewed
    assert not await database.read(outbox.is_open, 2, 111, LEASE)
    assert await database.write(outbox.acquire, 2, 115, LEASE) == 0
    assert not await database.write(outbox.advance, 1, 0, 5, 130)  # it was taken for dead
    assert await database.write(outbox.advance, 2, 0, 5, 130)
    await database.write(outbox.release, 1)  # of no effect
    assert not await database.read(outbox.is_open, 1, 116, 20)
    await database.write(outbox.release, 2)
    assert await database.write(outbox.acquire, 1, 116, LEASE) == 5
    # A clock that was set back makes no claim last for ever.
    assert await database.read(outbox.is_open, 2, 50, LEASE)


async def test_who_was_rewound_meanwhile_does_not_move_on(database: Database) -> None:
    await database.write(deliveries.subscribe, "b")
    await record(database, *(stored(str(n)) for n in range(5)))
    await database.write(outbox.register)
    await database.write(outbox.acquire, 1, 100, LEASE)
    assert await database.write(outbox.advance, 1, 0, 4, 110)
    assert await database.write(outbox.rewind) == (4, 0)
    assert not await database.write(outbox.advance, 1, 4, 5, 110)
    assert await database.write(outbox.acquire, 1, 100, LEASE) == 0
    assert await database.write(outbox.rewind) == (0, 0)


async def test_a_batch_has_the_events_of_its_entries_with_data_and_tells_what_is_gone(
    database: Database,
) -> None:
    await record(database, stored("1"), stored("2"))
    await database.write(delete_instances, "default", "1", "1.1", "1", 1, 0)
    rows = [published_row(published(1), 1), published_row(published(2), 1, by_carrier=True)]
    await database.write(changes.publish, rows)
    found = await batch(database)
    assert [(event.type, event.sop_instance_uid) for event in found.events] == [
        (DICOM_AVAILABLE, "1"),
        (IMAGE_STORED, "2"),
        (DICOM_AVAILABLE, "2"),
        ("SomethingEvent", None),
    ]
    assert all(event.data for event in found.events)
    assert [(event.type, event.sop_instance_uid) for event in found.gone] == [(IMAGE_STORED, "1")]
    assert (found.last, found.more) == (await database.read(changes.last_seq), False)
    small = await batch(database, largest=10)
    assert [event.dataref for event in small.events if event.type == IMAGE_STORED] == [
        "http://here/api/events/2?core=core&type=ImageStoredEvent"
    ]


async def test_only_the_very_event_that_the_log_has_under_its_number_is_its_own(
    database: Database,
) -> None:
    await record(database, stored("1"))
    await database.write(changes.publish, [published_row(published(1), 1)])
    image, available, other = (await batch(database)).events
    strange = [
        published(1),
        published(1, seq=1),
        published(2, seq=2),
        published(1, seq=999),
        type(image)(**{**_fields(image), "source": "/imaging-ingestion/other/default"}),
    ]
    asked = [image, available, other, *strange]
    assert await database.read(outbox.owned, asked, "core") == [True] * 3 + [False] * 5


def _fields(event: Any) -> dict[str, Any]:
    return {name: getattr(event, name) for name in event.__struct_fields__}


async def test_every_statement_of_the_outbox_uses_an_index(database: Database) -> None:
    await database.write(outbox.register)
    await record(database, *(stored(str(n)) for n in range(200)))
    events = (await batch(database)).events
    asked: list[tuple[Any, ...]] = [
        (outbox.next_batch, 100, 50, "core", roots_of, "http://here/api", 10**6),
        (outbox.owned, events, "core"),
        (changes.published_numbers, [("/a", "1"), ("/b", "2")]),
        (outbox.acquire, 1, 1, 1),
        (outbox.is_open, 1, 1, 1),
        (outbox.advance, 1, 0, 1, 1),
        (outbox.release, 1),
        (outbox.position,),
        (outbox.lag,),
    ]
    for fn, *arguments in asked:
        for sql, plan in await plans_of(database, fn, *arguments):
            assert not reads_a_table_whole(plan, sorting=True), (sql, plan)
