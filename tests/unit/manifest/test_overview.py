"""Lists for people, newest first, and what a sender may skip."""

from __future__ import annotations

import hashlib

from event_core import plans_of, reads_a_table_whole, record, stored

from imaging_ingestion.manifest import overview, revision
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.deletion import delete_instances
from imaging_ingestion.manifest.overview import KnownObject


async def test_studies_are_listed_newest_first_with_counts_and_modalities(
    database: Database,
) -> None:
    await record(database, stored("1.1", study="1"), now=5, delay=30)
    await record(
        database,
        stored("2.1", study="2", series="2.1"),
        stored("2.2", study="2", series="2.2"),
        now=6,
    )
    await database.write(revision.revise, 2, 7, lambda *_: "http://x")
    await record(database, stored("1.2", study="1"), now=8, delay=30)  # changes no order
    second, first = await database.read(overview.studies)
    assert (first.study_instance_uid, first.number_of_series, first.number_of_instances) == (
        "1",
        1,
        2,
    )
    assert (first.revision, first.revision_due_at, first.changed_at) == (None, 38, 8)
    assert (second.study_instance_uid, second.number_of_series) == ("2", 2)
    assert (second.modalities, second.revision, second.revision_due_at) == (("CT",), 0, None)
    assert (second.space, second.patient_id) == ("default", "P")


async def test_pages_meet_every_study_once_though_new_ones_come(database: Database) -> None:
    for n in range(7):
        await record(database, stored(str(n), study=str(n), space="ab"[n % 2]))

    async def pages(space: str | None) -> list[str]:
        found: list[str] = []
        after = None
        while True:
            page = await database.read(overview.studies, space=space, after=after, limit=3)
            found += [one.study_instance_uid for one in page]
            await record(database, stored(f"n{len(found)}", study=f"n{len(found)}", space="b"))
            if len(page) < 3:
                return found
            after = page[-1].id

    assert await pages(None) == list("6543210")
    assert await pages("a") == list("6420")
    assert await pages("nowhere") == []


async def test_a_study_without_instances_is_not_listed(database: Database) -> None:
    await record(database, stored("1"), stored("2", study="2"))
    await database.write(delete_instances, "default", "1", None, None, 1, 0)
    assert [one.study_instance_uid for one in await database.read(overview.studies)] == ["2"]
    await record(database, stored("1"))
    assert len(await database.read(overview.studies)) == 2


async def test_a_page_of_studies_takes_two_statements_with_indexes(database: Database) -> None:
    for start in range(0, 600, 200):
        await record(
            database,
            *(
                stored(str(n), study=str(n), space="rare" if n % 100 == 0 else "usual")
                for n in range(start, start + 200)
            ),
        )
    for filters in ({}, {"after": 300}, {"space": "rare"}, {"space": "rare", "after": 300}):
        plans = await plans_of(database, overview.studies, limit=5, **filters)
        assert len(plans) == 2
        walks = [
            plan
            for _, plan in plans
            # Without a filter SQLite walks the primary key from its end: that is the index.
            if reads_a_table_whole(plan) and "'SCAN study'" not in plan
        ]
        assert walks == []
        assert ("study_by_arrival" in plans[0][1]) is ("space" in filters)


async def test_known_objects_are_those_of_the_space_with_the_same_bytes(
    database: Database,
) -> None:
    await record(database, stored("1"), stored("2"), stored("3", space="research"), stored("4"))
    await database.write(delete_instances, "default", "1", "1.1", "4", 1, 0)
    same, other = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()
    asked = [
        KnownObject("1", same.upper()),
        KnownObject("2", other),
        KnownObject("3", same),
        KnownObject("4", same),
        KnownObject("404", same),
        KnownObject("1", same),
    ]
    assert await database.read(overview.known_objects, "default", asked) == [0, 5]
    assert await database.read(overview.known_objects, "research", asked) == [2]
    assert await database.read(overview.known_objects, "default", []) == []
