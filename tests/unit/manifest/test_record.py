"""Recording: one transaction, any number of instances, the same result as one after the other."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import Connection

from imaging_ingestion.events.model import ChangeKind
from imaging_ingestion.events.stored import StoredInstance, StoreOutcome, StoreResult
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.deletion import delete_instances
from imaging_ingestion.manifest.merge import merged_attributes
from imaging_ingestion.manifest.plan import InstanceRow, Place, plan
from imaging_ingestion.manifest.record import record_batch
from imaging_ingestion.manifest.schema import (
    change,
    instance,
    instance_metadata,
    series,
    study,
)

DELAY = 30_000_000
CREATED, REPLACED = StoreResult.CREATED, StoreResult.REPLACED
UNCHANGED, KEPT = StoreResult.UNCHANGED, StoreResult.KEPT


def stored(
    sop: str,
    content: str = "a",
    *,
    study: str = "1",
    series: str = "1.1",
    space: str = "default",
    arrival: str = "0",
    policy: str = "replace",
    of_study: dict[str, str | int | None] | None = None,
) -> StoredInstance:
    return StoredInstance(
        space=space,
        provider="provider",
        study_instance_uid=study,
        series_instance_uid=series,
        sop_instance_uid=sop,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        object_name=f"{study}/{series}/{sop}-{content}-{arrival}",
        object_size=len(content),
        sha256=hashlib.sha256(f"{study}{series}{content}".encode()).digest(),
        study={"patient_id": "P", "attributes": "{}", **(of_study or {})},
        series={"modality": "CT", "attributes": "{}"},
        instance={"instance_number": "1", "rows": 512},
        metadata_zstd=content.encode(),
        conflict_policy=policy,
        traceparent="00-1",
    )


def rows_of(connection: Connection, table: sa.Table) -> list[dict[str, Any]]:
    statement = sa.select(table).order_by(*table.primary_key)
    return [dict(row) for row in connection.execute(statement).mappings()]


def counts(connection: Connection) -> dict[str, tuple[int, int, dict[str, int]]]:
    """Study UID to (series, instances, instances of each series), as maintained."""
    return {
        found["study_instance_uid"]: (
            found["number_of_series"],
            found["number_of_instances"],
            {
                row["series_instance_uid"]: row["number_of_instances"]
                for row in rows_of(connection, series)
                if row["study_pk"] == found["id"]
            },
        )
        for found in rows_of(connection, study)
    }


def true_counts(connection: Connection) -> dict[str, tuple[int, int, dict[str, int]]]:
    """The same, counted."""
    live = [row for row in rows_of(connection, instance) if row["deleted_at"] is None]
    result = {}
    for found in rows_of(connection, study):
        each = {
            row["series_instance_uid"]: sum(one["series_pk"] == row["id"] for one in live)
            for row in rows_of(connection, series)
            if row["study_pk"] == found["id"]
        }
        filled = sum(number > 0 for number in each.values())
        result[found["study_instance_uid"]] = (filled, sum(each.values()), each)
    return result


def live_contents(
    connection: Connection,
) -> dict[tuple[str, str, str, str], tuple[str, int, bytes]]:
    """Where each live instance is, and its object, version and metadata."""
    statement = (
        sa.select(
            instance.c.space,
            study.c.study_instance_uid,
            series.c.series_instance_uid,
            instance.c.sop_instance_uid,
            instance.c.object_name,
            instance.c.version,
            instance_metadata.c.json_zstd,
        )
        .join(study, study.c.id == instance.c.study_pk)
        .join(series, series.c.id == instance.c.series_pk)
        .join(instance_metadata, instance_metadata.c.instance_pk == instance.c.id)
        .where(instance.c.deleted_at.is_(None))
    )
    return {tuple(row[:4]): tuple(row[4:]) for row in connection.execute(statement)}


async def record(database: Database, *batch: StoredInstance, now: int = 1000) -> list[StoreOutcome]:
    return await database.write(record_batch, batch, now, DELAY)


def results(outcomes: Sequence[StoreOutcome]) -> list[tuple[StoreResult, str | None]]:
    return [(outcome.result, outcome.garbage) for outcome in outcomes]


async def test_new_instances_make_their_study_and_series(database: Database) -> None:
    outcomes = await record(
        database, stored("1.1.1"), stored("1.1.2"), stored("1.2.1", series="1.2"), now=5
    )
    assert results(outcomes) == [(CREATED, None)] * 3
    assert await database.read(counts) == {"1": (2, 3, {"1.1": 2, "1.2": 1})}
    (found,) = await database.read(rows_of, study)
    assert (found["patient_id"], found["changed_at"], found["revision_due_at"]) == (
        "P",
        5,
        5 + DELAY,
    )
    assert found["revision"] is None
    first = (await database.read(rows_of, instance))[0]
    assert (first["rows"], first["instance_number"], first["version"]) == (512, "1", 1)
    assert first["stored_at"] == 5
    assert [row["modality"] for row in await database.read(rows_of, series)] == ["CT", "CT"]
    assert [row["json_zstd"] for row in await database.read(rows_of, instance_metadata)] == [
        b"a"
    ] * 3
    log = await database.read(rows_of, change)
    assert [(row["kind"], row["sop_instance_uid"], row["version"]) for row in log] == [
        ("stored", "1.1.1", 1),
        ("stored", "1.1.2", 1),
        ("stored", "1.2.1", 1),
    ]
    assert {(row["provider"], row["traceparent"], row["at"]) for row in log} == {
        ("provider", "00-1", 5)
    }


async def test_identical_bytes_again_change_nothing_at_all(database: Database) -> None:  # S28
    await record(database, stored("1.1.1"), now=5)
    before = [await database.read(rows_of, table) for table in (study, series, instance, change)]
    outcomes = await record(database, stored("1.1.1"), stored("1.1.1", arrival="1"), now=99)
    # The object of the very same arrival is the one in use; that of another is not needed.
    assert results(outcomes) == [(UNCHANGED, None), (UNCHANGED, "1/1.1/1.1.1-a-1")]
    assert before == [
        await database.read(rows_of, table) for table in (study, series, instance, change)
    ]


async def test_other_bytes_replace_and_the_quiet_time_begins_again(
    database: Database,
) -> None:  # S29
    await record(database, stored("1.1.1"), now=5)
    outcomes = await record(database, stored("1.1.1", "b"), now=9)
    assert results(outcomes) == [(REPLACED, "1/1.1/1.1.1-a-0")]
    assert await database.read(live_contents) == {
        ("default", "1", "1.1", "1.1.1"): ("1/1.1/1.1.1-b-0", 2, b"b")
    }
    assert await database.read(counts) == {"1": (1, 1, {"1.1": 1})}
    (found,) = await database.read(rows_of, study)
    assert (found["changed_at"], found["revision_due_at"]) == (9, 9 + DELAY)
    assert [row["kind"] for row in await database.read(rows_of, change)] == ["stored", "replaced"]


async def test_a_space_that_keeps_refuses_other_bytes(database: Database) -> None:  # S29
    await record(database, stored("1.1.1"))
    outcomes = await record(
        database,
        stored("1.1.1", "b", policy="keep"),
        stored("1.1.1", "c", study="9", series="9.9", policy="keep"),
        stored("1.1.2", policy="keep"),
    )
    assert results(outcomes) == [
        (KEPT, "1/1.1/1.1.1-b-0"),
        (KEPT, "9/9.9/1.1.1-c-0"),
        (CREATED, None),
    ]
    assert set(await database.read(counts)) == {"1"}  # no study is made for what is not kept


async def test_spaces_do_not_meet(database: Database) -> None:
    outcomes = await record(
        database, stored("1.1.1"), stored("1.1.1", "b", space="research"), stored("1.1.1", "c")
    )
    assert results(outcomes) == [
        (CREATED, None),
        (CREATED, None),
        (REPLACED, "1/1.1/1.1.1-a-0"),
    ]
    assert len(await database.read(live_contents)) == 2


async def test_an_instance_that_comes_back_in_another_study_has_moved(database: Database) -> None:
    await record(database, stored("7", study="1"), stored("8", study="1"), now=5)
    outcomes = await record(database, stored("7", study="2", series="2.1"), now=9)
    assert results(outcomes) == [(REPLACED, "1/1.1/7-a-0")]
    assert await database.read(counts) == {"1": (1, 1, {"1.1": 1}), "2": (1, 1, {"2.1": 1})}
    by_uid = {row["study_instance_uid"]: row for row in await database.read(rows_of, study)}
    assert by_uid["1"]["revision_due_at"] == by_uid["2"]["revision_due_at"] == 9 + DELAY
    log = [
        (row["kind"], row["study_instance_uid"], row["version"])
        for row in await database.read(rows_of, change)
    ]
    assert log[2:] == [("deleted", "1", 1), ("replaced", "2", 2)]

    # And back: the tombstone lives again, so that the next revision compares with what was told.
    outcomes = await record(database, stored("7", "c", study="1"), now=11)
    assert results(outcomes) == [(REPLACED, "2/2.1/7-a-0")]
    assert await database.read(counts) == {"1": (1, 2, {"1.1": 2}), "2": (0, 0, {"2.1": 0})}
    rows = await database.read(rows_of, instance)
    assert [(row["sop_instance_uid"], row["version"], row["deleted_at"]) for row in rows] == [
        ("7", 3, None),
        ("8", 1, None),
        ("7", 2, 11),
    ]


async def test_deleting_leaves_tombstones_and_what_comes_back_takes_their_place(
    database: Database,
) -> None:
    await record(database, stored("1.1.1"), stored("1.1.2"), stored("1.2.1", series="1.2"), now=5)
    delete = delete_instances
    assert await database.write(delete, "default", "404", None, None, 9, DELAY) == 0
    assert await database.write(delete, "default", "1", "1.2", "1.1.1", 9, DELAY) == 0
    assert await database.write(delete, "default", "1", "1.1", "1.1.1", 9, DELAY) == 1
    assert await database.read(counts) == {"1": (2, 2, {"1.1": 1, "1.2": 1})}
    assert await database.write(delete, "default", "1", "1.2", None, 10, DELAY) == 1
    assert await database.read(counts) == {"1": (1, 1, {"1.1": 1, "1.2": 0})}
    assert await database.write(delete, "default", "1", None, None, 11, DELAY) == 1
    assert await database.write(delete, "default", "1", None, None, 12, DELAY) == 0
    assert await database.read(counts) == {"1": (0, 0, {"1.1": 0, "1.2": 0})}
    (found,) = await database.read(rows_of, study)
    assert found["revision_due_at"] == 11 + DELAY
    assert [row["deleted_at"] for row in await database.read(rows_of, instance)] == [9, 11, 10]

    outcomes = await record(database, stored("1.1.1", arrival="1"), now=20)
    assert results(outcomes) == [(CREATED, "1/1.1/1.1.1-a-0")]
    rows = await database.read(rows_of, instance)
    assert (len(rows), rows[0]["deleted_at"], rows[0]["version"]) == (3, None, 2)
    kinds = [row["kind"] for row in await database.read(rows_of, change)]
    assert kinds == ["stored"] * 3 + ["deleted"] * 3 + ["stored"]


async def test_attributes_are_the_latest_that_are_not_empty(database: Database) -> None:
    def of_study(attributes: str, **columns: str | None) -> dict[str, str | int | None]:
        return {"attributes": attributes, **columns}

    await record(
        database,
        stored(
            "1",
            of_study=of_study(
                '{"00080050":{"vr":"SH","Value":["A"]},"00100020":{"vr":"LO"}}',
                accession_number="A",
                patient_id=None,
            ),
        ),
    )
    await record(
        database,
        stored(
            "2",
            of_study=of_study(
                '{"00080050":{"vr":"SH"},"00081030":{"vr":"LO","Value":["D"]}}',
                accession_number=None,
                patient_id="P2",
                study_description="D",
            ),
        ),
        stored("3", of_study=of_study("{}", patient_id=None)),
    )
    (found,) = await database.read(rows_of, study)
    assert (found["accession_number"], found["patient_id"], found["study_description"]) == (
        "A",
        "P2",
        "D",
    )
    assert found["attributes"] == (
        '{"00080050":{"vr":"SH","Value":["A"]},"00081030":{"vr":"LO","Value":["D"]},'
        '"00100020":{"vr":"LO"}}'
    )


@pytest.mark.parametrize(
    ("found", "new", "expected"),
    [
        ("{}", "{}", "{}"),
        ('{"1":{"vr":"LO","Value":["a"]}}', "{}", '{"1":{"vr":"LO","Value":["a"]}}'),
        ('{"1":{"vr":"LO"}}', '{"1":{"vr":"LO","Value":["b"]}}', '{"1":{"vr":"LO","Value":["b"]}}'),
        ('{"1":{"vr":"LO","Value":["a"]}}', '{"1":{"vr":"LO"}}', '{"1":{"vr":"LO","Value":["a"]}}'),
        ('{"2":{"vr":"SQ"}}', '{"1":{"vr":"LO"}}', '{"1":{"vr":"LO"},"2":{"vr":"SQ"}}'),
    ],
)
def test_merged_attributes(found: str, new: str, expected: str) -> None:
    assert merged_attributes(found, new) == expected


def row_at(place: Place, content: str, *, version: int = 1, live: bool = True) -> InstanceRow:
    of = stored(place[2], content, study=place[0], series=place[1])
    return InstanceRow(
        place, 1, of.sha256, of.object_name, version, "provider", live=live, was_live=live
    )


HERE, THERE = Place("1", "1.1", "7"), Place("2", "2.1", "7")
IN_THERE = {"study": "2", "series": "2.1"}


@pytest.mark.parametrize(
    ("known", "batch", "expected", "kinds"),
    [
        ([], [stored("7")], [(CREATED, None)], ["stored"]),
        (
            [],
            [stored("7"), stored("7"), stored("7", "b"), stored("7", arrival="1")],
            [
                (CREATED, None),
                (UNCHANGED, None),
                (REPLACED, "1/1.1/7-a-0"),
                (REPLACED, "1/1.1/7-b-0"),
            ],
            ["stored", "replaced", "replaced"],
        ),
        (
            [],
            [stored("7"), stored("7", "b", policy="keep"), stored("7", "c")],
            [(CREATED, None), (KEPT, "1/1.1/7-b-0"), (REPLACED, "1/1.1/7-a-0")],
            ["stored", "replaced"],
        ),
        ([row_at(HERE, "a")], [stored("7")], [(UNCHANGED, None)], []),
        (
            [row_at(HERE, "a", live=False)],
            [stored("7", arrival="1"), stored("7", arrival="2"), stored("7")],
            [(CREATED, "1/1.1/7-a-0"), (UNCHANGED, "1/1.1/7-a-2"), (UNCHANGED, None)],
            ["stored"],
        ),
        (
            [row_at(HERE, "a")],
            [stored("7", "x", **IN_THERE), stored("7", "b")],
            [(REPLACED, "1/1.1/7-a-0"), (REPLACED, "2/2.1/7-x-0")],
            ["deleted", "replaced", "deleted", "replaced"],
        ),
        (
            [row_at(HERE, "a"), row_at(THERE, "x", version=5, live=False)],
            [stored("7", "y", **IN_THERE)],
            [(REPLACED, "1/1.1/7-a-0")],
            ["deleted", "replaced"],
        ),
    ],
)
def test_plan(
    known: list[InstanceRow],
    batch: list[StoredInstance],
    expected: list[tuple[StoreResult, str | None]],
    kinds: list[str],
) -> None:
    known = [
        InstanceRow(
            row.place, 1, row.sha256, row.object_name, row.version, "p", row.live, row.was_live
        )
        for row in known
    ]
    decided = plan(known, batch)
    assert results(decided.outcomes) == expected
    assert [entry.kind for entry in decided.log] == [ChangeKind(kind) for kind in kinds]
    assert sum(row.live for row in decided.rows.values()) <= 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["7", "8"]),
            st.sampled_from("abc"),
            st.sampled_from([("1", "1.1"), ("1", "1.2"), ("2", "2.1")]),
            st.sampled_from(["replace", "keep"]),
        ),
        max_size=12,
    )
)
def test_a_batch_is_decided_as_its_instances_one_by_one(moves: list[tuple[Any, ...]]) -> None:
    batch = [
        stored(sop, content, study=place[0], series=place[1], policy=policy, arrival=str(number))
        for number, (sop, content, place, policy) in enumerate(moves)
    ]
    at_once = plan([], batch)
    rows: dict[Place, InstanceRow] = {}
    outcomes: list[StoreOutcome] = []
    versions: list[tuple[str, int]] = []
    for one in batch:
        known = [
            InstanceRow(
                row.place, 1, row.sha256, row.object_name, row.version, "p", row.live, row.live
            )
            for row in rows.values()
            if row.place.sop_instance_uid == one.sop_instance_uid
        ]
        decided = plan(known, [one])
        rows |= decided.rows
        outcomes += decided.outcomes
        versions += [
            (entry.place.sop_instance_uid, entry.version)
            for entry in decided.log
            if entry.kind is not ChangeKind.DELETED
        ]
    assert at_once.outcomes == outcomes
    assert {place: (row.live, row.object_name, row.version) for place, row in rows.items()} == {
        place: (row.live, row.object_name, row.version) for place, row in at_once.rows.items()
    }
    # Every content has a version of its own, and no object is lost or removed while in use.
    assert len(set(versions)) == len(versions)
    garbage = [outcome.garbage for outcome in outcomes if outcome.garbage]
    in_use = [row.object_name for row in rows.values() if row.live]
    assert sorted({*garbage, *in_use}) == sorted(one.object_name for one in batch)
    assert not set(garbage) & set(in_use)


async def test_a_batch_with_moves_and_repeats_keeps_every_count_true(database: Database) -> None:
    places = [("1", "1.1"), ("1", "1.2"), ("2", "2.1"), ("3", "3.1")]
    for turn in range(6):
        batch = [
            stored(
                f"9.{(number * 7 + turn) % 5}",
                "abc"[(number + turn) % 3],
                study=places[(number * 3 + turn) % 4][0],
                series=places[(number * 3 + turn) % 4][1],
                arrival=f"{turn}{number}",
            )
            for number in range(9)
        ]
        await record(database, *batch, now=turn)
        assert await database.read(counts) == await database.read(true_counts)
        assert len(await database.read(rows_of, instance_metadata)) == len(
            await database.read(rows_of, instance)
        )


async def test_sixteen_writers_on_one_study_lose_nothing(database_url: str) -> None:  # Q37
    databases = [open_database(database_url, max_size=4) for _ in range(4)]
    try:

        async def writer(number: int) -> None:
            for turn in range(6):
                await record(
                    databases[number % 4],
                    *(
                        stored(f"1.{number}.{turn}.{n}", study="1", series=f"1.{(turn + n) % 3}")
                        for n in range(3)
                    ),
                    stored(f"2.{number}.{turn}", study=str(2 + (number + turn) % 2), series="2.1"),
                    # Everybody's, with other bytes each time, in either of two studies.
                    stored(
                        "5.5",
                        f"{number}.{turn}",
                        study=str(1 + (number + turn) % 2),
                        series="5",
                    ),
                )

        await asyncio.gather(*(writer(number) for number in range(16)))
        found = await databases[0].read(counts)
        assert found == await databases[0].read(true_counts)
        assert sum(number for _, number, _ in found.values()) == 16 * 6 * 4 + 1
        log = await databases[0].read(rows_of, change)
        everybodys = [row["version"] for row in log if row["sop_instance_uid"] == "5.5"]
        assert max(everybodys) == 16 * 6
    finally:
        for one in databases:
            await one.close()


async def test_nothing_is_written_when_one_instance_cannot_be(database: Database) -> None:
    poison = stored("1.1.2", of_study={"patient_id": "\ud800"})
    with pytest.raises((sa.exc.DBAPIError, UnicodeEncodeError)):
        await record(database, stored("1.1.1"), poison)
    assert await database.read(rows_of, study) == []
    assert await database.read(rows_of, change) == []
