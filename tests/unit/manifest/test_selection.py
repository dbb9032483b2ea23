"""Instances of a retrieval: chosen by patient, study, series and instance, grouped by kind."""

from __future__ import annotations

import pytest
from recorded import CT_IMAGE_STORAGE, data_set, record

from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.deletion import delete_instances
from imaging_ingestion.manifest.selection import (
    MOST_UIDS,
    Kind,
    Selection,
    select_instances,
    selected,
)

MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = "1.2.840.10008.1.2.1"


async def fill(database: Database) -> None:
    """Patient P has studies 1.1 and 1.2, patient Q has 1.3; the other space has one of P."""
    made = [
        data_set(
            PatientID="Q" if study == 3 else "P",
            SOPClassUID=MR if series == 2 else CT_IMAGE_STORAGE,
            StudyInstanceUID=f"1.{study}",
            SeriesInstanceUID=f"1.{study}.{series}",
            SOPInstanceUID=f"1.{study}.{series}.{number}",
        )
        for study in (1, 2, 3)
        for series in (1, 2)
        for number in (1, 2)
    ]
    await database.write(record, *made)
    other = data_set(
        PatientID="P", StudyInstanceUID="1.1", SeriesInstanceUID="1.1.1", SOPInstanceUID="1.1.1.1"
    )
    await database.write(record, other, space="other")


async def chosen(database: Database, **wanted: object) -> list[str]:
    kinds = await database.read(select_instances, Selection("default", **wanted))
    pks = [pk for keys in kinds.values() for pk in keys]
    rows = await database.read(selected, pks)
    assert len(rows) == len(pks)
    return sorted(row.instance.sop_instance_uid for row in rows.values())


@pytest.mark.parametrize(
    ("wanted", "uids"),
    [
        ({"patient_id": "Q"}, ["1.3.1.1", "1.3.1.2", "1.3.2.1", "1.3.2.2"]),
        ({"study_instance_uids": ("1.1", "1.9")}, ["1.1.1.1", "1.1.1.2", "1.1.2.1", "1.1.2.2"]),
        ({"patient_id": "Q", "study_instance_uids": ("1.1",)}, []),
        (
            {"series_instance_uids": ("1.1.1", "1.2.2")},
            ["1.1.1.1", "1.1.1.2", "1.2.2.1", "1.2.2.2"],
        ),
        ({"sop_instance_uids": ("1.1.1.1", "1.3.2.2", "1.9")}, ["1.1.1.1", "1.3.2.2"]),
        (
            {
                "patient_id": "P",
                "study_instance_uids": ("1.2",),
                "series_instance_uids": ("1.2.1",),
                "sop_instance_uids": ("1.2.1.2", "1.1.1.1"),
            },
            ["1.2.1.2"],
        ),
        ({"patient_id": "p"}, []),
    ],
)
async def test_instances_satisfy_every_condition(  # C25
    database: Database, wanted: dict[str, object], uids: list[str]
) -> None:
    await fill(database)
    assert await chosen(database, **wanted) == uids


async def test_they_are_grouped_by_what_is_to_be_negotiated(database: Database) -> None:
    await fill(database)
    kinds = await database.read(select_instances, Selection("default", patient_id="P"))
    assert {kind: len(pks) for kind, pks in kinds.items()} == {
        Kind(CT_IMAGE_STORAGE, EXPLICIT): 4,
        Kind(MR, EXPLICIT): 4,
    }
    for pks in kinds.values():
        assert list(pks) == sorted(pks)


async def test_an_instance_deleted_since_is_known_to_be(database: Database) -> None:
    await fill(database)
    kinds = await database.read(
        select_instances, Selection("default", sop_instance_uids=("1.1.1.1", "1.1.1.2"))
    )
    await database.write(delete_instances, "default", "1.1", "1.1.1", "1.1.1.1", 1, 1)
    (pks,) = kinds.values()
    rows = await database.read(selected, list(pks))
    assert {row.instance.sop_instance_uid: row.is_live for row in rows.values()} == {
        "1.1.1.1": False,
        "1.1.1.2": True,
    }
    assert await chosen(database, sop_instance_uids=("1.1.1.1",)) == []


async def test_as_many_uids_as_may_be_asked_for_at_once_are_looked_for(database: Database) -> None:
    await fill(database)
    uids = (*(f"9.{number}" for number in range(MOST_UIDS - 1)), "1.1.1.1")
    everywhere = {
        "study_instance_uids": (*uids[:-1], "1.1"),
        "series_instance_uids": (*uids[:-1], "1.1.1"),
        "sop_instance_uids": uids,
    }
    assert await chosen(database, **everywhere) == ["1.1.1.1"]


@pytest.mark.parametrize(
    "wanted", [{}, {"sop_instance_uids": tuple(map(str, range(MOST_UIDS + 1)))}]
)
async def test_everything_is_no_selection(database: Database, wanted: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"everything|more than"):
        await database.read(select_instances, Selection("default", **wanted))
