"""dcmtk asks, and gets what QIDO-RS would have answered (C9 to C17)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pydicom
import pytest
import pytest_asyncio
from identifiers import keys
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pydicom_judge import assert_same_json, literal_pydicom
from query_site import AE_TITLE, QuerySite, listening, run
from retrieve_site import RetrieveSite
from search_site import ODD_CHARACTERS, label_of, labels, search_site, uid_of

__all__ = ["search_site"]

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
]

RESOURCES = {"STUDY": "/studies", "SERIES": "/series", "IMAGE": "/instances"}
UNIQUE = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def asked(search_site: RetrieveSite) -> AsyncIterator[QuerySite]:
    """The collection of `search_site`, asked over DIMSE, on each database."""
    async with listening(search_site) as site:
        yield site


async def find(
    site: QuerySite, folder: Path, *asked_for: str, model: str = "-S", options: tuple[str, ...] = ()
) -> list[Dataset]:
    """The responses that findscu gets, in order."""
    arguments = [argument for key in asked_for for argument in ("-k", key)]
    where = ("-aec", AE_TITLE, "127.0.0.1", str(site.port))
    code, said = await run("findscu", model, "-X", "-od", folder, *options, *arguments, *where)
    assert code == 0, said
    return responses_in(folder)


def responses_in(folder: Path) -> list[Dataset]:
    """What findscu has put there, in order."""
    return [pydicom.dcmread(path, force=True) for path in sorted(folder.glob("rsp*.dcm"))]


async def find_by_file(
    site: QuerySite, folder: Path, query: Dataset, syntax: str = "-xe"
) -> list[Dataset]:
    """As `find`, for a query that findscu's command line cannot say."""
    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    query.file_meta = FileMetaDataset()
    query.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    query.file_meta.MediaStorageSOPClassUID = "1.2.3"
    query.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    path = folder / "query.dcm"
    with pydicom.config.disable_value_validation():
        query.save_as(path, enforce_file_format=True)
    where = ("-aec", AE_TITLE, "127.0.0.1", str(site.port))
    code, said = await run("findscu", "-S", "-X", "-od", folder, syntax, *where, path)
    assert code == 0, said
    return responses_in(folder)


async def say(
    site: QuerySite, *asked_for: str, model: str = "-S", options: tuple[str, ...] = ()
) -> str:
    """What findscu tells of the responses."""
    arguments = [argument for key in asked_for for argument in ("-k", key)]
    where = ("-aec", AE_TITLE, "127.0.0.1", str(site.port))
    _, said = await run("findscu", "-d", model, *options, *arguments, *where)
    return said


def found(responses: list[Dataset], level: str) -> list[str]:
    return [label_of(str(response[UNIQUE[level]].value)) for response in responses]


@pytest.mark.parametrize(
    ("level", "key", "value"),
    [
        ("STUDY", "PatientName", "smith*"),  # C13, Q9, Q11
        ("STUDY", "PatientName", "SMITH"),  # Q20
        ("STUDY", "PatientID", "P?"),
        ("STUDY", "PatientID", "*"),
        ("STUDY", "StudyDate", "20200115-20200131"),  # Q14
        ("STUDY", "StudyDate", "-20191231"),
        ("STUDY", "StudyTime", "10-11"),  # Q15
        ("STUDY", "ModalitiesInStudy", "SR"),  # Q21
        ("STUDY", "StudyInstanceUID", f"{uid_of('A')}\\{uid_of('C')}"),  # Q13
        ("STUDY", "StudyDescription", "*_*"),  # Q12
        ("STUDY", "AccessionNumber", ""),  # Q10
        ("STUDY", "PatientID", "nobody"),  # C17
        ("STUDY", "PatientComments", "likes [*]asterisks*"),
    ],
)
async def test_the_same_studies_are_found_as_by_qido(  # C13
    asked: QuerySite, tmp_path: Path, level: str, key: str, value: str
) -> None:
    responses = await find(
        asked, tmp_path, f"QueryRetrieveLevel={level}", UNIQUE[level], f"{key}={value}"
    )
    results = await asked.site.search(f"{RESOURCES[level]}?{key}={quote(value)}")
    if key == "StudyInstanceUID":
        assert len(results) == 2
    assert found(responses, level) == labels(results)


