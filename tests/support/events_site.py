"""A site in this process to which events are POSTed, and what other writers would tell it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from instances import multipart
from site_documents import plan

from imaging_ingestion.site import running_site

#: The attributes that each of these events has, but its type.
FOREIGN = {"specversion": "1.0", "source": "imaging-ingestion-stow", "time": "2022-01-01T00:00:00Z"}


@dataclass
class EventsAnswer:
    """What `/events` answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def context(self) -> dict[str, str]:
        """The context attributes of the event that it is, in binary mode."""
        return {
            name.lower().removeprefix("ce-"): value
            for name, value in self.headers.items()
            if name.lower().startswith("ce-")
        }


@dataclass
class EventsSite:
    """The site."""

    url: str
    data: Path
    client: aiohttp.ClientSession

    async def post(
        self, headers: Mapping[str, str], body: bytes = b"", path: str = "/events"
    ) -> EventsAnswer:
        """POST what may be an event."""
        async with self.client.post(self.url + path, headers=headers, data=body) as answer:
            return EventsAnswer(answer.status, dict(answer.headers), await answer.read())

    async def send(
        self, event_type: str, data: object, path: str = "/events", **attributes: str
    ) -> EventsAnswer:
        """POST an event of another writer, in binary mode."""
        told = {"id": "1", **FOREIGN, "type": event_type, **attributes}
        headers = {f"ce-{name}": value for name, value in told.items()}
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        return await self.post({**headers, "Content-Type": "application/json"}, body, path)

    async def store(self, *instances: bytes) -> None:
        """STOW instances into the default space."""
        body, content_type = multipart(instances)
        headers = {"Content-Type": content_type}
        async with self.client.post(
            f"{self.url}/dicom-web/studies", headers=headers, data=body
        ) as answer:
            assert answer.status == 200, await answer.text()

    async def get(self, path: str) -> Any:
        """The JSON of a resource; None if it is not there."""
        async with self.client.get(self.url + path) as answer:
            return await answer.json(content_type=None) if answer.status == 200 else None

    async def log(self, *kinds: str, path: str = "/api/changes") -> list[dict[str, Any]]:
        """The entries of the log."""
        entries = (await self.get(path))["changes"]
        return [entry for entry in entries if not kinds or entry["kind"] in kinds]


def image_stored(
    bucket: str, name: str, *elements: tuple[str, str, str, str], provider: str = "provider"
) -> dict[str, Any]:
    """The data of an ImageStoredEvent as upstream's STOW service publishes it."""
    return {
        "image": {
            "transferSyntaxUID": "1.2.840.10008.1.2.1",
            "elements": [
                {"group": group, "element": element, "vr": vr, "value": value}
                for group, element, vr, value in elements
            ],
        },
        "store": {
            "provider": provider,
            "bucketName": bucket,
            "objectName": name,
            "wadoInternalEndpoint": "http://wado-internal/wado-rs",
            "wadoExternalEndpoint": "http://wado-external/wado-rs",
        },
    }


@asynccontextmanager
async def events_site(folder: Path, *documents: str) -> AsyncIterator[EventsSite]:
    """Run a site of these documents."""
    async with (
        running_site(plan(*documents), data=folder / "data", host="127.0.0.1", http_port=0) as site,
        aiohttp.ClientSession() as client,
    ):
        yield EventsSite(f"http://127.0.0.1:{site.http_port}", folder / "data", client)
