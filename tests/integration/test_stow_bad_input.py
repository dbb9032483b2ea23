"""STOW-RS and bad input of every kind, over real HTTP.

Each gets its status and an answer that says which part and why; the other parts are stored; nothing
of it is left in the space or the manifest; the server goes on serving.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from instances import multipart, with_uids
from stow_site import (
    JSON,
    StowSite,
    connection,
    head,
    store_response_of,
    stow_site,
    until,
    value,
)
from structlog.testing import capture_logs
from yarl import URL

from imaging_ingestion.dicom.scan import HeaderScanner
from imaging_ingestion.dicomweb.service import DicomwebSettings
from imaging_ingestion.dicomweb.store_request import SLOWEST
from imaging_ingestion.http_server import HttpServer

STUDY, SERIES = "1.2.826.0.1.3680043.8.498.3", "1.2.826.0.1.3680043.8.498.3.1"
BOUNDARY = "test-boundary"
MULTIPART = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
PREAMBLE = bytes(128) + b"DICM"


def sop(number: int) -> str:
    return f"{SERIES}.{number}"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[StowSite]:
    async with stow_site(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="session")
def instances(dicom_file: Callable[[str], Path]) -> list[bytes]:
    """Four instances of one series, `sop(0)` and on."""
    source = dicom_file("CT_small.dcm")
    return [with_uids(source, STUDY, SERIES, sop(number)) for number in range(4)]


def port_of(site: StowSite) -> int:
    port = URL(site.url).port
    assert port is not None
    return port


def element(group: int, number: int, vr: bytes, payload: bytes, length: int | None = None) -> bytes:
    """An explicit VR little endian element; `length` is what it claims."""
    length = len(payload) if length is None else length
    if vr in {b"OB", b"OW", b"SQ", b"UN", b"UT"}:
        return struct.pack("<HH2sHI", group, number, vr, 0, length) + payload
    return struct.pack("<HH2sH", group, number, vr, length) + payload


def deep(levels: int) -> bytes:
    """Sequences inside one another."""
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    return (element(0x0040, 0x0275, b"SQ", b"", 0xFFFFFFFF) + item) * levels


UIDS = element(8, 0x16, b"UI", b"1.2.840.10008.5.1.4.1.1.7\0") + element(
    8, 0x18, b"UI", b"1.2.3.4\0"
)

NO_INSTANCES = {
    "empty": (b"", "the stream is empty"),
    "text": (b"This is no DICOM file, it is text. " * 20, "the bytes are not DICOM"),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(range(256)) * 4, "the bytes are not DICOM"),
    "json": (b'[{"00080018":{"vr":"UI","Value":["1.2.3"]}}]' * 10, "the bytes are not DICOM"),
    "one byte": (b"\0", "the bytes are not DICOM"),
    "zeros": (bytes(5000), "the bytes are not DICOM"),
    "preamble alone": (PREAMBLE, "the stream ends before the data set"),
    "half a meta": (PREAMBLE + b"\x02\0\x10\0UI\x14\x00" + b"1.2.8", "file meta information"),
    "2 GB of text claimed": (
        UIDS + element(0x40, 0x310, b"UT", b"x" * 99, 2_000_000_000),
        "the stream ends in the middle of the data set",
    ),
    "2 GB of pixels claimed": (
        UIDS + element(0x7FE0, 0x10, b"OW", b"x" * 99, 0x7FFFFFFE),
        "the stream ends in the middle of the data set",
    ),
    "2 GB of file meta claimed": (
        PREAMBLE + element(2, 0x102, b"OB", b"x" * 99, 2_000_000_000) + bytes(1000),
        "file meta information",
    ),
    "1,000 nested sequences": (UIDS + deep(1000), "nested deeper than 64 levels"),
    "200,000 nested sequences": (UIDS + deep(200_000), "nested deeper than 64 levels"),
}


@pytest.mark.parametrize("kind", NO_INSTANCES)
async def test_what_is_no_instance_fails_alone_and_is_told_why(
    site: StowSite, instances: list[bytes], kind: str
) -> None:
    bad, why = NO_INSTANCES[kind]
    response = await site.send(instances[0], bad, instances[1])
    assert response.status == 202
    assert response.stored_uids == [sop(0), sop(1)]
    assert list(response.failures) == [2]
    reason, message = response.failures[2]
    assert reason == 0xC000
    assert message.startswith("part 2: ")
    assert why in message
    await site.assert_holds(sop(0), sop(1))
    await site.assert_serves(instances[2])


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.999])
async def test_a_truncated_file_fails_with_the_uid_that_could_be_read(
    site: StowSite, instances: list[bytes], share: float
) -> None:
    whole = instances[0]
    response = await site.send(instances[1], whole[: int(len(whole) * share)])
    assert response.status == 202
    assert response.failures[2][0] == 0xC000
    assert "ends" in response.failures[2][1]
    if share > 0.05:  # behind the UIDs
        assert value(response.failed[0], "00081155") == sop(0)
    else:
        assert len(response.others) == 1
    await site.assert_holds(sop(1))
    await site.assert_serves(whole)


async def test_every_real_malformed_file_is_stored_whole_or_refused(
    site: StowSite, dicom_files: list[Path], instances: list[bytes]
) -> None:
    hostile = [path for path in dicom_files if any(w in path.name.lower() for w in _HOSTILE)]
    assert hostile
    for path in hostile:
        data = path.read_bytes()
        response = await site.send(data, instances[0])
        assert sop(0) in response.stored_uids, path.name
        if 1 in response.failures:
            assert response.failures[1][0] in {0xC000, 0xC122, 0x0122, 0xA701}, path.name
        else:
            answer = await site.get(
                value(response.stored[0], "00081190"), "application/dicom; transfer-syntax=*"
            )
            assert answer.status == 200, path.name
            assert answer.body.endswith(data[132:]), path.name


_HOSTILE = ("bad", "broken", "invalid", "malformed", "trunc", "empty", "nested", "corrupt", "fuzz")


def part_with_headers(headers: bytes, data: bytes) -> bytes:
    return b"--%b\r\n%b\r\n%b\r\n" % (BOUNDARY.encode(), headers, data)


BAD_HEADERS = {
    "of another type": (b"Content-Type: image/jpeg\r\n", "Content-Type is image/jpeg"),
    "of a metadata type": (
        b"Content-Type: application/dicom+json\r\n",
        "is application/dicom+json",
    ),
    "unreadable type": (b"Content-Type: ????\r\n", "Content-Type cannot be read"),
    "NUL in the type": (b"Content-Type: application/dicom\0\r\n", "Content-Type cannot be read"),
    "two types": (b"Content-Type: application/dicom, image/png\r\n", "Content-Type cannot be read"),
    "no colon": (b"Content-Type application/dicom\r\n", "no name and colon"),
    "no name": (b": application/dicom\r\n", "no name and colon"),
    "1 MB long": (b"X: " + b"y" * 1_000_000 + b"\r\n", "longer than 16384 bytes"),
    "10,000 of them": (b"".join(b"X-%d: y\r\n" % n for n in range(10_000)), "more than 64 headers"),
    "never ending": (b"y" * 100_000, "longer than 16384 bytes"),
}


@pytest.mark.parametrize("kind", BAD_HEADERS)
async def test_a_part_with_bad_headers_fails_alone(
    site: StowSite, instances: list[bytes], kind: str
) -> None:
    headers, why = BAD_HEADERS[kind]
    fine = b"Content-Type: application/dicom\r\n"
    body = (
        part_with_headers(fine, instances[0])
        + part_with_headers(headers, instances[1])
        + part_with_headers(fine, instances[2])
        + f"--{BOUNDARY}--\r\n".encode()
    )
    response = store_response_of(await site.post(body, MULTIPART, Accept=JSON))
    assert response.status == 202
    assert response.stored_uids == [sop(0), sop(2)]
    assert list(response.failures) == [2]
    assert response.failures[2][0] == 0xC000
    assert why in response.failures[2][1]
    await site.assert_holds(sop(0), sop(2))


@pytest.mark.parametrize(
    "headers",
    [
        b"",  # that of the root, RFC 2387 3.1
        b"Content-Type: application/dicom; transfer-syntax=1.2.840.10008.1.2.1\r\n",
        b"content-type:APPLICATION/DICOM\r\n",
        b"Content-Location: /x\r\nContent-Type: application/dicom\r\nContent-Length: 7\r\n",
        b"Content-Type: application/dicom\nX: y\n",  # line feeds alone
        b"X-Name: caf\xe9\r\n",
    ],
)
async def test_part_headers_that_clients_really_send_are_taken(
    site: StowSite, instances: list[bytes], headers: bytes
) -> None:
    body = part_with_headers(headers, instances[0]) + f"--{BOUNDARY}--\r\n".encode()
    response = store_response_of(await site.post(body, MULTIPART, Accept=JSON))
    assert (response.status, response.stored_uids) == (200, [sop(0)])


BAD_BOUNDARIES = [
    ("another", "does not contain the boundary of its Content-Type"),
    ("test-boundar", "followed by something else"),
    ('"b\\"', "Content-Type"),
    ("x" * 201, "the boundary in the Content-Type is empty, too long, or has forbidden characters"),
    ("b\xe4r", "the boundary in the Content-Type is empty, too long, or has forbidden characters"),
    ('"a b "', "the boundary in the Content-Type is empty, too long, or has forbidden characters"),
]


@pytest.mark.parametrize(("boundary", "why"), BAD_BOUNDARIES)  # S13
async def test_a_wrong_boundary_is_400_and_nothing_is_stored(
    site: StowSite, instances: list[bytes], boundary: str, why: str
) -> None:
    body, _ = multipart(instances)
    async with connection(port_of(site)) as raw:
        content_type = f"multipart/related; type=application/dicom; boundary={boundary}"
        await raw.send(head(Content_Type=content_type, Content_Length=str(len(body))), body)
        answer = await raw.answer()
    assert answer.status == 400
    assert why in answer.detail
    await site.assert_holds()
    await site.assert_serves(instances[0])


async def test_a_boundary_that_is_never_closed_is_told_with_the_number_of_whole_parts(  # S13
    site: StowSite, instances: list[bytes]
) -> None:
    body, _ = multipart(instances)
    body = body.removesuffix(f"--{BOUNDARY}--\r\n".encode())
    response = store_response_of(await site.post(body, MULTIPART, Accept=JSON))
    assert response.status == 202
    assert response.stored_uids == [sop(0), sop(1), sop(2)]
    assert "3 parts were complete before" in response.failures[4][1]
    await site.assert_holds(sop(0), sop(1), sop(2))


async def test_text_behind_a_boundary_ends_the_body_there(  # S13
    site: StowSite, instances: list[bytes]
) -> None:
    body, _ = multipart(instances)
    second = body.index(f"--{BOUNDARY}".encode(), 20)
    body = body[: second + 15] + b"text" + body[second + 15 :]
    response = store_response_of(await site.post(body, MULTIPART, Accept=JSON))
    assert (response.status, response.stored_uids) == (202, [sop(0)])
    assert "something else than the end of its line" in response.failures[2][1]
    await site.assert_holds(sop(0))


async def test_what_stands_before_the_first_and_behind_the_last_boundary_does_not_count(
    site: StowSite, instances: list[bytes]
) -> None:
    body, _ = multipart(instances)
    body = b"This is a multi-part message in MIME format.\r\n" + body + b"epilogue" * 10_000
    response = store_response_of(await site.post(body, MULTIPART, Accept=JSON))
    assert (response.status, len(response.stored)) == (200, 4)


@pytest.mark.parametrize("hard", [True, False])  # S34
async def test_a_connection_cut_in_the_middle_of_a_part_leaves_the_whole_ones_only(
    site: StowSite, instances: list[bytes], hard: bool
) -> None:
    body, _ = multipart(instances)
    third = body.index(instances[2])
    async with connection(port_of(site)) as raw:
        await raw.send(head(Content_Type=MULTIPART, Content_Length=str(len(body))))
        await raw.send(body[: third + 20_000])
        await until(lambda: _has_begun(site, 3), "the third part is being received")
        raw.close(hard=hard)
        await until(lambda: _holds(site, 2), "the whole parts are recorded")
    await site.assert_holds(sop(0), sop(1))
    await site.assert_serves(instances[2])


async def _holds(site: StowSite, number: int) -> bool:
    return len(await site.recorded()) == number


async def _has_begun(site: StowSite, parts: int) -> bool:
    """Whether bytes of that many parts have come: those before it have left the buffers."""
    return len(await site.recorded()) == parts - 1 and site.space.gathered > 0


async def test_wherever_the_connection_is_cut_there_are_whole_instances_only(  # S34
    site: StowSite, instances: list[bytes]
) -> None:
    body, _ = multipart(instances)
    ends = [body.index(one) + len(one) for one in instances]
    delimiter = len(f"\r\n--{BOUNDARY}")

    async def cut_at(place: int) -> None:
        async with connection(port_of(site)) as raw:
            await raw.send(head(Content_Type=MULTIPART, Content_Length=str(len(body))))
            await raw.send(body[:place])
            raw.close()

    places = sorted({0, 1, len(body) - 1, *range(0, len(body), 7919), *ends})
    for place in places:
        await cut_at(place)
    whole = sum(end + delimiter <= places[-1] for end in ends)
    await until(lambda: _holds(site, whole), "what was whole is recorded")
    await site.assert_holds(*[sop(n) for n in range(whole)])
    for number in range(whole):
        assert await site.fetch(STUDY, SERIES, sop(number)) == instances[number]


async def test_a_body_over_the_limit_is_413_before_it_is_read(  # S33
    tmp_path: Path, instances: list[bytes]
) -> None:
    body, _ = multipart(instances)
    limit = len(body) - 1
    async with stow_site(tmp_path, settings=DicomwebSettings(max_body=limit)) as site:
        answer = await site.post(body, MULTIPART)
        assert answer.status == 413
        assert str(limit) in answer.detail
        await site.assert_holds()
        await site.assert_serves(instances[0])


async def test_a_chunked_body_over_the_limit_is_413_and_tells_what_was_stored(  # S33
    tmp_path: Path, instances: list[bytes]
) -> None:
    body, _ = multipart(instances)

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 10_000):
            yield body[at : at + 10_000]

    limit = body.index(instances[2])
    async with stow_site(tmp_path, settings=DicomwebSettings(max_body=limit)) as site:
        answer = await site.post(pieces(), MULTIPART)
        assert answer.status == 413
        stored = answer.json["response"]["00081199"]["Value"]
        assert [value(item, "00081155") for item in stored] == [sop(0), sop(1)]
        await site.assert_holds(sop(0), sop(1))


async def test_the_answer_is_readable_though_much_of_the_body_is_not_read(  # S33
    tmp_path: Path, instances: list[bytes]
) -> None:
    length = 50 << 20
    async with (
        stow_site(tmp_path, settings=DicomwebSettings(max_body=1 << 20)) as site,
        connection(port_of(site)) as raw,
    ):
        await raw.send(head(Content_Type=MULTIPART, Content_Length=str(length), Connection="close"))
        for _ in range(50):
            await raw.send(bytes(1 << 20))
        assert (await raw.answer()).status == 413


async def test_too_many_parts_are_413_and_those_before_are_told(
    tmp_path: Path, instances: list[bytes]
) -> None:
    async with stow_site(tmp_path, settings=DicomwebSettings(max_parts=2)) as site:
        body, _ = multipart(instances)
        answer = await site.post(body, MULTIPART)
        assert answer.status == 413
        assert "at most 2 parts" in answer.detail
        assert len(answer.json["response"]["00081199"]["Value"]) == 2
        await site.assert_holds(sop(0), sop(1))


async def test_a_body_that_stops_is_408_and_tells_what_was_stored(
    tmp_path: Path, instances: list[bytes]
) -> None:
    body, _ = multipart(instances)
    half = body.index(instances[1]) + 20_000
    async with (
        stow_site(tmp_path, settings=DicomwebSettings(patience=1.0)) as site,
        connection(port_of(site)) as raw,
    ):
        await raw.send(head(Content_Type=MULTIPART, Content_Length=str(len(body))), body[:half])
        answer = await raw.answer()
        assert answer.status == 408
        assert f"{half} bytes of it were received" in answer.detail
        assert len(answer.json["response"]["00081199"]["Value"]) == 1
        assert await raw.rest() == b""
        await site.assert_holds(sop(0))


async def test_a_body_that_trickles_is_408(tmp_path: Path, instances: list[bytes]) -> None:
    async with (
        stow_site(tmp_path, settings=DicomwebSettings(patience=0.5)) as site,
        connection(port_of(site)) as raw,
    ):
        await raw.send(head(Content_Type=MULTIPART, Content_Length="100000"))
        answering = asyncio.create_task(raw.answer())
        sent = 0
        while not answering.done():  # a pause is never long enough, all of them together are
            await raw.send(b"-")
            sent += 1
            assert sent < 10 * SLOWEST
            await asyncio.wait({answering}, timeout=0.02)
        assert answering.result().status == 408
        await site.assert_holds()


async def test_a_fault_of_ours_in_one_part_does_not_cost_the_others(
    site: StowSite, instances: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    feed, finish = HeaderScanner.feed, HeaderScanner.finish

    def faulty_feed(scanner: HeaderScanner, data: bytes) -> None:
        if sop(1).encode() in bytes(data):
            raise ZeroDivisionError("a bug")
        feed(scanner, data)

    def faulty_finish(scanner: HeaderScanner) -> object:
        if scanner.peek(0x00080018) == sop(2):
            raise ZeroDivisionError("a bug")
        return finish(scanner)

    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(HeaderScanner, "feed", faulty_feed)
        patch.setattr(HeaderScanner, "finish", faulty_finish)
        response = await site.send(*instances)
    assert (response.status, response.stored_uids) == (202, [sop(0), sop(3)])
    identifiers = {entry["id"] for entry in logs if entry["event"] == "stow.part_failed"}
    assert len(identifiers) == 2
    for part in (2, 3):
        reason, message = response.failures[part]
        assert reason == 0x0110
        assert any(identifier in message for identifier in identifiers)
    await site.assert_holds(sop(0), sop(3))


async def test_a_server_that_stops_in_the_middle_of_a_part_leaves_the_whole_ones_only(
    tmp_path: Path, instances: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imaging_ingestion.http_server.GRACE", 0)
    body, _ = multipart(instances)
    half = body.index(instances[2]) + 20_000
    async with stow_site(tmp_path) as site:
        stopping = HttpServer(site.application, "127.0.0.1", 0)
        await stopping.start()
        async with connection(stopping.port) as raw:
            await raw.send(head(Content_Type=MULTIPART, Content_Length=str(len(body))), body[:half])
            await until(lambda: _has_begun(site, 3), "the third part is being received")
            async with asyncio.timeout(10):
                await stopping.stop()
        await site.assert_holds(sop(0), sop(1))
        await site.assert_serves(instances[2])
