"""A full disk: what does not fit is refused with A700H, what is there stays, new room is used.

Disks are made full in two ways, both by the kernel. A limit on the size of files (EFBIG) needs no
permission and always runs. A small file system that is really full (ENOSPC) is a tmpfs in a mount
namespace of the child process; where the system does not allow that, the test says so and is
skipped.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from instances import multipart, padded, with_uids
from platform_process import Platform

STUDY, SERIES = "1.2.826.0.1.3680043.8.498.5", "1.2.826.0.1.3680043.8.498.5.1"
MIB = 1 << 20

SITE = """
apiVersion: imaging-ingestion.alvearie.org/v1alpha1
kind: DicomEventDrivenIngestion
metadata: {{name: core}}
spec: {{}}
---
apiVersion: imaging-ingestion.alvearie.org/v1alpha1
kind: DicomwebIngestionService
metadata: {{name: clinical}}
spec: {{dicomEventDrivenIngestionName: core, providerName: clinical, bucketConfigName: default}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: default}}
data: {{LOCAL_STORAGE_PATH: "{space}"}}
"""


def sop(number: int) -> str:
    return f"{SERIES}.{number}"


@pytest.fixture(scope="session")
def make(dicom_file: Callable[[str], Path]) -> Callable[[int, int], bytes]:
    """Makes an instance of a number, with so many bytes of padding."""
    source = dicom_file("CT_small.dcm")

    def instance(number: int, padding: int = 0) -> bytes:
        data = with_uids(source, STUDY, SERIES, sop(number))
        return padded(data, padding) if padding else data

    return instance


def post(platform: Platform, *parts: bytes) -> tuple[int, dict[str, Any], Message]:
    """Store parts; status, store response and headers."""
    body, content_type = multipart(parts)
    request = Request(f"{platform.dicomweb}/studies", body, {"Content-Type": content_type})
    try:
        with urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer), answer.headers
    except HTTPError as error:
        with error:
            return error.code, json.load(error), error.headers


def reasons(response: dict[str, Any]) -> dict[str, tuple[int, str]]:
    """Failure Reason and explanation by SOP Instance UID."""
    return {
        item["00081155"]["Value"][0]: (
            item["00081197"]["Value"][0],
            item["00091002"]["Value"][0],
        )
        for item in response.get("00081198", {}).get("Value", [])
    }


def stored(response: dict[str, Any]) -> list[str]:
    items = response.get("00081199", {}).get("Value", [])
    return [item["00081155"]["Value"][0] for item in items]


def found(platform: Platform) -> set[str]:
    """What QIDO-RS finds."""
    with urlopen(f"{platform.dicomweb}/instances?limit=1000", timeout=60) as answer:
        text = answer.read()
    return {item["00080018"]["Value"][0] for item in json.loads(text or b"[]")}


def fetch(platform: Platform, number: int) -> bytes:
    request = Request(
        f"{platform.dicomweb}/studies/{STUDY}/series/{SERIES}/instances/{sop(number)}",
        headers={"Accept": "application/dicom; transfer-syntax=*"},
    )
    with urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


def assert_holds(platform: Platform, space: Path, *uids: str) -> None:
    """The space has these instances and not a byte of any other, and so has the manifest."""
    objects = [path for path in space.rglob("*.dcm") if path.is_file()]
    assert sorted(path.name.split("-")[0] for path in objects) == sorted(uids)
    assert [path for path in (space / ".incoming").rglob("*") if path.is_file()] == []
    assert found(platform) == set(uids)


def inside(platform: Platform, path: Path) -> Path:
    """A path as the platform's process sees it."""
    assert platform.process is not None
    return Path(f"/proc/{platform.process.pid}/root{path}")


