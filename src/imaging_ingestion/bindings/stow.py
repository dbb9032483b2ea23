"""The instance binding to a STOW-RS target: every available instance is stored there too.

The object streams from its space into the request; nothing holds it whole. The instance that is
sent is the one the manifest has now: if it was replaced since the event, the new one goes, and the
event of the replacement then finds it there already. If it was deleted, nothing is to be delivered.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from imaging_ingestion.bindings.http_target import Answer, HttpTarget, classify
from imaging_ingestion.dicom.part10 import file_meta
from imaging_ingestion.events.broker import Delivered, RefusedError, TryAgainError
from imaging_ingestion.events.model import Event
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.retrieve import Instance, live_instance
from imaging_ingestion.storage.space import ObjectMissingError, ObjectReader, Space

#: Failure reasons that say "later": A7xx out of resources, 0110 processing failure.
_LATER = (0x0110,)
_REFERENCED_SOP_SEQUENCE = "00081199"
_FAILED_SOP_SEQUENCE = "00081198"
_OTHER_FAILURES_SEQUENCE = "0008119A"


class StowBinding:
    """Delivers instances to one STOW-RS endpoint."""

    def __init__(
        self,
        endpoint: str,
        target: HttpTarget,
        database: Database,
        spaces: Mapping[str, Space],
    ) -> None:
        """`endpoint` is the target's DICOMweb root or its /studies resource."""
        root = endpoint.rstrip("/")
        self._url = root if root.endswith("/studies") else f"{root}/studies"
        self._target = target
        self._database = database
        self._spaces = spaces

    async def deliver(self, event: Event) -> Delivered:
        """Store the instance of a DicomAvailableEvent. Raises TryAgainError, RefusedError."""
        found = await self._open(event)
        if found is None:
            return Delivered("gone: the instance was deleted before it could be delivered")
        stored, reader = found
        try:
            answer = await self._send(stored, reader, event)
        finally:
            await reader.close()
        return _judge(answer, stored.sop_instance_uid)

    async def _open(self, event: Event) -> tuple[Instance, ObjectReader] | None:
        space = self._spaces.get(event.space)
        if space is None:
            raise RefusedError(f"the space {event.space!r} is not part of this site any more")
        assert event.sop_instance_uid is not None
        # Replaced between the look-up and the opening: once more finds the new object.
        for _ in range(2):
            stored = await self._database.read(live_instance, event.space, event.sop_instance_uid)
            if stored is None:
                return None
            try:
                return stored, await space.open(stored.object_name)
            except ObjectMissingError:
                continue
        raise TryAgainError("the object of the instance is not in its space")

    async def _send(self, stored: Instance, reader: ObjectReader, event: Event) -> Answer:
        boundary = uuid.uuid4().hex
        meta = b""
        if await reader.read(128, 4) != b"DICM":
            meta = file_meta(
                stored.sop_class_uid, stored.sop_instance_uid, stored.transfer_syntax_uid
            )
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + meta
        tail = f"\r\n--{boundary}--\r\n".encode()
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Content-Length": str(len(head) + reader.size + len(tail)),
            "Accept": "application/dicom+json",
        }
        if event.traceparent:
            headers["traceparent"] = event.traceparent

        async def body() -> AsyncIterator[bytes]:
            yield head
            async for piece in reader.stream():
                yield piece
            yield tail

        return await self._target.request("POST", self._url, headers=headers, data=body())


def _judge(answer: Answer, sop_instance_uid: str) -> Delivered:
    """What the target's answer means for our instance (PS3.18 10.5.3, annex I)."""
    dataset = _dataset(answer.body)
    reason = _failure_reason(dataset)
    if reason is not None:
        if reason >> 8 == 0xA7 or reason in _LATER:
            raise TryAgainError(f"failure reason {reason:04X}H: {answer.quoted()}")
        raise RefusedError(f"failure reason {reason:04X}H: {answer.quoted()}")
    classify(answer)
    stored = {_value(item, "00081155") for item in _items(dataset, _REFERENCED_SOP_SEQUENCE)}
    if dataset and sop_instance_uid not in stored:
        raise RefusedError(f"the answer does not name the instance as stored: {answer.quoted()}")
    return Delivered(str(answer.status))


def _dataset(body: bytes) -> dict[str, Any]:
    """The store response; some servers wrap it into an array. Empty if it is none."""
    try:
        decoded = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return {}
    if isinstance(decoded, list) and len(decoded) == 1:
        decoded = decoded[0]
    return decoded if isinstance(decoded, dict) and "status" not in decoded else {}


def _failure_reason(dataset: Mapping[str, Any]) -> int | None:
    for sequence in (_FAILED_SOP_SEQUENCE, _OTHER_FAILURES_SEQUENCE):
        for item in _items(dataset, sequence):
            reason = _value(item, "00081197")
            return reason if isinstance(reason, int) else 0xC000
    return None


def _items(dataset: Mapping[str, Any], tag: str) -> list[dict[str, Any]]:
    element = dataset.get(tag)
    items = element.get("Value") if isinstance(element, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _value(item: Mapping[str, Any], tag: str) -> object:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None
