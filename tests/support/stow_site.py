"""One real space served over real HTTP, for tests of STOW-RS, and raw connections to it."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import sqlalchemy as sa
from instances import multipart
from multidict import CIMultiDict
from removals import remove_unneeded
from retrieve_site import Answer, RetrieveSite
from starlette.applications import Starlette
from starlette.routing import Mount

from imaging_ingestion.brokers.embedded import BrokerSettings, EmbeddedBroker
from imaging_ingestion.dicomweb.app import create_dicomweb
from imaging_ingestion.dicomweb.service import DicomwebService, DicomwebSettings
from imaging_ingestion.events.broker import Handler, Subscription
from imaging_ingestion.http_server import HttpServer
from imaging_ingestion.intake import Intake, IntakeSettings
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.event_data import SpaceRoots
from imaging_ingestion.manifest.migrate import migrate
from imaging_ingestion.manifest.schema import instance, study
from imaging_ingestion.storage.directory import DirectorySpace
from imaging_ingestion.storage.space import Space

Bindings = Callable[[Database, Mapping[str, Space]], Iterable[tuple[Subscription, Handler]]]

JSON = "application/dicom+json"
DEADLINE = 30.0  # seconds that a test waits for what is to happen


@dataclass
class StoreResponse:
    """A Store Instances Response (PS3.18 annex I), each item by what it is about."""

    status: int
    headers: Mapping[str, str]
    dataset: dict[str, Any]

    @property
    def stored(self) -> list[dict[str, Any]]:
        """The Referenced SOP Sequence."""
        return self._items("00081199")

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The Failed SOP Sequence."""
        return self._items("00081198")

    @property
    def others(self) -> list[dict[str, Any]]:
        """The Other Failures Sequence."""
        return self._items("0008119A")

    @property
    def stored_uids(self) -> list[str]:
        """The SOP Instance UIDs stored, in the order of the parts."""
        return [value(item, "00081155") for item in self.stored]

    @property
    def failures(self) -> dict[int, tuple[int, str]]:
        """Failure Reason and explanation by the number of the part."""
        return {
            value(item, "00091003"): (value(item, "00081197"), value(item, "00091002"))
            for item in [*self.failed, *self.others]
        }

    def _items(self, tag: str) -> list[dict[str, Any]]:
        return list(self.dataset.get(tag, {}).get("Value", []))


def value(item: Mapping[str, Any], tag: str) -> Any:
    """The one value of an attribute; None without."""
    values = item.get(tag, {}).get("Value", [None])
    assert len(values) == 1, (tag, values)
    return values[0]


@dataclass
class StowSite(RetrieveSite):
    """A space named `default` at `url`, and what is really in it."""

    application: Starlette

    @property
    def root(self) -> Path:
        """The space's folder."""
        return self.space.root

    async def post(
        self,
        body: bytes | AsyncIterator[bytes],
        content_type: str | None,
        path: str = "/studies",
        **headers: str,
    ) -> Answer:
        """POST a body; header names have `_` for `-`."""
        sent = {name.replace("_", "-"): text for name, text in headers.items()}
        if content_type is not None:
            sent["Content-Type"] = content_type
        async with self.client.post(
            self.url + path, data=body, headers=sent, skip_auto_headers=("Content-Type",)
        ) as answer:
            return Answer(answer.status, answer.headers.copy(), await answer.read())

    async def send(self, *parts: bytes, path: str = "/studies", **headers: str) -> StoreResponse:
        """Store parts in one request, which is to be answered with a store response."""
        body, content_type = multipart(parts)
        answer = await self.post(body, content_type, path, **{"Accept": JSON} | headers)
        return store_response_of(answer)

    async def objects(self) -> list[str]:
        """The names of all objects in the space, but those that are to go."""
        await remove_unneeded(self.database, self.space)
        return sorted([name async for name in self.space.names()])

    def left_over(self) -> list[Path]:
        """Files that are no objects: of instances under way."""
        return [path for path in (self.root / ".incoming").rglob("*") if path.is_file()]

    def open_files(self) -> list[str]:
        """Files in the space's folder that this process has open, its locks apart."""
        found = []
        for entry in Path("/proc/self/fd").iterdir():
            try:
                target = os.readlink(entry)
            except FileNotFoundError:  # closed meanwhile
                continue
            if target.startswith(str(self.root)) and os.path.isfile(target):
                found.append(target)
        return found

    async def recorded(self) -> dict[str, sa.Row[Any]]:
        """The live instances of the manifest by SOP Instance UID."""

        def rows(connection: sa.Connection) -> dict[str, sa.Row[Any]]:
            statement = sa.select(instance).where(instance.c.deleted_at.is_(None))
            return {row.sop_instance_uid: row for row in connection.execute(statement)}

        return await self.database.read(rows)

    async def counts(self) -> dict[str, int]:
        """Number of instances by Study Instance UID, as the manifest has it."""

        def rows(connection: sa.Connection) -> dict[str, int]:
            columns = (study.c.study_instance_uid, study.c.number_of_instances)
            return {row[0]: row[1] for row in connection.execute(sa.select(*columns))}

        return await self.database.read(rows)

    async def assert_holds(self, *sop_instance_uids: str) -> None:
        """The space and the manifest have these instances, and not a byte of any other."""
        rows = await self.recorded()
        assert sorted(rows) == sorted(sop_instance_uids)
        assert await self.objects() == sorted(row.object_name for row in rows.values())
        await until(lambda: not self.left_over(), "nothing is left of what was not stored")
        await until(lambda: not self.open_files(), "no file stays open")
        assert self.space.gathered == 0

    async def fetch(self, study_uid: str, series_uid: str, sop_uid: str) -> bytes:
        """An instance as it was stored, over WADO-RS."""
        answer = await self.get(
            f"/studies/{study_uid}/series/{series_uid}/instances/{sop_uid}",
            "application/dicom; transfer-syntax=*",
        )
        assert answer.status == 200, answer.body
        return answer.body

    async def assert_serves(self, data: bytes) -> None:
        """The server still stores, and what it stored comes back."""
        response = await self.send(data)
        assert response.status == 200, response.dataset
        url = value(response.stored[0], "00081190")
        answer = await self.get(url, "application/dicom; transfer-syntax=*")
        assert (answer.status, answer.body) == (200, data)