def test_an_instance_larger_than_a_file_may_be_is_out_of_resources(
    tmp_path: Path, make: Callable[..., bytes]
) -> None:  # S21
    # In blocks of 512 bytes, as POSIX has it.
    limited = ("sh", "-c", f'ulimit -f {6 * MIB // 512}; exec "$@"', "sh")
    platform = Platform(tmp_path, prefix=limited).start()
    space = platform.data / "spaces" / "default"
    try:
        status, response, _ = post(platform, make(1), make(2, 12 * MIB), make(3))
        assert status == 202
        assert stored(response) == [sop(1), sop(3)]
        assert reasons(response) == {sop(2): (0xA700, "part 2: the storage space is full")}
        assert_holds(platform, space, sop(1), sop(3))

        status, response, headers = post(platform, make(2, 12 * MIB))
        assert status == 503
        assert int(headers["Retry-After"]) > 0
        assert reasons(response) == {sop(2): (0xA700, "part 1: the storage space is full")}
        assert_holds(platform, space, sop(1), sop(3))

        status, response, _ = post(platform, make(2))
        assert (status, stored(response)) == (200, [sop(2)])
        assert fetch(platform, 2) == make(2)
        assert platform.stop() == 0
    finally:
        platform.stop()


@contextmanager
def on_small_disk(folder: Path, size: int, site: str | None = None) -> Iterator[Platform]:
    """A platform whose data folder is a file system of its own, of `size` bytes."""
    trial = subprocess.run(
        ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    if trial.returncode:
        pytest.skip(f"a file system cannot be mounted here: {trial.stderr.strip()}")
    data = folder / "data"
    data.mkdir(parents=True)
    mount = f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"'
    platform = Platform(folder, site=site, prefix=("unshare", "-Urm", "sh", "-c", mount, str(data)))
    try:
        yield platform.start()
    finally:
        platform.stop()


def test_a_full_disk_refuses_what_does_not_fit_and_takes_it_when_there_is_room(
    tmp_path: Path, make: Callable[..., bytes]
) -> None:  # S21
    with on_small_disk(tmp_path, 24 * MIB) as platform:
        space = inside(platform, platform.data / "spaces" / "default")
        ballast = inside(platform, platform.data / "ballast")
        ballast.write_bytes(bytes(12 * MIB))
        kept: list[int] = []
        number = 0
        while True:  # until nothing fits any more
            number += 1
            status, response, _ = post(platform, make(number, MIB))
            if status == 503:
                break
            assert (status, stored(response)) == (200, [sop(number)])
            kept.append(number)
            assert number < 24
        ((uid, (reason, why)),) = reasons(response).items()
        assert (uid, reason) == (sop(number), 0xA700)
        assert "full" in why
        assert kept
        uids = [sop(n) for n in kept]
        assert_holds(platform, space, *uids)

        # It goes on answering, and refusing, and leaves nothing: the disk does not get fuller.
        for _ in range(5):
            status, response, _ = post(platform, make(number, MIB), make(number + 1, MIB))
            assert status == 503
            assert {reason for reason, _ in reasons(response).values()} == {0xA700}
        assert_holds(platform, space, *uids)

        ballast.unlink()
        status, response, _ = post(platform, make(number, MIB))
        assert (status, stored(response)) == (200, [sop(number)])
        assert_holds(platform, space, *uids, sop(number))
        for one in [*kept, number]:
            assert fetch(platform, one) == make(one, MIB)


def test_a_full_disk_under_the_manifest_refuses_and_leaves_no_objects(
    tmp_path: Path, make: Callable[..., bytes]
) -> None:  # S21
    space = tmp_path / "space"
    with on_small_disk(tmp_path / "core", 8 * MIB, SITE.format(space=space)) as platform:
        status, response, _ = post(platform, make(1))
        assert (status, stored(response)) == (200, [sop(1)])
        ballast = inside(platform, platform.data / "ballast")
        with ballast.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError as error:
                assert error.errno == 28  # noqa: PT017 - ENOSPC is what this is about
        numbers = iter(range(2, 1000))
        while True:  # the manifest's own files may have some room left
            status, response, headers = post(platform, make(next(numbers)))
            if status != 200:
                break
        assert status == 503
        assert int(headers["Retry-After"]) > 0
        ((_, (reason, why)),) = reasons(response).items()
        assert (reason, why) == (0xA700, "part 1: the manifest's disk is full")
        uids = found(platform)
        assert_holds(platform, space, *uids)
        for _ in range(5):
            assert post(platform, make(2000))[0] == 503
        assert_holds(platform, space, *uids)

        ballast.unlink()
        status, response, _ = post(platform, make(2000))
        assert (status, stored(response)) == (200, [sop(2000)])
        assert_holds(platform, space, *uids, sop(2000))
