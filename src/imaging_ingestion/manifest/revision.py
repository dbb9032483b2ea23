"""Study revisions: when a study is settled, what changed since the previous one, and its event.

A study that changes is due one revisioning delay later; each further change moves that time on. The
due time is a column, so any replica may settle it, and a restart forgets nothing. Everything a
revision does (number, event, what has been announced, the log) is one transaction: it happens once.

What changed is not written down as it happens; it is the difference between what each instance is
now and what the last revision said of it (`announced_sha256`). So an instance that came and went in
between is nothing, and one that was replaced back is nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
import zstandard
from sqlalchemy.engine import Connection

from imaging_ingestion.events.model import (
    ChangeKind,
    ChangeSet,
    Element,
    RevisionInstance,
    RevisionSeries,
    RevisionStudy,
    StudyRevision,
)
from imaging_ingestion.manifest import changes
from imaging_ingestion.manifest.schema import instance, revision, series, study

#: Attributes that upstream's events always have, empty or not.
_STUDY_ELEMENTS = (
    "00080050",
    "00080090",
    "00081030",
    "00100010",
    "00100020",
    "00100030",
    "00100040",
)
_SERIES_ELEMENTS = ("0008103E", "00400244", "00400245", "00400275")
_VRS = {
    "00080050": "SH",
    "00080090": "PN",
    "00081030": "LO",
    "00100010": "PN",
    "00100020": "LO",
    "00100030": "DA",
    "00100040": "CS",
    "0008103E": "LO",
    "00400244": "DA",
    "00400245": "TM",
    "00400275": "SQ",
}

#: The internal WADO-RS URL of a study's series, for the events: (space, study UID, series UID).
Endpoint = Callable[[str, str, str], str]


class InstanceState(NamedTuple):
    """An instance as it is now, and what the last revision told of it."""

    pk: int
    series_instance_uid: str
    sop_instance_uid: str
    sha256: bytes
    announced_sha256: bytes | None
    live: bool


def change_set(instances: Iterable[InstanceState]) -> ChangeSet:
    """What differs from what the last revision told."""
    additions, deletions, modifications = [], [], []
    for state in instances:
        name = f"{state.series_instance_uid}/{state.sop_instance_uid}"
        if not state.live:
            if state.announced_sha256 is not None:
                deletions.append(name)
        elif state.announced_sha256 is None:
            additions.append(name)
        elif state.announced_sha256 != state.sha256:
            modifications.append(name)
    return ChangeSet(tuple(additions), tuple(deletions), tuple(modifications))


class Revised(NamedTuple):
    """A revision that has just been made."""

    space: str
    study_instance_uid: str
    number: int


def next_due(connection: Connection) -> int | None:
    """When the next study is due, in microseconds since the epoch; None if none is waiting."""
    # study_revision_due
    due: int | None = connection.execute(
        sa.select(sa.func.min(study.c.revision_due_at)).where(study.c.revision_due_at.is_not(None))
    ).scalar_one()
    return due


def revise_due(
    connection: Connection, now: int, endpoint: Endpoint, *, limit: int = 1
) -> list[Revised]:
    """Settle up to `limit` studies whose time has come; those that really changed.

    Two replicas never take the same study: on PostgreSQL a locked row is passed over.
    """
    # study_revision_due
    due = (
        sa.select(study)
        .where(study.c.revision_due_at <= now)
        .order_by(study.c.revision_due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    revised = []
    for row in connection.execute(due).mappings().all():
        made = _revise(connection, row, now, endpoint)
        if made is not None:
            revised.append(made)
    return revised


def load(
    connection: Connection, space: str, study_instance_uid: str, number: int | None = None
) -> bytes | None:
    """The JSON of a StudyRevisionEvent's data: of that revision, or the latest; None if none."""
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
    packed = connection.execute(statement).scalar_one_or_none()
    return None if packed is None else zstandard.ZstdDecompressor().decompress(packed)


def numbers(connection: Connection, space: str, study_instance_uid: str) -> list[tuple[int, int]]:
    """Number and time (microseconds since the epoch) of a study's revisions, in order."""
    rows = connection.execute(
        sa.select(revision.c.number, revision.c.at)
        .join(study, study.c.id == revision.c.study_pk)
        .where(study.c.space == space, study.c.study_instance_uid == study_instance_uid)
        .order_by(revision.c.number)
    )
    return [(row.number, row.at) for row in rows]


