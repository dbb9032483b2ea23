"""The instance binding to a STOW-RS target: every available instance is stored there too.

The object streams from its space into the request; nothing holds it whole. The instance that is
sent is the one the manifest has now: if it was replaced since the event, the new one goes, and the
event of the replacement then finds it there already. If it was deleted, nothing is to be delivered.

What a target keeps instead of ours (0111H, duplicate SOP instance) is a dead letter: the two
differ, to send it again cannot help, and somebody has to know.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from imaging_ingestion.bindings.http_target import (
    Answer,
    HttpTarget,
    classify,
    is_for_now,
    retry_after,
)
from imaging_ingestion.dicom.failure_reason import PROCESSING_FAILURE
from imaging_ingestion.dicom.part10 import BEGINNING, completion
from imaging_ingestion.events.broker import Delivered, RefusedError, TryAgainError
from imaging_ingestion.events.model import Event
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.retrieve import Instance, live_instance
from imaging_ingestion.storage.space import ObjectMissingError, ObjectReader, Space

_REFERENCED_SOP_SEQUENCE = "00081199"
_FAILED_SOP_SEQUENCE = "00081198"
_OTHER_FAILURES_SEQUENCE = "0008119A"
_SOP_INSTANCE_UID = "00081155"
_FAILURE_REASON = "00081197"
_WARNING_REASON = "00081196"
_UNKNOWN_REASON = 0xC000
#: Of the Native DICOM Model (PS3.19 annex A): an item of a failure, and its reason.
_XML_FAILURE = re.compile(rb'tag="(?:00081198|0008119A)"[^>]*>\s*<Item\b')
_XML_REASON = re.compile(rb'tag="00081197"[^>]*>\s*<Value[^>]*>\s*([0-9]{1,5})\s*<')
#: Bytes of an XML answer that are searched.
_XML_LIMIT = 1 << 16


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
        return judge(answer, stored.sop_instance_uid)

    async def _open(self, event: Event) -> tuple[Instance, ObjectReader] | None:
        space = self._spaces.get(event.space)
        if space is None:
            raise RefusedError(f"the space {event.space!r} is not part of this site any more")
        if event.sop_instance_uid is None:
            raise RefusedError("the event names no instance")
        # Replaced between the look-up and the opening: once more finds the new object.
        for _ in range(2):
            stored = await self._database.read(live_instance, event.space, event.sop_instance_uid)
            if stored is None:
                return None
            try:
                return stored, await space.open(stored.object_name)
            except ObjectMissingError:
                continue
            except OSError as error:
                raise TryAgainError(f"the object cannot be read: {error.strerror}") from error
        raise TryAgainError("the object of the instance is not in its space")

    async def _send(self, stored: Instance, reader: ObjectReader, event: Event) -> Answer:
        boundary = uuid.uuid4().hex
        try:
            made, skipped = completion(
                await reader.read(0, BEGINNING),
                stored.sop_class_uid,
                stored.sop_instance_uid,
                stored.transfer_syntax_uid,
            )
        except OSError as error:
            raise TryAgainError(f"the object cannot be read: {error.strerror}") from error
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + made
        tail = f"\r\n--{boundary}--\r\n".encode()
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Content-Length": str(len(head) + reader.size - skipped + len(tail)),
            "Accept": "application/dicom+json",
        }
        if event.traceparent:
            headers["traceparent"] = event.traceparent

        async def body() -> AsyncGenerator[bytes, None]:
            yield head
            async for piece in reader.stream(skipped):
                yield piece
            yield tail

        async with aclosing(body()) as pieces:
            return await self._target.request("POST", self._url, headers=headers, data=pieces)


def judge(answer: Answer, sop_instance_uid: str) -> Delivered:
    """What the target's answer means for our instance (PS3.18 10.5.3, annex I).

    Raises TryAgainError, RefusedError.
    """
    dataset = _dataset(answer)
    reason = _failure_reason(dataset) if dataset is not None else _xml_failure_reason(answer)
    if reason is not None and not is_for_now(answer):
        told = f"failure reason {reason:04X}H: {answer.quoted()}"
        if reason >> 8 == 0xA7 or reason == PROCESSING_FAILURE:
            raise TryAgainError(told, retry_after=retry_after(answer))
        raise RefusedError(told)
    classify(answer)
    if dataset is None:
        if (answer.header("Content-Type") or "").lower().startswith("text/html"):
            # A log-in page, most likely.
            raise RefusedError(f"the answer is a web page, no store response: {answer.quoted()}")
        return Delivered(str(answer.status))
    for item in _items(dataset, _REFERENCED_SOP_SEQUENCE):
        uid = _value(item, _SOP_INSTANCE_UID)
        if isinstance(uid, str) and uid.strip(" \0") == sop_instance_uid:
            warning = _value(item, _WARNING_REASON)
            if isinstance(warning, int) and warning:
                return Delivered(f"{answer.status}: with warning reason {warning:04X}H")
            return Delivered(str(answer.status))
    raise RefusedError(f"the answer does not name the instance as stored: {answer.quoted()}")


def _dataset(answer: Answer) -> dict[str, Any] | None:
    """The store response; some servers wrap it into an array. None if it is none."""
    try:
        decoded = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, RecursionError):
        return None
    if isinstance(decoded, list) and len(decoded) == 1:
        decoded = decoded[0]
    if not isinstance(decoded, dict) or "status" in decoded:  # a problem document
        return None
    return decoded


def _failure_reason(dataset: Mapping[str, Any]) -> int | None:
    for sequence in (_FAILED_SOP_SEQUENCE, _OTHER_FAILURES_SEQUENCE):
        for item in _items(dataset, sequence):
            reason = _value(item, _FAILURE_REASON)
            return reason if isinstance(reason, int) else _UNKNOWN_REASON
    return None


def _xml_failure_reason(answer: Answer) -> int | None:
    """The same of a server that answers in XML whatever it is asked for."""
    text = answer.body[:_XML_LIMIT]
    if b"NativeDicomModel" not in text or _XML_FAILURE.search(text) is None:
        return None
    reason = _XML_REASON.search(text)
    return int(reason[1]) if reason is not None else _UNKNOWN_REASON


def _items(dataset: Mapping[str, Any], tag: str) -> list[dict[str, Any]]:
    element = dataset.get(tag)
    items = element.get("Value") if isinstance(element, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _value(item: Mapping[str, Any], tag: str) -> object:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None
