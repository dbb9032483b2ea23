"""The three event types and the kinds of entry in the log.

The payloads are upstream's, field for field (docs/events.md); fields may be added, none removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

IMAGE_STORED = "ImageStoredEvent"
DICOM_AVAILABLE = "DicomAvailableEvent"
STUDY_REVISION = "StudyRevisionEvent"
#: Ours: a delivery was given up. For whoever watches a broker; bindings do not get it.
DELIVERY_FAILED = "DeliveryFailedEvent"

JSON = "application/json"
#: Our extension attribute: the event's number in the log that it comes from.
LOG_NUMBER = "lognumber"


class ChangeKind(StrEnum):
    """What an entry of the ordered log says happened."""

    STORED = "stored"  # a new instance; carries ImageStoredEvent and DicomAvailableEvent
    REPLACED = "replaced"  # other bytes for a known instance; carries the same two
    DELETED = "deleted"
    REVISED = "revised"  # carries StudyRevisionEvent
    PUBLISHED = "published"  # an event given to the broker from outside
    DELIVERED = "delivered"  # a binding's target has it
    FAILED = "failed"  # a delivery was given up: a dead letter
    QUARANTINED = "quarantined"  # an instance was kept aside; nothing else changed
    DISCARDED = "discarded"  # an instance that was kept aside was given up


class Element(msgspec.Struct, frozen=True):
    """One attribute as upstream's events carry it; `group` and `element` are 4 hex digits."""

    group: str
    element: str
    vr: str
    value: str | None


class Image(msgspec.Struct, frozen=True, rename="camel"):
    """The image of an ImageStoredEvent."""

    transfer_syntax_uid: str = msgspec.field(name="transferSyntaxUID")
    elements: tuple[Element, ...] = ()


class Store(msgspec.Struct, frozen=True, rename="camel"):
    """Where an ImageStoredEvent's object lies."""

    provider: str
    bucket_name: str
    object_name: str
    wado_internal_endpoint: str | None = None
    wado_external_endpoint: str | None = None


class ImageStored(msgspec.Struct, frozen=True):
    """Data of an ImageStoredEvent."""

    image: Image
    store: Store


class DicomAvailable(msgspec.Struct, frozen=True):
    """Data of a DicomAvailableEvent: `endpoint` is the instance's internal WADO-RS URL."""

    provider: str
    endpoint: str


class RevisionInstance(msgspec.Struct, frozen=True):
    """An instance in a StudyRevisionEvent."""

    sop_instance_uid: str = msgspec.field(name="sopInstanceUID")
    sop_class_uid: str = msgspec.field(name="sopClassUID")
    number: int | None = None


def _no_attributes() -> msgspec.Raw:
    return msgspec.Raw(b"{}")


class RevisionSeries(msgspec.Struct, frozen=True, kw_only=True):
    """A series in a StudyRevisionEvent."""

    series_instance_uid: str = msgspec.field(name="seriesInstanceUID")
    number: int | None = None
    modality: str | None = None
    provider_name: str = msgspec.field(name="providerName")
    endpoint: str
    attributes: tuple[Element, ...]
    instances: tuple[RevisionInstance, ...]
    #: Ours, added: the series-level attributes as DICOM JSON, sequences included.
    dicom_json: msgspec.Raw = msgspec.field(name="dicomJson", default_factory=_no_attributes)


class RevisionStudy(msgspec.Struct, frozen=True, kw_only=True):
    """The study of a StudyRevisionEvent. Upstream leaves `studyDate` out when there is none."""

    study_instance_uid: str = msgspec.field(name="studyInstanceUID")
    study_date: str | None = msgspec.field(name="studyDate", default=None)
    attributes: tuple[Element, ...]
    series: tuple[RevisionSeries, ...]
    #: Ours, added: the storage space and the study-level attributes as DICOM JSON.
    space: str = ""
    dicom_json: msgspec.Raw = msgspec.field(name="dicomJson", default_factory=_no_attributes)


class ChangeSet(msgspec.Struct, frozen=True):
    """What changed since the previous revision, each as "seriesUID/sopInstanceUID"."""

    additions: tuple[str, ...] = ()
    deletions: tuple[str, ...] = ()
    modifications: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.additions or self.deletions or self.modifications)


class StudyRevision(msgspec.Struct, frozen=True, rename="camel"):
    """Data of a StudyRevisionEvent; the first revision of a study is 0."""

    revision: int
    study: RevisionStudy
    change_set: ChangeSet


class DeliveryFailed(msgspec.Struct, frozen=True, rename="camel"):
    """Data of a DeliveryFailedEvent: which event of our log was given up for whom, and why.

    `reason` is the target's last answer, or what went wrong: it may name the patient.
    """

    binding: str
    attempts: int
    reason: str
    event_id: str
    event_source: str
    number: int  # of the event in the log


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A CloudEvent (1.0) in memory, whatever transport it came by.

    `data` is JSON text, or None when `dataref` (claim check) tells where it is; what came from
    outside may be of another `content_type`. `space`, `study_instance_uid` and `provider` are what
    the platform routes by.
    """

    id: str
    source: str
    type: str
    subject: str
    time: str  # RFC 3339
    data: bytes | None = None
    dataref: str | None = None
    traceparent: str | None = None
    space: str = ""
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    sop_instance_uid: str | None = None
    provider: str = ""
    seq: int | None = None  # number in the log of its source, if it came from there
    content_type: str | None = None  # of the data (datacontenttype); None is application/json
    #: Context attributes that nothing here reads, by name, as their canonical strings.
    extensions: Mapping[str, str] = msgspec.field(default_factory=dict)

    @property
    def partition_key(self) -> str | None:
        """The `partitionkey` extension: events of one study keep together."""
        return self.study_instance_uid

    def context(self) -> dict[str, str]:
        """The context attributes and extensions by their names on the wire (CloudEvents 1.0)."""
        attributes = {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "subject": self.subject,
            "time": self.time,
            "datacontenttype": None if self.data is None else self.content_type or JSON,
            "dataref": self.dataref,
            "partitionkey": self.partition_key,
            "traceparent": self.traceparent,
            LOG_NUMBER: None if self.seq is None else str(self.seq),
        }
        return {**self.extensions, **{name: value for name, value in attributes.items() if value}}

    def json(self) -> Any:
        """The data as plain Python values; None without data."""
        return None if self.data is None else msgspec.json.decode(self.data)
