"""Searches are answered from the indexes named for them, and no table is read whole for one.

The manifest has 20,000 studies. Nothing is timed: what is looked at is how the databases mean to
run the statements, and how many statements there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa
from manifest_databases import postgres_database
from recorded import data_set, record
from sqlalchemy.engine import Connection
from statements import Plan, plan_of, recorded_statements

from imaging_ingestion.dicom.dictionary import tag_of
from imaging_ingestion.dicom.matching import MatchKey, identifier_of
from imaging_ingestion.dicom.person_name import fold_name
from imaging_ingestion.manifest.attribute_levels import Level
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.migrate import migrate
from imaging_ingestion.manifest.query import Search, search
from imaging_ingestion.manifest.retrieve import (
    Place,
    contents,
    find_place,
    instances_page,
    live_instance,
    metadata_page,
)
from imaging_ingestion.manifest.schema import instance, instance_metadata, series, study

pytestmark = pytest.mark.asyncio(loop_scope="module")

STUDIES = 20_000
#: Of these few, a patient has each three times: (0010,0020) and names are not unique.
PATIENTS = STUDIES // 3
#: CT and MR are in every second study, PT in 20 of all.
COMMON, RARE = "CT", "PT"


def _uid(number: int) -> str:
    return f"1.2.826.9.{number}"


def _name(number: int) -> str:
    return f"{'Smith' if number % 2 else 'Jones'}{number:05}^Jo"


def _studies() -> Iterable[dict[str, Any]]:
    for number in range(STUDIES):
        patient = number % PATIENTS
        yield {
            "id": number + 1,
            "space": "default",
            "study_instance_uid": _uid(number),
            "study_date": f"{date(2000, 1, 1) + timedelta(number * 7919 % 7300):%Y%m%d}",
            "accession_number": f"A{number:06}",
            "patient_id": f"P{patient:05}",
            "patient_name": _name(patient),
            "patient_name_folded": fold_name(_name(patient)),
            "referring_physician_name": "House^G",
            "referring_physician_name_folded": "house^g",
            "number_of_series": 2,
            "number_of_instances": 2,
            "created_at": 0,
            "changed_at": 0,
        }


def _modality(number: int, place: int) -> str:
    if place:
        return "SR"
    return RARE if number % 1000 == 7 else (COMMON if number % 2 else "MR")


def _series() -> Iterable[dict[str, Any]]:
    for number in range(STUDIES):
        for place in range(2):
            yield {
                "id": 2 * number + place + 1,
                "study_pk": number + 1,
                "space": "default",
                "series_instance_uid": f"{_uid(number)}.{place}",
                "modality": _modality(number, place),
                "number_of_instances": 1,
                "created_at": 0,
                "changed_at": 0,
            }


def _instances() -> Iterable[dict[str, Any]]:
    for one in _series():
        yield {
            "id": one["id"],
            "study_pk": one["study_pk"],
            "series_pk": one["id"],
            "space": "default",
            "sop_instance_uid": f"{one['series_instance_uid']}.1",
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "object_name": f"o{one['id']}",
            "object_size": 1,
            "sha256": bytes(32),
            "stored_at": 0,
        }


def _fill(connection: Connection) -> None:
    for table, rows in ((study, _studies()), (series, _series()), (instance, _instances())):
        connection.execute(sa.insert(table), list(rows))
    metadata = [{"instance_pk": row["id"], "json_zstd": b"x" * 40} for row in _instances()]
    connection.execute(sa.insert(instance_metadata), metadata)


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["sqlite", "sqlite analyzed", "postgresql"]
)
async def large(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Database]:
    """The manifest. SQLite as it is, without statistics, and with them; PostgreSQL with them."""
    if request.param == "postgresql":
        server = sa.make_url(request.getfixturevalue("postgres_url"))
        template = request.getfixturevalue("migrated_template")
        async with postgres_database(server, template) as url:
            database = open_database(url)
            try:
                await database.write(_fill)
                await database.write(_analyze)
                yield database
            finally:
                await database.close()
        return
    path: Path = tmp_path_factory.mktemp("plans") / "manifest.db"
    database = open_database(f"sqlite:///{path}")
    try:
        await migrate(database)
        await database.write(_fill)
        if "analyzed" in request.param:
            await database.write(_analyze)
        yield database
    finally:
        await database.close()
        await asyncio.to_thread(path.unlink)


def _analyze(connection: Connection) -> None:
    connection.exec_driver_sql("ANALYZE")


def _search(level: Level, keys: dict[str, str], **others: Any) -> Search:
    asked = []
    for name, text in keys.items():
        tag = tag_of(name)
        assert tag is not None
        asked.append(MatchKey((tag,), text))
    return Search("default", level, identifier_of(asked), **others)


def _named(value: object) -> str | None:
    """A test's name: its keys."""
    if not isinstance(value, dict):
        return None
    return ",".join(f"{name}={text}" for name, text in value.items()) or "nothing"