@pytest.mark.parametrize("model", ["-S", "-P"])
@pytest.mark.parametrize(
    ("level", "above", "below"),
    [("SERIES", ["A"], ["A1", "A2"]), ("IMAGE", ["A", "A1"], ["A1.1", "A1.2"])],
)
async def test_a_hierarchy_is_descended_by_unique_keys(  # C9, C12
    asked: QuerySite,
    tmp_path: Path,
    model: str,
    level: str,
    above: list[str],
    below: list[str],
) -> None:
    names = ("StudyInstanceUID", "SeriesInstanceUID")
    keys = [f"{name}={uid_of(label)}" for name, label in zip(names, above, strict=False)]
    if model == "-P":
        keys.append("PatientID=P1")
    responses = await find(asked, tmp_path, f"QueryRetrieveLevel={level}", *keys, model=model)
    assert found(responses, level) == below
    for response in responses:
        assert response.StudyInstanceUID == uid_of("A")
        assert ("PatientID" in response) == (model == "-P")
        assert response.QueryRetrieveLevel == level
        assert response.RetrieveAETitle == AE_TITLE
        assert response.InstanceAvailability == "ONLINE"


#: What is asked for at each level, as a key without a value.
RETURNED = {
    "STUDY": (
        "StudyDate StudyTime AccessionNumber ModalitiesInStudy ReferringPhysicianName"
        " StudyDescription PatientName PatientID PatientBirthDate PatientSex StudyInstanceUID"
        " StudyID NumberOfStudyRelatedSeries NumberOfStudyRelatedInstances PatientWeight"
        " PatientComments IssuerOfPatientID"
    ),
    "SERIES": (
        "Modality SeriesDescription SeriesInstanceUID SeriesNumber"
        " NumberOfSeriesRelatedInstances PerformedProcedureStepStartDate"
        " PerformedProcedureStepStartTime BodyPartExamined RequestAttributesSequence"
    ),
    "IMAGE": (
        "SOPClassUID SOPInstanceUID InstanceNumber NumberOfFrames Rows Columns BitsAllocated"
        " ImageComments"
    ),
}


@pytest.mark.parametrize("syntax", ["-xe", "-xi"])
@pytest.mark.parametrize("level", ["STUDY", "SERIES", "IMAGE"])
async def test_the_same_values_come_back_as_from_qido(  # C12, C14
    asked: QuerySite, tmp_path: Path, level: str, syntax: str
) -> None:
    for label in "ABCDE":
        study, series = uid_of(label), uid_of(f"{label}1")
        keys = [f"QueryRetrieveLevel={level}", f"StudyInstanceUID={study}"]
        resource = "/studies"
        query = f"StudyInstanceUID={study}"
        if level == "SERIES":
            resource, query = f"/studies/{study}/series", ""
        if level == "IMAGE":
            keys.append(f"SeriesInstanceUID={series}")
            resource, query = f"/studies/{study}/series/{series}/instances", ""
        names = RETURNED[level].split()
        folder = tmp_path / label
        folder.mkdir()
        asked_for = [name for name in names if name not in {"StudyInstanceUID"}]
        responses = await find(asked, folder, *keys, *asked_for, options=(syntax,))
        include = "&".join(f"includefield={name}" for name in names)
        results = await asked.site.search(f"{resource}?{query}&{include}")
        assert len(responses) == len(results) > 0
        for response, result in zip(responses, results, strict=True):
            with literal_pydicom():
                theirs = {
                    tag: element
                    for tag, element in response.to_json_dict().items()
                    if pydicom.datadict.keyword_for_tag(tag) in names
                }
            ours: dict[str, Any] = {
                f"{pydicom.datadict.tag_for_keyword(name):08X}": {
                    "vr": pydicom.datadict.dictionary_VR(name)
                }
                for name in names
            }
            ours.update((tag, element) for tag, element in result.items() if tag in ours)
            assert_same_json(dict(sorted(ours.items())), theirs)


@pytest.mark.parametrize(
    ("character_set", "name", "label"),
    [
        ("ISO_IR 100", "Müller*", "D"),
        ("ISO_IR 192", "Müller*", "D"),
        ("ISO_IR 144", "Иванов*", "E"),
    ],
)
async def test_names_are_read_by_the_character_set_of_the_request(  # C14
    asked: QuerySite, tmp_path: Path, character_set: str, name: str, label: str
) -> None:
    query = keys(
        SpecificCharacterSet=character_set,
        QueryRetrieveLevel="STUDY",
        PatientName=name,
        StudyInstanceUID="",
    )
    (response,) = await find_by_file(asked, tmp_path, query)
    assert label_of(response.StudyInstanceUID) == label
    # The answer is in the same character set, since it has the letters.
    assert response.SpecificCharacterSet == character_set


