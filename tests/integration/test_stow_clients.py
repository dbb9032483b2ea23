"""Other people's clients store every real file, and get it back: dicomweb-client and curl."""

from __future__ import annotations

import json
import subprocess
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from dicomweb_client import DICOMwebClient
from instances import multipart, padded
from platform_process import Platform
from pydicom import Dataset

REASONS = {0xC000, 0xC122, 0x0122, 0xA701}
AS_STORED = "application/dicom; transfer-syntax=*"


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    running = Platform(tmp_path / "platform").start()
    try:
        yield running
    finally:
        running.stop()


def curl(folder: Path, requests: list[list[str]]) -> list[tuple[int, bytes]]:
    """Make requests on one connection; status and body of each."""
    lines = []
    for number, options in enumerate(requests):
        lines += [] if number == 0 else ["next"]
        lines += [*options, f'output = "{folder}/{number}"', r'write-out = "%{http_code}\n"']
    config = folder / "curl"
    config.write_text("\n".join(lines))
    command = ["curl", "--silent", "--show-error", "--disable", "--noproxy", "*", "-K", config]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    statuses = [int(line) for line in done.stdout.split()]
    assert len(statuses) == len(requests)
    return [(status, (folder / str(number)).read_bytes()) for number, status in enumerate(statuses)]


def items(response: Dataset | dict[str, Any], tag: str) -> list[dict[str, Any]]:
    """The items of a sequence of a store response."""
    decoded = response.to_json_dict() if isinstance(response, Dataset) else response
    return list(decoded.get(tag, {}).get("Value", []))


def only(item: dict[str, Any], tag: str) -> Any:
    (found,) = item[tag]["Value"]
    return found


def outcome(status: int, body: bytes) -> tuple[str | None, str]:
    """Of a response about one instance: its Retrieve URL, or why it was refused."""
    response = json.loads(body)
    stored = items(response, "00081199")
    failed = items(response, "00081198") + items(response, "0008119A")
    assert (status, len(stored), len(failed)) in {(200, 1, 0), (409, 0, 1)}, body
    if stored:
        return only(stored[0], "00081190"), ""
    assert only(failed[0], "00081197") in REASONS
    return None, only(failed[0], "00091002")


def assert_is_as_sent(sent: bytes, came: bytes) -> None:
    """Byte-identical; a data set that came without Part 10 header leaves with one."""
    if sent[128:134] == b"DICM\x02\0":
        assert came == sent
        return
    assert came[128:134] == b"DICM\x02\0"
    data_set = sent[132:] if sent[128:132] == b"DICM" else sent.removeprefix(bytes(128))
    assert came.endswith(data_set)
    with warnings.catch_warnings(action="ignore"):
        assert pydicom.dcmread(BytesIO(came)).file_meta.TransferSyntaxUID


def test_curl_stores_every_file_as_a_single_part_and_gets_it_back(
    platform: Platform, dicom_files: list[Path], tmp_path: Path
) -> None:  # S11 S18 S32
    folder = tmp_path / "curl"
    folder.mkdir()
    answers = curl(
        folder,
        [
            [
                f'url = "{platform.dicomweb}/studies"',
                f'data-binary = "@{path}"',
                'header = "Content-Type: application/dicom"',
            ]
            for path in dicom_files
        ],
    )
    last: dict[str, Path] = {}
    refused: dict[Path, str] = {}
    for path, (status, body) in zip(dicom_files, answers, strict=True):
        url, why = outcome(status, body)
        if url is None:
            refused[path] = why
        else:
            last[url] = path  # several files have one SOP Instance UID: the last one stays
    assert all(refused.values())
    assert len(refused) < 0.2 * len(dicom_files)
    fetched = curl(folder, [[f'url = "{url}"', f'header = "Accept: {AS_STORED}"'] for url in last])
    for path, (status, body) in zip(last.values(), fetched, strict=True):
        assert status == 200, path
        assert_is_as_sent(path.read_bytes(), body)