def store_response_of(answer: Answer) -> StoreResponse:
    """Read a store response; the test fails if it is none."""
    assert answer.headers["Content-Type"] == JSON, (answer.status, answer.body)
    return StoreResponse(answer.status, answer.headers, msgspec.json.decode(answer.body))


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait for something that happens elsewhere; the test fails if it does not."""
    deadline = time.monotonic() + DEADLINE
    while True:
        holds = condition()
        if not isinstance(holds, bool):
            holds = await holds
        if holds:
            return
        assert time.monotonic() < deadline, f"not within {DEADLINE:.0f} s: {what}"
        await asyncio.sleep(0.01)


class RawConnection:
    """A TCP connection on which a test may say anything."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, *pieces: bytes) -> None:
        """Send bytes; does not mind if the server has closed."""
        try:
            for piece in pieces:
                self._writer.write(piece)
                await self._writer.drain()
        except ConnectionError:
            return

    async def answer(self) -> Answer:
        """Read one HTTP/1.1 answer with its body. Raises IncompleteReadError if there is none."""
        async with asyncio.timeout(DEADLINE):
            head = await self._reader.readuntil(b"\r\n\r\n")
            first, *lines = head[:-4].decode("latin-1").split("\r\n")
            found = re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", first)
            assert found is not None, first
            headers = CIMultiDict(line.split(": ", 1) for line in lines)
            if headers.get("Transfer-Encoding") == "chunked":
                body = await self._chunks()
            else:
                body = await self._reader.readexactly(int(headers.get("Content-Length", "0")))
            return Answer(int(found[1]), headers, body)

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        async with asyncio.timeout(DEADLINE):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    def close(self, *, hard: bool = False) -> None:
        """Close; `hard` with a reset, as a cable that is cut looks to the server."""
        if hard:
            self._writer.transport.abort()
        else:
            self._writer.close()

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self._reader.readline(), 16):
            body += await self._reader.readexactly(size)
            await self._reader.readexactly(2)
        await self._reader.readexactly(2)
        return body


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[RawConnection]:
    """A raw connection to a loopback port."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield RawConnection(reader, writer)
    finally:
        writer.transport.abort()


def head(path: str = "/dicom-web/studies", **headers: str) -> bytes:
    """The head of a POST request; header names have `_` for `-`."""
    lines = [f"POST {path} HTTP/1.1", "Host: test"]
    lines += [f"{name.replace('_', '-')}: {text}" for name, text in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunked(*pieces: bytes) -> bytes:
    """A body in chunked transfer coding, a chunk for each piece."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@asynccontextmanager
async def stow_site(
    folder: Path,
    *,
    settings: DicomwebSettings | None = None,
    intake: IntakeSettings | None = None,
    database_url: str | None = None,
    bindings: Bindings | None = None,
) -> AsyncIterator[StowSite]:
    """A fresh space in `folder`, stopped at the end. By default its database is a file there.

    `bindings` makes subscriptions with their handlers; what fails is tried again soon.
    """
    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    database = open_database(database_url or f"sqlite:///{folder / 'manifest.db'}")
    await migrate(database)
    space = DirectorySpace("default", folder / "space")
    broker = EmbeddedBroker(
        database,
        BrokerSettings(
            core="test",
            revisioning_delay=timedelta(seconds=30),
            roots_of=lambda _space: SpaceRoots(
                "http://127.0.0.1/dicom-web", "http://127.0.0.1/dicom-web"
            ),
            api_url="http://127.0.0.1/api",
            poll=timedelta(milliseconds=100),
        ),
    )
    for subscription, handler in bindings(database, {"default": space}) if bindings else ():
        broker.subscribe(subscription, handler)
    await broker.start()
    taking = Intake(space, broker, intake)
    service = DicomwebService(
        "default", space, database, taking, "test", settings or DicomwebSettings()
    )
    application = Starlette(routes=[Mount("/dicom-web", create_dicomweb(service))])
    server = HttpServer(application, "127.0.0.1", 0)
    await server.start()
    try:
        async with aiohttp.ClientSession(auto_decompress=False) as client:
            url = f"http://127.0.0.1:{server.port}/dicom-web"
            yield StowSite(url, client, service, space, database, application)
    finally:
        await server.stop()
        await taking.close()
        await broker.stop()
        await space.close()
        await database.close()