async def test_patients_are_found_in_patient_root(asked: QuerySite, tmp_path: Path) -> None:  # C9
    responses = await find(
        asked,
        tmp_path,
        "QueryRetrieveLevel=PATIENT",
        "PatientName=*",
        "PatientID",
        "PatientSex",
        "NumberOfPatientRelatedStudies",
        "NumberOfPatientRelatedInstances",
        model="-P",
    )
    found_ids = [response.PatientID for response in responses]
    assert found_ids == sorted(["P1", "p1", "P3", "P 4", ODD_CHARACTERS])
    (smith,) = [response for response in responses if response.PatientID == "P1"]
    assert smith.PatientName == "Smith^John"
    assert smith.PatientSex == "M"
    assert smith.NumberOfPatientRelatedStudies == 1
    assert smith.NumberOfPatientRelatedInstances == 3
    assert smith.QueryRetrieveLevel == "PATIENT"


@pytest.mark.parametrize(
    ("model", "keys", "comment"),
    [
        ("-S", ["QueryRetrieveLevel=PATIENT", "PatientID=P1"], "expected one of STUDY"),  # C9
        ("-S", ["PatientID=P1"], "(0008,0052)"),  # C10
        ("-S", ["QueryRetrieveLevel=SERIES"], "(0020,000D)"),
        ("-P", ["QueryRetrieveLevel=STUDY"], "(0010,0020)"),
        ("-S", ["QueryRetrieveLevel=STUDY", "StudyDate=2020-01-15"], "00080020"),
    ],
)
async def test_a_query_that_breaks_the_rules_is_refused_with_the_reason(
    asked: QuerySite, model: str, keys: list[str], comment: str
) -> None:
    said = await say(asked, *keys, model=model)
    assert "0xa900" in said
    assert comment in said
    assert "Pending" not in said


async def test_the_final_response_has_no_identifier(asked: QuerySite) -> None:  # C11, C17
    said = await say(asked, "QueryRetrieveLevel=STUDY", "PatientID=nobody")
    assert said.count("C-FIND RSP") == 1
    assert "0x0000: Success" in said
    assert "Data Set                      : none" in said


async def test_what_is_not_supported_is_said_with_each_response(asked: QuerySite) -> None:  # C11
    said = await say(asked, "QueryRetrieveLevel=STUDY", "PatientID=P1", "SOPInstanceUID")
    assert "0xff01" in said
    assert "0xff00" not in said
    said = await say(asked, "QueryRetrieveLevel=STUDY", "PatientID=P1")
    assert "0xff00" in said


async def test_a_cancelled_query_ends_soon(asked: QuerySite) -> None:  # C15
    said = await say(asked, "QueryRetrieveLevel=STUDY", "PatientID", options=("--cancel", "1"))
    # The cancel may come after the last of so few: both are right, and nothing hangs.
    assert "0xfe00" in said or "0x0000: Success" in said


async def test_sequences_come_back_whole_or_by_the_keys_of_their_item(  # C13
    asked: QuerySite, tmp_path: Path
) -> None:
    keys = ["QueryRetrieveLevel=SERIES", f"StudyInstanceUID={uid_of('A')}", "SeriesInstanceUID"]
    whole, part = tmp_path / "whole", tmp_path / "part"
    whole.mkdir()
    part.mkdir()
    first, second = await find(asked, whole, *keys, "RequestAttributesSequence")
    assert [item.RequestedProcedureID for item in first.RequestAttributesSequence] == ["R1", "R2"]
    assert [item.ScheduledProcedureStepID for item in first.RequestAttributesSequence] == [
        "STEP1",
        "STEP2",
    ]
    assert list(second.RequestAttributesSequence) == []
    (only,) = await find(asked, part, *keys, "RequestAttributesSequence[0].RequestedProcedureID=R2")
    (item,) = only.RequestAttributesSequence
    assert item.RequestedProcedureID == "R2"
    assert "ScheduledProcedureStepID" not in item


@pytest.mark.parametrize("syntax", ["-xe", "-xi"])
async def test_private_attributes_match_in_the_block_of_their_creator(  # C13, Q36
    asked: QuerySite, tmp_path: Path, syntax: str
) -> None:
    query = keys(
        QueryRetrieveLevel="IMAGE",
        StudyInstanceUID=uid_of("B"),
        SeriesInstanceUID=uid_of("B1"),
    )
    query.add_new(0x00230010, "LO", "AcmeCompany")
    query.add_new(0x00231001, "LO", "y")
    (response,) = await find_by_file(asked, tmp_path, query, syntax)
    assert response[0x00230011].value == "AcmeCompany"
    assert response[0x00231101].value in ("y", b"y ")
    query[0x00231001].value = "x"
    assert await find_by_file(asked, tmp_path / "none", query, syntax) == []
