"""Sending to servers that are not at their best: every file comes back in exactly one report."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from imaging_ingestion.cli.collect import DicomFile
from imaging_ingestion.cli.store_result import Sent, State
from imaging_ingestion.cli.stow_client import (
    BYTES_PER_REQUEST,
    Destination,
    StowClient,
    UnreachableError,
    batches_of,
)
from imaging_ingestion.http_server import HttpServer

Handler = Callable[[Request], Awaitable[Response]]
AT_ONCE = (0.0, 0.0, 0.0)


def dicom_file(folder: Path, name: str, size: int = 100, uid: str | None = None) -> DicomFile:
    """A file of that many bytes; these servers do not look inside."""
    path = folder / name
    path.write_bytes(name.encode() * (size // len(name)) + b"." * (size % len(name)))
    status = path.stat()
    return DicomFile(path, status.st_size, status.st_mtime_ns, uid or f"1.{name}")


class Server:
    """A STOW-RS server whose answers a test decides."""

    def __init__(self, handler: Handler, *, ours: bool = False) -> None:
        self.requests = 0
        self.known: list[dict[str, str]] = []
        self._handler = handler
        routes = [Route("/dicom-web/studies", self._store, methods=["POST"])]
        if ours:
            routes.append(Route("/api/spaces", self._spaces))
            routes.append(Route("/api/known-objects", self._known_objects, methods=["POST"]))
        self._http = HttpServer(Starlette(routes=routes), "127.0.0.1", 0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.port}"

    async def start(self) -> None:
        await self._http.start()

    async def stop(self) -> None:
        await self._http.stop()

    async def _store(self, request: Request) -> Response:
        self.requests += 1
        return await self._handler(request)

    async def _spaces(self, _request: Request) -> Response:
        return JSONResponse({"spaces": ["default", "other"]})

    async def _known_objects(self, request: Request) -> Response:
        asked = await request.json()
        if not all(0 < len(each["sop_instance_uid"]) <= 64 for each in asked["objects"]):
            return JSONResponse({"detail": "no UID"}, 422)
        assert asked["space"] == "default"
        known = [place for place, each in enumerate(asked["objects"]) if each in self.known]
        return JSONResponse({"known": known})


@asynccontextmanager
async def serving(handler: Handler, *, ours: bool = False) -> AsyncIterator[Server]:
    server = Server(handler, ours=ours)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def parts_of(request: Request) -> list[bytes]:
    """The parts of a body, taken apart by the standard library."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    message = message_from_bytes(head + await request.body(), policy=policy.HTTP)
    return [part.get_payload(decode=True) for part in message.iter_parts()]


def stored(uids: list[str], *, result: str | None = None) -> Response:
    items = []
    for number, uid in enumerate(uids, 1):
        item: dict[str, object] = {"00081155": {"vr": "UI", "Value": [uid]}}
        if result is not None:
            item["00090010"] = {"vr": "LO", "Value": ["IMAGING-INGESTION"]}
            item["00091001"] = {"vr": "CS", "Value": [result]}
            item["00091003"] = {"vr": "IS", "Value": [number]}
        items.append(item)
    return JSONResponse({"00081199": {"vr": "SQ", "Value": items}})


def uids_of(parts: list[bytes]) -> list[str]:
    """Each part is its file's name, repeated."""
    return [f"1.{part[:2].decode()}" for part in parts]


async def store_all(request: Request) -> Response:
    return stored(uids_of(await parts_of(request)))


async def send(
    server: Server | str, files: list[DicomFile], *, concurrency: int = 1, force: bool = False
) -> dict[str, Sent]:
    reports: list[Sent] = []
    url = server if isinstance(server, str) else server.url
    client = StowClient(Destination.parse(url), concurrency=concurrency, force=force, waits=AT_ONCE)
    async with asyncio.timeout(60), client:
        await client.send(files, reports.append)
    assert sorted(str(one.file.path) for one in reports) == sorted(str(f.path) for f in files)
    return {one.file.path.name: one for one in reports}


