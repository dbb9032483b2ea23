"""Study revisions: when a study is settled, what changed since the previous one, and its event.

A study that changes is due one revisioning delay later; each further change moves that time on. The
due time is a column, so any replica may settle it, and a restart forgets nothing. Everything a
revision does (number, event, what has been announced, the log) is one transaction: it happens once.

What changed is not written down as it happens; it is the difference between what each instance is
now and what the last revision said of it (`announcement`). So an instance that came and went in
between is nothing, and one that was replaced back is nothing. A study may have any number of
instances: they pass by, and the event's text is compressed as it is written (`revision_text`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.events.model import (
    STUDY_REVISION,
    ChangeKind,
    RevisionInstance,
    RevisionSeries,
    RevisionStudy,
)
from imaging_ingestion.manifest import changes
from imaging_ingestion.manifest.announcement import (
    IS_OF_INSTANCE,
    mark_announced,
    mark_unannounced,
)
from imaging_ingestion.manifest.elements import (
    SERIES_ELEMENTS,
    STUDY_ELEMENTS,
    elements_of,
    integer_of,
)
from imaging_ingestion.manifest.revision_text import (
    RevisionText,
    pieces_of,
    unpacked,
    what_changed,
)
from imaging_ingestion.manifest.schema import (
    announced,
    instance,
    instance_metadata,
    revision,
    series,
    study,
)

#: The internal WADO-RS URL of a study's series, for the events: (space, study UID, series UID).
Endpoint = Callable[[str, str, str], str]

#: Rows of a study's instances that are held at a time.
_ROWS = 2000


class Revised(NamedTuple):
    """A revision that has just been made."""

    space: str
    study_instance_uid: str
    number: int


class Due(NamedTuple):
    """A study whose time has come, and since when (microseconds since the epoch)."""

    at: int
    study_pk: int


def next_due(connection: Connection, after: int = -1) -> int | None:
    """The earliest due time after `after`, microseconds since the epoch; None without one."""
    # study_revision_due
    due: int | None = connection.execute(
        sa.select(sa.func.min(study.c.revision_due_at)).where(study.c.revision_due_at > after)
    ).scalar_one()
    return due


def due(connection: Connection, now: int, after: Due | None = None, limit: int = 100) -> list[Due]:
    """The studies that are due, those waiting longest first; the next `limit` after one."""
    # study_revision_due
    statement = (
        sa.select(study.c.revision_due_at, study.c.id)
        .where(study.c.revision_due_at <= now)
        .order_by(study.c.revision_due_at, study.c.id)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(sa.tuple_(study.c.revision_due_at, study.c.id) > after)
    return [Due(*row) for row in connection.execute(statement)]


def revise(connection: Connection, study_pk: int, now: int, endpoint: Endpoint) -> Revised | None:
    """Settle a study; None if it has changed again meanwhile, or is as it was announced.

    Two replicas never settle the same study at once: on PostgreSQL a locked row is passed over.
    """
    row = (
        connection.execute(
            sa.select(study)
            .where(study.c.id == study_pk, study.c.revision_due_at <= now)
            .with_for_update(skip_locked=True)
        )
        .mappings()
        .one_or_none()
    )
    return None if row is None else _revise(connection, row, now, endpoint)


def load(
    connection: Connection, space: str, study_instance_uid: str, number: int | None = None
) -> bytes | None:
    """The JSON of a StudyRevisionEvent's data: of that revision, or the latest; None if none."""
    packed = load_packed(connection, space, study_instance_uid, number)
    return None if packed is None else b"".join(pieces_of(packed))


def load_up_to(
    connection: Connection, space: str, study_instance_uid: str, number: int, size: int
) -> bytes | None:
    """As `load`, but b"" if the JSON is longer than `size` bytes."""
    packed = load_packed(connection, space, study_instance_uid, number)
    return None if packed is None else unpacked(packed, size)


def load_packed(
    connection: Connection, space: str, study_instance_uid: str, number: int | None = None
) -> bytes | None:
    """As `load`, compressed: `revision_text.pieces_of` reads it piece by piece."""
    # study_uid, revision_number
    statement = (
        sa.select(revision.c.event_zstd)
        .join(study, study.c.id == revision.c.study_pk)
        .where(study.c.space == space, study.c.study_instance_uid == study_instance_uid)
        .order_by(revision.c.number.desc())
        .limit(1)
    )
    if number is not None:
        statement = statement.where(revision.c.number == number)
    packed: bytes | None = connection.execute(statement).scalar_one_or_none()
    return packed


def numbers(
    connection: Connection, space: str, study_instance_uid: str
) -> list[tuple[int, int]] | None:
    """Number and time (microseconds since the epoch) of a study's revisions, in order.

    None if the space has never had the study.
    """
    # study_uid, revision_number
    rows = connection.execute(
        sa.select(revision.c.number, revision.c.at)
        .select_from(study)
        .outerjoin(revision, revision.c.study_pk == study.c.id)
        .where(study.c.space == space, study.c.study_instance_uid == study_instance_uid)
        .order_by(revision.c.number)
    ).all()
    if not rows:
        return None
    return [(row.number, row.at) for row in rows if row.number is not None]