def _revise(
    connection: Connection, row: Mapping[Any, Any], now: int, endpoint: Endpoint
) -> Revised | None:
    all_series = (
        connection.execute(sa.select(series).where(series.c.study_pk == row["id"])).mappings().all()
    )
    # instance_by_study
    instances = connection.execute(
        sa.select(
            instance.c.id,
            instance.c.series_pk,
            instance.c.sop_instance_uid,
            instance.c.sop_class_uid,
            instance.c.instance_number,
            instance.c.sha256,
            instance.c.announced_sha256,
            instance.c.deleted_at,
        )
        .where(instance.c.study_pk == row["id"])
        .order_by(instance.c.id)
    ).all()
    uid_of = {s["id"]: s["series_instance_uid"] for s in all_series}
    changed = change_set(
        InstanceState(
            i.id,
            uid_of[i.series_pk],
            i.sop_instance_uid,
            i.sha256,
            i.announced_sha256,
            i.deleted_at is None,
        )
        for i in instances
    )
    settled = sa.update(study).where(study.c.id == row["id"]).values(revision_due_at=None)
    _settle_instances(connection, row["id"])
    if not changed:
        connection.execute(settled)
        return None
    number = 0 if row["revision"] is None else row["revision"] + 1
    live = [i for i in instances if i.deleted_at is None]
    data = StudyRevision(
        revision=number,
        study=RevisionStudy(
            study_instance_uid=row["study_instance_uid"],
            study_date=row["study_date"],
            attributes=elements_of(row["attributes"], _STUDY_ELEMENTS),
            series=tuple(_series_of(row, s, live, endpoint) for s in all_series),
            space=row["space"],
            dicom_json=msgspec.Raw(row["attributes"].encode()),
        ),
        change_set=changed,
    )
    data = msgspec.structs.replace(
        data,
        study=msgspec.structs.replace(
            data.study, series=tuple(s for s in data.study.series if s.instances)
        ),
    )
    connection.execute(settled.values(revision=number))
    connection.execute(
        sa.insert(revision).values(
            study_pk=row["id"],
            number=number,
            at=now,
            event_zstd=zstandard.ZstdCompressor(level=3).compress(msgspec.json.encode(data)),
        )
    )
    entry = {
        "at": now,
        "kind": ChangeKind.REVISED.value,
        "space": row["space"],
        "study_instance_uid": row["study_instance_uid"],
        "provider": data.study.series[0].provider_name if data.study.series else "",
        "version": number,
        "event_id": f"{row['study_instance_uid']}.{number}",
    }
    changes.append(connection, [entry])
    return Revised(row["space"], row["study_instance_uid"], number)


def _settle_instances(connection: Connection, study_pk: int) -> None:
    """From now on, this is what has been announced."""
    of_study = instance.c.study_pk == study_pk
    connection.execute(
        sa.update(instance)
        .where(
            of_study,
            instance.c.deleted_at.is_(None),
            sa.or_(
                instance.c.announced_sha256.is_(None),
                instance.c.announced_sha256 != instance.c.sha256,
            ),
        )
        .values(announced_sha256=instance.c.sha256)
    )
    connection.execute(sa.delete(instance).where(of_study, instance.c.deleted_at.is_not(None)))


def _series_of(
    study_row: Mapping[Any, Any],
    row: Mapping[Any, Any],
    live: Sequence[Any],
    endpoint: Endpoint,
) -> RevisionSeries:
    return RevisionSeries(
        series_instance_uid=row["series_instance_uid"],
        number=_integer(row["series_number"]),
        modality=row["modality"],
        provider_name=row["provider"],
        endpoint=endpoint(
            study_row["space"], study_row["study_instance_uid"], row["series_instance_uid"]
        ),
        attributes=elements_of(row["attributes"], _SERIES_ELEMENTS),
        instances=tuple(
            RevisionInstance(i.sop_instance_uid, i.sop_class_uid, _integer(i.instance_number))
            for i in live
            if i.series_pk == row["id"]
        ),
        dicom_json=msgspec.Raw(row["attributes"].encode()),
    )


def elements_of(dicom_json: str, always: Sequence[str]) -> tuple[Element, ...]:
    """Attributes as upstream's events list them; sequences and bulk values have no `value`."""
    attributes: dict[str, dict[str, Any]] = msgspec.json.decode(dicom_json)
    for tag in always:
        attributes.setdefault(tag, {"vr": _VRS[tag]})
    return tuple(
        Element(tag[:4], tag[4:], element["vr"], _text(element))
        for tag, element in sorted(attributes.items())
    )


def _text(element: Mapping[str, Any]) -> str | None:
    values = element.get("Value")
    if not values or element["vr"] == "SQ":
        return None
    return "\\".join(_one(value) for value in values)


def _one(value: object) -> str:
    if isinstance(value, dict):  # a person name
        groups = [value.get(g, "") for g in ("Alphabetic", "Ideographic", "Phonetic")]
        return "=".join(groups).rstrip("=")
    return "" if value is None else str(value)


def _integer(text: str | None) -> int | None:
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
