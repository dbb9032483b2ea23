"""The Store Instances Response (PS3.18 10.5.3, annex I): what became of each part, and the status.

Beside the standard's attributes every item has a private block that says in words what happened:
(0009,xx01) the result, (0009,xx02) why not, (0009,xx03) the number of the part in the request (from
1), (0009,xx04) remarks on an instance that was stored all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from imaging_ingestion.dicom.failure_reason import (
    DUPLICATE_SOP_INSTANCE,
    KEPT_ASIDE,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
)
from imaging_ingestion.events.stored import StoreResult
from imaging_ingestion.intake import IntakeRefused, Received

PRIVATE_CREATOR = "IMAGING-INGESTION"

Dataset = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class PartOutcome:
    """What became of one part, numbered from 1: either it was received or it was refused."""

    number: int
    received: Received | None = None
    refused: IntakeRefused | None = None


def status_of(outcomes: Sequence[PartOutcome]) -> int:
    """The HTTP status (table 10.5.3-1).

    What is kept aside is stored with a warning: 202. Where nothing could be stored for want of
    resources it is 503: the same request may succeed later.
    """
    reasons = {o.refused.failure_reason for o in outcomes if o.refused is not None}
    if not reasons:
        return 202 if any(map(_is_kept_aside, outcomes)) else 200
    if any(outcome.received is not None for outcome in outcomes):
        return 202
    return 503 if reasons <= {OUT_OF_RESOURCES, PROCESSING_FAILURE} else 409


def _is_kept_aside(outcome: PartOutcome) -> bool:
    received = outcome.received
    return received is not None and received.result is StoreResult.QUARANTINED


def retrieve_url(outcomes: Sequence[PartOutcome], base_url: str) -> str | None:
    """The URL of the study that everything stored belongs to; None if it is not one study (S17)."""
    studies = {o.received.study_instance_uid for o in outcomes if o.received is not None}
    return f"{base_url}/studies/{studies.pop()}" if len(studies) == 1 else None


def store_response(outcomes: Sequence[PartOutcome], base_url: str) -> Dataset:
    """The data set of table I.1-1 as a DICOM JSON object."""
    return _dataset(outcomes, base_url, lambda item: item)


def encoded_store_response(outcomes: Sequence[PartOutcome], base_url: str) -> bytes:
    """The same as JSON text; of tens of thousands of items one is in memory otherwise at a time."""
    encode = msgspec.json.Encoder().encode
    return encode(_dataset(outcomes, base_url, lambda item: msgspec.Raw(encode(item))))


def _dataset(
    outcomes: Sequence[PartOutcome], base_url: str, form: Callable[[Dataset], object]
) -> Dataset:
    stored: list[object] = []
    failed: list[object] = []
    others: list[object] = []
    for outcome in outcomes:
        if outcome.received is not None:
            stored.append(form(_stored_item(outcome.number, outcome.received, base_url)))
        elif outcome.refused is not None:
            known = outcome.refused.sop_instance_uid is not None
            item = _failed_item(outcome.number, outcome.refused)
            (failed if known else others).append(form(item))
    url = retrieve_url(outcomes, base_url)
    dataset: Dataset = {"00081190": {"vr": "UR"} if url is None else _value("UR", url)}
    for tag, items in (("00081198", failed), ("00081199", stored), ("0008119A", others)):
        if items:
            dataset[tag] = {"vr": "SQ", "Value": items}
    return dataset


def _stored_item(number: int, received: Received, base_url: str) -> Dataset:
    url = (
        f"{base_url}/studies/{received.study_instance_uid}"
        f"/series/{received.series_instance_uid}/instances/{received.sop_instance_uid}"
    )
    item: Dataset = {
        "00081150": _value("UI", received.sop_class_uid),
        "00081155": _value("UI", received.sop_instance_uid),
        "00081190": _value("UR", url),
    }
    if received.result is StoreResult.QUARANTINED:  # what is at that URL, if anything, is another
        item["00081190"] = {"vr": "UR"}
        item["00081196"] = _value("US", KEPT_ASIDE)
    return item | _private(number, received.result.value, None, received.warnings)


def _failed_item(number: int, refused: IntakeRefused) -> Dataset:
    """An item of the Failed SOP or the Other Failures Sequence.

    The latter is for a part whose SOP Instance UID could not be read: it names none (S20).
    """
    item: Dataset = {}
    if refused.sop_instance_uid:
        # Type 1 in table I.1-1, but an instance may be refused for having none.
        item["00081150"] = _optional("UI", refused.sop_class_uid)
        item["00081155"] = _value("UI", refused.sop_instance_uid)
    item["00081197"] = _value("US", refused.failure_reason)
    result = "KEPT" if refused.failure_reason == DUPLICATE_SOP_INSTANCE else "FAILED"
    return item | _private(number, result, refused.message, ())


def _private(number: int, result: str, message: str | None, remarks: Sequence[str]) -> Dataset:
    block: Dataset = {
        "00090010": _value("LO", PRIVATE_CREATOR),
        "00091001": _value("CS", result),
    }
    if message:
        block["00091002"] = _value("UT", f"part {number}: {message}")
    block["00091003"] = _value("IS", number)
    if remarks:
        block["00091004"] = {"vr": "UC", "Value": list(remarks)}
    return block


def _value(vr: str, value: object) -> dict[str, Any]:
    return {"vr": vr, "Value": [value]}


def _optional(vr: str, value: str | None) -> dict[str, Any]:
    return {"vr": vr} if value is None else _value(vr, value)
