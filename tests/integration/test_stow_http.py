"""HTTP beneath STOW-RS: what section 1 of conformance.md says of it, and hostile HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from instances import multipart, with_uids
from stow_site import (
    JSON,
    StowSite,
    chunked,
    connection,
    head,
    store_response_of,
    stow_site,
    until,
    value,
)
from structlog.testing import capture_logs
from yarl import URL

from imaging_ingestion import http_server
from imaging_ingestion.dicomweb.service import DicomwebSettings

STUDY, SERIES = "1.2.826.0.1.3680043.8.498.4", "1.2.826.0.1.3680043.8.498.4.1"
INSTANCE = f"/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.0"


def sop(number: int) -> str:
    return f"{SERIES}.{number}"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[StowSite]:
    async with stow_site(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="session")
def instances(dicom_file: Callable[[str], Path]) -> list[bytes]:
    source = dicom_file("CT_small.dcm")
    return [with_uids(source, STUDY, SERIES, sop(number)) for number in range(3)]


def port_of(site: StowSite) -> int:
    port = URL(site.url).port
    assert port is not None
    return port


# H1
@pytest.mark.parametrize("accept", [None, JSON])
async def test_a_strict_site_asks_for_an_accept_header(
    tmp_path: Path, instances: list[bytes], accept: str | None
) -> None:
    body, content_type = multipart(instances)
    headers = {} if accept is None else {"Accept": accept}
    async with (
        stow_site(tmp_path, settings=DicomwebSettings(strict_accept=True)) as site,
        connection(port_of(site)) as raw,  # aiohttp always sends one
    ):
        await raw.send(
            head(Content_Type=content_type, Content_Length=str(len(body)), **headers), body
        )
        assert (await raw.answer()).status == (406 if accept is None else 200)


METHODS = {
    "/studies": {"GET", "HEAD", "POST"},
    f"/studies/{STUDY}": {"GET", "HEAD", "POST", "DELETE"},
    f"/studies/{STUDY}/series": {"GET", "HEAD"},
    f"/studies/{STUDY}/instances": {"GET", "HEAD"},
    f"/studies/{STUDY}/series/{SERIES}": {"GET", "HEAD", "DELETE"},
    f"/studies/{STUDY}/metadata": {"GET", "HEAD"},
    "/series": {"GET", "HEAD"},
    "/instances": {"GET", "HEAD"},
    INSTANCE: {"GET", "HEAD", "DELETE"},
    f"{INSTANCE}/frames/1": {"GET", "HEAD"},
    "/": {"GET", "HEAD", "OPTIONS"},
}


@pytest.mark.parametrize("path", METHODS)  # H12 H19
async def test_a_method_that_a_resource_lacks_is_405_with_those_it_has(
    site: StowSite, path: str
) -> None:
    for method in {"PUT", "PATCH", "POST", "DELETE"} - METHODS[path]:
        answer = await site.get(path, method=method)
        assert answer.status == 405
        assert {m.strip() for m in answer.headers["Allow"].split(",")} == METHODS[path]
        assert "Allow" in answer.detail


@pytest.mark.parametrize("path", ["/nothing", "/studies/1.2/3", "/studies/1.2/series/1.3/x", "/st"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_an_unknown_resource_is_404(  # H14 H19
    site: StowSite, path: str, method: str
) -> None:
    answer = await site.get(path, method=method)
    assert answer.status == 404
    assert answer.detail == "there is no such resource in DICOMweb"


async def test_a_known_deleted_study_is_410_and_an_unknown_one_404(  # H14
    site: StowSite, instances: list[bytes]
) -> None:
    await site.send(*instances)
    await site.delete(STUDY)
    assert (await site.get(f"/studies/{STUDY}")).status == 410
    assert (await site.get("/studies/1.2.3")).status == 404
    # What is stored again is there again.
    assert (await site.send(*instances)).status == 200
    assert (await site.get(f"/studies/{STUDY}")).status == 200


async def test_answers_have_a_content_type_and_one_way_to_tell_their_length(  # H15
    site: StowSite, instances: list[bytes]
) -> None:
    await site.send(*instances)
    for path in ("/studies", f"/studies/{STUDY}", f"/studies/{STUDY}/metadata", INSTANCE, "/x"):
        answer = await site.get(path)
        assert answer.body
        assert answer.headers["Content-Type"]
        assert ("Content-Length" in answer.headers) != ("Transfer-Encoding" in answer.headers)


async def test_parts_name_their_type_and_place_and_the_body_is_closed(  # H16
    site: StowSite, instances: list[bytes]
) -> None:
    await site.send(*instances)
    answer = await site.get(f"/studies/{STUDY}")
    parts = answer.parts  # taken apart strictly
    assert len(parts) == 3
    for part in parts:
        assert part.headers["Content-Type"].startswith("application/dicom")
        location = part.headers["Content-Location"]
        assert (await site.get(location)).status == 200


@pytest.mark.parametrize("path", ["/", ""])  # H18
async def test_options_on_the_base_uri_tells_what_the_server_has(site: StowSite, path: str) -> None:
    async with site.client.options(site.url + path) as answer:
        assert (answer.status, answer.content_type) == (200, "application/json")
        described = await answer.json()
    resources = {one["path"]: one["methods"] for one in described["resources"]}
    assert resources["/studies"] == ["GET", "POST"]
    assert "POST" in resources["/studies/{study}"]
    assert (
        "GET" in resources["/studies/{study}/series/{series}/instances/{instance}/frames/{frames}"]
    )


async def test_head_has_the_headers_of_get_and_no_body(  # H20
    site: StowSite, instances: list[bytes]
) -> None:
    await site.send(*instances)
    for path in ("/studies", "/studies?PatientID=nobody", INSTANCE, f"/studies/{STUDY}", "/x"):
        got = await site.get(path, "*/*")
        asked = await site.get(path, "*/*", "HEAD")
        assert asked.status == got.status
        assert asked.body == b""
        for name in set(got.headers) - {"Date"}:
            if name == "Content-Type":  # a boundary is made anew for each answer
                assert asked.headers[name].split(";")[0] == got.headers[name].split(";")[0]
            else:
                assert asked.headers[name] == got.headers[name], (path, name)


@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1", "martian", "*;q=0"])  # H21
async def test_charsets_are_ignored(site: StowSite, instances: list[bytes], charset: str) -> None:
    response = await site.send(instances[0], Accept_Charset=charset)
    assert response.status == 200


PATHS = ["/studies/1.2.%00", "/studies/..%2F..%2Fetc", "/studies/1.2.x", f"/studies/{'1' * 65}"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_study_in_the_path_that_is_no_uid_is_400(  # W30
    site: StowSite, instances: list[bytes], path: str
) -> None:
    body, content_type = multipart(instances)
    async with connection(port_of(site)) as raw:
        await raw.send(
            head(f"/dicom-web{path}", Content_Type=content_type, Content_Length=str(len(body))),
            body,
        )
        answer = await raw.answer()
    assert answer.status in {400, 404}
    await site.assert_holds()


# --- hostile HTTP


async def refused(site: StowSite, data: bytes, status: int = 400) -> None:
    """The server answers so, closes, and goes on."""
    async with connection(port_of(site)) as raw:
        await raw.send(data)
        assert (await raw.answer()).status == status
        assert await raw.rest() == b""
    await site.assert_holds()


async def test_content_length_and_chunks_at_once_are_400(
    site: StowSite, instances: list[bytes]
) -> None:
    body, content_type = multipart(instances)
    data = chunked(body)
    request = head(
        Content_Type=content_type, Content_Length=str(len(data)), Transfer_Encoding="chunked"
    )
    await refused(site, request + data)


async def test_two_content_lengths_are_400(site: StowSite) -> None:
    await refused(site, head(Content_Type="x/y", Content_Length="5", content_length="6") + b"12345")


async def test_two_content_types_are_400(site: StowSite, instances: list[bytes]) -> None:
    body, content_type = multipart(instances)
    async with connection(port_of(site)) as raw:
        await raw.send(
            head(Content_Type=content_type, content_type="x/y", Content_Length=str(len(body))), body
        )
        answer = await raw.answer()
    assert answer.status == 400
    assert answer.detail == "there is more than one Content-Type"
    await site.assert_holds()


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # TLS
        b"\x01\x00\x00\x00\x00\xcd\x00\x01\x00\x00INGESTION       " + bytes(200),  # A-ASSOCIATE-RQ
        b"NONSENSE\r\n\r\n",
        b"POST /dicom-web/studies HTTP/9.9\r\n\r\n",
        b"POST /dicom-web/studies HTTP/1.1\r\nHost: a\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        b"POST /dicom-web/studies HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /dicom-web/studies HTTP/1.1\r\nHost: a\r\nContent-Length: "
        + b"9" * 20
        + b"\r\n\r\n",
        b"POST /dicom-web/studies HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ],
)
async def test_what_is_no_http_is_400_and_the_connection_closed(
    site: StowSite, instances: list[bytes], data: bytes
) -> None:
    await refused(site, data)
    await site.assert_serves(instances[0])


@pytest.mark.parametrize("host", [None, "a b", "evil/../x", "a@b", "\xe9"])
async def test_a_host_that_no_url_can_be_made_of_is_400(
    site: StowSite, instances: list[bytes], host: str | None
) -> None:
    body, content_type = multipart(instances)
    lines = ["POST /dicom-web/studies HTTP/1.1", f"Content-Type: {content_type}"]
    lines += [] if host is None else [f"Host: {host}"]
    request = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode("latin-1")
    async with connection(port_of(site)) as raw:
        await raw.send(request, body)
        answer = await raw.answer()
    assert answer.status == 400
    assert "Host" in answer.detail
    await site.assert_holds()


async def test_a_content_length_that_is_too_short_cuts_the_body_there(
    site: StowSite, instances: list[bytes]
) -> None:
    body, content_type = multipart(instances)
    async with connection(port_of(site)) as raw:
        await raw.send(
            head(Content_Type=content_type, Content_Length=str(len(body) - 100), Accept=JSON), body
        )
        response = store_response_of(await raw.answer())
        assert (response.status, response.stored_uids) == (202, [sop(0), sop(1)])
        assert "before its closing delimiter" in response.failures[3][1]
        assert await raw.rest() == b""  # what follows is no request
    await site.assert_holds(sop(0), sop(1))


async def test_requests_sent_without_waiting_are_answered_in_their_order(
    site: StowSite, instances: list[bytes]
) -> None:
    requests = []
    for data in instances:
        body, content_type = multipart([data])
        requests.append(
            head(Content_Type=content_type, Content_Length=str(len(body)), Accept=JSON) + body
        )
    async with connection(port_of(site)) as raw:
        await raw.send(b"".join(requests))
        for number in range(3):
            response = store_response_of(await raw.answer())
            assert (response.status, response.stored_uids) == (200, [sop(number)])
    await site.assert_holds(*[sop(n) for n in range(3)])


async def test_after_an_error_the_connection_serves_the_next_request(
    site: StowSite, instances: list[bytes]
) -> None:
    body, content_type = multipart(instances)
    length = str(len(body))
    async with connection(port_of(site)) as raw:
        for path, sent_type, status in (
            ("/dicom-web/studies", "image/png", 415),
            ("/dicom-web/studies/x", content_type, 400),
            ("/dicom-web/series", content_type, 405),
            ("/nothing", content_type, 404),
            ("/dicom-web/studies", content_type, 200),
        ):
            await raw.send(head(path, Content_Type=sent_type, Content_Length=length), body)
            assert (await raw.answer()).status == status


@pytest.mark.parametrize(
    "flood",
    [
        b"X-" + b"y" * 3000 + b": z\r\n",
        b"y" * 3000,
        b"GET / HTTP/1.1\r\nHost: test\r\n" + b"X: y\r\n" * 500,
        b"\r\n" * 1500,
    ],
    ids=["many headers", "one header", "a request in a header", "line ends"],
)
async def test_a_head_without_end_is_431_and_costs_no_memory(site: StowSite, flood: bytes) -> None:
    async with connection(port_of(site)) as raw:
        await raw.send(b"POST /dicom-web/studies HTTP/1.1\r\nHost: test\r\n")
        answering = asyncio.create_task(raw.rest())
        sent = 0
        while not answering.done():
            await raw.send(flood)
            sent += len(flood)
            assert sent < 64 * http_server.HEAD
            await asyncio.sleep(0)
        answer = answering.result()
    # A reset may take the answer away: this client never stops sending.
    assert answer == b"" or answer.split(b" ")[1] in {b"431", b"400"}


async def test_trailers_without_end_close_the_connection(
    site: StowSite, instances: list[bytes]
) -> None:
    body, content_type = multipart(instances)
    async with connection(port_of(site)) as raw:
        await raw.send(head(Content_Type=content_type, Transfer_Encoding="chunked"))
        await raw.send(chunked(body)[:-2])
        answering = asyncio.create_task(raw.rest())
        sent = 0
        while not answering.done():
            await raw.send(b"X: y\r\n" * 500)
            sent += 3000
            assert sent < 64 * http_server.HEAD
            await asyncio.sleep(0)

    async def all_stored() -> bool:
        return len(await site.recorded()) == 3

    await until(all_stored, "the parts had all come")
    await site.assert_holds(*[sop(n) for n in range(3)])


async def test_a_head_that_does_not_come_is_408(
    site: StowSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "HEAD_TIMEOUT", 0.2)
    async with connection(port_of(site)) as raw:
        await raw.send(b"POST /dicom-web/studies HTTP/1.1\r\nHost: test\r\n")
        assert (await raw.answer()).status == 408
        assert await raw.rest() == b""
    async with connection(port_of(site)) as raw:
        assert await raw.rest() == b""  # not a word said, none answered


async def test_the_next_head_on_a_connection_has_its_time_too(
    site: StowSite, instances: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "HEAD_TIMEOUT", 0.6)
    body, content_type = multipart(instances)
    async with connection(port_of(site)) as raw:
        request = head(Content_Type=content_type, Content_Length=str(len(body)))
        await raw.send(request, body)
        assert (await raw.answer()).status == 200
        await asyncio.sleep(0.9)  # between requests it may be silent for longer
        await raw.send(request, body)
        assert (await raw.answer()).status == 200
        await raw.send(request[:30])
        assert (await raw.answer()).status == 408


async def test_a_slow_body_has_nothing_to_do_with_the_time_of_the_head(
    site: StowSite, instances: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "HEAD_TIMEOUT", 0.5)
    body, content_type = multipart(instances)
    async with connection(port_of(site)) as raw:
        await raw.send(head(Content_Type=content_type, Content_Length=str(len(body))))
        for at in range(0, len(body), len(body) // 4 + 1):
            await asyncio.sleep(0.2)
            await raw.send(body[at : at + len(body) // 4 + 1])
        assert (await raw.answer()).status == 200


async def test_a_small_chunk_costs_no_more_than_its_length(
    site: StowSite, instances: list[bytes]
) -> None:
    body, content_type = multipart(instances[:1])
    async with connection(port_of(site)) as raw:
        await raw.send(
            head(Content_Type=content_type, Transfer_Encoding="chunked", Accept=JSON),
            chunked(*[body[at : at + 1] for at in range(len(body))]),
        )
        response = store_response_of(await raw.answer())
    assert response.stored_uids == [sop(0)]
    assert await site.fetch(STUDY, SERIES, sop(0)) == instances[0]


async def test_a_fault_of_ours_is_500_and_the_log_tells_no_patient_data(
    site: StowSite,
    instances: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(_request: object) -> None:
        raise ValueError("^".join(("DOE", "JOHN")))

    body, content_type = multipart(instances)
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr("imaging_ingestion.dicomweb.stow.content_type_of", fails)
        answer = await site.post(body, content_type)
    assert answer.status == 500
    (identifier,) = [entry["id"] for entry in logs if entry["event"] == "dicomweb.failed"]
    assert identifier in answer.detail
    assert "stow.py" in str(logs)
    assert "DOE^JOHN" not in str(logs) + "".join(capsys.readouterr())
    await site.assert_holds()
    await site.assert_serves(instances[0])


async def test_urls_are_made_of_the_host_that_was_asked(
    site: StowSite, instances: list[bytes]
) -> None:
    response = await site.send(instances[0], Host="pacs.example.org:8443")
    assert value(response.dataset, "00081190") == (
        f"http://pacs.example.org:8443/dicom-web/studies/{STUDY}"
    )
    forged = await site.send(
        instances[0], Host="pacs.example.org", X_Forwarded_Host="evil.example.org"
    )
    assert "evil" not in value(forged.dataset, "00081190")


async def test_behind_a_trusted_proxy_urls_are_those_of_the_proxy(
    tmp_path: Path, instances: list[bytes]
) -> None:
    async with stow_site(tmp_path, settings=DicomwebSettings(trust_forwarded=True)) as site:
        response = await site.send(
            instances[0], X_Forwarded_Proto="https", X_Forwarded_Host="pacs.example.org"
        )
        assert value(response.dataset, "00081190") == (
            f"https://pacs.example.org/dicom-web/studies/{STUDY}"
        )


async def test_an_external_url_is_the_root_of_all_urls(
    tmp_path: Path, instances: list[bytes]
) -> None:
    settings = DicomwebSettings(external_url="https://images.example.org/rs/")
    async with stow_site(tmp_path, settings=settings) as site:
        response = await site.send(instances[0])
        assert value(response.stored[0], "00081190") == f"https://images.example.org/rs{INSTANCE}"
