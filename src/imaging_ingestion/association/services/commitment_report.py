"""Storage commitment, without its messages: what is safe, and the report of it (PS3.4 J.3)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from imaging_ingestion.dicom.criterion import Element
from imaging_ingestion.dicom.dataset_read import read_data_set
from imaging_ingestion.dicom.header import ScanError
from imaging_ingestion.dicom.uid import InvalidUidError, check_uid
from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.sop_class import is_private, is_storage
from imaging_ingestion.manifest.commitment import Reference, instances_named
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.retrieve import Instance
from imaging_ingestion.manifest.stored_object import (
    InstanceGoneError,
    ObjectUnavailableError,
    open_object,
)
from imaging_ingestion.storage.space import Space

TRANSACTION_UID: Final = 0x00081195
REFERENCED_SOP_SEQUENCE: Final = 0x00081199

#: Event types (PS3.4 table J.3-2).
ALL_COMMITTED: Final = 1
FAILURES_EXIST: Final = 2

# Failure Reason (PS3.3 C.14.1.1).
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_OBJECT_INSTANCE: Final = 0x0112
CLASS_INSTANCE_CONFLICT: Final = 0x0119
REFERENCED_SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
DUPLICATE_TRANSACTION_UID: Final = 0x0131
RESOURCE_LIMITATION: Final = 0x0213

#: Instances that are looked for at once, and objects that are looked at at once.
_PAGE: Final = 500
_OBJECTS: Final = 8


class InvalidActionError(ValueError):
    """Action information that asks for nothing that could be done; the offending tags."""

    def __init__(self, comment: str, *offending_element: int) -> None:
        super().__init__(comment)
        self.comment = comment
        self.offending_element = offending_element or None
        self.status = status.INVALID_ARGUMENT_VALUE


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said of one reference; without a failure reason it is committed."""

    reference: Reference
    failure_reason: int | None = None


def read_action(data: bytes, transfer_syntax_uid: str) -> tuple[str, tuple[Reference, ...]]:
    """The Transaction UID, and what is to be committed, each once (table J.3-1).

    Raises InvalidActionError.
    """
    try:
        read = read_data_set(data, transfer_syntax_uid)
    except ScanError as error:
        raise InvalidActionError(
            f"the action information cannot be read: {error.reason}"
        ) from error
    transaction_uid = _uid(read.text(TRANSACTION_UID), TRANSACTION_UID)
    items = read.items(REFERENCED_SOP_SEQUENCE)
    if not items:
        raise InvalidActionError("(0008,1199): expected items", REFERENCED_SOP_SEQUENCE)
    references = (
        Reference(_item_uid(item, 0x00081150), _item_uid(item, 0x00081155)) for item in items
    )
    return transaction_uid, tuple(dict.fromkeys(references))


def report_of(
    transaction_uid: str, retrieve_ae_title: str, verdicts: Sequence[Verdict]
) -> tuple[int, Mapping[str, Element]]:
    """The event type, and the event information in DICOM JSON (table J.3-2)."""
    information: dict[str, Element] = {
        "00080054": {"vr": "AE", "Value": [retrieve_ae_title]},
        "00081195": {"vr": "UI", "Value": [transaction_uid]},
    }
    committed = [_item(v) for v in verdicts if v.failure_reason is None]
    failed = [_item(v) for v in verdicts if v.failure_reason is not None]
    if committed:
        information["00081199"] = {"vr": "SQ", "Value": committed}
    if failed:
        information["00081198"] = {"vr": "SQ", "Value": failed}
    return (FAILURES_EXIST if failed else ALL_COMMITTED), information


async def judge(space: Space, database: Database, references: Sequence[Reference]) -> list[Verdict]:
    """What is safe: the manifest has it, as what it is said to be, and its object is whole.

    What the space or the database raises where it is away: then nothing can be said.
    """
    verdicts: list[Verdict] = []
    for start in range(0, len(references), _PAGE):
        page = references[start : start + _PAGE]
        known = await database.read(
            instances_named, space.name, [reference.sop_instance_uid for reference in page]
        )
        for at in range(0, len(page), _OBJECTS):
            verdicts += await asyncio.gather(
                *(
                    _judge_one(space, database, reference, known.get(reference.sop_instance_uid))
                    for reference in page[at : at + _OBJECTS]
                )
            )
    return verdicts


async def _judge_one(
    space: Space, database: Database, reference: Reference, instance: Instance | None
) -> Verdict:
    sop_class = reference.sop_class_uid
    if instance is None:
        could_be = is_storage(sop_class) or is_private(sop_class)
        return Verdict(
            reference,
            NO_SUCH_OBJECT_INSTANCE if could_be else REFERENCED_SOP_CLASS_NOT_SUPPORTED,
        )
    if instance.sop_class_uid != sop_class:
        return Verdict(reference, CLASS_INSTANCE_CONFLICT)
    try:
        current, reader = await open_object(space, database, instance)
    except InstanceGoneError:
        return Verdict(reference, NO_SUCH_OBJECT_INSTANCE)
    except ObjectUnavailableError:
        return Verdict(reference, PROCESSING_FAILURE)
    await reader.close()
    is_it = current.sop_class_uid == sop_class
    return Verdict(reference, None if is_it else CLASS_INSTANCE_CONFLICT)


def _item(verdict: Verdict) -> dict[str, Element]:
    item: dict[str, Element] = {
        "00081150": {"vr": "UI", "Value": [verdict.reference.sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [verdict.reference.sop_instance_uid]},
    }
    if verdict.failure_reason is not None:
        item["00081197"] = {"vr": "US", "Value": [verdict.failure_reason]}
    return item


def _item_uid(item: Mapping[str, Element], tag: int) -> str:
    values: Sequence[Any] = item.get(f"{tag:08X}", {}).get("Value", ())
    return _uid(str(values[0]) if len(values) == 1 and values[0] else "", tag)


def _uid(text: str, tag: int) -> str:
    try:
        return check_uid(text).uid
    except InvalidUidError as error:
        named = f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
        raise InvalidActionError(f"{named}: the UID {error}", tag) from error