def test_curl_stores_every_file_in_multipart_bodies_and_gets_it_back(
    platform: Platform, dicom_files: list[Path], tmp_path: Path
) -> None:  # S1 S18
    folder = tmp_path / "curl"
    folder.mkdir()
    batches = [dicom_files[at : at + 50] for at in range(0, len(dicom_files), 50)]
    requests = []
    for number, batch in enumerate(batches):
        body, content_type = multipart([path.read_bytes() for path in batch])
        (folder / f"body{number}").write_bytes(body)
        content_type = content_type.replace('"', '\\"')
        requests.append(
            [
                f'url = "{platform.dicomweb}/studies"',
                f'data-binary = "@{folder}/body{number}"',
                f'header = "Content-Type: {content_type}"',
                'header = "Accept: application/dicom+json"',
            ]
        )
    last: dict[str, Path] = {}
    for batch, (status, body) in zip(batches, curl(folder, requests), strict=True):
        response = json.loads(body)
        stored = items(response, "00081199")
        failed = items(response, "00081198") + items(response, "0008119A")
        assert status == (200 if not failed else 202 if stored else 409)
        numbers = sorted(only(item, "00091003") for item in [*stored, *failed])
        assert numbers == list(range(1, len(batch) + 1)), "each part is accounted for, once"
        for item in failed:
            assert only(item, "00081197") in REASONS
            assert only(item, "00091002").startswith(f"part {only(item, '00091003')}: ")
        for item in stored:
            last[only(item, "00081190")] = batch[only(item, "00091003") - 1]
    fetched = curl(folder, [[f'url = "{url}"', f'header = "Accept: {AS_STORED}"'] for url in last])
    for path, (status, body) in zip(last.values(), fetched, strict=True):
        assert status == 200, path
        assert_is_as_sent(path.read_bytes(), body)


def test_curl_stores_a_large_file_after_asking_whether_it_may(
    platform: Platform, dicom_file: Any, tmp_path: Path
) -> None:  # S32
    large = tmp_path / "large.dcm"
    large.write_bytes(padded(dicom_file("CT_small.dcm").read_bytes(), 8 << 20))
    request = [
        f'url = "{platform.dicomweb}/studies"',
        f'data-binary = "@{large}"',
        'header = "Content-Type: application/dicom"',
        'header = "Expect: 100-continue"',
    ]
    ((status, body),) = curl(tmp_path, [request])
    url, _ = outcome(status, body)
    ((status, body),) = curl(tmp_path, [[f'url = "{url}"', f'header = "Accept: {AS_STORED}"']])
    assert (status, body) == (200, large.read_bytes())


def written(dataset: Dataset) -> bytes:
    """The data set as dicomweb-client sends it."""
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset)
    return buffer.getvalue()


def as_dicomweb_client_sends_them(paths: list[Path]) -> dict[str, tuple[Dataset, bytes]]:
    """The files that pydicom can read and write, the last of each SOP Instance UID."""
    found = {}
    with warnings.catch_warnings(action="ignore"):
        for path in paths:
            try:
                dataset = pydicom.dcmread(path)
                uid = str(dataset.SOPInstanceUID)
                found[uid] = dataset, written(dataset)
            except Exception:  # noqa: BLE001 - pydicom raises what it likes
                continue
    return found


def test_dicomweb_client_stores_every_file_and_gets_it_back(
    platform: Platform, dicom_files: list[Path]
) -> None:
    client = DICOMwebClient(platform.dicomweb)
    sent = as_dicomweb_client_sends_them(dicom_files)
    assert len(sent) > 0.5 * len(dicom_files)
    uids = list(sent)
    stored: set[str] = set()
    for at in range(0, len(uids), 40):
        batch = uids[at : at + 40]
        with warnings.catch_warnings(action="ignore"):
            response = client.store_instances([sent[uid][0] for uid in batch])
        named = [only(item, "00081155") for item in items(response, "00081199")]
        failed = items(response, "00081198") + items(response, "0008119A")
        assert len(named) + len(failed) == len(batch)
        assert {only(item, "00081197") for item in failed} <= REASONS
        stored |= set(named)
    assert len(stored) > 0.9 * len(sent)
    for uid in sorted(stored)[::5]:  # this client takes its time
        dataset, data = sent[uid]
        came = client.retrieve_instance(
            dataset.StudyInstanceUID,
            dataset.SeriesInstanceUID,
            uid,
            media_types=(("application/dicom", "*"),),
        )
        assert written(came) == data
    # What was stored is found, once.
    found = [one["00080018"]["Value"][0] for one in client.search_for_instances(limit=5000)]
    assert sorted(found) == sorted(stored)


def test_dicomweb_client_stores_into_a_study(platform: Platform, dicom_file: Any) -> None:  # S26
    client = DICOMwebClient(platform.dicomweb)
    ct = pydicom.dcmread(dicom_file("CT_small.dcm"))
    mr = pydicom.dcmread(dicom_file("MR_small.dcm"))
    response = client.store_instances([ct, mr], study_instance_uid=ct.StudyInstanceUID)
    assert response.RetrieveURL == f"{platform.dicomweb}/studies/{ct.StudyInstanceUID}"
    assert [i.ReferencedSOPInstanceUID for i in response.ReferencedSOPSequence] == [
        ct.SOPInstanceUID
    ]
    assert [(i.ReferencedSOPInstanceUID, i.FailureReason) for i in response.FailedSOPSequence] == [
        (mr.SOPInstanceUID, 0xA901)
    ]
