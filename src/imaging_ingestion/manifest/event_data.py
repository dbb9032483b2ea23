"""From a log entry to the event it carries: ids, subjects, and data built from the manifest."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import sqlalchemy as sa
import zstandard
from sqlalchemy.engine import Connection

from imaging_ingestion.events.model import (
    DICOM_AVAILABLE,
    IMAGE_STORED,
    STUDY_REVISION,
    ChangeKind,
    DicomAvailable,
    Event,
    Image,
    ImageStored,
    Store,
)
from imaging_ingestion.manifest import revision
from imaging_ingestion.manifest.changes import Change
from imaging_ingestion.manifest.deliveries import event_id_of
from imaging_ingestion.manifest.revision import elements_of
from imaging_ingestion.manifest.schema import instance, instance_metadata

#: Data above this travels as a reference to it (claim check, E10).
INLINE_LIMIT = 256 * 1024

#: The internal DICOMweb root of a space.
SpaceUrl = Callable[[str], str]


def event_of(entry: Change, event_type: str, core: str) -> Event:
    """The event of a log entry without its data: what routing needs."""
    if entry.kind == ChangeKind.PUBLISHED and entry.detail is not None:
        return msgspec.structs.replace(msgspec.json.decode(entry.detail, type=Event), seq=entry.seq)
    return Event(
        id=event_id_of(entry),
        source=f"/imaging-ingestion/{core}/{entry.space}",
        type=event_type,
        subject=_subject(entry),
        time=datetime.fromtimestamp(entry.at / 1_000_000, UTC).isoformat(),
        traceparent=entry.traceparent,
        space=entry.space,
        study_instance_uid=entry.study_instance_uid,
        series_instance_uid=entry.series_instance_uid,
        sop_instance_uid=entry.sop_instance_uid,
        provider=entry.provider or "",
        seq=entry.seq,
    )


def with_data(
    connection: Connection, event: Event, entry: Change, space_url: SpaceUrl, api_url: str
) -> Event:
    """The event with its data; a large revision as a reference to our API instead."""
    if entry.kind == ChangeKind.PUBLISHED:
        return event  # it came with its data
    data: bytes | None = None
    if event.type == DICOM_AVAILABLE:
        endpoint = f"{space_url(event.space)}/{event.subject}"
        data = msgspec.json.encode(DicomAvailable(provider=event.provider, endpoint=endpoint))
    elif event.type == STUDY_REVISION and event.study_instance_uid is not None:
        data = revision.load(connection, event.space, event.study_instance_uid, entry.version)
        if data is not None and len(data) > INLINE_LIMIT:
            reference = (
                f"{api_url}/revisions/{event.space}/{event.study_instance_uid}/{entry.version}"
            )
            return msgspec.structs.replace(event, dataref=reference)
    elif event.type == IMAGE_STORED:
        data = _image_stored(connection, event, space_url)
    return msgspec.structs.replace(event, data=data)


def _image_stored(connection: Connection, event: Event, space_url: SpaceUrl) -> bytes | None:
    # instance_live_uid
    row = connection.execute(
        sa.select(
            instance.c.transfer_syntax_uid,
            instance.c.object_name,
            instance.c.provider,
            instance_metadata.c.json_zstd,
        )
        .join(instance_metadata, instance_metadata.c.instance_pk == instance.c.id)
        .where(
            instance.c.space == event.space,
            instance.c.sop_instance_uid == event.sop_instance_uid,
            instance.c.deleted_at.is_(None),
        )
    ).one_or_none()
    if row is None:
        return None
    attributes = zstandard.ZstdDecompressor().decompress(row.json_zstd).decode()
    root = space_url(event.space)
    return msgspec.json.encode(
        ImageStored(
            image=Image(row.transfer_syntax_uid, elements_of(attributes, ())),
            store=Store(
                provider=row.provider,
                bucket_name=event.space,
                object_name=row.object_name,
                wado_internal_endpoint=root,
                wado_external_endpoint=root,
            ),
        )
    )


def _subject(entry: Change) -> str:
    subject = f"studies/{entry.study_instance_uid}"
    if entry.series_instance_uid:
        subject += f"/series/{entry.series_instance_uid}"
    if entry.sop_instance_uid:
        subject += f"/instances/{entry.sop_instance_uid}"
    return subject
