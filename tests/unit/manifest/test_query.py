"""Searches over the manifest, on both databases: what is found, in which order, and how far."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset
from recorded import data_set, record

from imaging_ingestion.dicom.dictionary import tag_of
from imaging_ingestion.dicom.matching import Identifier, MatchKey, identifier_of
from imaging_ingestion.manifest.attribute_levels import Level
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.deletion import delete_instances
from imaging_ingestion.manifest.query import Page, Search, TooBroadError, search


def asked(**keys: str) -> Identifier:
    found = []
    for name, text in keys.items():
        tag = tag_of(name)
        assert tag is not None
        found.append(MatchKey((tag,), text))
    return identifier_of(found)


def instance(study: str, series: str, sop: str, **attributes: Any) -> Dataset:
    return data_set(
        StudyInstanceUID=f"1.{study}",
        SeriesInstanceUID=f"1.{study}.{series}",
        SOPInstanceUID=f"1.{study}.{series}.{sop}",
        **attributes,
    )


def uids(page: Page) -> list[str]:
    """The UIDs of what was searched for, in order."""
    return [
        match.instance.sop_instance_uid
        if match.instance is not None
        else match.series.series_instance_uid
        if match.series is not None
        else match.study.study_instance_uid
        for match in page.matches
    ]


async def found(database: Database, level: Level, space: str = "default", **others: Any) -> Page:
    identifier = others.pop("identifier", Identifier())
    return await search(database, Search(space, level, identifier, **others))


async def test_the_newest_study_comes_first_and_those_without_a_date_last(
    database: Database,
) -> None:
    # Q24
    for study, date in (("1", "20200101"), ("2", None), ("3", "20210101"), ("4", "20200101")):
        attributes = {"StudyDate": date} if date else {}
        await database.write(record, instance(study, "1", "1", **attributes))
    await database.write(record, instance("5", "1", "1"))
    page = await found(database, Level.STUDY)
    assert uids(page) == ["1.3", "1.4", "1.1", "1.5", "1.2"]
    assert (page.remaining, page.remaining_is_exact) == (0, True)
    # A selective key finds the same order by sorting.
    page = await found(database, Level.STUDY, identifier=asked(StudyInstanceUID="1.2,1.4,1.1,1.3"))
    assert uids(page) == ["1.3", "1.4", "1.1", "1.2"]


async def test_series_and_instances_follow_their_studies_in_order_of_arrival(
    database: Database,
) -> None:
    # Q24
    for one in (
        instance("1", "2", "9", StudyDate="20200101"),
        instance("1", "1", "5"),
        instance("2", "1", "1", StudyDate="20210101"),
        instance("1", "2", "3"),
    ):
        await database.write(record, one)
    assert uids(await found(database, Level.SERIES)) == ["1.2.1", "1.1.2", "1.1.1"]
    expected = ["1.2.1.1", "1.1.2.9", "1.1.1.5", "1.1.2.3"]
    assert uids(await found(database, Level.INSTANCE)) == expected
    page = await found(database, Level.INSTANCE, study_instance_uid="1.1")
    assert uids(page) == expected[1:]
    page = await found(
        database, Level.INSTANCE, study_instance_uid="1.1", series_instance_uid="1.1.2"
    )
    assert uids(page) == ["1.1.2.9", "1.1.2.3"]


async def test_spaces_do_not_meet(database: Database) -> None:
    await database.write(record, instance("1", "1", "1", PatientID="A"), space="clinical")
    await database.write(record, instance("1", "1", "1", PatientID="B"), space="research")
    for space, patient in (("clinical", "A"), ("research", "B")):
        for level in Level:
            page = await found(database, level, space)
            assert [match.study.patient_id for match in page.matches] == [patient]
            page = await found(database, level, space, identifier=asked(PatientID="?"))
            assert [match.study.patient_id for match in page.matches] == [patient]
    modality = asked(Modality="CT")
    assert uids(await found(database, Level.SERIES, "default", identifier=modality)) == []


async def test_what_is_deleted_is_not_found(database: Database) -> None:
    # Q37
    for one in (instance("1", "1", "1"), instance("1", "1", "2"), instance("1", "2", "1")):
        await database.write(record, one)

    async def counts() -> list[int]:
        return [len((await found(database, level)).matches) for level in Level]

    async def delete(*uids_of: str | None) -> None:
        await database.write(delete_instances, "default", *uids_of, 1, 1)

    await delete("1.1", "1.1.1", "1.1.1.1")
    assert await counts() == [1, 2, 2]
    await delete("1.1", "1.1.1", None)
    assert await counts() == [1, 1, 1]
    await delete("1.1", None, None)
    assert await counts() == [0, 0, 0]
    await database.write(record, instance("1", "1", "1"))
    assert await counts() == [1, 1, 1]


async def test_a_key_below_the_level_is_a_mistake_of_the_caller(database: Database) -> None:
    with pytest.raises(ValueError, match="a search for a STUDY cannot match 00080060"):
        await found(database, Level.STUDY, identifier=asked(Modality="CT"))
    private = identifier_of([MatchKey((0x00230010,), "A"), MatchKey((0x00231001,), "x")])
    with pytest.raises(ValueError, match="only a search for instances"):
        await found(database, Level.SERIES, identifier=private)


async def test_an_unknown_place_holds_nothing(database: Database) -> None:
    # Q35
    await database.write(record, instance("1", "1", "1"))
    for place in (
        {"study_instance_uid": "1.9"},
        {"study_instance_uid": "1.9", "series_instance_uid": "1.1.1"},
        {"study_instance_uid": "1.1", "series_instance_uid": "1.9"},
    ):
        assert uids(await found(database, Level.INSTANCE, **place)) == []


async def test_a_search_that_would_read_too_much_is_refused(database: Database) -> None:
    # Q25
    made = [instance("1", "1", str(n), ImageComments=f"c{n % 400}") for n in range(600)]
    for start in range(0, 600, 200):
        await database.write(record, *made[start : start + 200])
    rare = asked(ImageComments="c399")
    page = await found(database, Level.INSTANCE, identifier=rare, limit=5)
    assert len(page.matches) == 1
    with pytest.raises(TooBroadError, match="more than 250 rows"):
        await found(database, Level.INSTANCE, identifier=rare, limit=5, scan_limit=250)
    # A page that is full before that is answered.
    page = await found(
        database, Level.INSTANCE, identifier=asked(ImageComments="c1*"), limit=5, scan_limit=250
    )
    assert len(page.matches) == 5
    assert not page.remaining_is_exact


async def test_a_full_page_says_how_many_are_left(database: Database) -> None:
    # Q23
    await database.write(record, *(instance("1", "1", str(n)) for n in range(30)))
    for identifier in (Identifier(), asked(SOPInstanceUID=""), asked(ImageComments="")):
        page = await found(database, Level.INSTANCE, identifier=identifier, limit=10, offset=5)
        assert len(page.matches) == 10
        assert (page.remaining, page.remaining_is_exact) == (15, True)
    page = await found(database, Level.INSTANCE, limit=0)
    assert (page.matches, page.remaining) == ((), 0)
    page = await found(database, Level.INSTANCE, limit=30)
    assert (len(page.matches), page.remaining) == (30, 0)


async def test_an_offset_goes_across_dated_and_undated_studies(database: Database) -> None:
    # Q24
    for number in range(6):
        attributes = {"StudyDate": f"2020010{number}"} if number < 3 else {}
        await database.write(record, instance(str(number), "1", "1", **attributes))
    expected = ["1.2", "1.1", "1.0", "1.5", "1.4", "1.3"]
    for offset in range(8):
        for limit in range(1, 8):
            page = await found(database, Level.STUDY, offset=offset, limit=limit)
            assert uids(page) == expected[offset : offset + limit]
            assert page.remaining == max(0, 6 - offset - limit)


async def test_a_result_knows_its_parents(database: Database) -> None:
    await database.write(
        record,
        instance("1", "1", "1", Modality="CT", PatientID="P"),
        instance("1", "2", "1", Modality="SR"),
    )
    for match in (await found(database, Level.INSTANCE)).matches:
        assert match.instance is not None
        assert match.series is not None
        assert match.own is match.instance
        assert match.series.id == match.instance.series_pk
        assert match.study.id == match.series.study_pk
        assert match.study.patient_id == "P"
        assert match.modalities_in_study == ("CT", "SR")
