"""Tells the other side that a process of ours has ended, when it could not do so itself."""

from __future__ import annotations

import asyncio

from imaging_ingestion.nats_client.connection import NatsConnection
from imaging_ingestion.nats_client.settings import NatsSettings
from imaging_ingestion.tunnel.frame import NO_HALF, Frame, Kind, encode, introduce
from imaging_ingestion.tunnel.subjects import Subjects


class _Up:
    """A `Watcher` that waits for the connection."""

    def __init__(self) -> None:
        self.is_up = asyncio.Event()

    def link_is_up(self) -> None:
        self.is_up.set()

    def link_is_down(self) -> None:
        pass

    def link_dropped(self) -> None:
        pass


async def tell_gone(
    nats: NatsSettings, subjects: Subjects, process_id: bytes, *, timeout: float = 10.0
) -> bool:
    """Whether it could be told within `timeout` seconds. Raises SettingsError."""
    connection = NatsConnection(nats, "obituary", subjects.inbox)
    watcher = _Up()
    connection.watcher = watcher
    connection.start()
    try:
        async with asyncio.timeout(timeout):
            await watcher.is_up.wait()
            return await connection.publish(subjects.other.gone, _gone(process_id))
    except TimeoutError:
        return False
    finally:
        await connection.close()


def _gone(process_id: bytes) -> bytes:
    return encode(Frame(Kind.GONE, NO_HALF + NO_HALF, payload=introduce(process_id, "")))
