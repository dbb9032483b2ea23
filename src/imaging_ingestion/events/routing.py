"""What an event from elsewhere is about: the fields that the platform routes by, from its data.

Our own events need none of this: the log has their fields.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec

from imaging_ingestion.events.attributes import MalformedEventError, is_json
from imaging_ingestion.events.model import (
    DICOM_AVAILABLE,
    STUDY_REVISION,
    DicomAvailable,
    Event,
    StudyRevision,
)

T = TypeVar("T")

#: Characters of a provider's name at most.
LONGEST_PROVIDER: Final = 253
_UID: Final = r"[0-9.]{1,64}"
_INSTANCE = re.compile(
    rf"(?P<root>.*)/studies/(?P<study>{_UID})/series/(?P<series>{_UID})/instances/(?P<sop>{_UID})/?"
)
_STUDY = re.compile(rf"studies/(?P<study>{_UID})")


def read_data(event: Event, kind: type[T]) -> T:
    """The data of an event as the struct of its type. Raises MalformedEventError."""
    if event.data is None or not is_json(event.content_type):
        where = "" if event.dataref is None else "; a dataref is not followed, wherever it leads"
        raise MalformedEventError(f"an event of type {event.type} has JSON data{where}")
    try:
        return msgspec.json.decode(event.data, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedEventError(
            f"the data is not that of an event of type {event.type}: {error}"
        ) from error


def routed(event: Event, spaces: Mapping[str, str]) -> Event:
    """The event with the routing fields that its data tell; one of unknown type stays as it is.

    `spaces` are the names of spaces by their DICOMweb roots. Raises MalformedEventError if the data
    is not that of the event's type.
    """
    if event.type == DICOM_AVAILABLE:
        return _available(event, spaces)
    if event.type == STUDY_REVISION:
        return _revision(event)
    return event


def is_plain(provider: str) -> bool:
    """Whether a provider's name is one that can be recorded."""
    return len(provider) <= LONGEST_PROVIDER and provider.isprintable()


def _available(event: Event, spaces: Mapping[str, str]) -> Event:
    data = read_data(event, DicomAvailable)
    found = _INSTANCE.fullmatch(data.endpoint)
    if found is None:
        raise MalformedEventError("endpoint: the WADO-RS URL of an instance was expected")
    return msgspec.structs.replace(
        event,
        space=spaces.get(found["root"], ""),
        study_instance_uid=found["study"],
        series_instance_uid=found["series"],
        sop_instance_uid=found["sop"],
        provider=_checked(data.provider),
    )


def _revision(event: Event) -> Event:
    """Of a revision; with its data elsewhere the study is told by the subject or the partition."""
    if event.data is None and event.dataref is not None:
        found = _STUDY.fullmatch(event.subject)
        uid = found["study"] if found is not None else event.extensions.get("partitionkey", "")
        space, provider = "", ""
    else:
        data = read_data(event, StudyRevision)
        uid, space = data.study.study_instance_uid, data.study.space
        provider = data.study.series[0].provider_name if data.study.series else ""
    if re.fullmatch(_UID, uid) is None:
        raise MalformedEventError(
            "no Study Instance UID: in study.studyInstanceUID, or the subject"
        )
    if not is_plain(space):
        raise MalformedEventError("study.space: the name of a space was expected")
    return msgspec.structs.replace(
        event, space=space, study_instance_uid=uid, provider=_checked(provider)
    )


def _checked(provider: str) -> str:
    if not is_plain(provider):
        raise MalformedEventError("the provider's name holds a control character, or is too long")
    return provider
