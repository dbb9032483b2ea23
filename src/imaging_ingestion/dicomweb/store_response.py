"""The Store Instances Response (PS3.18 10.5.3 and annex I): what became of each part, and the status.

Beside the standard's attributes every item has a private block that says in words what happened:
(0009,xx01) the result, (0009,xx02) why not, (0009,xx03) the number of the part in the request (from
1), (0009,xx04) remarks on an instance that was stored all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imaging_ingestion.dicom.failure_reason import (
    DUPLICATE_SOP_INSTANCE,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
)
from imaging_ingestion.events.stored import StoreResult
from imaging_ingestion.intake import IntakeRefused, Received

PRIVATE_CREATOR = "IMAGING-INGESTION"

Dataset = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class PartOutcome:
    """What became of one part, numbered from 1."""

    number: int
    received: Received | None = None
    refused: IntakeRefused | None = None

    @property
    def stored(self) -> bool:
        """Whether the instance is in the space as it was sent."""
        return self.received is not None and self.received.result is not StoreResult.KEPT


def status_of(outcomes: Sequence[PartOutcome], *, broken: bool) -> int:
    """The HTTP status (table 10.5.3-1). `broken` says that the body itself could not be parsed.

    Where nothing could be stored for want of resources it is 503: the same request may succeed later.
    """
    stored = [outcome for outcome in outcomes if outcome.stored]
    if stored:
        return 200 if len(stored) == len(outcomes) else 202
    if broken or not outcomes:
        return 400
    reasons = {o.refused.failure_reason if o.refused else DUPLICATE_SOP_INSTANCE for o in outcomes}
    return 503 if reasons <= {OUT_OF_RESOURCES, PROCESSING_FAILURE} else 409


def store_response(
    outcomes: Sequence[PartOutcome], base_url: str, study_instance_uid: str | None
) -> Dataset:
    """The data set of table I.1-1 as a DICOM JSON object.

    `study_instance_uid` is that of the request's resource, if it named one.
    """
    studies = {o.received.study_instance_uid for o in outcomes if o.received is not None}
    if study_instance_uid:
        studies.add(study_instance_uid)
    stored, failed, others = [], [], []
    for outcome in outcomes:
        if outcome.received is not None:
            (stored if outcome.stored else failed).append(_received_item(outcome, base_url))
        elif outcome.refused is not None:
            (failed if outcome.refused.sop_instance_uid else others).append(_refused_item(outcome))
    dataset: Dataset = {}
    dataset["00081190"] = (
        _value("UR", f"{base_url}/studies/{studies.pop()}") if (len(studies) == 1) else {"vr": "UR"}
    )
    if failed:
        dataset["00081198"] = {"vr": "SQ", "Value": failed}
    if stored:
        dataset["00081199"] = {"vr": "SQ", "Value": stored}
    if others:
        dataset["0008119A"] = {"vr": "SQ", "Value": others}
    return dataset


def _received_item(outcome: PartOutcome, base_url: str) -> Dataset:
    received = outcome.received
    assert received is not None
    item: Dataset = {
        "00081150": _value("UI", received.sop_class_uid),
        "00081155": _value("UI", received.sop_instance_uid),
    }
    message = None
    if outcome.stored:
        item["00081190"] = _value(
            "UR",
            f"{base_url}/studies/{received.study_instance_uid}"
            f"/series/{received.series_instance_uid}/instances/{received.sop_instance_uid}",
        )
    else:
        item["00081197"] = _value("US", DUPLICATE_SOP_INSTANCE)
        message = "the space keeps the instance of this SOP Instance UID that it has"
    return item | _private(outcome.number, received.result.value, message, received.warnings)


def _refused_item(outcome: PartOutcome) -> Dataset:
    refused = outcome.refused
    assert refused is not None
    item: Dataset = {}
    if refused.sop_instance_uid:
        if refused.sop_class_uid:
            item["00081150"] = _value("UI", refused.sop_class_uid)
        item["00081155"] = _value("UI", refused.sop_instance_uid)
    item["00081197"] = _value("US", refused.failure_reason)
    return item | _private(outcome.number, "FAILED", refused.message, ())


def _private(number: int, result: str, message: str | None, remarks: Sequence[str]) -> Dataset:
    block: Dataset = {
        "00090010": _value("LO", PRIVATE_CREATOR),
        "00091001": _value("CS", result),
    }
    if message:
        block["00091002"] = _value("UT", f"part {number}: {message}")
    block["00091003"] = _value("IS", number)
    if remarks:
        block["00091004"] = {"vr": "LO", "Value": list(remarks)}
    return block


def _value(vr: str, value: object) -> dict[str, Any]:
    return {"vr": vr, "Value": [value]}
