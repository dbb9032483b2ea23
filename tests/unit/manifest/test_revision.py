"""Revisions: what changed since the last one, exactly, and its event as upstream's."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from event_core import plans_of, reads_a_table_whole, record, stored
from sqlalchemy.engine import Connection

from imaging_ingestion.events.model import StudyRevision
from imaging_ingestion.manifest import changes, revision
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.deletion import delete_instances
from imaging_ingestion.manifest.elements import elements_of, integer_of
from imaging_ingestion.manifest.revision import Due


def endpoint(space: str, study: str, series: str) -> str:
    return f"http://127.0.0.1/spaces/{space}/dicom-web/studies/{study}/series/{series}"


async def settle(database: Database, study_pk: int = 1, now: int = 10) -> revision.Revised | None:
    return await database.write(revision.revise, study_pk, now, endpoint)


async def event_data(
    database: Database, number: int | None = None, study: str = "1", space: str = "default"
) -> dict[str, Any]:
    data = await database.read(revision.load, space, study, number)
    assert data is not None
    found: dict[str, Any] = json.loads(data)
    return found


async def change_sets(database: Database) -> list[dict[str, list[str]]]:
    numbers = await database.read(revision.numbers, "default", "1")
    assert numbers is not None
    assert [number for number, _ in numbers] == list(range(len(numbers)))
    return [(await event_data(database, number))["changeSet"] for number, _ in numbers]


async def delete(database: Database, series: str | None = None, sop: str | None = None) -> int:
    return await database.write(delete_instances, "default", "1", series, sop, 5, 0)


async def test_revisions_count_from_0_and_tell_what_is_new_changed_and_gone(
    database: Database,
) -> None:
    await record(database, stored("1"), stored("2"), stored("3", series="1.2"))
    assert await settle(database) == ("default", "1", 0)
    await record(database, stored("1", "b"), stored("4"))
    await delete(database, "1.2")
    assert await settle(database) == ("default", "1", 1)
    assert await change_sets(database) == [
        {"additions": ["1.1/1", "1.1/2", "1.2/3"], "deletions": [], "modifications": []},
        {"additions": ["1.1/4"], "deletions": ["1.2/3"], "modifications": ["1.1/1"]},
    ]
    last = await event_data(database)
    assert last["revision"] == 1
    assert [(s["seriesInstanceUID"], len(s["instances"])) for s in last["study"]["series"]] == [
        ("1.1", 3)
    ]
    log = await database.read(changes.since, 0, 100, kinds=["revised"])
    assert [(e.event_id, e.version, e.provider, e.at) for e in log.entries] == [
        ("revised/1/0", 0, "provider", 10),
        ("revised/1/1", 1, "provider", 10),
    ]


async def test_what_came_and_went_or_went_and_came_back_is_nothing(database: Database) -> None:
    await record(database, stored("1"), stored("2"))
    await settle(database)
    await record(database, stored("3"), stored("1", "b"), stored("1", "a"))
    await delete(database, "1.1", "3")
    await delete(database, "1.1", "2")
    await record(database, stored("2"))
    assert await settle(database) is None
    assert len(await change_sets(database)) == 1
    # Nothing is waiting any more, and the next number is the next number.
    assert await database.read(revision.next_due) is None
    await record(database, stored("4"))
    assert await settle(database) == ("default", "1", 1)


async def test_a_study_that_came_and_went_in_between_makes_nothing(database: Database) -> None:
    await record(database, stored("1"))
    await delete(database)
    assert await settle(database) is None
    assert await database.read(revision.numbers, "default", "1") == []
    assert (await database.read(changes.since, 0, 10, kinds=["revised"])).entries == []


async def test_whoever_follows_the_provider_is_told_of_the_end_of_a_study(
    database: Database,
) -> None:
    await record(database, stored("1", provider="ct"))
    await settle(database)
    await delete(database)
    await settle(database)
    assert (await change_sets(database))[1] == {
        "additions": [],
        "deletions": ["1.1/1"],
        "modifications": [],
    }
    assert (await event_data(database, 1))["study"]["series"] == []
    log = await database.read(changes.since, 0, 10, kinds=["revised"])
    assert [entry.provider for entry in log.entries] == ["ct", "ct"]


async def test_an_instance_that_comes_back_after_its_deletion_was_told_is_an_addition(
    database: Database,
) -> None:
    await record(database, stored("1"), stored("2"))
    await settle(database)
    await delete(database, "1.1", "1")
    await settle(database)
    await record(database, stored("1"))
    await settle(database)
    assert [(c["additions"], c["deletions"]) for c in await change_sets(database)] == [
        (["1.1/1", "1.1/2"], []),
        ([], ["1.1/1"]),
        (["1.1/1"], []),
    ]
    # Its event is another one: no consumer may take it for the first.
    log = await database.read(changes.since, 0, 100, kinds=["stored"])
    assert [(e.sop_instance_uid, e.version) for e in log.entries] == [
        ("1", 1),
        ("2", 1),
        ("1", 2),
    ]


async def test_a_deletion_that_was_told_leaves_an_identity_and_no_patient(
    database: Database,
) -> None:
    from imaging_ingestion.manifest.schema import instance, instance_metadata

    await record(database, stored("1"), stored("2"))
    await delete(database, "1.1", "1")
    statement = (
        instance_metadata.select()
        .join(instance)
        .with_only_columns(instance.c.sop_instance_uid, instance_metadata.c.json_zstd)
        .order_by(instance.c.id)
    )
    await settle(database)
    rows = await database.read(lambda connection: connection.execute(statement).all())
    assert [(row[0], bool(row[1])) for row in rows] == [("1", False), ("2", True)]
    await record(database, stored("1"))
    rows = await database.read(lambda connection: connection.execute(statement).all())
    assert [(row[0], bool(row[1])) for row in rows] == [("1", True), ("2", True)]


async def test_an_instance_that_moved_is_gone_here_and_new_there(database: Database) -> None:
    await record(database, stored("1"), stored("2"))
    await settle(database)
    await record(database, stored("1", study="9", series="9.1"))
    assert await settle(database, 1) == ("default", "1", 1)
    assert await settle(database, 2) == ("default", "9", 0)
    assert (await event_data(database, study="1"))["changeSet"]["deletions"] == ["1.1/1"]
    assert (await event_data(database, study="9"))["changeSet"]["additions"] == ["9.1/1"]


async def test_the_event_has_upstreams_fields_and_ours(database: Database) -> None:
    study = json.dumps(
        {
            "00080050": {"vr": "SH", "Value": ["A1"]},
            "00081032": {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["X"]}}]},
            "00100010": {"vr": "PN", "Value": [{"Alphabetic": "A^B", "Phonetic": "C"}]},
            "00101010": {"vr": "AS"},
            "00321060": {"vr": "LO", "Value": ["a", "b"]},
        }
    )
    series = json.dumps({"0008103E": {"vr": "LO", "Value": ["CHEST"]}})
    await record(
        database,
        stored("1.5", study_attributes=study, series_attributes=series, number="07"),
        stored("1.6", study_attributes=study, series_attributes=series, number="no number"),
    )
    await settle(database)
    data = await event_data(database)

    def element(tag: str, vr: str, value: str | None) -> dict[str, str | None]:
        return {"group": tag[:4], "element": tag[4:], "vr": vr, "value": value}

    assert data["study"].pop("dicomJson") == json.loads(study)
    assert data["study"]["series"][0].pop("dicomJson") == json.loads(series)
    assert data == {
        "revision": 0,
        "study": {
            "studyInstanceUID": "1",
            "studyDate": None,
            "space": "default",
            "attributes": [
                element("00080050", "SH", "A1"),
                element("00080090", "PN", None),
                element("00081030", "LO", None),
                element("00081032", "SQ", None),
                element("00100010", "PN", "A^B==C"),
                element("00100020", "LO", None),
                element("00100030", "DA", None),
                element("00100040", "CS", None),
                element("00101010", "AS", None),
                element("00321060", "LO", "a\\b"),
            ],
            "series": [
                {
                    "seriesInstanceUID": "1.1",
                    "number": None,  # the latest that has a value: "no number"
                    "modality": "CT",
                    "providerName": "provider",
                    "endpoint": endpoint("default", "1", "1.1"),
                    "attributes": [
                        element("0008103E", "LO", "CHEST"),
                        element("00400244", "DA", None),
                        element("00400245", "TM", None),
                        element("00400275", "SQ", None),
                    ],
                    "instances": [
                        {
                            "sopInstanceUID": sop,
                            "sopClassUID": "1.2.840.10008.5.1.4.1.1.2",
                            "number": number,
                        }
                        for sop, number in (("1.5", 7), ("1.6", None))
                    ],
                }
            ],
        },
        "changeSet": {"additions": ["1.1/1.5", "1.1/1.6"], "deletions": [], "modifications": []},
    }


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7),
        ("+07", 7),
        ("-3", -3),
        ("2147483647", 2147483647),
        ("2147483648", None),
        ("-2147483649", None),
        ("9" * 400, None),
        ("1_000", None),
        ("1.0", None),
        ("", None),
        (None, None),
    ],
)
def test_an_integer_string_is_a_number_of_32_bits_or_none(
    text: str | None, number: int | None
) -> None:
    assert integer_of(text) == number


async def test_a_number_beyond_all_bounds_does_not_keep_a_study_from_settling(
    database: Database,
) -> None:
    await record(database, stored("1", number="9" * 400))
    assert await settle(database) == ("default", "1", 0)


def test_values_of_elements() -> None:
    found = elements_of(
        json.dumps(
            {
                "00080005": {"vr": "CS", "Value": ["ISO_IR 100", None]},
                "00280010": {"vr": "US", "Value": [512]},
                "00101030": {"vr": "DS", "Value": [70.5]},
                "7FE00010": {"vr": "OW", "BulkDataURI": "@7FE00010"},
            }
        ),
        ("00100010",),
    )
    assert [(e.group + e.element, e.vr, e.value) for e in found] == [
        ("00080005", "CS", "ISO_IR 100\\"),
        ("00100010", "PN", None),
        ("00101030", "DS", "70.5"),
        ("00280010", "US", "512"),
        ("7FE00010", "OW", None),
    ]


async def test_one_study_in_two_spaces_is_two_studies(database: Database) -> None:
    await record(database, stored("1"), stored("1", space="research"))
    await settle(database, 1)
    await record(database, stored("2"))
    await settle(database, 1)
    await settle(database, 2)
    for space, number in (("default", 1), ("research", 0)):
        data = await event_data(database, space=space)
        assert (data["revision"], data["study"]["space"]) == (number, space)


async def test_due_studies_come_in_their_order_page_by_page(database: Database) -> None:
    for n, due_at in enumerate((5, 3, 3, 9)):
        await record(database, stored(str(n), study=str(n)), now=due_at)
    first = await database.read(revision.due, 5, None, 2)
    assert first == [Due(3, 2), Due(3, 3)]
    assert await database.read(revision.due, 5, first[-1], 2) == [Due(5, 1)]
    assert await database.read(revision.next_due) == 3
    assert await database.read(revision.next_due, 5) == 9
    assert await database.read(revision.next_due, 9) is None
    # One that has changed meanwhile is not settled before its new time.
    await record(database, stored("0", "b", study="0"), now=7)
    assert await settle(database, 1, now=5) is None
    assert await settle(database, 1, now=7) == ("default", "0", 0)


async def test_a_revision_is_loaded_by_number_or_the_latest(database: Database) -> None:
    await record(database, stored("1"))
    await settle(database)
    await record(database, stored("2"))
    await settle(database)
    load = revision.load
    assert (await event_data(database, 0))["revision"] == 0
    assert (await event_data(database))["revision"] == 1
    assert await database.read(load, "default", "1", 2) is None
    assert await database.read(load, "elsewhere", "1") is None
    assert await database.read(revision.numbers, "default", "404") is None
    whole = await database.read(load, "default", "1", 1)
    assert whole is not None
    up_to = revision.load_up_to
    assert await database.read(up_to, "default", "1", 1, len(whole)) == whole
    assert await database.read(up_to, "default", "1", 1, len(whole) - 1) == b""
    assert await database.read(up_to, "default", "1", 2, 10) is None


async def test_no_statement_about_revisions_reads_a_table_whole(database: Database) -> None:
    for start in range(0, 600, 200):
        await record(
            database,
            *(stored(str(n), study=str(n)) for n in range(start, start + 200)),
            now=start,
        )

    def settle_most(connection: Connection) -> None:
        for number in range(1, 500):
            revision.revise(connection, number, 600, endpoint)

    await database.write(settle_most)
    for fn, *arguments in (
        (revision.next_due, 100),
        (revision.due, 300, Due(200, 7), 10),
        (revision.revise, 550, 600, endpoint),
        (revision.load, "default", "7", 0),
        (revision.numbers, "default", "7"),
    ):
        for sql, plan in await plans_of(database, fn, *arguments):
            # What one study has may be sorted: its series, its instances, its revisions.
            of_one_study = "FROM series" in sql or "FROM instance" in sql or fn is revision.numbers
            assert not reads_a_table_whole(plan, sorting=of_one_study), (fn, sql, plan)


async def test_every_series_of_a_large_study_has_its_own_instances(database: Database) -> None:
    for start in range(0, 600, 200):
        await record(
            database,
            *(stored(f"2.{n}", series=f"1.{n % 40}") for n in range(start, start + 200)),
        )
    await settle(database)
    packed = await database.read(revision.load, "default", "1")
    assert packed is not None
    data = msgspec.json.decode(packed, type=StudyRevision)
    assert {
        s.series_instance_uid: [i.sop_instance_uid for i in s.instances] for s in data.study.series
    } == {f"1.{n}": [f"2.{m}" for m in range(n, 600, 40)] for n in range(40)}
