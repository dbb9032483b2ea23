"""Studies settled before their quiet time: association released, source says it is complete."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

import pytest
from dimse_site import CT, Sent, store
from instances import multipart
from platform_process import Platform, free_port
from site_documents import config_map, core, dimse, service
from up_dimse import call, get, instance, running, until

ROOT = "1.2.826.0.1.3680043.8.498.77"
#: Longer than any test waits: what is settled was hastened.
LONG = 100_000


@pytest.fixture
def source(dicom_file) -> Path:
    return dicom_file("CT_small.dcm")


async def send(port: int, called: str, *instances: Sent) -> None:
    """Send instances on one association, as PACS, and release it."""
    association = await call(port, CT, calling="PACS", called=called)
    for one in instances:
        assert (await store(association, one)).status == 0
    await association.release()


def stow(dicomweb: str, *parts: bytes) -> None:
    body, content_type = multipart(parts)
    request = urllib.request.Request(
        f"{dicomweb}/studies", body, {"Content-Type": content_type, "Accept": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200


def revisions(platform: Platform, study: str) -> int:
    found = get(f"{platform.url}/api/revisions/images/{study}?core=main")
    return len(found["revisions"])


async def test_a_study_is_settled_soon_after_the_association_was_released_not_if_it_was_aborted(
    tmp_path: Path, source: Path
) -> None:
    platform = Platform(tmp_path / "up")
    platform.site = "---\n".join(
        (
            core("main", revisioningDelay=LONG, settleAfterRelease=1),
            config_map("images"),
            dimse("scanners", "main", bucketConfigName="images", port=platform.dimse_port),
        )
    )
    released, aborted = f"{ROOT}.1", f"{ROOT}.2"
    async with running(platform):
        association = await call(platform.dimse_port, CT)
        assert (await store(association, instance(source, aborted, 1)[1])).status == 0
        await association.abort()
        two = [instance(source, released, number)[1] for number in (1, 2)]
        await send(platform.dimse_port, "INGESTION", *two)
        await until(lambda: revisions(platform, released) == 1, "it is settled")
        assert revisions(platform, aborted) == 0
        log = platform.log.read_text()
        assert log.count("revision.hastened") == 1


@pytest.mark.parametrize("way", ["C-FIND", "QIDO"])
async def test_a_study_is_settled_when_its_sender_has_no_more_of_it(
    tmp_path: Path, source: Path, way: str
) -> None:
    platform, pacs = Platform(tmp_path / "up"), free_port()
    there = (
        f"host: 127.0.0.1, port: {pacs}"
        if way == "C-FIND"
        else f"qido: {{url: '{platform.url}/spaces/archive/dicom-web'}}"
    )
    platform.site = "---\n".join(
        (
            core("main", revisioningDelay=LONG),
            core("elsewhere", revisioningDelay=LONG),
            config_map("images"),
            config_map("archive"),
            dimse(
                "pacs",
                "elsewhere",
                bucketConfigName="archive",
                port=pacs,
                applicationEntityTitle="PACS",
            ),
            dimse(
                "scanners",
                "main",
                bucketConfigName="images",
                port=platform.dimse_port,
                sources=f"[{{applicationEntityTitle: PACS, {there}}}]",
            ),
        )
    )
    study = f"{ROOT}.3"
    instances = [instance(source, study, number)[1] for number in range(4)]
    async with running(platform):
        await send(pacs, "PACS", *instances)
        await send(platform.dimse_port, "INGESTION", *instances[:3])
        # It has been asked by then, and has said that there is more.
        await until(
            lambda: "calling=INGESTION" in platform.log.read_text() if way == "C-FIND" else True,
            "the source is asked",
        )
        await send(platform.dimse_port, "INGESTION", instances[3])
        await until(lambda: revisions(platform, study) == 1, "it is settled")
        found = get(f"{platform.url}/api/revisions/images/{study}/0?core=main")
        assert len(found["changeSet"]["additions"]) == 4
        assert platform.log.read_text().count("revision.hastened") == 1


async def test_a_study_that_came_by_stow_is_settled_when_its_sender_has_no_more_of_it(
    tmp_path: Path, source: Path
) -> None:
    platform = Platform(tmp_path / "up")
    archive = f"{platform.url}/spaces/archive/dicom-web"
    platform.site = "---\n".join(
        (
            core("main", revisioningDelay=LONG),
            core("elsewhere", revisioningDelay=LONG),
            config_map("images"),
            config_map("archive"),
            service("pacs", "elsewhere", bucketConfigName="archive"),
            service("web", "main", bucketConfigName="images", source=f"{{url: '{archive}'}}"),
        )
    )
    study = f"{ROOT}.4"
    parts = [instance(source, study, number)[0] for number in range(3)]
    images = f"{platform.url}/spaces/images/dicom-web"
    async with running(platform):
        await asyncio.to_thread(stow, archive, *parts)
        for part in parts:
            await asyncio.to_thread(stow, images, part)
        await until(lambda: revisions(platform, study) == 1, "it is settled")
        assert platform.log.read_text().count("revision.hastened") == 1
