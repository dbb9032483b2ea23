"""Our API over real HTTP, over a real broker and database, without the rest of a site."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from event_core import settings
from starlette.applications import Starlette
from starlette.routing import Mount

from imaging_ingestion.api.app import CoreHandle, create_api
from imaging_ingestion.brokers.embedded import EmbeddedBroker
from imaging_ingestion.http_server import HttpServer
from imaging_ingestion.manifest.database import Database


@dataclass
class ApiSite:
    """The API at `url`, mounted as a site mounts it."""

    url: str
    client: aiohttp.ClientSession
    databases: dict[str, Database]
    brokers: dict[str, EmbeddedBroker] = field(default_factory=dict)

    @property
    def database(self) -> Database:
        """The first core's database."""
        return next(iter(self.databases.values()))

    @property
    def broker(self) -> EmbeddedBroker:
        """The first core's broker."""
        return next(iter(self.brokers.values()))

    async def get(self, path: str, status: int = 200, **parameters: Any) -> Any:
        """The JSON of a resource."""
        return await self.ask("GET", path, status, params=parameters)

    async def post(self, path: str, body: object, status: int = 200, **parameters: Any) -> Any:
        """The JSON answer to a JSON body."""
        return await self.ask("POST", path, status, json=body, params=parameters)

    async def ask(self, method: str, path: str, status: int, **request: Any) -> Any:
        """The JSON of an answer, which has this status."""
        async with self.client.request(method, self.url + path, **request) as answer:
            text = await answer.text()
            assert answer.status == status, (answer.status, text)
            if status >= 400:
                assert answer.content_type == "application/problem+json"
            return await answer.json(content_type=None)

    async def pages(self, path: str, of: str, **parameters: Any) -> list[Any]:
        """Everything of a list that is read in pages."""
        found: list[Any] = []
        after: dict[str, Any] = {}
        while True:
            page = await self.get(path, **parameters, **after)
            found += page[of]
            if page["next"] is None:
                return found
            assert page[of]
            after = {"after": page["next"]}


@asynccontextmanager
async def api_site(**databases: Database) -> AsyncIterator[ApiSite]:
    """Serve cores of these names; each has the spaces `default` and `research`."""
    brokers = {name: EmbeddedBroker(one, settings(core=name)) for name, one in databases.items()}
    handles = {
        name: CoreHandle(
            name=name,
            database=database,
            broker=brokers[name],
            bindings=("declared",),
            spaces=("default", "research"),
            next_commit=brokers[name].next_commit,
            roots_of=settings().roots_of,
        )
        for name, database in databases.items()
    }
    api = create_api(handles)
    server = HttpServer(Starlette(routes=[Mount("/api", api)]), "127.0.0.1", 0)
    await server.start()
    async with aiohttp.ClientSession() as client:
        try:
            yield ApiSite(f"http://127.0.0.1:{server.port}/api", client, dict(databases), brokers)
        finally:  # as a site does it
            api.state.stopping.set()
            await server.stop()
            for broker in brokers.values():
                await broker.stop()
