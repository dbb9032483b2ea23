"""From a log entry to the event it carries: ids, subjects, and data built from the manifest."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from urllib.parse import quote, urlencode

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
from imaging_ingestion.manifest.changes import Change, event_id_of, event_of_published
from imaging_ingestion.manifest.elements import elements_of
from imaging_ingestion.manifest.schema import instance, instance_metadata

#: Data above this travels as a reference to it (claim check, E10).
INLINE_LIMIT = 256 * 1024


class SpaceRoots(NamedTuple):
    """The DICOMweb roots of a space: where this site finds it, and where others do."""

    internal: str
    external: str


#: The roots of a space by its name.
RootsOf = Callable[[str], SpaceRoots]


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def event_of(entry: Change, event_type: str, core: str) -> Event:
    """The event of a log entry without its data: what routing needs."""
    if entry.kind == ChangeKind.PUBLISHED:
        return event_of_published(entry)
    return Event(
        id=event_id_of(entry, event_type),
        source=source_of(entry, core),
        type=event_type,
        subject=_subject(entry),
        time=time_of(entry),
        traceparent=entry.traceparent,
        space=entry.space,
        study_instance_uid=entry.study_instance_uid,
        series_instance_uid=entry.series_instance_uid,
        sop_instance_uid=entry.sop_instance_uid,
        provider=entry.provider or "",
        seq=entry.seq,
    )


def source_of(entry: Change, core: str) -> str:
    """Where the events of an entry come from: the core and the space."""
    return f"/imaging-ingestion/{quote(core, safe='')}/{quote(entry.space, safe='')}"


def time_of(entry: Change) -> str:
    """When it happened (RFC 3339)."""
    return (_EPOCH + timedelta(microseconds=entry.at)).isoformat()


def with_data(
    connection: Connection,
    event: Event,
    entry: Change,
    core: str,
    roots_of: RootsOf,
    api_url: str,
    *,
    limit: int = INLINE_LIMIT,
) -> Event:
    """The event with its data; if that is above `limit` bytes, with a reference to our API instead.

    It has neither if what it tells of has been deleted since.
    """
    if entry.kind == ChangeKind.PUBLISHED:
        return event  # it came with its data
    if event.type == STUDY_REVISION:
        study, number = event.study_instance_uid or "", entry.version or 0
        data = revision.load_up_to(connection, event.space, study, number, limit)
        path = f"revisions/{quote(event.space, safe='')}/{study}/{number}"
        query = {"core": core}
    else:
        data = event_data(connection, event, roots_of)
        return about_instance(event, entry, data, core, api_url, limit=limit)
    if data is not None and not 0 < len(data) <= limit:
        return msgspec.structs.replace(event, dataref=f"{api_url}/{path}?{urlencode(query)}")
    return msgspec.structs.replace(event, data=data)


def about_instance(
    event: Event, entry: Change, data: bytes | None, core: str, api_url: str, *, limit: int
) -> Event:
    """An event about an instance with its data; above `limit` bytes with a reference instead."""
    if data is None or len(data) <= limit:
        return msgspec.structs.replace(event, data=data)
    query = urlencode({"core": core, "type": event.type})
    return msgspec.structs.replace(event, dataref=f"{api_url}/events/{entry.seq}?{query}")


def event_data(connection: Connection, event: Event, roots_of: RootsOf) -> bytes | None:
    """The data of an event about an instance; None if the instance has been deleted since."""
    if event.type == IMAGE_STORED:
        uid = event.sop_instance_uid or ""
        return images_stored(connection, event.space, [uid], roots_of).get(uid)
    if event.type == DICOM_AVAILABLE:
        endpoint = f"{roots_of(event.space).internal}/{event.subject}"
        return msgspec.json.encode(DicomAvailable(provider=event.provider, endpoint=endpoint))
    raise ValueError(f"no data is known for events of type {event.type!r}")


def images_stored(
    connection: Connection, space: str, sop_instance_uids: Collection[str], roots_of: RootsOf
) -> dict[str, bytes]:
    """The data of ImageStoredEvents by SOP Instance UID; of those that are in the space now."""
    # instance_live_uid
    rows = connection.execute(
        sa.select(
            instance.c.sop_instance_uid,
            instance.c.transfer_syntax_uid,
            instance.c.object_name,
            instance.c.provider,
            instance_metadata.c.json_zstd,
        )
        .join(instance_metadata, instance_metadata.c.instance_pk == instance.c.id)
        .where(
            instance.c.space == space,
            instance.c.sop_instance_uid.in_(sop_instance_uids),
            instance.c.deleted_at.is_(None),
        )
    )
    roots = roots_of(space)
    unpack = zstandard.ZstdDecompressor().decompress
    return {
        row.sop_instance_uid: msgspec.json.encode(
            ImageStored(
                image=Image(row.transfer_syntax_uid, elements_of(unpack(row.json_zstd), ())),
                store=Store(
                    provider=row.provider,
                    bucket_name=space,
                    object_name=row.object_name,
                    wado_internal_endpoint=roots.internal,
                    wado_external_endpoint=roots.external,
                ),
            )
        )
        for row in rows
    }


def _subject(entry: Change) -> str:
    subject = f"studies/{entry.study_instance_uid}"
    if entry.series_instance_uid:
        subject += f"/series/{entry.series_instance_uid}"
    if entry.sop_instance_uid:
        subject += f"/instances/{entry.sop_instance_uid}"
    return subject
