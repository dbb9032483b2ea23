"""One real space served over real HTTP, for tests of QIDO-RS and WADO-RS."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import aiohttp
import msgspec
from multidict import CIMultiDict, CIMultiDictProxy
from starlette.applications import Starlette
from starlette.routing import Mount
from yarl import URL

from imaging_ingestion.brokers.embedded import BrokerSettings, EmbeddedBroker
from imaging_ingestion.dicomweb.app import create_dicomweb
from imaging_ingestion.dicomweb.service import DicomwebService, DicomwebSettings
from imaging_ingestion.http_server import HttpServer
from imaging_ingestion.intake import Intake, IntakeRefused, Received
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.deletion import delete_instances
from imaging_ingestion.manifest.event_data import SpaceRoots
from imaging_ingestion.manifest.migrate import migrate
from imaging_ingestion.storage.directory import DirectorySpace

INSTANCE = "/studies/{0}/series/{1}/instances/{2}"
AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'


@dataclass
class Part:
    """One part of a multipart answer."""

    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """A whole answer."""

    status: int
    headers: CIMultiDictProxy[str] | CIMultiDict[str]
    body: bytes

    @property
    def json(self) -> Any:
        """Its body, as JSON; nothing (204) is an empty list."""
        return msgspec.json.decode(self.body) if self.body else []

    @property
    def detail(self) -> str:
        """What a problem document says, and that it is one (RFC 9457)."""
        assert self.headers["Content-Type"] == "application/problem+json", self.headers
        problem = self.json
        assert problem["status"] == self.status
        assert problem["title"]
        return str(problem["detail"])

    @property
    def warnings(self) -> list[str]:
        """The Warning headers' texts, each checked to begin as PS3.18 8.3.4 has it."""
        found = []
        for header in self.headers.getall("Warning", []):
            form = re.fullmatch(r"299 (https?://\S+): (.+)", header)
            assert form is not None, header
            found.append(form[2])
        return found

    @property
    def parts(self) -> list[Part]:
        """Its parts, taken apart by the boundary, strictly (RFC 2046 5.1.1)."""
        content_type = self.headers["Content-Type"]
        found = re.fullmatch(
            r'multipart/related; type="[^";]+"; boundary=([0-9a-f]+)', content_type
        )
        assert found is not None, content_type
        boundary = found[1].encode()
        assert self.body.startswith(b"--" + boundary + b"\r\n")
        assert self.body.endswith(b"\r\n--" + boundary + b"--\r\n")
        inner = self.body[: -len(boundary) - 8]
        parts = []
        for text in (b"\r\n" + inner).split(b"\r\n--" + boundary + b"\r\n")[1:]:
            head, _, body = text.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            assert int(headers["Content-Length"]) == len(body)
            parts.append(Part(headers, body))
        return parts

    @property
    def documents(self) -> list[ElementTree.Element]:
        """Its parts as XML, which is to be well-formed."""
        return [ElementTree.fromstring(part.body) for part in self.parts]


@dataclass
class RetrieveSite:
    """A space named `default` at `url`, its DICOMweb root."""

    url: str
    client: aiohttp.ClientSession
    service: DicomwebService
    space: DirectorySpace
    database: Database

    async def store(self, data: bytes) -> Received:
        """Take an instance in as every other would be."""
        reception = self.service.intake.receive(source="test", provider="test")
        try:
            await reception.write(data)
            return await reception.finish()
        except IntakeRefused:
            await reception.abort()
            raise

    async def store_file(self, path: Path) -> Received:
        """Take a file in."""
        return await self.store(await asyncio.to_thread(path.read_bytes))

    async def store_all(self, instances: Iterable[bytes]) -> list[Received]:
        """Take instances in, many at a time, in no order."""
        window = asyncio.Semaphore(32)

        async def one(data: bytes) -> Received:
            async with window:
                return await self.store(data)

        return list(await asyncio.gather(*map(one, instances)))

    async def delete(self, study: str, series: str | None = None, sop: str | None = None) -> int:
        """Delete as the platform would; how many instances."""
        now = time.time_ns() // 1000
        return await self.database.write(
            delete_instances, "default", study, series, sop, now, 30_000_000
        )

    async def get(
        self, path: str, accept: str | None = None, method: str = "GET", **headers: str
    ) -> Answer:
        """GET a resource below the DICOMweb root, or an absolute URL, as it is.

        Header names have `_` for `-`. Without `accept` no Accept header is sent.
        """
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if accept is not None:
            sent["Accept"] = accept
        url = URL(path if path.startswith("http") else self.url + path, encoded=True)
        async with self.client.request(
            method, url, headers=sent, skip_auto_headers=("Accept",)
        ) as answer:
            return Answer(answer.status, answer.headers.copy(), await answer.read())

    async def search(self, path: str, accept: str | None = None) -> list[dict[str, Any]]:
        """The results of a search that is to succeed."""
        answer = await self.get(path, accept)
        assert answer.status in {200, 204}, (answer.status, answer.body)
        found: list[dict[str, Any]] = answer.json
        return found


def resource_of(received: Received) -> str:
    """The resource of an instance, below the DICOMweb root."""
    return INSTANCE.format(
        received.study_instance_uid, received.series_instance_uid, received.sop_instance_uid
    )


@asynccontextmanager
async def retrieve_site(
    folder: Path,
    *,
    database_url: str | None = None,
    settings: DicomwebSettings | None = None,
) -> AsyncIterator[RetrieveSite]:
    """A fresh space in `folder`, stopped at the end. By default its database is a file there."""
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
        ),
    )
    intake = Intake(space, broker)
    service = DicomwebService(
        "default", space, database, intake, settings=settings or DicomwebSettings()
    )
    application = Starlette(routes=[Mount("/dicom-web", create_dicomweb(service))])
    server = HttpServer(application, "127.0.0.1", 0)
    await server.start()
    try:
        async with aiohttp.ClientSession(auto_decompress=False) as client:
            url = f"http://127.0.0.1:{server.port}/dicom-web"
            yield RetrieveSite(url, client, service, space, database)
    finally:
        await server.stop()
        await intake.close()
        await broker.stop()
        await space.close()
        await database.close()
