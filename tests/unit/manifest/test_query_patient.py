"""Patients are found by what their studies say of them, in pages that join, by an index."""

from __future__ import annotations

from typing import Any

import pytest
from recorded import data_set, record
from sqlalchemy.engine import Connection

from imaging_ingestion.dicom.dictionary import tag_of
from imaging_ingestion.dicom.matching import MatchKey, identifier_of
from imaging_ingestion.manifest import query, query_patient
from imaging_ingestion.manifest.attribute_levels import Level
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.deletion import delete_instances
from imaging_ingestion.manifest.query import Search, TooBroadError, walk
from imaging_ingestion.manifest.query_patient import PatientMatch, walk_patients


def identifier(**keys: str) -> Any:
    return identifier_of([MatchKey((tag_of(name),), text) for name, text in keys.items()])


async def patients(database: Database, scan_limit: int = 50_000, **keys: str) -> list[PatientMatch]:
    found: list[PatientMatch] = []
    async for batch in walk_patients(
        database, "default", identifier(**keys), scan_limit=scan_limit
    ):
        found.extend(batch)
    return found


def names(found: list[PatientMatch]) -> list[tuple[str, str]]:
    return [(match.study.patient_id, match.study.patient_name) for match in found]


async def fill(database: Database) -> None:
    made = [
        data_set(PatientID="P2", PatientName="Young^Ada", StudyInstanceUID="1.1"),
        data_set(PatientID="P1", PatientName="Smith^John", StudyInstanceUID="1.2"),
        data_set(PatientID="P2", PatientName="Married^Ada", StudyInstanceUID="1.3"),
        data_set(
            PatientID="P1",
            IssuerOfPatientID="ELSEWHERE",
            PatientName="Somebody^Else",
            StudyInstanceUID="1.4",
            OtherPatientIDsSequence=[],
            PatientComments="comes on foot",
        ),
        data_set(PatientName="Nobody", StudyInstanceUID="1.5"),
        data_set(PatientID="P2", PatientName="Married^Ada", StudyInstanceUID="1.3"),
    ]
    await database.write(record, *made)
    await database.write(record, data_set(PatientID="P9", PatientName="Other"), space="other")


async def test_a_patient_is_found_once_with_what_arrived_last(database: Database) -> None:
    await fill(database)
    assert names(await patients(database)) == [
        ("P1", "Smith^John"),
        ("P1", "Somebody^Else"),
        ("P2", "Married^Ada"),
    ]


async def test_what_is_told_of_a_patient_is_as_was_asked(database: Database) -> None:
    await fill(database)
    assert names(await patients(database, PatientName="young*")) == [("P2", "Young^Ada")]
    assert names(await patients(database, PatientID="P1", IssuerOfPatientID="ELSEWHERE")) == [
        ("P1", "Somebody^Else")
    ]
    assert names(await patients(database, PatientID="P?")) == names(await patients(database))
    assert await patients(database, PatientID="P9") == []


async def test_all_studies_of_a_patient_are_counted(database: Database) -> None:
    await fill(database)
    found = {
        (match.study.patient_id, match.study.issuer_of_patient_id): (
            match.number_of_studies,
            match.number_of_series,
            match.number_of_instances,
        )
        for match in await patients(database)
    }
    assert found == {
        ("P1", None): (1, 1, 1),
        ("P1", "ELSEWHERE"): (1, 1, 1),
        ("P2", None): (2, 3, 3),
    }
    (young,) = await patients(database, PatientName="Young^Ada")
    assert young.number_of_studies == 2


async def test_a_patient_whose_studies_are_deleted_is_not_found(database: Database) -> None:
    await fill(database)
    for study in ("1.1", "1.3"):
        await database.write(delete_instances, "default", study, None, None, 1, 1)
    assert await patients(database, PatientID="P2") == []


async def test_what_is_no_column_is_matched_as_well(database: Database) -> None:
    await fill(database)
    assert names(await patients(database, PatientComments="*foot")) == [("P1", "Somebody^Else")]


async def test_pages_join(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(database)
    expected = names(await patients(database))
    for size in (1, 2, 3):
        monkeypatch.setattr(query_patient, "SCAN_BATCH", size)
        assert names(await patients(database)) == expected
        assert names(await patients(database, PatientID="P2")) == [("P2", "Married^Ada")]
        assert names(await patients(database, PatientComments="*foot")) == expected[1:2]


async def test_a_search_that_looks_at_too_much_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(database)
    monkeypatch.setattr(query_patient, "SCAN_BATCH", 2)
    with pytest.raises(TooBroadError):
        await patients(database, scan_limit=3, PatientComments="*foot")
    assert len(await patients(database, scan_limit=3)) == 3


async def test_only_attributes_of_patients_can_be_matched(database: Database) -> None:
    with pytest.raises(ValueError, match="patients"):
        await patients(database, StudyDate="20200101")


async def test_all_patients_are_read_in_the_order_of_an_index(database: Database) -> None:
    await fill(database)

    def plan(connection: Connection) -> str:
        explain = "EXPLAIN QUERY PLAN "
        if connection.dialect.name == "postgresql":  # a few rows are best read without an index
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            connection.exec_driver_sql("SET LOCAL enable_sort = off")
            explain = "EXPLAIN "
        page = query_patient._page(query_patient._studies("default"), ("P1", 0), few=False)
        text = page.compile(connection, compile_kwargs={"literal_binds": True})
        return "\n".join(str(row) for row in connection.exec_driver_sql(explain + str(text)))

    found = await database.read(plan)
    assert "study_by_patient_id" in found
    assert "B-TREE" not in found
    assert "Sort" not in found


async def test_a_walk_is_a_search_without_pages(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [
        data_set(
            StudyInstanceUID=f"1.{number}",
            StudyDate="" if number % 5 == 0 else f"202001{number % 7 + 1:02}",
            PatientComments="odd" if number % 2 else "even",
        )
        for number in range(1, 40)
    ]
    await database.write(record, *made)
    for keys in ({}, {"StudyDate": "20200102-20200105"}, {"PatientComments": "odd"}):
        wanted = Search("default", Level.STUDY, identifier(**keys))
        page = await query.search(database, wanted)
        for size in (1, 3, 250):
            monkeypatch.setattr(query, "SCAN_BATCH", size)
            walked = [match.own.id async for batch in walk(database, wanted) for match in batch]
            assert walked == [match.own.id for match in page.matches]
            assert walked
        monkeypatch.undo()


async def test_a_walk_that_looks_at_too_much_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.write(record, *(data_set(PatientComments="odd") for _ in range(6)))
    monkeypatch.setattr(query, "SCAN_BATCH", 2)
    wanted = Search("default", Level.STUDY, identifier(PatientComments="even"), scan_limit=4)

    async def all_of_it() -> None:
        async for batch in walk(database, wanted):
            assert not batch

    with pytest.raises(TooBroadError):
        await all_of_it()
