"""A site to search in: a few studies that differ in all that a search may ask for.

It is filled once for each database and only ever read, so that many tests share it.
"""

from __future__ import annotations

import string
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa
from manifest_databases import postgres_database
from pydicom.dataset import Dataset
from recorded import data_set, part10
from retrieve_site import RetrieveSite, retrieve_site

#: What means something to SQL, LIKE, GLOB or regular expressions, in one Patient ID.
ODD_CHARACTERS = "100%_[a]'^$.{1}+;--"

CT, MR, US, SR = (f"1.2.840.10008.5.1.4.1.1.{suffix}" for suffix in ("2", "4", "6.1", "88.11"))


def uid_of(label: str) -> str:
    """The UID of a study by its letter ("A"), of its series ("A1") or an instance ("A1.2")."""
    study = string.ascii_uppercase.index(label[0]) + 1
    return ".".join(["1.2.826.0", str(study), *label[1:].split(".")]).rstrip(".")


def label_of(uid: str) -> str:
    """The other way round."""
    study, *rest = uid.removeprefix("1.2.826.0.").split(".")
    return string.ascii_uppercase[int(study) - 1] + ".".join(rest)


def instance(label: str, **attributes: Any) -> Dataset:
    """An instance by its label, with the UIDs of it and of what it belongs to."""
    return data_set(
        StudyInstanceUID=uid_of(label[0]),
        SeriesInstanceUID=uid_of(label.partition(".")[0]),
        SOPInstanceUID=uid_of(label),
        **attributes,
    )


def _items(*pairs: tuple[str, str]) -> list[Dataset]:
    items = []
    for procedure, step in pairs:
        item = Dataset()
        item.RequestedProcedureID = procedure
        item.ScheduledProcedureStepID = step
        items.append(item)
    return items


def _private(made: Dataset, block: int, creator: str, value: str) -> Dataset:
    made.add_new(0x00230000 | block, "LO", creator)
    made.add_new(0x00230000 | block << 8 | 1, "LO", value)
    return made


def collection() -> list[Dataset]:
    """Everything that there is, in the order in which it arrives."""
    a: dict[str, Any] = {
        "PatientName": "Smith^John",
        "PatientID": "P1",
        "PatientSex": "M",
        "PatientBirthDate": "19600229",
        "StudyDate": "20200115",
        "StudyTime": "103000.5",
        "AccessionNumber": "ACC1",
        "StudyID": "S1",
        "StudyDescription": "Head and neck",
        "ReferringPhysicianName": "House^Gregory",
        "PatientComments": "likes *asterisks*",
        "PatientWeight": "70.50",
    }
    ct = {
        "Modality": "CT",
        "SeriesNumber": "1",
        "SeriesDescription": "Axial",
        "PerformedProcedureStepStartDate": "20200115",
        "PerformedProcedureStepStartTime": "1045",
        "BodyPartExamined": "HEAD",
        "RequestAttributesSequence": _items(("R1", "STEP1"), ("R2", "STEP2")),
        "Rows": 512,
        "Columns": 256,
        "BitsAllocated": 16,
    }
    b: dict[str, Any] = {
        "PatientName": "SMITH^Jane",
        "PatientID": "p1",
        "StudyDate": "20200131",
        "StudyTime": "2359",
        "AccessionNumber": "ACC2",
        "StudyID": "S2",
        "StudyDescription": "Knee",
        "TimezoneOffsetFromUTC": "+0900",
    }
    c: dict[str, Any] = {
        "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
        "PatientID": "P3",
        "AccessionNumber": "",
    }
    d: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 100",
        "PatientName": "Müller^Jörg",
        "PatientID": "P 4",
        "StudyDate": "20191231",
        "StudyTime": "10",
        "StudyDescription": "Größe",
    }
    e: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 144",
        "PatientName": "Иванов^Иван",
        "PatientID": ODD_CHARACTERS,
        "StudyDate": "20200201",
        "StudyTime": "000000",
        "StudyDescription": "100% _ [a-z]",
    }
    return [
        _private(
            instance("A1.1", SOPClassUID=CT, InstanceNumber="1", NumberOfFrames="2", **a, **ct),
            0x10,
            "AcmeCompany",
            "x",
        ),
        instance("A1.2", SOPClassUID=CT, InstanceNumber="2", **a, **ct),
        instance("A2.1", SOPClassUID=SR, Modality="SR", SeriesNumber="2", InstanceNumber="1", **a),
        _private(
            _private(
                instance("B1.1", SOPClassUID=MR, Modality="MR", InstanceNumber="01", **b),
                0x10,
                "Other",
                "x",
            ),
            0x11,
            "AcmeCompany",
            "y",
        ),
        instance("C1.1", SOPClassUID=CT, Modality="CT", **c),
        instance("D1.1", SOPClassUID=US, Modality="US", ImageComments="Übersicht", **d),
        instance("E1.1", SOPClassUID=MR, Modality="MR", **e),
    ]


@asynccontextmanager
async def filled_site(folder: Path, database_url: str | None = None) -> AsyncIterator[RetrieveSite]:
    """A site with the collection in it."""
    async with retrieve_site(folder, database_url=database_url) as site:
        for made in collection():
            await site.store(part10(made))
        yield site


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=["sqlite", "postgresql"])
async def search_site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RetrieveSite]:
    """The site, on each database. Its tests run in the loop of the session."""
    folder = tmp_path_factory.mktemp("search")
    if request.param == "sqlite":
        async with filled_site(folder) as site:
            yield site
        return
    server = sa.make_url(request.getfixturevalue("postgres_url"))
    template = request.getfixturevalue("migrated_template")
    async with postgres_database(server, template) as url, filled_site(folder, url) as site:
        yield site


def labels(results: list[dict[str, Any]]) -> list[str]:
    """The labels of results, in their order: what they are of, instances, series or studies."""
    return [
        label_of(
            next(
                result[tag]["Value"][0]
                for tag in ("00080018", "0020000E", "0020000D")
                if tag in result
            )
        )
        for result in results
    ]


async def found(site: RetrieveSite, query: str, resource: str = "/studies") -> set[str]:
    """The labels of what a search finds; each once."""
    results = labels(await site.search(f"{resource}?{query}"))
    assert len(set(results)) == len(results)
    return set(results)