def states(reports: dict[str, Sent]) -> dict[str, str]:
    return {name: one.state.value for name, one in sorted(reports.items())}


@pytest.mark.parametrize(
    ("url", "studies", "space"),
    [
        ("http://h:1", "http://h:1/dicom-web/studies", None),
        ("http://h:1/", "http://h:1/dicom-web/studies", None),
        ("https://h/dicom-web", "https://h/dicom-web/studies", None),
        ("https://h/dicom-web/studies/", "https://h/dicom-web/studies", None),
        ("http://h/spaces/x/dicom-web", "http://h/spaces/x/dicom-web/studies", "x"),
        ("http://h/pacs/rs", "http://h/pacs/rs/studies", None),
        ("http://[::1]:8/stow-rs", "http://[::1]:8/stow-rs/studies", None),
    ],
)
def test_a_destination_is_a_server_or_a_dicomweb_root(url, studies, space):
    found = Destination.parse(url)
    assert (found.studies_url, found.space) == (studies, space)
    assert found.api_url == found.origin + "/api"


@pytest.mark.parametrize(
    "url",
    [
        *("", "h:1", "AE@host:104", "ftp://h", "file:///x", "http://", "http://:80", "http://h:0"),
        *("http://h:x", "http://h:70000", "http://[::1", "http://h/?x=1", "http://h/#x"),
        "http://a b/",
    ],
)
def test_what_is_no_destination_is_told_what_is(url):
    with pytest.raises(ValueError, match="http://HOST:PORT or the URL of a DICOMweb root"):
        Destination.parse(url)


def test_requests_are_bounded_and_lanes_are_not_divided(tmp_path: Path):
    def lane(*sizes: int) -> list[DicomFile]:
        return [DicomFile(tmp_path / "x", size, 0, "1") for size in sizes]

    half = BYTES_PER_REQUEST // 2
    waiting = [lane(half), lane(half), lane(1), lane(*[1] * 30), lane(BYTES_PER_REQUEST * 3)]
    assert [[file.size for file in batch] for batch in batches_of(waiting)] == [
        [half, half],
        [1],
        [1] * 30,
        [BYTES_PER_REQUEST * 3],
    ]
    assert [len(batch) for batch in batches_of([lane(1)] * 45)] == [20, 20, 5]
    assert list(batches_of([])) == []


async def test_files_arrive_as_they_are(tmp_path: Path):
    arrived: list[bytes] = []

    async def store(request: Request) -> Response:
        parts = await parts_of(request)
        arrived.extend(parts)
        return stored(uids_of(parts))

    sizes = (1, 2, 99, 1 << 18, (1 << 18) + 1, 1 << 20)
    files = [dicom_file(tmp_path, f"f{n}", size) for n, size in enumerate(sizes, 10)]
    async with serving(store) as server:
        await send(server, files, concurrency=3)
    assert sorted(arrived) == sorted(file.path.read_bytes() for file in files)


async def test_nobody_there_is_told_at_once(tmp_path: Path):
    async with serving(store_all) as server:
        url = server.url
    with pytest.raises(UnreachableError, match="Cannot connect"):
        await send(url, [dicom_file(tmp_path, "f1")])


async def test_something_that_speaks_no_http_is_told(tmp_path: Path):
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"220 smtp here\r\n")
        writer.close()

    listener = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with listener:
        host, port = listener.sockets[0].getsockname()
        with pytest.raises(UnreachableError):
            await send(f"http://{host}:{port}", [dicom_file(tmp_path, "f1")])


async def test_a_redirection_is_not_followed_and_ends_it(tmp_path: Path):
    async def redirect(_request: Request) -> Response:
        return RedirectResponse("https://elsewhere/studies", 301)

    files = [dicom_file(tmp_path, f"f{n}", uid=f"1.{n}") for n in range(50)]
    async with serving(redirect) as server:
        reports = await send(server, files, concurrency=2)
    assert {one.state for one in reports.values()} == {State.FAILED}
    assert {one.reason for one in reports.values()} == {
        "HTTP 301: the server says to use https://elsewhere/studies"
    }
    assert server.requests <= 2


