"""The log: numbered in the order in which its entries become visible, so that nobody misses one."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
import sqlalchemy as sa
from event_core import plans_of, published, reads_a_table_whole, record, stored

from imaging_ingestion.events.model import DICOM_AVAILABLE, IMAGE_STORED, STUDY_REVISION
from imaging_ingestion.manifest import changes
from imaging_ingestion.manifest.changes import Change
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.deletion import delete_instances
from imaging_ingestion.manifest.record import record_batch


def entry(kind: str = "stored", **columns: object) -> dict[str, object]:
    return {"at": 1, "kind": kind, "space": "default", **columns}


def event_row(event_id: str, source: str = "/a", at: int = 1) -> dict[str, object]:
    event = published(1, id=event_id, source=source)
    return entry("published", at=at, event_id=event.id, source=event.source, detail="{}")


async def append(database: Database, *rows: dict[str, object]) -> None:
    await database.write(changes.append, rows)


async def test_entries_come_in_order_page_by_page_until_there_is_no_more(
    database: Database,
) -> None:
    await append(database, *(entry(sop_instance_uid=str(n)) for n in range(5)))
    first = await database.read(changes.since, 0, 2)
    second = await database.read(changes.since, first.last, 2)
    third = await database.read(changes.since, second.last, 2)
    end = await database.read(changes.since, third.last, 2)
    found = [[one.sop_instance_uid for one in page.entries] for page in (first, second, third, end)]
    assert found == [["0", "1"], ["2", "3"], ["4"], []]
    assert [page.more for page in (first, second, third, end)] == [True, True, False, False]
    assert end.last == third.last == await database.read(changes.last_seq)


async def test_an_empty_log_has_the_number_0(database: Database) -> None:
    assert await database.read(changes.last_seq) == 0
    assert await database.read(changes.since, 0, 10) == ([], 0, False)


async def test_filters_combine(database: Database) -> None:
    await append(
        database,
        entry("stored", study_instance_uid="1"),
        entry("deleted", study_instance_uid="1"),
        entry("stored", study_instance_uid="1", space="research"),
        entry("stored", study_instance_uid="2"),
    )

    async def found(**filters: object) -> list[int]:
        page = await database.read(changes.since, 0, 10, **filters)
        assert (page.last, page.more) == (4, False)
        return [one.seq for one in page.entries]

    assert await found(kinds=["stored"]) == [1, 3, 4]
    assert await found(space="default") == [1, 2, 4]
    assert await found(study_instance_uid="1") == [1, 2, 3]
    assert await found(study_instance_uid="1", space="default", kinds=["stored"]) == [1]
    assert await found(kinds=[]) == []


async def test_a_reader_with_a_filter_gets_on_although_nothing_matches(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "SCAN", 10)
    rows = [entry("delivered") for _ in range(35)]
    rows[27] = entry("deleted")
    await append(database, *rows)
    seen, pages, page = [], 0, changes.Page([], 0, True)
    while page.more:
        page = await database.read(changes.since, page.last, 5, kinds=["deleted"])
        seen += [one.seq for one in page.entries]
        pages += 1
    assert (seen, pages, page.last) == ([28], 4, 35)


async def test_a_reader_ahead_of_a_restored_log_goes_on_at_its_end(database: Database) -> None:
    await append(database, entry(), entry())
    assert await database.read(changes.since, 1000, 10) == ([], 2, False)


@pytest.mark.parametrize("filters", [{}, {"kinds": ["stored"]}, {"study_instance_uid": "7"}])
async def test_reading_uses_an_index_and_sorts_nothing(
    database: Database, filters: dict[str, Any]
) -> None:
    await append(database, *(entry(study_instance_uid=str(n % 1000)) for n in range(3000)))
    plans = await plans_of(database, changes.since, 1000, 10, **filters)
    assert len(plans) == 2
    # The maximum of the primary key is its end, however SQLite calls that.
    assert not any(reads_a_table_whole(plan) for sql, plan in plans if "max(" not in sql), plans
    assert ("change_by_study" in plans[-1][1]) is ("study_instance_uid" in filters)


async def test_an_event_from_outside_is_taken_once_by_source_and_id(  # E1
    database: Database,
) -> None:
    publish = changes.publish
    assert await database.write(publish, [event_row("1"), event_row("2"), event_row("1")]) == 2
    assert await database.write(publish, [event_row("2", at=9), event_row("3")]) == 1
    # Another producer's event with the same id is another event.
    assert await database.write(publish, [event_row("2", "/b"), event_row("2", "/b")]) == 1
    page = await database.read(changes.since, 0, 10)
    assert [(one.source, one.event_id, one.at) for one in page.entries] == [
        ("/a", "1", 1),
        ("/a", "2", 1),
        ("/a", "3", 1),
        ("/b", "2", 1),
    ]


async def test_more_events_than_a_statement_takes_are_published_at_once(database: Database) -> None:
    rows = [event_row(str(n)) for n in range(1201)]
    assert await database.write(changes.publish, rows) == 1201
    assert await database.write(changes.publish, rows) == 0


async def test_replicas_that_publish_the_same_event_at_once_take_it_once(
    database_url: str,
) -> None:
    databases = [open_database(database_url) for _ in range(3)]
    try:
        new = await asyncio.gather(
            *(
                databases[turn % 3].write(changes.publish, [event_row(str(n)) for n in range(20)])
                for turn in range(9)
            )
        )
        assert sum(new) == 20
        assert len((await databases[0].read(changes.since, 0, 100)).entries) == 20
    finally:
        for one in databases:
            await one.close()


async def test_a_reader_misses_nothing_of_writers_that_commit_in_any_order(
    postgres_database_url: str,
) -> None:
    """Transactions are made to get their ids, their numbers and their ends in unlike orders."""
    database = open_database(postgres_database_url, max_size=12)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    committed: list[str] = []
    writing = 60

    async def writer(name: str) -> None:
        pauses = [chance.uniform(0, 0.01) for _ in range(3)]
        gives_up = chance.random() < 0.2
        async with database._engine.connect() as connection, connection.begin() as transaction:
            await connection.exec_driver_sql("SELECT pg_current_xact_id()")
            await asyncio.sleep(pauses[0])
            await connection.run_sync(changes.append, [entry(event_id=f"{name}.1")])
            await asyncio.sleep(pauses[1])
            await connection.run_sync(changes.append, [entry(event_id=f"{name}.2")])
            await asyncio.sleep(pauses[2])
            if gives_up:
                await transaction.rollback()
            else:
                await transaction.commit()
                committed.extend([f"{name}.1", f"{name}.2"])

    async def reader() -> list[Change]:
        seen: list[Change] = []
        last = 0
        while True:
            done = not writing
            page = await database.read(changes.since, last, 3)
            seen += page.entries
            last = page.last
            if done and not page.more:
                return seen

    try:
        readers = [asyncio.create_task(reader()) for _ in range(2)]
        for start in range(0, 60, 6):
            await asyncio.gather(*(writer(str(start + n)) for n in range(6)))
        writing = 0
        for seen in await asyncio.gather(*readers):
            numbers = [one.seq for one in seen]
            assert numbers == sorted(set(numbers))
            assert sorted(one.event_id or "" for one in seen) == sorted(committed)
    finally:
        await database.close()


async def test_a_transaction_elsewhere_that_stays_open_holds_no_reader_up(
    postgres_database_url: str,
) -> None:
    database = open_database(postgres_database_url)
    try:
        async with database._engine.connect() as connection, connection.begin():
            await connection.exec_driver_sql("CREATE TABLE elsewhere (n int)")
            await append(database, entry())
            assert len((await database.read(changes.since, 0, 10)).entries) == 1
    finally:
        await database.close()


async def deadlocks_of(url: str) -> int:
    """How many PostgreSQL has met in the database, as its closed sessions have reported."""
    database = open_database(url, max_size=1)
    met = sa.text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    try:
        return await database.read(lambda c: c.execute(met).scalar_one())
    finally:
        await database.close()


async def test_writers_over_several_spaces_at_once_do_not_block_each_other_for_ever(
    postgres_database_url: str,
) -> None:
    """Each takes studies' locks and the log's; a wrong order would be a deadlock."""
    database = open_database(postgres_database_url, max_size=8)
    try:

        async def writer(number: int) -> None:
            for turn in range(8):
                batch = [
                    stored(f"{space}.{number}.{turn}", space=space) for space in ("a", "b", "c")
                ]
                await database.write(record_batch, batch, 1, 0)

        await asyncio.gather(*(writer(number) for number in range(6)))
        page = await database.read(changes.since, 0, 1000)
        assert len(page.entries) == 6 * 8 * 3
    finally:
        await database.close()
    assert await deadlocks_of(postgres_database_url) == 0


async def test_storing_and_deleting_are_logged_with_place_version_provider_and_trace(
    database: Database,
) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await record(database, stored("7", provider="p1", traceparent=trace), now=5)
    await record(database, stored("7", "b"), now=6)
    await database.write(delete_instances, "default", "1", None, None, 7, 0)
    page = await database.read(changes.since, 0, 10)
    place = {
        "space": "default",
        "study_instance_uid": "1",
        "series_instance_uid": "1.1",
        "sop_instance_uid": "7",
    }
    assert page.entries == [
        Change(seq=1, at=5, kind="stored", version=1, provider="p1", traceparent=trace, **place),
        Change(seq=2, at=6, kind="replaced", version=2, provider="provider", **place),
        Change(seq=3, at=7, kind="deleted", version=2, provider="provider", **place),
    ]


def test_what_an_entry_carries_and_under_which_id() -> None:
    instance = Change(
        seq=1,
        at=1,
        kind="stored",
        space="a",
        study_instance_uid="1",
        sop_instance_uid="1",
        version=3,
    )
    study = Change(seq=2, at=1, kind="revised", space="a", study_instance_uid="1", version=3)
    outside = Change(
        seq=3, at=1, kind="published", space="", event_id="x", detail='{"type":"Other"}'
    )
    # The UIDs are the same on purpose: a SOP Instance UID that is also a Study Instance UID.
    ids = [
        changes.event_id_of(instance, IMAGE_STORED),
        changes.event_id_of(instance, DICOM_AVAILABLE),
        changes.event_id_of(study, STUDY_REVISION),
        changes.event_id_of(outside, "Other"),
    ]
    assert ids == ["stored/1/3", "available/1/3", "revised/1/3", "x"]
    assert [changes.order_key_of(one) for one in (instance, study, outside)] == ["a/1", "a/1", None]
    assert changes.kinds_with(STUDY_REVISION) == ("revised", "published")
    assert changes.kinds_with("Other") == ("published",)
    assert changes.carries(instance, IMAGE_STORED)
    assert changes.carries(outside, "Other")
    assert not changes.carries(outside, IMAGE_STORED)