async def _plan(database: Database, wanted: Search) -> tuple[Plan, list[str]]:
    """How all statements of a search are run, and what it found."""
    with recorded_statements() as statements:
        page = await search(database, wanted)
    plan = Plan()
    for statement in statements:
        of_one = await database.read(plan_of, statement)
        if statement.text.startswith("SELECT count(*)"):
            # The results that are left are counted up to a limit: that may begin anywhere.
            assert "LIMIT" in statement.text
            of_one.read_whole.clear()
        plan.add(of_one)
    return plan, [match.study.study_instance_uid for match in page.matches]


@pytest.mark.parametrize(
    ("keys", "index"),
    [
        ({}, "study_by_date"),  # the newest fifty
        ({"PatientID": "P00017"}, "study_by_patient_id"),
        ({"PatientID": "P0001*"}, "study_by_patient_id"),
        ({"AccessionNumber": "A000017"}, "study_by_accession"),
        ({"AccessionNumber": "A00001?"}, "study_by_accession"),
        ({"PatientName": "smith00017^jo"}, "study_by_patient_name"),
        ({"PatientName": "Smith0001*"}, "study_by_patient_name"),
        ({"StudyInstanceUID": _uid(17)}, "study_uid"),
        ({"StudyInstanceUID": f"{_uid(17)},{_uid(18)},{_uid(19)}"}, "study_uid"),
        ({"StudyDate": "20070101"}, "study_by_date"),
        ({"StudyDate": "20070101-20070301"}, "study_by_date"),
        ({"StudyDate": "20070101-"}, "study_by_date"),
        ({"StudyDate": "20000101-20191231", "PatientID": "P00017"}, "study_by_patient_id"),
        ({"ModalitiesInStudy": RARE}, "series_by_modality"),
        ({"ModalitiesInStudy": RARE, "StudyDate": "20070101-"}, "series_by_modality"),
        ({"ModalitiesInStudy": COMMON, "StudyDate": "20070101-20070301"}, "study_by_date"),
        ({"ModalitiesInStudy": COMMON}, "study_by_date"),
        # What most of the studies satisfy is not sorted: the walk by date is over soon.
        ({"PatientName": "S*"}, "study_by_date"),
        ({"PatientID": "P*"}, "study_by_date"),
        ({"ReferringPhysicianName": "house*"}, "study_by_date"),
    ],
    ids=_named,
)
async def test_a_search_for_studies_is_answered_from_its_index(
    large: Database, keys: dict[str, str], index: str
) -> None:
    plan, found = await _plan(large, _search(Level.STUDY, keys, limit=50))
    assert found
    assert index in plan.indexes, plan.text
    assert not plan.read_whole, plan.text


@pytest.mark.parametrize(
    ("level", "keys", "index"),
    [
        (Level.SERIES, {}, "series_uid"),
        (Level.SERIES, {"Modality": RARE}, "series_by_modality"),
        (Level.SERIES, {"SeriesInstanceUID": f"{_uid(17)}.1"}, "series_by_uid"),
        (Level.SERIES, {"PatientID": "P00017"}, "study_by_patient_id"),
        (Level.SERIES, {"Modality": COMMON, "StudyDate": "20070101-20070301"}, "study_by_date"),
        (Level.INSTANCE, {}, "instance_by_study"),
        (Level.INSTANCE, {"SOPInstanceUID": f"{_uid(17)}.1.1"}, "instance_live_uid"),
        (Level.INSTANCE, {"PatientID": "P00017"}, "study_by_patient_id"),
        (Level.INSTANCE, {"StudyInstanceUID": _uid(17), "Modality": "SR"}, "study_uid"),
        (Level.INSTANCE, {"SeriesInstanceUID": f"{_uid(17)}.1"}, "series_by_uid"),
    ],
    ids=_named,
)
async def test_a_search_for_series_and_instances_is_answered_from_its_index(
    large: Database, level: Level, keys: dict[str, str], index: str
) -> None:
    plan, found = await _plan(large, _search(level, keys, limit=50))
    assert found
    assert index in plan.indexes, plan.text
    assert not plan.read_whole, plan.text