@pytest.mark.parametrize("status", [401, 403, 404, 405, 415])
async def test_what_every_request_would_get_ends_it(tmp_path: Path, status: int):
    async def refuse(request: Request) -> Response:
        await request.body()
        return JSONResponse({"detail": "not so"}, status)

    files = [dicom_file(tmp_path, f"f{n}", uid=f"1.{n}") for n in range(50)]
    async with serving(refuse) as server:
        reports = await send(server, files)
    assert {one.reason for one in reports.values()} == {f"HTTP {status}: not so"}
    assert server.requests == 1


async def test_a_request_that_is_refused_is_sent_file_by_file(tmp_path: Path):
    async def store(request: Request) -> Response:
        body = await request.body()
        if len(body) > 1000:
            return JSONResponse({"detail": "too much"}, 413)
        return stored(uids_of(await parts_of(request)))

    files = [dicom_file(tmp_path, f"f{n}", 400) for n in range(3)] + [
        dicom_file(tmp_path, "big", 2000)
    ]
    async with serving(store) as server:
        reports = await send(server, files)
    assert states(reports) == {"big": "failed", "f0": "stored", "f1": "stored", "f2": "stored"}
    assert reports["big"].reason == "HTTP 413: too much"


async def test_a_busy_server_is_asked_again(tmp_path: Path):
    async def store(request: Request) -> Response:
        parts = await parts_of(request)
        if server.requests < 3:
            return Response(status_code=503)
        return stored(uids_of(parts))

    async with serving(store) as server:
        reports = await send(server, [dicom_file(tmp_path, "f1"), dicom_file(tmp_path, "f2")])
    assert states(reports) == {"f1": "stored", "f2": "stored"}
    assert server.requests == 3


async def test_a_server_that_stays_busy_is_told_in_its_words(tmp_path: Path):
    async def refuse(request: Request) -> Response:
        await request.body()
        return JSONResponse({"detail": "disk full"}, 503)

    async with serving(refuse) as server:
        reports = await send(server, [dicom_file(tmp_path, "f1")])
    assert reports["f1"].reason == "HTTP 503: disk full"


async def test_what_an_unheard_try_stored_is_stored(tmp_path: Path):
    async def store(request: Request) -> Response:
        parts = await parts_of(request)
        if server.requests == 1:
            return Response(status_code=502)  # a proxy lost the answer
        return stored(uids_of(parts), result="UNCHANGED")

    async with serving(store, ours=True) as server:
        reports = await send(server, [dicom_file(tmp_path, "f1")])
    assert states(reports) == {"f1": "stored"}


async def test_one_file_that_breaks_the_connection_does_not_harm_the_others(tmp_path: Path):
    async def store(request: Request) -> Response:
        parts = await parts_of(request)
        if any(part.startswith(b"xx") for part in parts):
            raise RuntimeError("this part is my end")
        return stored(uids_of(parts))

    files = [dicom_file(tmp_path, name) for name in ("f1", "xx", "f2")]
    async with serving(store) as server:
        reports = await send(server, files)
    assert states(reports) == {"f1": "stored", "f2": "stored", "xx": "failed"}


async def test_a_file_that_grows_while_it_is_sent_fails_and_is_not_half_stored(tmp_path: Path):
    complete: list[list[str]] = []

    async def store(request: Request) -> Response:
        if server.requests == 1:
            with growing.path.open("ab") as file:
                file.write(b"more")
        try:
            parts = await parts_of(request)
        except ClientDisconnect:
            return Response(status_code=400)
        complete.append(uids_of(parts))
        return stored(uids_of(parts))

    growing = dicom_file(tmp_path, "gg", 16 << 20)
    files = [dicom_file(tmp_path, "f1"), growing, dicom_file(tmp_path, "f2")]
    async with serving(store) as server:
        reports = await send(server, files)
    assert states(reports) == {"f1": "stored", "f2": "stored", "gg": "failed"}
    assert reports["gg"].reason == "the file has changed while it was being sent"
    assert complete == [["1.f1", "1.f2"]]


