"""One real space served over real HTTP, for tests of WADO-RS: database, intake, space, server."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from imaging_ingestion.brokers.embedded import BrokerSettings, EmbeddedBroker
from imaging_ingestion.dicomweb.problem import HttpProblemError, answer_problem
from imaging_ingestion.dicomweb.service import DicomwebService
from imaging_ingestion.dicomweb.wado import Wado
from imaging_ingestion.http_server import HttpServer
from imaging_ingestion.intake import Intake, Received
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.migrate import migrate
from imaging_ingestion.storage.directory import DirectorySpace


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
        await reception.write(data)
        return await reception.finish()

    async def store_file(self, path: Path) -> Received:
        """Take a file in."""
        return await self.store(path.read_bytes())

    async def get(
        self, path: str, accept: str | None = None, method: str = "GET", **headers: str
    ) -> Answer:
        """GET a resource below the DICOMweb root; header names have `_` for `-`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if accept is not None:
            sent["Accept"] = accept
        async with self.client.request(method, self.url + path, headers=sent) as answer:
            return Answer(answer.status, answer.headers.copy(), await answer.read())


@dataclass
class Part:
    """One part of a multipart answer."""

    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def parts(self) -> list[Part]:
        """Its parts, taken apart by the boundary, strictly (RFC 2046 5.1.1)."""
        found = re.search(r"boundary=([0-9a-f]+)$", self.headers["Content-Type"])
        assert found is not None, self.headers["Content-Type"]
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


def _application(service: DicomwebService) -> Starlette:
    def route(path: str, handler: object) -> Route:
        async def answer(request: Request) -> Response:
            return await handler(request)  # type: ignore[operator]

        return Route(path, answer, methods=["GET", "HEAD"])

    routes = [route(path, handler) for path, handler in Wado(service).handlers()]
    return Starlette(
        routes=[
            Mount(
                "/dicom-web",
                Starlette(routes=routes, exception_handlers={HttpProblemError: answer_problem}),
            )
        ]
    )


@asynccontextmanager
async def retrieve_site(folder: Path) -> AsyncIterator[RetrieveSite]:
    """A fresh space in `folder`, stopped at the end."""
    database = open_database(f"sqlite:///{folder / 'manifest.db'}")
    await migrate(database)
    space = DirectorySpace("default", folder / "space")
    broker = EmbeddedBroker(
        database,
        BrokerSettings(
            core="test",
            revisioning_delay=timedelta(seconds=30),
            space_url=lambda _space: "http://127.0.0.1/dicom-web",
            api_url="http://127.0.0.1/api",
        ),
    )
    intake = Intake(space, broker)
    service = DicomwebService("default", space, database, intake)
    server = HttpServer(_application(service), "127.0.0.1", 0)
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
