"""`up` with its space in a bucket: the whole way in and out, over real object stores."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from dimse_site import CT, store
from instances import multipart
from object_stores import AzuriteStore, SwiftStore
from platform_process import Platform, free_port
from site_documents import config_map, core, dimse, secret, service
from up_dimse import call, instance, instances_in, running, stored

ROOT = "1.2.826.0.1.3680043.8.498.41"
_SECRETS = ("AWS_", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_CONNECTION_STRING")


@pytest.fixture
def source(dicom_file: Callable[[str], Path]) -> Path:
    return dicom_file("CT_small.dcm")


def bucket(name: str, values: dict[str, str], **more: str) -> tuple[str, str]:
    """The ConfigMap and the Secret of a space in a bucket."""
    values |= more
    hidden = {key: text for key, text in values.items() if key.startswith(_SECRETS)}
    shown = {key: text for key, text in values.items() if key not in hidden}
    return config_map(name, **shown), secret(name, **hidden)


def site(port: int, values: dict[str, str]) -> str:
    """A core with one space in a bucket, over DICOMweb and DIMSE."""
    space = {"bucketConfigName": "images", "bucketSecretName": "images"}
    return "---\n".join(
        (
            core(revisioningDelay=1),
            service("web", **space),
            dimse("scanners", port=port, **space),
            *bucket("images", values),
        )
    )


def stow(platform: Platform, content: bytes) -> int:
    """Store an instance; the HTTP status."""
    body, content_type = multipart([content])
    request = urllib.request.Request(
        f"{platform.dicomweb}/studies", data=body, headers={"Content-Type": content_type}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def objects_in(folder: Path) -> list[Path]:
    return list(folder.rglob("*.dcm"))


async def test_instances_come_and_go_and_are_there_after_a_restart(
    tmp_path: Path, source: Path, object_store: SwiftStore | AzuriteStore
) -> None:
    port = free_port()
    study = f"{ROOT}.1"
    values = object_store.settings(object_store.new_bucket())
    platform = Platform(tmp_path, site(port, values))
    by_web, sent_by_web = instance(source, study, 1)
    _, sent = instance(source, study, 2)
    async with running(platform):
        assert await asyncio.to_thread(stow, platform, by_web) == 200
        association = await call(port, CT)
        assert (await store(association, sent)).status == 0
        await association.release()
        assert instances_in(platform.dicomweb, study) == {
            sent.sop_instance,
            sent_by_web.sop_instance,
        }
    async with running(platform):
        for one in (sent, sent_by_web):
            assert stored(platform.dicomweb, study, one.sop_instance) == one.data_set
    assert objects_in(tmp_path) == []  # nothing of it is kept here
    for hidden in ("testing", "Eby8vdM02xN"):
        assert hidden not in platform.log.read_text()


async def test_two_spaces_may_share_a_bucket_by_their_prefixes(
    tmp_path: Path, source: Path, swift: SwiftStore
) -> None:
    values = swift.settings(swift.new_bucket())
    documents = [core()]
    for name in ("ct", "mr"):
        documents.append(service(name, bucketConfigName=name, bucketSecretName=name))
        documents += bucket(name, dict(values), BUCKET_PREFIX=f"spaces/{name}")
    whole, sent = instance(source, f"{ROOT}.2", 1)
    async with running(Platform(tmp_path, "---\n".join(documents))) as platform:
        assert await asyncio.to_thread(stow, platform, whole) == 200
        assert instances_in(f"{platform.url}/spaces/ct/dicom-web", f"{ROOT}.2") == {
            sent.sop_instance
        }
        assert instances_in(f"{platform.url}/spaces/mr/dicom-web", f"{ROOT}.2") == set()


async def test_a_store_that_is_away_refuses_instances_and_nothing_else(
    tmp_path: Path, source: Path, swift: SwiftStore
) -> None:
    values = swift.settings("nosuchbucket")
    whole, _ = instance(source, f"{ROOT}.3", 1)
    async with running(Platform(tmp_path, site(free_port(), values))) as platform:
        assert "space.not_usable" in platform.log.read_text()
        assert await asyncio.to_thread(stow, platform, whole) in {409, 503}
        assert instances_in(platform.dicomweb, f"{ROOT}.3") == set()


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"BUCKET_PORT": "http"}, "space images: BUCKET_PORT: "),
        ({"BUCKET_NAME": "a b"}, "space images: BUCKET_NAME: "),
        ({"AZURE_CONTAINER_NAME": "x"}, "space images: AZURE_CONTAINER_NAME: "),
    ],
)
def test_what_is_wrong_with_it_is_told_before_it_starts(
    tmp_path: Path, more: dict[str, str], problem: str
) -> None:
    values = {"BUCKET_NAME": "images", "BUCKET_HOST": "http://127.0.0.1"} | more
    platform = Platform(tmp_path, site(free_port(), values))
    with pytest.raises(RuntimeError) as raised:
        platform.start()
    assert problem in str(raised.value)
    assert not platform.data.exists()


def test_two_spaces_in_one_place_are_a_mistake(tmp_path: Path) -> None:
    documents = [core()]
    for name in ("ct", "mr"):
        documents.append(service(name, bucketConfigName=name))
        documents.append(config_map(name, BUCKET_NAME="images"))
    with pytest.raises(RuntimeError) as raised:
        Platform(tmp_path, "---\n".join(documents)).start()
    assert "the spaces ct and mr share a bucket 'images'" in str(raised.value)
