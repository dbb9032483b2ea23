"""QIDO-RS over HTTP: resources, representations, and what a result holds (PS3.18 10.6.3.3)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from native_model import json_of
from pydicom_judge import inline
from recorded import part10
from retrieve_site import AS_STORED, RetrieveSite, retrieve_site
from search_site import instance, labels, uid_of

from imaging_ingestion.dicomweb.service import DicomwebSettings

shared = pytest.mark.asyncio(loop_scope="session")

JSON = "application/dicom+json"
XML = 'multipart/related; type="application/dicom+xml"'

A, A1 = f"/studies/{uid_of('A')}", f"/studies/{uid_of('A')}/series/{uid_of('A1')}"
#: What is in each: the newest study first, and C, which has no date, last.
RESOURCES = {
    "/studies": ["E", "B", "A", "D", "C"],
    "/series": ["E1", "B1", "A1", "A2", "D1", "C1"],
    "/instances": ["E1.1", "B1.1", "A1.1", "A1.2", "A2.1", "D1.1", "C1.1"],
    f"{A}/series": ["A1", "A2"],
    f"{A}/instances": ["A1.1", "A1.2", "A2.1"],
    f"{A1}/instances": ["A1.1", "A1.2"],
}

#: Tables 10.6.3-3 to 10.6.3-5: what is always there, and what is if it is known (here it is).
STUDY = {
    "00080020",
    "00080030",
    "00080050",
    "00080061",
    "00080090",
    "00100010",
    "00100020",
    "00100030",
    "00100040",
    "0020000D",
    "00200010",
    "00201206",
    "00201208",
}
STUDY_IF_KNOWN = {"00080056", "00081030", "00081190"}
SERIES = {"00080060", "0020000E", "00200011", "00201209", "00081190"}
SERIES_IF_KNOWN = {"0008103E", "00400244", "00400245", "00400275"}
INSTANCE = {"00080016", "00080018", "00200013", "00081190", "00080056", "00083002"}
INSTANCE_IF_KNOWN = {"00280008", "00280010", "00280011", "00280100"}


@shared
@pytest.mark.parametrize("resource", RESOURCES)
async def test_each_of_the_six_resources_answers_with_an_array_of_its_own(
    search_site: RetrieveSite, resource: str
) -> None:
    # Q1, Q2, Q24
    answer = await search_site.get(resource, JSON)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == JSON
    assert isinstance(answer.json, list)
    assert labels(answer.json) == RESOURCES[resource]


@shared
@pytest.mark.parametrize("resource", RESOURCES)
async def test_xml_has_a_part_for_each_result_with_the_same_values(
    search_site: RetrieveSite, resource: str
) -> None:
    # Q3, J13
    for query in ("", "?includefield=all"):
        answer = await search_site.get(resource + query, XML)
        assert answer.status == 200
        as_json = await search_site.get(resource + query, JSON)
        expected = json.loads(as_json.body, parse_float=str, parse_int=str)
        assert [json_of(document) for document in answer.documents] == expected
        for part, result in zip(answer.parts, expected, strict=True):
            assert part.headers["Content-Type"] == "application/dicom+xml"
            assert part.headers["Content-Location"] == result["00081190"]["Value"][0]


@shared
async def test_xml_without_multipart_is_no_representation_of_results(
    search_site: RetrieveSite,
) -> None:
    # Q3, H6
    answer = await search_site.get("/studies", "application/dicom+xml")
    assert answer.status == 406
    assert answer.json["available"] == [JSON, XML, "application/json"]


@shared
@pytest.mark.parametrize("accept", [JSON, XML, None, "*/*"])
async def test_nothing_found_is_no_content(search_site: RetrieveSite, accept: str | None) -> None:
    # Q4
    answer = await search_site.get("/studies?PatientID=nobody", accept)
    assert (answer.status, answer.body) == (204, b"")
    assert "Content-Type" not in answer.headers
    assert "Content-Length" not in answer.headers


@shared
async def test_an_unknown_study_has_no_series_and_no_instances(search_site: RetrieveSite) -> None:
    # Q35
    for path in ("/studies/1.2.3/series", "/studies/1.2.3/instances", f"{A}/series/1.2/instances"):
        assert (await search_site.get(path)).status == 204
    other = f"/studies/{uid_of('B')}/series/{uid_of('A1')}/instances"
    assert (await search_site.get(other)).status == 204


@shared
async def test_a_study_has_the_attributes_of_its_table_and_no_others(
    search_site: RetrieveSite,
) -> None:
    # Q27, Q37
    results = await search_site.search("/studies")
    by_label = dict(zip(labels(results), results, strict=True))
    for label, result in by_label.items():
        known = {tag for tag in STUDY_IF_KNOWN if tag in result}
        assert set(result) - known - {"00080201"} == STUDY, label
        assert {"00080056", "00081190"} <= known
    assert set(by_label["A"]) == STUDY | STUDY_IF_KNOWN
    assert by_label["A"]["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Smith^John"}]}
    assert by_label["A"]["00201206"] == {"vr": "IS", "Value": [2]}
    assert by_label["A"]["00201208"] == {"vr": "IS", "Value": [3]}
    assert by_label["A"]["00080056"] == {"vr": "CS", "Value": ["ONLINE"]}
    assert by_label["B"]["00080201"] == {"vr": "SH", "Value": ["+0900"]}
    for tag in ("00080020", "00080030", "00080050", "00080090", "00100030", "00100040"):
        assert set(by_label["C"][tag]) == {"vr"}  # empty ones without Value


@shared
async def test_a_series_has_the_attributes_of_its_table(search_site: RetrieveSite) -> None:
    # Q28
    first, second = await search_site.search(f"{A}/series")
    assert set(first) == SERIES | SERIES_IF_KNOWN
    assert set(second) == SERIES
    requested = first["00400275"]["Value"]
    assert [item["00401001"]["Value"] for item in requested] == [["R1"], ["R2"]]
    assert [item["00400009"]["Value"] for item in requested] == [["STEP1"], ["STEP2"]]
    assert first["00201209"] == {"vr": "IS", "Value": [2]}
    (of_b,) = await search_site.search(f"/studies/{uid_of('B')}/series")
    assert of_b["00200011"] == {"vr": "IS"}
    assert of_b["00080201"] == {"vr": "SH", "Value": ["+0900"]}


@shared
async def test_an_instance_has_the_attributes_of_its_table(search_site: RetrieveSite) -> None:
    # Q29
    first, second = await search_site.search(f"{A1}/instances")
    assert set(first) == INSTANCE | INSTANCE_IF_KNOWN
    assert set(second) == INSTANCE | INSTANCE_IF_KNOWN - {"00280008"}
    assert first["00280008"] == {"vr": "IS", "Value": [2]}
    assert first["00280010"] == {"vr": "US", "Value": [512]}
    assert first["00083002"] == {"vr": "UI", "Value": ["1.2.840.10008.1.2.1"]}
    assert first["00200013"] == {"vr": "IS", "Value": [1]}
    (of_b,) = await search_site.search(f"/studies/{uid_of('B')}/series/{uid_of('B1')}/instances")
    assert of_b["00200013"] == {"vr": "IS", "Value": ["01"]}  # no JSON number as it is (J4)


@shared
async def test_a_search_over_more_adds_what_tells_the_parents(search_site: RetrieveSite) -> None:
    # Q30
    for result in await search_site.search("/series"):
        assert set(result) >= STUDY | SERIES
    for result in await search_site.search("/instances"):
        assert set(result) >= STUDY | SERIES | INSTANCE
    for result in await search_site.search(f"{A}/instances"):
        assert set(result) >= SERIES | INSTANCE
        assert not set(result) & (STUDY - {"0020000D"})
    for result in await search_site.search(f"{A}/series"):
        assert not set(result) & STUDY
    for result in await search_site.search(f"{A1}/instances"):
        assert not set(result) & ((STUDY | SERIES) - {"00081190"})


# Q26
@shared
@pytest.mark.parametrize(
    "query",
    [
        "includefield=PatientComments&includefield=PatientWeight",
        "includefield=PatientComments,PatientWeight",
        "includefield=00104000,00101030",
        "includefield=00104000&includefield=PatientWeight",
        "includefield=PatientComments,%20PatientWeight&includefield=PatientComments",
    ],
)
async def test_attributes_may_be_included_by_tag_keyword_and_list(
    search_site: RetrieveSite, query: str
) -> None:
    (result,) = await search_site.search(f"/studies?PatientID=P1&{query}")
    assert set(result) == STUDY | STUDY_IF_KNOWN | {"00104000", "00101030"}
    assert result["00104000"] == {"vr": "LT", "Value": ["likes *asterisks*"]}
    assert result["00101030"] == {"vr": "DS", "Value": [70.5]}


@shared
async def test_all_includes_every_attribute_of_the_level(search_site: RetrieveSite) -> None:
    # Q26: with others it is all
    for query in ("includefield=all", "includefield=all&includefield=PatientComments"):
        (result,) = await search_site.search(f"/studies?PatientID=P1&{query}")
        assert set(result) == STUDY | STUDY_IF_KNOWN | {"00104000", "00101030"}
        first, _ = await search_site.search(f"{A}/series?{query}")
        assert set(first) >= SERIES | SERIES_IF_KNOWN | {"00180015"}
        of_a1, _ = await search_site.search(f"{A1}/instances?{query}")
        assert {"00230010", "00231001", "00280008"} <= set(of_a1)
        assert of_a1["00231001"] == {"vr": "LO", "Value": ["x"]}


@shared
async def test_attributes_of_a_lower_level_are_not_in_a_result(search_site: RetrieveSite) -> None:
    # Q31
    query = "PatientID=P1&includefield=Modality,SOPInstanceUID,RequestAttributesSequence"
    (result,) = await search_site.search(f"/studies?{query}")
    assert set(result) == STUDY | STUDY_IF_KNOWN
    first, _ = await search_site.search(f"{A}/series?includefield=Rows,00231001")
    assert set(first) == SERIES | SERIES_IF_KNOWN


@shared
async def test_attributes_of_a_higher_level_may_be_included(search_site: RetrieveSite) -> None:
    # Q30, Q26: what the resource leaves out can be asked for
    query = "includefield=PatientName,Modality,ModalitiesInStudy"
    for result in await search_site.search(f"{A1}/instances?{query}"):
        assert result["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Smith^John"}]}
        assert result["00080060"] == {"vr": "CS", "Value": ["CT"]}
        assert result["00080061"] == {"vr": "CS", "Value": ["CT", "SR"]}


# Q32
@shared
@pytest.mark.parametrize(
    ("resource", "key", "tag"),
    [
        ("/studies", "PatientComments=likes*", "00104000"),
        ("/studies", "StudyDescription=H*", "00081030"),
        ("/studies", "PatientWeight=70.5", "00101030"),
        ("/series", "BodyPartExamined=HEAD", "00180015"),
        ("/series", "00400275.00401001=R1", "00400275"),
        ("/instances", "ImageComments=*", "00204000"),
        ("/instances", "00230010=AcmeCompany&00231001=x", "00231001"),
        ("/instances", "Rows=512", "00280010"),
    ],
)
async def test_what_is_asked_for_is_in_each_result(
    search_site: RetrieveSite, resource: str, key: str, tag: str
) -> None:
    results = await search_site.search(f"{resource}?{key}")
    assert results
    assert all(tag in result for result in results)


@shared
@pytest.mark.parametrize("resource", RESOURCES)
async def test_retrieve_urls_are_absolute_and_answer(
    search_site: RetrieveSite, resource: str
) -> None:
    # Q38
    for result in await search_site.search(resource):
        (url,) = result["00081190"]["Value"]
        assert result["00081190"]["vr"] == "UR"
        assert url.startswith(search_site.url + "/studies/")
        answer = await search_site.get(url, AS_STORED)
        assert answer.status == 200
        count = result.get("00201209", result.get("00201208")) if "00080018" not in result else None
        assert len(answer.parts) == (count["Value"][0] if count else 1)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (DicomwebSettings(), "http://pacs.test:8080/dicom-web"),
        (
            DicomwebSettings(external_url="https://images.example/dw/"),
            "https://images.example/dw",
        ),
        (DicomwebSettings(trust_forwarded=True), "https://front.example/dicom-web"),
    ],
)
async def test_urls_have_the_host_that_clients_see(
    tmp_path: Path, settings: DicomwebSettings, expected: str
) -> None:
    # Q38: forwarded headers are believed only where a site says so
    async with retrieve_site(tmp_path, settings=settings) as site:
        await site.store(part10(instance("A1.1")))
        answer = await site.get(
            "/studies",
            Host="pacs.test:8080",
            X_Forwarded_Host="front.example, other.example",
            X_Forwarded_Proto="https",
        )
        (result,) = answer.json
        assert result["00081190"]["Value"] == [f"{expected}/studies/{uid_of('A')}"]
        assert answer.headers["Vary"] == "Accept, Host"


async def test_a_host_that_is_none_does_not_get_into_urls(tmp_path: Path) -> None:
    # Q38
    async with retrieve_site(tmp_path) as site:
        await site.store(part10(instance("A1.1")))
        answer = await site.get("/studies", Host='evil"/><script>')
        assert answer.status == 400
        assert "Host" in answer.detail


@shared
async def test_values_come_in_utf_8_whatever_the_files_were_in(search_site: RetrieveSite) -> None:
    # Q39
    answer = await search_site.get("/studies?includefield=SpecificCharacterSet")
    text = answer.body.decode("utf-8")
    assert "\\u001b" not in text
    names = {
        label: result["00100010"]["Value"][0]
        for label, result in zip(labels(answer.json), answer.json, strict=True)
    }
    assert names["C"] == {
        "Alphabetic": "Yamada^Tarou",
        "Ideographic": "山田^太郎",
        "Phonetic": "やまだ^たろう",
    }
    assert names["D"] == {"Alphabetic": "Müller^Jörg"}
    assert names["E"] == {"Alphabetic": "Иванов^Иван"}
    for result in await search_site.search("/instances?includefield=00080005"):
        assert result["00080005"] == {"vr": "CS", "Value": ["ISO_IR 192"]}


@shared
@pytest.mark.parametrize("resource", RESOURCES)
async def test_elements_are_in_order_and_have_a_vr_and_at_most_one_kind_of_value(
    search_site: RetrieveSite, resource: str
) -> None:
    # J1, J2
    answer = await search_site.get(f"{resource}?includefield=all")
    for result in json.loads(answer.body):
        assert list(result) == sorted(result)
        for tag, element in result.items():
            assert tag == tag.upper()
            assert len(tag) == 8
            assert "vr" in element
            assert len(element) <= 2
            assert element.get("Value", [None]) != []


@pytest.fixture
async def site(tmp_path: Path, database_url: str) -> AsyncIterator[RetrieveSite]:
    """A site of one's own, on each database."""
    async with retrieve_site(tmp_path, database_url=database_url) as running:
        yield running


