"""WADO-RS over HTTP: metadata and the bulk values it refers to (PS3.18 10.4.1.1.2, 10.4.1.1.5)."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
import pytest_asyncio
from instances import with_uids
from native_model import json_of
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian
from pydicom_judge import bulk_references, inline
from recorded import data_set, part10, record
from retrieve_site import RetrieveSite, resource_of, retrieve_site

pytestmark = pytest.mark.asyncio(loop_scope="module")

JSON = "application/dicom+json"
XML = 'multipart/related; type="application/dicom+xml"'
OCTETS = 'multipart/related; type="application/octet-stream"'

Files = Callable[[str], Path]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RetrieveSite]:
    """A site where every test has studies of its own."""
    async with retrieve_site(tmp_path_factory.mktemp("metadata")) as running:
        yield running


async def test_metadata_has_an_object_for_each_instance_of_the_level(
    site: RetrieveSite, dicom_file: Files
) -> None:
    # W9, H7
    ct = dicom_file("CT_small.dcm")
    for series, sop in (("1.2.1", "1.2.1.1"), ("1.2.1", "1.2.1.2"), ("1.2.2", "1.2.2.1")):
        await site.store(with_uids(ct, "1.2", series, sop))
    for path, expected in (
        ("/studies/1.2", ["1.2.1.1", "1.2.1.2", "1.2.2.1"]),
        ("/studies/1.2/series/1.2.1", ["1.2.1.1", "1.2.1.2"]),
        ("/studies/1.2/series/1.2.1/instances/1.2.1.2", ["1.2.1.2"]),
    ):
        for accept in (JSON, None, "*/*", "application/*", f"image/png;q=0, {JSON}"):
            answer = await site.get(f"{path}/metadata", accept)
            assert answer.headers["Content-Type"] == JSON
            assert [one["00080018"]["Value"] for one in answer.json] == [[e] for e in expected]
        answer = await site.get(f"{path}/metadata", XML)
        found = [json_of(document) for document in answer.documents]
        assert [one["00080018"]["Value"] for one in found] == [[e] for e in expected]
        assert [part.headers["Content-Location"] for part in answer.parts] == [
            f"{site.url}/studies/1.2/series/{e.rpartition('.')[0]}/instances/{e}/metadata"
            for e in expected
        ]


async def test_plain_json_is_named_so_and_xml_needs_multipart(
    site: RetrieveSite, dicom_file: Files
) -> None:
    # W9, H6
    path = resource_of(await site.store_file(dicom_file("CT_small.dcm"))) + "/metadata"
    answer = await site.get(path, "application/json")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.body == (await site.get(path, JSON)).body
    for accept in ("application/dicom+xml", "application/dicom", "multipart/related; type=x/y"):
        answer = await site.get(path, accept)
        assert answer.status == 406
        assert answer.json["available"] == [JSON, XML, "application/json"]


async def test_metadata_of_many_instances_comes_page_by_page_and_whole(
    site: RetrieveSite,
) -> None:
    # W9, W34
    made = [
        data_set(
            StudyInstanceUID="1.3",
            SeriesInstanceUID="1.3.1",
            SOPInstanceUID=f"1.3.1.{number}",
            ImageComments="x" * 5000,
        )
        for number in range(600)
    ]
    for start in range(0, 600, 100):
        await site.database.write(record, *made[start : start + 100])
    answer = await site.get("/studies/1.3/metadata")
    found = [one["00080018"]["Value"][0] for one in answer.json]
    assert sorted(found) == sorted(f"1.3.1.{number}" for number in range(600))
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert len((await site.get("/studies/1.3/metadata", XML)).parts) == 600


async def test_a_data_set_of_many_megabytes_keeps_its_references(site: RetrieveSite) -> None:
    # W10: the references are completed wherever a piece ends
    made = data_set(StudyInstanceUID="1.4", SeriesInstanceUID="1.4.1", SOPInstanceUID="1.4.1.1")
    items = []
    for number in range(1500):
        item = Dataset()
        item.PixelDataProviderURL = "u" * (number % 97)
        item.ReferencedSOPInstanceUID = f"1.2.{number}"
        item.ICCProfile = bytes([number % 256]) * 1026
        item.TextValue = "é" * 900
        items.append(item)
    made.ContentSequence = items
    await site.store(part10(made))
    answer = await site.get("/studies/1.4/series/1.4.1/instances/1.4.1.1/metadata")
    assert len(answer.body) > 3 << 20
    (found,) = answer.json
    references = list(bulk_references(found))
    base = f"{site.url}/studies/1.4/series/1.4.1/instances/1.4.1.1/bulkdata"
    assert [uri for _, _, uri in references] == [
        f"{base}/0040A730/{number}/00282000" for number in range(1, 1501)
    ]
    for number in (1, 777, 1500):
        (part,) = (await site.get(references[number - 1][2])).parts
        assert part.body == bytes([(number - 1) % 256]) * 1026
    (document,) = (await site.get(f"{base.removesuffix('/bulkdata')}/metadata", XML)).documents
    assert json_of(document) == _texts(found)


def _texts(found: Any) -> Any:
    """XML has only text."""
    if isinstance(found, dict):
        return {key: _texts(value) for key, value in found.items()}
    if isinstance(found, list):
        return [_texts(value) for value in found]
    return found if isinstance(found, str) or found is None else str(found)


# W11: what a value may have at most to stand in the metadata itself.
@pytest.mark.parametrize(
    ("keyword", "vr", "unit", "most"),
    [
        ("ICCProfile", "OB", b"ab", 1024),
        ("TextValue", "UT", b"ab", 65536),
        ("EventElapsedTimes", "DS", b"1\\", 65536),
    ],
)
async def test_long_values_are_referred_to_and_short_ones_are_not(
    site: RetrieveSite, keyword: str, vr: str, unit: bytes, most: int
) -> None:
    for length, is_bulk in ((most, False), (most + 2, True)):
        value = (unit * (length // 2))[:length]
        made = data_set(StudyInstanceUID="1.5", SeriesInstanceUID="1.5.1", SOPInstanceUID="1.5.1.1")
        tag = pydicom.datadict.tag_for_keyword(keyword)
        assert tag is not None
        encoded = _with_element(made, tag, value)
        path = resource_of(await site.store(encoded))
        ((found,),) = ((await site.get(f"{path}/metadata")).json,)
        element = found[f"{tag:08X}"]
        assert element["vr"] == vr
        assert ("BulkDataURI" in element) == is_bulk
        if is_bulk:
            (part,) = (await site.get(element["BulkDataURI"])).parts
            assert part.body == value


def _with_element(made: Dataset, tag: int, value: bytes) -> bytes:
    """The data set, in implicit VR, with an element of any length."""
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made[tag] = pydicom.dataelem.RawDataElement(
        pydicom.tag.Tag(tag), None, len(value), value, 0, True, True
    )
    buffer = io.BytesIO()
    made.save_as(buffer)
    return buffer.getvalue()


async def test_a_value_too_long_for_its_vr_is_referred_to_as_unknown(site: RetrieveSite) -> None:
    # W11: LO may not be bulk data
    made = data_set(StudyInstanceUID="1.6", SeriesInstanceUID="1.6.1", SOPInstanceUID="1.6.1.1")
    value = b"x" * 70_000
    path = resource_of(await site.store(_with_element(made, 0x00081030, value)))
    ((found,),) = ((await site.get(f"{path}/metadata")).json,)
    assert found["00081030"] == {
        "vr": "UN",
        "BulkDataURI": f"{site.url}{path}/bulkdata/00081030",
    }
    (part,) = (await site.get(found["00081030"]["BulkDataURI"])).parts
    assert part.body == value


async def test_a_bulk_value_comes_as_a_part_or_bare(site: RetrieveSite, dicom_file: Files) -> None:
    # W12, W32
    file = dicom_file("CT_small.dcm")
    path = resource_of(await site.store_file(file)) + "/bulkdata/7FE00010"
    expected = pydicom.dcmread(file).PixelData
    for accept in (None, "*/*", OCTETS, f"{OCTETS}; transfer-syntax=*"):
        (part,) = (await site.get(path, accept)).parts
        assert part.headers["Content-Type"] == "application/octet-stream"
        assert part.headers["Content-Location"] == site.url + path
        assert part.body == expected
    for accept in ("application/octet-stream", "application/*"):
        answer = await site.get(path, accept)
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Content-Location"] == site.url + path
        assert answer.body == expected
    answer = await site.get(path, "application/octet-stream", Range="bytes=10-19")
    assert (answer.status, answer.body) == (206, expected[10:20])
    assert answer.headers["Content-Range"] == f"bytes 10-19/{len(expected)}"
    answer = await site.get(path.lower(), OCTETS)  # the tag's case
    assert answer.status == 200
    assert (await site.get(path, "image/jpeg")).status == 501
    assert (await site.get(path, "text/x")).status == 406


async def test_bulk_values_of_big_endian_objects_are_little_endian(site: RetrieveSite) -> None:
    # W12, J6
    made = data_set(StudyInstanceUID="1.7", SeriesInstanceUID="1.7.1", SOPInstanceUID="1.7.1.1")
    values = {
        0x00282000: ("OB", bytes(range(256)) * 8),
        0x00660016: ("OF", bytes(range(256)) * 8),
        0x00720067: ("OL", bytes(range(256)) * 4 + b"abcd"),
        0x00720073: ("OD", bytes(range(256)) * 8),
        0x00281201: ("OW", bytes(range(256)) * 8),
        0x00041500: ("OW", b"\1\2\3\4"),
    }
    for tag, (vr, value) in values.items():
        made.add_new(tag, vr, value)
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    buffer = io.BytesIO()
    made.save_as(buffer)  # pydicom does not turn words: the values are big endian then
    path = resource_of(await site.store(buffer.getvalue()))
    ((found,),) = ((await site.get(f"{path}/metadata")).json,)
    widths = {"OB": 1, "OW": 2, "OF": 4, "OL": 4, "OD": 8}
    for tag, (vr, value) in values.items():
        element = found[f"{tag:08X}"]
        width = widths[vr]
        turned = b"".join(value[at : at + width][::-1] for at in range(0, len(value), width))
        if len(value) > 1024:
            answer = await site.get(element["BulkDataURI"], "application/octet-stream")
            assert answer.body == turned, vr
            (part,) = (await site.get(element["BulkDataURI"], OCTETS)).parts
            assert part.body == turned
        else:
            assert inline(element) == turned


async def test_bulk_values_of_a_deflated_object_are_inflated(
    site: RetrieveSite, dicom_file: Files
) -> None:
    # W12
    file = dicom_file("image_dfl.dcm")
    path = resource_of(await site.store_file(file)) + "/bulkdata/7FE00010"
    expected = pydicom.dcmread(file).PixelData
    answer = await site.get(path, "application/octet-stream", Range="bytes=0-9")
    assert (answer.status, answer.body) == (200, expected)  # no ranges of these: the whole


@pytest.mark.parametrize(
    "below",
    [
        "00100010",  # a value that metadata shows
        "7FE00011",
        "nonsense",
        "7FE0001",
        "7FE00010/1",
        "7FE00010/1/",
        "7FE00010/0/7FE00010",
        "00880200/1/7FE00010",
        "7fe00010%00",
        "%EF%BC%97FE00010",
        "/".join(["00880200", "1"] * 70 + ["7FE00010"]),
        "00880200/" + "1" * 400 + "/7FE00010",
    ],
)
async def test_there_is_no_other_bulk_value(
    site: RetrieveSite, dicom_file: Files, below: str
) -> None:
    # W12
    path = resource_of(await site.store_file(dicom_file("CT_small.dcm")))
    answer = await site.get(f"{path}/bulkdata/{below}")
    assert answer.status == 404
    assert "bulk value" in answer.detail


async def test_metadata_says_numbers_that_every_reader_survives(site: RetrieveSite) -> None:
    # J4, J5
    made = data_set(StudyInstanceUID="1.8", SeriesInstanceUID="1.8.1", SOPInstanceUID="1.8.1.1")
    made.add_new(0x00101030, "DS", "1e999")
    made.add_new(0x00200013, "IS", "99999999999")
    made.add_new(0x00189087, "FD", [float("nan"), float("inf"), -float("inf"), 0.1])
    encoded = part10(made)
    path = resource_of(await site.store(encoded))
    answer = await site.get(f"{path}/metadata")
    (found,) = json.loads(answer.body, parse_constant=pytest.fail)
    assert found["00101030"]["Value"] == ["1e999"]
    assert found["00200013"]["Value"] == ["99999999999"]
    assert found["00189087"]["Value"] == ["NaN", "Infinity", "-Infinity", 0.1]
    for accept in (JSON, XML):
        for search in ("PatientWeight=80", "includefield=all", "PatientWeight="):
            answer = await site.get(f"/studies?StudyInstanceUID=1.8&{search}", accept)
            assert answer.status == (204 if search == "PatientWeight=80" else 200)
        assert (await site.get(f"{path}/metadata", accept)).status == 200
