"""DELETE over real HTTP: gone everywhere at once, known to have been there, told by a revision."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from http_ask import ask
from instances import multipart, with_uids
from platform_process import Platform
from site_documents import core, service
from up_dimse import get, running, until

ROOT = "1.2.826.0.1.3680043.8.498.78"


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    made = Platform(tmp_path / "up")
    made.site = "---\n".join((core("main", revisioningDelay=1), service("web", "main")))
    async with running(made):
        yield made


@pytest.fixture
def made(dicom_file: Callable[[str], Path]) -> Callable[[int, int], bytes]:
    """An instance of a series of the study."""
    source = dicom_file("CT_small.dcm")
    return lambda series, number: with_uids(
        source, ROOT, f"{ROOT}.{series}", f"{ROOT}.{series}.{number}"
    )


async def stow(platform: Platform, *parts: bytes) -> None:
    body, content_type = multipart(parts)
    asked = await asyncio.to_thread(
        ask, "POST", f"{platform.dicomweb}/studies", body, Content_Type=content_type
    )
    assert asked[0] == 200


async def deleted(url: str) -> int:
    return (await asyncio.to_thread(ask, "DELETE", url))[0]


async def status(url: str) -> int:
    return (await asyncio.to_thread(ask, "GET", f"{url}/metadata", Accept="application/json"))[0]


def change_sets(platform: Platform) -> list[dict[str, list[str]]]:
    numbers = get(f"{platform.url}/api/revisions/default/{ROOT}")["revisions"]
    return [
        get(f"{platform.url}/api/revisions/default/{ROOT}/{one['number']}")["changeSet"]
        for one in numbers
    ]


async def test_instance_series_and_study_are_deleted_and_told_of(  # W36 H14 Q37
    platform: Platform, made: Callable[[int, int], bytes]
) -> None:
    await stow(platform, made(1, 1), made(1, 2), made(2, 1), made(2, 2))
    await until(lambda: len(change_sets(platform)) == 1, "the study is settled")
    study = f"{platform.dicomweb}/studies/{ROOT}"
    one = f"{study}/series/{ROOT}.1/instances/{ROOT}.1.1"
    assert await deleted(one) == 204
    assert (await status(one), await deleted(one)) == (410, 410)
    assert await deleted(f"{study}/series/{ROOT}.2") == 204
    assert (await status(f"{study}/series/{ROOT}.2"), await status(study)) == (410, 200)
    (found,) = get(f"{study.rsplit('/', 1)[0]}?StudyInstanceUID={ROOT}")
    assert (found["00201206"]["Value"], found["00201208"]["Value"]) == ([1], [1])
    await until(lambda: len(change_sets(platform)) == 2, "the deletion is told of")
    assert sorted(change_sets(platform)[1]["deletions"]) == [
        f"{ROOT}.1/{ROOT}.1.1",
        f"{ROOT}.2/{ROOT}.2.1",
        f"{ROOT}.2/{ROOT}.2.2",
    ]
    assert await deleted(study) == 204
    assert (await status(study), await deleted(study)) == (410, 410)
    # A true new arrival brings the instance back, with the next version.
    await stow(platform, made(1, 1))
    assert (await status(one), await status(study)) == (200, 200)
    log = get(f"{platform.url}/api/changes?kind=stored&study={ROOT}")["changes"]
    assert [(e["sop_instance_uid"], e["version"]) for e in log][-1] == (f"{ROOT}.1.1", 2)
    (space,) = get(f"{platform.url}/api/spaces/use")["spaces"]
    assert (space["instances"], space["quarantined"]) == (1, 0)


async def test_what_never_was_is_404_and_a_malformed_uid_400(platform: Platform) -> None:
    studies = f"{platform.dicomweb}/studies"
    assert await deleted(f"{studies}/1.2.3") == 404
    assert await deleted(f"{studies}/1.2.3/series/1.2/instances/1.2.1") == 404
    assert await deleted(f"{studies}/1..2") == 400
    assert await deleted(f"{studies}/1.2.3/metadata") == 405
    assert await deleted(f"{platform.url}/api/studies/default/1.2.3") == 404


async def test_the_api_and_the_command_delete_and_say_how_many(
    platform: Platform, made: Callable[[int, int], bytes]
) -> None:
    await stow(platform, made(1, 1), made(1, 2), made(2, 1))
    url = f"{platform.url}/api/studies/default/{ROOT}"
    answer = await asyncio.to_thread(ask, "DELETE", f"{url}/series/{ROOT}.1/instances/{ROOT}.1.1")
    assert answer == (200, {"deleted": 1})

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "imaging_ingestion.cli.main", "delete", ROOT, *arguments]
        return subprocess.run(
            [*line, "--url", platform.url],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    unsure = await asyncio.to_thread(command)
    assert (unsure.returncode, "--yes" in unsure.stderr) == (2, True)
    sure = await asyncio.to_thread(command, "--yes")
    assert (sure.returncode, sure.stdout) == (0, "2 instances were deleted\n")
    again = await asyncio.to_thread(command, "--yes")
    assert (again.returncode, "has been deleted" in again.stderr) == (1, True)
