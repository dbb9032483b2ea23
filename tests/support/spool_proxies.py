"""Proxies that keep instances, instances for them, and a look at what they keep."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage_peers import Collector

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.connect import ConnectSettings, connect
from imaging_ingestion.dimse.command import CStoreRequest, Response
from imaging_ingestion.dimse.requestor import Proposal
from imaging_ingestion.tunnel.spool.settings import SpoolSettings

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
ROOT = "1.2.826.0.1.3680043.8.498"


def spooling(folder: Path, **values: str) -> dict[str, str]:
    """The settings of a proxy that keeps instances in a folder."""
    return {
        "DIMSE_PROXY_MODE": "spool",
        "DIMSE_SPOOL_DIRECTORY": str(folder),
        "DIMSE_SPOOL_MIN_FREE": "0",
        **values,
    }


@dataclass(frozen=True)
class Made:
    """An instance of a number in a study of a number; `content` makes its bytes differ."""

    study: int
    number: int
    size: int = 2000
    content: int = 0

    @property
    def study_uid(self) -> str:
        return f"{ROOT}.{self.study}"

    @property
    def uid(self) -> str:
        return f"{self.study_uid}.1.{self.number}"

    @property
    def data_set(self) -> bytes:
        """Explicit VR little endian."""
        body = bytes((self.content + self.number) % 256 for _ in range(8)) * (self.size // 8)
        return b"".join(
            (
                _element(0x0008, 0x0016, b"UI", _padded(CT)),
                _element(0x0008, 0x0018, b"UI", _padded(self.uid)),
                _element(0x0020, 0x000D, b"UI", _padded(self.study_uid)),
                _element(0x0020, 0x000E, b"UI", _padded(f"{self.study_uid}.1")),
                _element(0x7FE0, 0x0010, b"OB", body),
            )
        )


def _padded(uid: str) -> bytes:
    data = uid.encode()
    return data + bytes(len(data) % 2)


def _element(group: int, element: int, vr: bytes, value: bytes) -> bytes:
    head = group.to_bytes(2, "little") + element.to_bytes(2, "little") + vr
    if vr == b"OB":
        return head + b"\0\0" + len(value).to_bytes(4, "little") + value
    return head + len(value).to_bytes(2, "little") + value


def made(study: int, numbers: Iterable[int], **how: int) -> list[Made]:
    """Instances of one study."""
    return [Made(study, number, **how) for number in numbers]


@asynccontextmanager
async def scanner(
    port: int,
    *more: Proposal,
    called: str = "ARCHIVE",
    calling: str = "SCANNER",
    settings: ConnectSettings | None = None,
) -> AsyncIterator[Association]:
    """An association for CT images, and whatever else is proposed; released in the end."""
    association = await connect(
        "127.0.0.1",
        port,
        [Proposal(CT, (EXPLICIT,)), *more],
        called_ae_title=called,
        calling_ae_title=calling,
        settings=settings,
    )
    try:
        yield association
    finally:
        if association.is_open:
            await association.release()


async def send(
    association: Association, one: Made, *, originator: tuple[str, int] | None = None
) -> Response:
    """Store an instance; the answer."""
    context = association.agreement.context_for(CT)
    assert context is not None
    request = CStoreRequest(
        message_id=0,
        affected_sop_class_uid=CT,
        affected_sop_instance_uid=one.uid,
        move_originator_application_entity_title=originator[0] if originator else None,
        move_originator_message_id=originator[1] if originator else None,
    )
    async for answer in association.request(context.context_id, request, one.data_set):
        return answer.response
    raise AssertionError("there is one answer")


async def send_all(port: int, instances: Sequence[Made], **how: Any) -> None:
    """Store instances, one after the other; each is taken."""
    async with scanner(port, **how) as association:
        for one in instances:
            response = await send(association, one)
            assert response.status == 0, f"{response.status:04X} {response.error_comment}"


def arrived(target: Collector) -> dict[str, bytes]:
    """The data sets that came, by their UIDs."""
    return {one.request.affected_sop_instance_uid: one.data_set for one in target.arrived}


def wanted(instances: Iterable[Made]) -> dict[str, bytes]:
    """What is to arrive."""
    return {one.uid: one.data_set for one in instances}


@dataclass(frozen=True)
class Kept:
    """What a spool's database says. `ledger`: state and answer by event id, in order."""

    instances: int
    states: dict[str, int]
    ledger: list[tuple[str, str, str | None, int]]
    objects: int


def kept(folder: Path) -> Kept:
    """What a spool has now."""
    settings = SpoolSettings(folder)
    with closing(sqlite3.connect(settings.database)) as connection:
        instances = connection.execute("SELECT count(*) FROM instance").fetchone()[0]
        states = dict(
            connection.execute("SELECT state, count(*) FROM delivery GROUP BY state").fetchall()
        )
        ledger = connection.execute(
            "SELECT event_id, state, answer, attempts FROM delivery ORDER BY seq"
        ).fetchall()
    objects = sum(1 for path in settings.objects.rglob("*.dcm"))
    return Kept(instances, states, ledger, objects)


def is_empty(folder: Path) -> bool:
    """Whether nothing waits, and nothing is left of what went."""
    found = kept(folder)
    return not found.instances and not found.objects and "pending" not in found.states
