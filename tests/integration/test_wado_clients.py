"""Independent clients against the real process: dicomweb-client (searches, retrieves) and curl."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
import requests
from dicomweb_client import DICOMwebClient
from instances import multipart
from platform_process import Platform
from pydicom.dataset import Dataset
from pydicom_judge import bulk_references, expected_frames, literal_pydicom, without_padding

AS_STORED = (("application/dicom", "*"),)
#: Files of studies of their own, one of several frames, one of several series.
FILES = (
    "CT_small.dcm",
    "rtdose.dcm",
    "MR_small_RLE.dcm",
    "JPEG2000.dcm",
    "examples_ybr_color.dcm",
    "reportsi.dcm",
    "rtplan.dcm",
)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    running = Platform(tmp_path_factory.mktemp("clients")).start()
    try:
        yield running
    finally:
        running.stop()
        shutil.rmtree(running.data)


@pytest.fixture(scope="module")
def files(dicom_file: Callable[[str], Path]) -> dict[str, Dataset]:
    """The data sets by their SOP Instance UID."""
    found = {}
    for name in FILES:
        data_set = pydicom.dcmread(dicom_file(name))
        found[str(data_set.SOPInstanceUID)] = data_set
    return found


@pytest.fixture(scope="module")
def client(
    platform: Platform, files: dict[str, Dataset], dicom_file: Callable[[str], Path]
) -> DICOMwebClient:
    """A client of the platform, where the files are stored."""
    body, content_type = multipart([dicom_file(name).read_bytes() for name in FILES])
    headers = {"Content-Type": content_type, "Accept": "application/dicom+json"}
    url = f"{platform.dicomweb}/studies"
    answer = requests.post(url, data=body, headers=headers, timeout=60)
    assert answer.status_code in {200, 202}, answer.text
    return DICOMwebClient(platform.dicomweb)


def test_dicomweb_client_finds_studies(client: DICOMwebClient, files: dict[str, Dataset]) -> None:
    studies = {str(data_set.StudyInstanceUID) for data_set in files.values()}
    found = [Dataset.from_json(result) for result in client.search_for_studies()]
    assert {study.StudyInstanceUID for study in found} == studies
    ct = next(d for d in files.values() if d.Modality == "CT")
    for filters in (
        {"PatientID": ct.PatientID},
        {"PatientName": "CompressedSamples^CT1"},
        {"PatientName": "compressed*", "ModalitiesInStudy": "CT"},
        {"StudyDate": "20040119-20040119"},
        {"StudyInstanceUID": ct.StudyInstanceUID},
        {"00100020": ct.PatientID},
    ):
        (result,) = client.search_for_studies(search_filters=filters, fields=["PatientWeight"])
        found_ct = Dataset.from_json(result)
        assert found_ct.StudyInstanceUID == ct.StudyInstanceUID
        assert found_ct.PatientName == ct.PatientName
        assert found_ct.PatientWeight == ct.PatientWeight
    assert client.search_for_studies(search_filters={"PatientID": "nobody"}) == []


def test_dicomweb_client_pages_through_studies(
    client: DICOMwebClient, files: dict[str, Dataset]
) -> None:
    every = client.search_for_studies()
    assert client.search_for_studies(limit=3) == every[:3]
    assert client.search_for_studies(limit=3, offset=3) == every[3:6]
    # It goes on by itself where the server says in a Warning that there are more.
    assert client.search_for_studies(limit=2, get_remaining=True) == every


def test_dicomweb_client_finds_series_and_instances(
    client: DICOMwebClient, files: dict[str, Dataset]
) -> None:
    for sop, data_set in files.items():
        study, series = data_set.StudyInstanceUID, data_set.SeriesInstanceUID
        (of_study,) = client.search_for_series(study)
        assert of_study["0020000E"]["Value"] == [series]
        (result,) = client.search_for_instances(study, series)
        assert result["00080018"]["Value"] == [sop]
        (result,) = client.search_for_instances(
            study, search_filters={"SOPInstanceUID": sop}, fields=["all"]
        )
        assert result["00080016"]["Value"] == [data_set.SOPClassUID]
    results = client.search_for_series(search_filters={"Modality": "SR"})
    assert [result["00080060"]["Value"] for result in results] == [["SR"]]
    results = client.search_for_instances(search_filters={"NumberOfFrames": 30})
    assert len(results) == 1


def test_dicomweb_client_retrieves_what_was_stored(
    client: DICOMwebClient, files: dict[str, Dataset]
) -> None:
    for sop, data_set in files.items():
        study, series = data_set.StudyInstanceUID, data_set.SeriesInstanceUID
        (of_study,) = client.retrieve_study(study, media_types=AS_STORED)
        (of_series,) = client.retrieve_series(study, series, media_types=AS_STORED)
        instance = client.retrieve_instance(study, series, sop, media_types=AS_STORED)
        assert of_study == of_series == instance == data_set
        assert instance.file_meta.TransferSyntaxUID == data_set.file_meta.TransferSyntaxUID
    syntax = "1.2.840.10008.1.2.5"
    rle = next(d for d in files.values() if d.file_meta.TransferSyntaxUID == syntax)
    uids = rle.StudyInstanceUID, rle.SeriesInstanceUID, rle.SOPInstanceUID
    found = client.retrieve_instance(*uids, media_types=(("application/dicom", syntax),))
    assert found == rle
    with pytest.raises(requests.HTTPError, match="501"):
        client.retrieve_study(uids[0])  # as Explicit VR Little Endian: in a later version


def test_dicomweb_client_reads_metadata(client: DICOMwebClient, files: dict[str, Dataset]) -> None:
    with literal_pydicom():
        for sop, data_set in files.items():
            study, series = data_set.StudyInstanceUID, data_set.SeriesInstanceUID
            (of_study,) = client.retrieve_study_metadata(study)
            (of_series,) = client.retrieve_series_metadata(study, series)
            found = client.retrieve_instance_metadata(study, series, sop)
            assert of_study == of_series == found
            read = Dataset.from_json(found, bulk_data_uri_handler=lambda _uri: b"")
            for tag in (0x00080018, 0x00100010, 0x00100020, 0x00080060, 0x0020000D):
                assert read[tag].value == data_set[tag].value


def test_dicomweb_client_retrieves_frames(
    client: DICOMwebClient, files: dict[str, Dataset]
) -> None:
    seen = 0
    for sop, data_set in files.items():
        if "PixelData" not in data_set:
            continue
        frames = expected_frames(data_set)
        numbers = sorted({1, len(frames) // 2 + 1, len(frames)})
        found = client.retrieve_instance_frames(
            data_set.StudyInstanceUID, data_set.SeriesInstanceUID, sop, numbers
        )
        assert len(found) == len(numbers)
        for number, frame in zip(numbers, found, strict=True):
            assert bytes(frame) == without_padding(frames[number - 1])
        seen += 1
    assert seen >= 4


def test_dicomweb_client_retrieves_bulk_values(
    client: DICOMwebClient, files: dict[str, Dataset]
) -> None:
    seen = 0
    for sop, data_set in files.items():
        uids = data_set.StudyInstanceUID, data_set.SeriesInstanceUID, sop
        for path, _, uri in bulk_references(client.retrieve_instance_metadata(*uids)):
            if "PixelData" in data_set and data_set["PixelData"].is_undefined_length:
                continue
            (value,) = client.retrieve_bulkdata(uri)
            if path == "7FE00010":
                assert value == data_set.PixelData
            (again,) = client.iter_bulkdata(uri, media_types=("application/octet-stream",))
            assert again == value
            seen += 1
    assert seen


def _curl(*arguments: str) -> tuple[int, bytes]:
    """Status and body."""
    done = subprocess.run(
        [
            "curl",
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            "-w",
            "%{stderr}%{http_code}",
            *arguments,
        ],
        capture_output=True,
        check=True,
    )
    return int(done.stderr), done.stdout


@pytest.fixture
def curl(client: DICOMwebClient) -> Callable[..., tuple[int, bytes]]:
    """curl, which must be there."""
    if shutil.which("curl") is None:
        pytest.fail("curl is missing: apt-get install curl")
    return _curl


def test_curl_searches_and_retrieves(
    curl: Callable[..., tuple[int, bytes]], platform: Platform, dicom_file: Callable[[str], Path]
) -> None:
    file = dicom_file("CT_small.dcm")
    status, body = curl(f"{platform.dicomweb}/instances?Modality=CT")
    assert status == 200
    (result,) = json.loads(body)
    (url,) = result["00081190"]["Value"]
    status, body = curl("-H", "Accept: application/dicom", url)
    assert (status, body) == (200, file.read_bytes())
    status, body = curl("--range", "0-131", "-H", "Accept: application/dicom", url)
    assert (status, body) == (206, file.read_bytes()[:132])
    status, body = curl("--compressed", "--http1.0", f"{url}/metadata")
    assert (status, len(json.loads(body))) == (200, 1)
    status, body = curl("--head", f"{url}/frames/1")
    assert status == 200
    status, body = curl(f"{platform.dicomweb}/studies?StudyDate=yesterday")
    assert status == 400
    assert "StudyDate" in json.loads(body)["detail"]
    status, body = curl(f"{url}/frames/2")
    assert (status, json.loads(body)["title"]) == (404, "Not Found")
    status, body = curl("-X", "DELETE", url)
    assert (status, body) == (204, b"")
    status, body = curl("-H", "Accept: application/dicom", url)
    assert status == 410