async def _counts(site: RetrieveSite) -> tuple[Any, ...]:
    """Series and instances of study A, its modalities, and instances of each of its series."""
    (study,) = await site.search(f"/studies?StudyInstanceUID={uid_of('A')}")
    of_series = await site.search(f"{A}/series")
    return (
        study["00201206"]["Value"][0],
        study["00201208"]["Value"][0],
        study["00080061"].get("Value"),
        {label_: r["00201209"]["Value"][0] for label_, r in zip(labels(of_series), of_series)},  # noqa: B905
    )


async def test_counts_are_right_after_each_store_and_deletion(site: RetrieveSite) -> None:
    # Q37
    await site.store(part10(instance("A1.1", Modality="CT")))
    assert await _counts(site) == (1, 1, ["CT"], {"A1": 1})
    await site.store(part10(instance("A2.1", Modality="MR")))
    assert await _counts(site) == (2, 2, ["CT", "MR"], {"A1": 1, "A2": 1})
    await site.store_all(
        part10(instance(f"A{1 + number % 2}.{number}", Modality="CT" if number % 2 == 0 else "MR"))
        for number in range(2, 42)
    )
    assert await _counts(site) == (2, 42, ["CT", "MR"], {"A1": 21, "A2": 21})
    await site.store(part10(instance("A1.2", Modality="CT")))  # a second time
    await site.store(part10(instance("A1.2", Modality="CT", ImageComments="other bytes")))
    assert await _counts(site) == (2, 42, ["CT", "MR"], {"A1": 21, "A2": 21})
    await site.delete(uid_of("A"), uid_of("A1"), uid_of("A1.2"))
    assert await _counts(site) == (2, 41, ["CT", "MR"], {"A1": 20, "A2": 21})
    await site.delete(uid_of("A"), uid_of("A2"))
    assert await _counts(site) == (1, 20, ["CT"], {"A1": 20})
    await site.delete(uid_of("A"))
    assert (await site.get("/studies")).status == 204
    assert (await site.get(f"{A}/instances")).status == 204


