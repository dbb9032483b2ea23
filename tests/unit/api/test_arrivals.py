"""The resource `/events` where something is wrong on our side, or with the connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from event_core import settings
from events_site import FOREIGN, image_stored

from imaging_ingestion.api import arrivals
from imaging_ingestion.api.arrivals import Arrivals, EventsEndpoint
from imaging_ingestion.brokers.embedded import EmbeddedBroker
from imaging_ingestion.brokers.log_inbox import LogInbox
from imaging_ingestion.http_server import HttpServer
from imaging_ingestion.intake.announced import AnnouncedInstances, AnnouncedSpace
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.event_data import SpaceRoots
from imaging_ingestion.storage.directory import DirectorySpace


@asynccontextmanager
async def endpoint(database: Database, folder: Path) -> AsyncIterator[int]:
    """The port where the events of a core with one space are taken."""
    broker = EmbeddedBroker(database, settings())
    space = DirectorySpace("default", folder / "space")
    instances = AnnouncedInstances(
        "core",
        database,
        broker,
        {"default": AnnouncedSpace(space)},
        lambda _: SpaceRoots("http://x", "http://x"),
    )
    taken = Arrivals(instances, LogInbox("core", database, broker), {})
    server = HttpServer(EventsEndpoint(taken), "127.0.0.1", 0)
    await server.start()
    try:
        yield server.port
    finally:
        await server.stop()
        await broker.stop()
        await space.close()


@pytest.mark.parametrize(
    ("event_type", "data"),
    [("SomethingEvent", {}), ("ImageStoredEvent", image_stored("default", "x"))],
)
async def test_while_the_database_is_away_the_sender_is_told_to_come_again(
    tmp_path: Path, event_type: str, data: object
) -> None:
    """E11."""
    database = open_database(f"postgresql://postgres@/x?host={tmp_path}")
    event = {"id": "1", **FOREIGN, "type": event_type, "data": data}
    try:
        async with (
            endpoint(database, tmp_path) as port,
            aiohttp.ClientSession() as client,
            client.post(
                f"http://127.0.0.1:{port}/events",
                data=json.dumps(event),
                headers={"Content-Type": "application/cloudevents+json"},
            ) as answer,
        ):
            assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
            assert answer.content_type == "application/problem+json"
            assert (await answer.json(content_type=None))[
                "detail"
            ] == "the database does not answer"
    finally:
        await database.close()


async def test_a_body_that_does_not_come_in_time_is_given_up(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "BODY_TIMEOUT", 0.2)
    async with endpoint(database, tmp_path) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n"
            b"Content-Type: application/cloudevents+json\r\n\r\n{"
        )
        assert (await reader.readline()).split()[1] == b"408"
        writer.close()
        await writer.wait_closed()


async def test_more_large_bodies_than_may_be_held_at_once_are_all_taken(
    database: Database, tmp_path: Path
) -> None:
    event = {"id": "1", **FOREIGN, "type": "SomethingEvent", "data": "x" * (2 << 20)}
    body = json.dumps(event).encode()

    async def post(client: aiohttp.ClientSession, port: int) -> int:
        headers = {"Content-Type": "application/cloudevents+json"}
        async with client.post(
            f"http://127.0.0.1:{port}/events", data=body, headers=headers
        ) as answer:
            return answer.status

    async with endpoint(database, tmp_path) as port, aiohttp.ClientSession() as client:
        found = await asyncio.gather(*(post(client, port) for _ in range(12)))
    assert set(found) == {202}