@pytest.mark.parametrize(
    ("level", "series_instance_uid", "keys", "index"),
    [
        (Level.SERIES, None, {}, "series_uid"),
        (Level.SERIES, None, {"Modality": "SR"}, "series_uid"),
        (Level.INSTANCE, None, {}, "instance_by_study"),
        (Level.INSTANCE, f"{_uid(17)}.1", {}, "instance_by_series"),
        (Level.INSTANCE, f"{_uid(17)}.1", {"InstanceNumber": ""}, "instance_by_series"),
    ],
)
async def test_a_search_within_a_study_reads_that_study_only(
    large: Database,
    level: Level,
    series_instance_uid: str | None,
    keys: dict[str, str],
    index: str,
) -> None:
    wanted = _search(
        level, keys, study_instance_uid=_uid(17), series_instance_uid=series_instance_uid
    )
    plan, found = await _plan(large, wanted)
    assert found
    assert {index, "study_uid"} <= plan.indexes, plan.text
    assert not plan.read_whole, plan.text


async def test_the_first_page_is_not_sorted_but_read_from_the_index(large: Database) -> None:
    # The last in order of date are there without looking at all the others.
    plan, found = await _plan(large, _search(Level.STUDY, {}, limit=3))
    newest = sorted(_studies(), key=lambda row: (row["study_date"], row["id"]), reverse=True)
    assert found == [row["study_instance_uid"] for row in newest[:3]]
    assert "TEMP B-TREE FOR ORDER BY" not in plan.text
    assert '"Node Type": "Sort"' not in plan.text


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("with_series", [False, True])
async def test_what_retrieving_reads_is_found_by_indexes(
    large: Database, level: Level, with_series: bool
) -> None:
    uids = [_uid(17), f"{_uid(17)}.1", f"{_uid(17)}.1.1"][:level]
    with recorded_statements() as statements:
        place = await large.read(find_place, "default", *uids)
        await large.read(contents, place)
        assert await large.read(instances_page, place, 0, 100)
        assert await large.read(metadata_page, place, 0, 100, 1 << 20)
        assert await large.read(live_instance, "default", f"{_uid(17)}.1.1")
    plan = Plan()
    for statement in statements:
        plan.add(await large.read(plan_of, statement))
    assert not plan.read_whole, plan.text
    assert "study_uid" in plan.indexes
    assert place == Place(18, *([36] if level > 1 else []), *([36] if level > 2 else []))


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize(
    "keys", [{}, {"PatientID": "P*"}, {"PatientComments": ""}, {"PatientName": "*n*"}]
)
async def test_the_number_of_statements_does_not_grow_with_the_results(
    large: Database, level: Level, keys: dict[str, str]
) -> None:
    counts = []
    for limit in (10, 200):
        with recorded_statements() as statements:
            page = await search(large, _search(level, keys, limit=limit))
        assert len(page.matches) == limit
        counts.append(len(statements))
    assert counts[0] == counts[1] <= 12


async def test_the_number_of_statements_of_a_page_by_page_scan_grows_with_its_batches_only(
    database: Database,
) -> None:
    made = [
        data_set(StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1", ImageComments=f"c{n % 2}")
        for n in range(300)
    ]
    await database.write(record, *made)
    wanted = _search(Level.INSTANCE, {"ImageComments": "c1"}, study_instance_uid="1.2", limit=150)
    with recorded_statements() as statements:
        page = await search(database, wanted)
    assert len(page.matches) == 150
    assert len(statements) <= 20