async def test_an_attribute_whose_value_is_bulk_is_referred_to_in_results_of_instances(
    site: RetrieveSite,
) -> None:
    # Q26, W10
    made = instance("A1.1")
    made.add_new(0x00282000, "OB", bytes(range(256)) * 8)  # ICC Profile
    made.add_new(0x00041500, "OB", b"\1\2")
    await site.store(part10(made))
    (result,) = await site.search(f"{A1}/instances?includefield=ICCProfile,00041500")
    url = result["00282000"]["BulkDataURI"]
    assert url == f"{site.url}{A1}/instances/{uid_of('A1.1')}/bulkdata/00282000"
    (part,) = (await site.get(url)).parts
    assert part.body == bytes(range(256)) * 8
    assert inline(result["00041500"]) == b"\1\2"


async def test_a_site_may_answer_an_empty_array_instead_of_no_content(tmp_path: Path) -> None:
    # Q4
    settings = DicomwebSettings(empty_search_is_200=True)
    async with retrieve_site(tmp_path, settings=settings) as site:
        answer = await site.get("/studies", JSON)
        assert (answer.status, answer.body) == (200, b"[]")
        assert answer.headers["Content-Type"] == JSON
        assert (await site.get("/studies", XML)).status == 204  # multipart has a part at least


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_a_client_that_leaves_out_our_port_gets_urls_with_it(
    tmp_path: Path, name: str
) -> None:
    # Q38: dicomweb-client does
    async with retrieve_site(tmp_path) as site:
        await site.store(part10(instance("A1.1")))
        (result,) = (await site.get("/studies", Host=name)).json
        expected = site.url.replace("127.0.0.1", name)
        assert result["00081190"]["Value"] == [f"{expected}/studies/{uid_of('A')}"]
        (result,) = (await site.get("/studies", Host="pacs.test")).json  # a proxy's own, on 80
        assert result["00081190"]["Value"] == [f"http://pacs.test/dicom-web/studies/{uid_of('A')}"]