def _revise(
    connection: Connection, row: Mapping[Any, Any], now: int, endpoint: Endpoint
) -> Revised | None:
    # series_uid
    all_series = {
        one["id"]: one
        for one in connection.execute(
            sa.select(series).where(series.c.study_pk == row["id"]).order_by(series.c.id)
        ).mappings()
    }
    number = 0 if row["revision"] is None else row["revision"] + 1
    text = RevisionText(number, _study_of(row))
    provider = _write_instances(connection, text, row, all_series, endpoint)
    settled = sa.update(study).where(study.c.id == row["id"]).values(revision_due_at=None)
    _settle_instances(connection, row["id"])
    if not text.tells_of_changes:
        connection.execute(settled)
        return None
    connection.execute(settled.values(revision=number))
    connection.execute(
        sa.insert(revision).values(
            study_pk=row["id"], number=number, at=now, event_zstd=text.finish()
        )
    )
    entry = changes.Change(
        seq=0,
        at=now,
        kind=ChangeKind.REVISED.value,
        space=row["space"],
        study_instance_uid=row["study_instance_uid"],
        provider=provider,
        version=number,
    )
    event_id = changes.event_id_of(entry, STUDY_REVISION)
    changes.append(connection, [{**msgspec.structs.asdict(entry), "event_id": event_id}])
    return Revised(row["space"], row["study_instance_uid"], number)


def _write_instances(
    connection: Connection,
    text: RevisionText,
    study_row: Mapping[Any, Any],
    all_series: Mapping[int, Mapping[Any, Any]],
    endpoint: Endpoint,
) -> str:
    """Write the instances of a study and what changed of them; the study's provider."""
    # instance_by_study, announced_pkey
    instances = connection.execute(
        sa.select(
            instance.c.series_pk,
            instance.c.sop_instance_uid,
            instance.c.sop_class_uid,
            instance.c.instance_number,
            instance.c.sha256,
            announced.c.sha256.label("told"),
            instance.c.deleted_at,
        )
        .outerjoin(announced, IS_OF_INSTANCE)
        .where(instance.c.study_pk == study_row["id"])
        .order_by(instance.c.series_pk, instance.c.id),
        execution_options={"yield_per": _ROWS},
    )
    begun: int | None = None
    providers: list[str] = []
    for pk, uid, sop_class_uid, instance_number, sha256, told, deleted_at in instances:
        of = all_series[pk]
        live = deleted_at is None
        changed = what_changed(sha256, told, live=live)
        if changed is not None:
            text.change(changed, of["series_instance_uid"], uid)
        if live:
            if pk != begun:
                text.begin_series(_series_of(study_row, of, endpoint))
                providers.append(of["provider"])
                begun = pk
            text.add(RevisionInstance(uid, sop_class_uid, integer_of(instance_number)))
    # Whoever follows the study's provider is told, too, when its last instance went.
    providers += [of["provider"] for of in all_series.values()]
    return providers[0] if providers else ""


def _settle_instances(connection: Connection, study_pk: int) -> None:
    """From now on, this is what has been announced."""
    # instance_by_study
    of_study = instance.c.study_pk == study_pk
    mark_announced(connection, of_study)
    ended = sa.select(instance.c.id).where(of_study, instance.c.deleted_at.is_not(None))
    mark_unannounced(connection, ended)
    # What was deleted is not kept: the tombstone has the identity only.
    connection.execute(
        sa.update(instance_metadata)
        .where(instance_metadata.c.instance_pk.in_(ended), instance_metadata.c.json_zstd != b"")
        .values(json_zstd=b"")
    )


def _study_of(row: Mapping[Any, Any]) -> RevisionStudy:
    """A study without its series."""
    return RevisionStudy(
        study_instance_uid=row["study_instance_uid"],
        study_date=row["study_date"],
        attributes=elements_of(row["attributes"], STUDY_ELEMENTS),
        series=(),
        space=row["space"],
        dicom_json=_dicom_json(row),
    )


def _series_of(
    study_row: Mapping[Any, Any], row: Mapping[Any, Any], endpoint: Endpoint
) -> RevisionSeries:
    """A series without its instances."""
    return RevisionSeries(
        series_instance_uid=row["series_instance_uid"],
        number=integer_of(row["series_number"]),
        modality=row["modality"],
        provider_name=row["provider"],
        endpoint=endpoint(
            study_row["space"], study_row["study_instance_uid"], row["series_instance_uid"]
        ),
        attributes=elements_of(row["attributes"], SERIES_ELEMENTS),
        instances=(),
        dicom_json=_dicom_json(row),
    )


def _dicom_json(row: Mapping[Any, Any]) -> msgspec.Raw:
    """The attributes of a study or series, with the time zone that its dates and times are in.

    Timezone Offset From UTC (0008,0201) has its own column at every level (PS3.18 table 10.6.3-3).
    """
    zone = row["timezone_offset_from_utc"]
    if zone is None:
        return msgspec.Raw(row["attributes"].encode())
    attributes: dict[str, Any] = msgspec.json.decode(row["attributes"], type=dict[str, msgspec.Raw])
    attributes["00080201"] = {"vr": "SH", "Value": [zone]}
    return msgspec.Raw(msgspec.json.encode(dict(sorted(attributes.items()))))
