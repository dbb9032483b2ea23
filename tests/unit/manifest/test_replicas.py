"""Many replicas on one database: each does its part of the work, and all of it is done once."""

from __future__ import annotations

import asyncio
import random

import pytest
import sqlalchemy as sa
from recorded import data_set, stored_instance

from imaging_ingestion.events.stored import StoredInstance
from imaging_ingestion.manifest import revision
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.record import record_batch
from imaging_ingestion.manifest.schema import change, instance, series, study

STUDIES = 60
REPLICAS = 4


def endpoint(space: str, study_uid: str, series_uid: str) -> str:
    return f"http://x/{space}/{study_uid}/{series_uid}"


def instance_of(study_uid: str, sop_instance_uid: str) -> StoredInstance:
    """An instance of a study, its only series' UID being the study's."""
    made = data_set(StudyInstanceUID=study_uid, SeriesInstanceUID=f"{study_uid}.1")
    made.SOPInstanceUID = sop_instance_uid
    return stored_instance(made)


async def test_each_due_study_is_revised_once_whoever_sweeps(database_url: str) -> None:
    databases = [open_database(database_url, max_size=4) for _ in range(REPLICAS)]
    try:
        for number in range(STUDIES):
            stored = instance_of(f"1.{number}", f"1.{number}.1.1")
            await databases[0].write(record_batch, [stored], 10, 0)

        async def sweep(database: Database) -> list[str]:
            """As `brokers.settling` does, until nothing is due."""
            made: list[str] = []
            while due := await database.read(revision.due, 20):
                for one in due:
                    revised = await database.write(revision.revise, one.study_pk, 20, endpoint)
                    if revised is not None:
                        assert revised.number == 0
                        made.append(revised.study_instance_uid)
            return made

        made = [uid for part in await asyncio.gather(*map(sweep, databases)) for uid in part]
        assert sorted(made) == sorted(f"1.{number}" for number in range(STUDIES))
        told = sa.select(change.c.study_instance_uid).where(change.c.kind == "revised")
        logged = await databases[0].read(lambda c: list(c.execute(told).scalars()))
        assert sorted(logged) == sorted(made)
        assert await databases[0].read(revision.next_due) is None
    finally:
        for one in databases:
            await one.close()


async def test_a_study_that_another_replica_holds_is_passed_over(
    postgres_database_url: str,
) -> None:
    database = open_database(postgres_database_url)
    try:
        await database.write(record_batch, [instance_of("1", "1.1")], 10, 0)
        async with database._engine.begin() as connection:  # type: ignore[union-attr]
            await connection.execute(sa.select(study.c.id).with_for_update())
            assert await database.write(revision.revise, 1, 20, endpoint) is None
        assert await database.write(revision.revise, 1, 20, endpoint) is not None
    finally:
        await database.close()


@pytest.mark.parametrize("seed", [1, 2])
async def test_sixteen_writers_over_instances_that_move_lose_nothing(
    postgres_database_url: str, seed: int
) -> None:
    databases = [open_database(postgres_database_url, max_size=4) for _ in range(REPLICAS)]
    choice = random.Random(seed)
    batches = [
        [
            instance_of(f"1.{choice.randrange(5)}", f"2.{choice.randrange(20)}")
            for _ in range(choice.randrange(1, 6))
        ]
        for _ in range(16 * 6)
    ]
    try:

        async def writer(number: int) -> None:
            for turn in range(6):
                batch = batches[16 * turn + number]
                await databases[number % REPLICAS].write(record_batch, batch, 10, 0)

        await asyncio.gather(*map(writer, range(16)))
        database = databases[0]
        live = sa.select(instance.c.sop_instance_uid).where(instance.c.deleted_at.is_(None))
        uids = await database.read(lambda c: list(c.execute(live).scalars()))
        assert sorted(uids) == sorted({one.sop_instance_uid for batch in batches for one in batch})
        for table, key in ((study, instance.c.study_pk), (series, instance.c.series_pk)):
            of_row = sa.select(sa.func.count()).where(
                key == table.c.id, instance.c.deleted_at.is_(None)
            )
            wrong = sa.select(table.c.id).where(
                table.c.number_of_instances != of_row.scalar_subquery()
            )
            statement = wrong
            assert await database.read(lambda c, s=statement: c.execute(s).all()) == []
        # Each content that an instance has had is told of once, under a version of its own.
        versions = sa.select(change.c.sop_instance_uid, change.c.version).where(
            change.c.kind.in_(["stored", "replaced"])
        )
        logged = await database.read(lambda c: [tuple(row) for row in c.execute(versions)])
        assert len(logged) == len(set(logged))
    finally:
        for one in databases:
            await one.close()
    assert await deadlocks(postgres_database_url) == 0


async def deadlocks(url: str) -> int:
    """How many PostgreSQL has met in the database, as its closed sessions have reported."""
    database = open_database(url, max_size=1)
    met = sa.text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    try:
        return await database.read(lambda c: c.execute(met).scalar_one())
    finally:
        await database.close()