async def test_files_that_went_away_or_shrank_fail_alone(tmp_path: Path):
    files = [dicom_file(tmp_path, name) for name in ("f1", "aa", "bb", "f2")]
    files[1].path.unlink()
    files[2].path.write_bytes(b"short")
    async with serving(store_all, ours=True) as server:
        reports = await send(server, files)
    assert states(reports) == {"aa": "failed", "bb": "failed", "f1": "stored", "f2": "stored"}
    assert reports["aa"].reason == "No such file or directory"
    assert reports["bb"].reason == "the file has changed while it was being sent"


async def test_a_length_that_our_server_refuses_is_not_sent(tmp_path: Path):
    async def refuse(request: Request) -> Response:
        if int(request.headers["content-length"]) < 1000:
            return stored(uids_of(await parts_of(request)))
        return JSONResponse({"detail": "too long"}, 413)

    big = dicom_file(tmp_path, "bb", BYTES_PER_REQUEST + 1)
    async with serving(refuse, ours=True) as server:
        reports = await send(server, [big, dicom_file(tmp_path, "f1")])
    assert states(reports) == {"bb": "failed", "f1": "stored"}
    assert reports["bb"].reason == "HTTP 413: too long"


def described(file: DicomFile) -> dict[str, str]:
    digest = hashlib.sha256(file.path.read_bytes()).hexdigest()
    return {"sop_instance_uid": str(file.sop_instance_uid), "sha256": digest}


async def test_what_our_server_has_is_not_sent_nor_what_it_replaced(tmp_path: Path):
    sent: list[str] = []

    async def store(request: Request) -> Response:
        uids = uids_of(await parts_of(request))
        sent.extend(uids)
        return stored(uids)

    same = [dicom_file(tmp_path, name, uid="1.1") for name in ("a1", "a2", "a3")]
    other = dicom_file(tmp_path, "b1")
    files = [*same, other, dicom_file(tmp_path, "c1")]
    async with serving(store, ours=True) as server:
        server.known = [described(same[1]), described(other)]
        reports = await send(server, files)
        assert sorted(sent) == ["1.a3", "1.c1"]
        there = {name for name, one in reports.items() if one.state is State.ALREADY_THERE}
        assert there == {"a1", "a2", "b1"}
        assert reports["a1"].reason == "replaced by a2, of the same SOP Instance UID"
        assert reports["a2"].reason is None
        sent.clear()
        await send(server, files, force=True)
    assert sorted(sent) == ["1.a1", "1.a2", "1.a3", "1.b1", "1.c1"]


async def test_a_uid_that_is_none_does_not_keep_the_others_from_being_asked_for(tmp_path: Path):
    there = dicom_file(tmp_path, "a1")
    files = [there, dicom_file(tmp_path, "b1", uid="1" * 65), dicom_file(tmp_path, "c1", uid="\0")]
    async with serving(store_all, ours=True) as server:
        server.known = [described(there)]
        reports = await send(server, files)
    assert reports["a1"].state is State.ALREADY_THERE


async def test_files_of_one_instance_are_sent_in_their_order(tmp_path: Path):
    sent: list[str] = []

    async def store(request: Request) -> Response:
        uids = uids_of(await parts_of(request))
        sent.extend(uids)
        return stored(uids)

    files = [dicom_file(tmp_path, f"{n:02}", uid="1.1") for n in range(30)]
    async with serving(store) as server:
        await send(server, files, concurrency=8)
    assert sent == [f"1.{n:02}" for n in range(30)]


async def test_the_token_goes_with_every_request(tmp_path: Path):
    seen: list[str | None] = []

    async def store(request: Request) -> Response:
        seen.append(request.headers.get("authorization"))
        return await store_all(request)

    reports: list[Sent] = []
    async with serving(store) as server:
        client = StowClient(Destination.parse(server.url), concurrency=1, token="abc")
        async with client:
            await client.send([dicom_file(tmp_path, "f1")], reports.append)
    assert seen == ["Bearer abc"]
    assert json.dumps([one.reason for one in reports]) == "[null]"
