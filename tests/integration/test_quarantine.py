"""What contradicts the space is kept aside, over STOW-RS and C-STORE, and somebody decides."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from dimse_site import CT, Sent, data_set_of, store
from http_ask import ask
from instances import multipart, with_uids
from platform_process import Platform
from pydicom import dcmread
from site_documents import core, dimse, service
from up_dimse import CT_IMAGE_STORAGE, EXPLICIT, call, get, running, stored, until

ROOT = "1.2.826.0.1.3680043.8.498.79"
OF = f"{ROOT}.1"


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    made = Platform(tmp_path / "up")
    made.site = "---\n".join(
        (
            core("main", revisioningDelay=1),
            service("web", "main", conflictPolicy="quarantine"),
            dimse("scanners", "main", port=made.dimse_port, patientConflictPolicy="quarantine"),
        )
    )
    async with running(made):
        yield made


@pytest.fixture
def made(dicom_file: Callable[[str], Path]) -> Callable[..., bytes]:
    """An instance of the study, with some attributes changed."""
    source = dicom_file("CT_small.dcm")

    def make(number: int, **attributes: str) -> bytes:
        data = dcmread(BytesIO(with_uids(source, ROOT, OF, f"{OF}.{number}")))
        for keyword, value in attributes.items():
            setattr(data, keyword, value)
        buffer = BytesIO()
        data.save_as(buffer)
        return buffer.getvalue()

    return make


async def stow(platform: Platform, *parts: bytes) -> tuple[int, Any]:
    body, content_type = multipart(parts)
    headers = {"Content_Type": content_type, "Accept": "application/json"}
    return await asyncio.to_thread(ask, "POST", f"{platform.dicomweb}/studies", body, **headers)


def waiting(platform: Platform, **filters: str) -> list[dict[str, Any]]:
    query = "&".join(f"{name}={value}" for name, value in filters.items())
    return get(f"{platform.url}/api/quarantine?{query}")["quarantine"]


def decide(platform: Platform, number: int, decision: str) -> tuple[int, Any]:
    return ask("POST", f"{platform.url}/api/quarantine/{number}/{decision}", b"")


async def test_other_bytes_wait_beside_what_is_there_until_they_are_accepted(  # S29
    platform: Platform, made: Callable[..., bytes]
) -> None:
    first, other = made(1), made(1, InstanceNumber="77")
    assert (await stow(platform, first))[0] == 200
    for _ in range(2):  # identical bytes again are the same case
        status, answer = await stow(platform, other)
        assert status == 202
        (item,) = answer["00081199"]["Value"]
        assert item["00081196"]["Value"] == [0xB111]
        assert item["00091001"]["Value"] == ["QUARANTINED"]
        assert "Value" not in item["00081190"]
    assert stored(platform.dicomweb, ROOT, f"{OF}.1") == data_set_of(first)
    (one,) = waiting(platform)
    assert (one["reason"], one["sop_instance_uid"]) == ("content", f"{OF}.1")
    assert get(f"{platform.url}/api/spaces/use")["spaces"][0]["quarantined"] == 1
    preview = f"{platform.url}/api/quarantine/{one['id']}/instance"
    assert await asyncio.to_thread(_bytes, preview) == other
    assert decide(platform, one["id"], "accept")[1]["resolution"] == "accepted"
    assert decide(platform, one["id"], "accept")[0] == 200
    assert decide(platform, one["id"], "discard")[0] == 409
    assert stored(platform.dicomweb, ROOT, f"{OF}.1") == data_set_of(other)
    assert waiting(platform) == []
    assert ask("GET", preview)[0] == 404
    kinds = [e["kind"] for e in get(f"{platform.url}/api/changes?study={ROOT}")["changes"]]
    assert [kind for kind in kinds if kind != "revised"] == ["stored", "quarantined", "replaced"]
    revised = f"{platform.url}/api/revisions/default/{ROOT}"
    await until(lambda: get(revised)["revisions"], "the study is settled")


async def test_another_patient_in_a_study_waits_and_is_discarded(
    platform: Platform, made: Callable[..., bytes]
) -> None:
    assert (await stow(platform, made(1, PatientName="Doe^Jane")))[0] == 200
    association = await call(platform.dimse_port, CT)

    async def send(number: int, name: str) -> int:
        data = made(number, PatientName=name)
        sent = Sent(CT_IMAGE_STORAGE, f"{OF}.{number}", EXPLICIT, data_set_of(data))
        return (await store(association, sent)).status

    assert await send(2, "DOE^JANE^^ ") == 0  # the same name, written in another way
    assert await send(3, "Roe^Richard") == 0xB111
    assert await send(3, "Roe^Richard") == 0xB111
    await association.release()
    (one,) = waiting(platform, study=ROOT)
    assert (one["reason"], one["sop_instance_uid"]) == ("patient", f"{OF}.3")
    assert one["differences"]["patient_name"][1] == "Roe^Richard"
    found = get(f"{platform.dicomweb}/studies/{ROOT}/instances")
    assert len(found) == 2

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "imaging_ingestion.cli.main", "quarantine", *arguments]
        return subprocess.run(
            [*line, "--url", platform.url],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

    listed = await asyncio.to_thread(command, "list")
    assert "Quarantine" in listed.stdout
    as_json = await asyncio.to_thread(command, "list", "--json")
    assert [one["sop_instance_uid"] for one in json.loads(as_json.stdout)] == [f"{OF}.3"]
    gone = await asyncio.to_thread(command, "discard", str(one["id"]), "999")
    assert (gone.returncode, gone.stdout) == (1, f"{one['id']}: discarded: {OF}.3\n")
    assert "999" in gone.stderr
    assert waiting(platform) == []
    assert [w["resolution"] for w in waiting(platform, resolved="true")] == ["discarded"]
    assert 'quarantined{core="main",space="default"} 0.0' in await asyncio.to_thread(
        lambda: _bytes(f"{platform.url}/metrics").decode()
    )


@pytest.mark.parametrize("protocol", ["STOW-RS", "C-STORE"])
async def test_whoever_sends_is_told_what_is_kept_aside(
    platform: Platform, made: Callable[..., bytes], tmp_path: Path, protocol: str
) -> None:
    to = platform.url if protocol == "STOW-RS" else f"INGESTION@127.0.0.1:{platform.dimse_port}"
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(made(1))
    line = [sys.executable, "-m", "imaging_ingestion.cli.main", "send", str(folder), "--to", to]

    async def send() -> str:
        done = await asyncio.to_thread(subprocess.run, line, capture_output=True, text=True)
        assert done.returncode == 0, done
        return str(done.stdout)

    assert "1 stored, 0 already there, 0 failed" in await send()
    (folder / "1.dcm").write_bytes(made(1, InstanceNumber="77"))
    (folder / "2.dcm").write_bytes(made(2))
    said = await send()
    assert "1 stored, 0 already there, 0 failed, 1 kept aside" in said
    assert f"kept aside: {folder / '1.dcm'}: " in said


def _bytes(url: str) -> bytes:
    import urllib.request

    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read()
