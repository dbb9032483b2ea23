"""Memory is bounded, whatever comes in: the peak of the real process while large bodies come.

The peak is the kernel's own count (VmHWM). Bodies are made while they are sent.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from forwarding_site import forwarding_site
from instances import with_uids
from platform_process import Platform

MIB = 1 << 20
LIMIT = 300 * MIB
ROOT = "1.2.826.0.1.3680043.8.498.6"
STUDY, SERIES = f"{ROOT}.1", f"{ROOT}.1.1"
BOUNDARY = b"test-boundary"
PART = b"--%b\r\nContent-Type: application/dicom\r\n\r\n" % BOUNDARY
END = b"--%b--\r\n" % BOUNDARY
#: Not zeros: nothing on the way may make it smaller.
NOISE = hashlib.shake_256(b"noise").digest(MIB)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    running = Platform(tmp_path).start()
    try:
        yield running
    finally:
        running.stop()
        shutil.rmtree(running.data)


@pytest.fixture(scope="session")
def template(dicom_file: Callable[[str], Path]) -> bytes:
    """A CT instance up to its Pixel Data, of SOP Instance UID `…000000`."""
    data = with_uids(dicom_file("CT_small.dcm"), STUDY, SERIES, f"{SERIES}.1000000")
    return data[: data.index(b"\xe0\x7f\x10\x00OW")]


def instance(template: bytes, number: int, size: int) -> Iterator[bytes]:
    """An instance of about `size` bytes, in pieces."""
    yield template.replace(b".1000000", b".%d" % (1_000_000 + number))
    left = size - len(template) & ~1
    yield b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", left)
    while left:
        piece = memoryview(NOISE)[: min(left, MIB)]
        left -= len(piece)
        yield piece


def peak(platform: Platform) -> int:
    """The most memory that the process ever had, in bytes."""
    assert platform.process is not None
    status = Path(f"/proc/{platform.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def post(platform: Platform, pieces: Iterable[bytes], kind: str) -> tuple[int, dict[str, Any]]:
    """POST a body of unknown length, in chunks; status and decoded answer."""
    with closing(socket.create_connection(("127.0.0.1", platform.port), timeout=120)) as link:
        link.sendall(
            b"POST /dicom-web/studies HTTP/1.1\r\nHost: test\r\nContent-Type: %b\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" % kind.encode()
        )
        try:
            for piece in pieces:
                link.sendall(b"%x\r\n" % len(piece))
                link.sendall(piece)
                link.sendall(b"\r\n")
            link.sendall(b"0\r\n\r\n")
        except ConnectionError:
            pass  # refused before the end: the answer tells why
        answer = HTTPResponse(link)
        answer.begin()
        return answer.status, json.loads(answer.read())


MULTIPART = f'multipart/related; type="application/dicom"; boundary={BOUNDARY.decode()}'


def multipart(parts: Iterable[Iterable[bytes]]) -> Iterator[bytes]:
    for part in parts:
        yield PART
        yield from part
        yield b"\r\n"
    yield END


def objects(platform: Platform) -> list[Path]:
    return [path for path in (platform.data / "spaces").rglob("*.dcm") if path.is_file()]


@pytest.mark.parametrize("kind", ["application/dicom", MULTIPART])
def test_one_instance_of_2_gib(platform: Platform, template: bytes, kind: str) -> None:
    pieces = instance(template, 1, 2048 * MIB)
    status, answer = post(
        platform, pieces if kind == "application/dicom" else multipart([pieces]), kind
    )
    assert status == 200
    assert len(answer["00081199"]["Value"]) == 1
    (stored,) = objects(platform)
    assert stored.stat().st_size >= 2047 * MIB
    assert peak(platform) < LIMIT


def test_4000_instances_of_512_kib_in_one_request(platform: Platform, template: bytes) -> None:
    parts = (instance(template, number, MIB // 2) for number in range(4000))
    status, answer = post(platform, multipart(parts), MULTIPART)
    assert status == 200
    assert len(answer["00081199"]["Value"]) == 4000
    assert len(objects(platform)) == 4000
    assert peak(platform) < LIMIT


DELIVERY_TIMEOUT = 120.0  # seconds


def test_a_binding_forwards_1_gib_as_it_streams(
    platform: Platform, template: bytes, tmp_path: Path
) -> None:
    site = forwarding_site(platform.dicomweb)
    source = Platform(tmp_path / "source", site=site).start()
    try:
        status, _ = post(source, instance(template, 1, 1024 * MIB), "application/dicom")
        assert status == 200
        deadline = time.monotonic() + DELIVERY_TIMEOUT
        while not objects(platform):
            assert time.monotonic() < deadline, source.log.read_text()[-2000:]
            time.sleep(0.1)  # polling another process: there is nothing to wait on
        (sent,), (arrived,) = objects(source), objects(platform)
        assert sent.stat().st_size == arrived.stat().st_size
        assert peak(source) < LIMIT
        assert peak(platform) < LIMIT
    finally:
        source.stop()
        shutil.rmtree(source.data)


def test_100000_tiny_parts_are_too_many(platform: Platform) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(1000):
            yield (PART + b"x\r\n") * 100
        yield END

    status, answer = post(platform, parts(), MULTIPART)
    assert status == 413
    assert "at most 50000 parts" in answer["detail"]
    assert peak(platform) < LIMIT


def element(group: int, number: int, vr: bytes, length: int, payload: bytes = b"") -> bytes:
    """An explicit VR little endian element with the length it claims."""
    if vr in {b"OB", b"OW", b"SQ", b"UN", b"UT"}:
        return struct.pack("<HH2sHI", group, number, vr, 0, length) + payload
    return struct.pack("<HH2sH", group, number, vr, length) + payload


UIDS = element(8, 0x18, b"UI", 8, b"1.2.3.4\0")
ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
DELIMITER = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
TEXT = b"".join(element(0x41, n, b"LO", 65534, b"x" * 65534) for n in range(0x1000, 0x1010))
BULK = b"".join(element(0x41, n, b"OB", 1026, bytes(1026)) for n in range(0x1000, 0x1400))

#: What each begins with, what then comes again and again, and in how many parts.
HOSTILE = {
    "text": (UIDS, TEXT, 5),
    "one long text": (UIDS + element(0x40, 0x310, b"UT", 0xFFFFFFF0), NOISE, 5),
    "empty items": (UIDS + element(0x40, 0x275, b"SQ", 0xFFFFFFFF), ITEM * (MIB // 8), 2),
    "stray delimiters": (UIDS, DELIMITER * (MIB // 8), 5),
    "bulk values": (UIDS, BULK, 5),
    "file meta": (bytes(128) + b"DICM", element(2, 0x100, b"OB", MIB, NOISE), 5),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_headers_without_end_one_after_the_other(platform: Platform, kind: str) -> None:
    start, again, parts = HOSTILE[kind]

    def part() -> Iterator[bytes]:
        yield start
        for _ in range(70):
            yield again

    status, answer = post(platform, multipart(part() for _ in range(parts)), MULTIPART)
    assert status == 409
    failures = [
        item["00081197"]["Value"][0]
        for tag in ("00081198", "0008119A")
        for item in answer.get(tag, {}).get("Value", [])
    ]
    assert len(failures) == parts
    assert set(failures) <= {0xC000, 0xA701}
    assert objects(platform) == []
    assert peak(platform) < LIMIT
