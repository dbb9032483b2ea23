"""Which objects of a space the manifest knows, and what it knows of them."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.manifest.plan import Place
from imaging_ingestion.manifest.schema import instance, object_removal, quarantine, series, study


class Standing(IntEnum):
    """What an object is to the manifest."""

    LIVE = 1  # of a live instance
    HELD = 2  # of an instance in quarantine
    REMOVAL = 3  # nothing refers to it any more, and it is to be removed
    ENDED = 4  # of an instance that was deleted


class KnownObject(NamedTuple):
    """An object that the manifest knows. `pk` is its row's, in the table that `standing` is of."""

    pk: int
    object_name: str
    object_size: int | None  # bytes
    sha256: bytes | None
    standing: Standing


class LiveObject(NamedTuple):
    """A live instance and its object."""

    pk: int
    place: Place
    object_name: str
    object_size: int  # bytes
    sha256: bytes
    stored_at: int  # microseconds since the epoch


#: Each in the order of its table's primary key.
_KNOWN: dict[Standing, sa.Select[Any]] = {
    Standing.LIVE: sa.select(
        instance.c.id, instance.c.object_name, instance.c.object_size, instance.c.sha256
    ).where(instance.c.deleted_at.is_(None)),
    Standing.HELD: sa.select(
        quarantine.c.id, quarantine.c.object_name, quarantine.c.object_size, quarantine.c.sha256
    ).where(quarantine.c.resolved_at.is_(None)),
    Standing.REMOVAL: sa.select(
        object_removal.c.id, object_removal.c.object_name, sa.null(), sa.null()
    ),
    Standing.ENDED: sa.select(
        instance.c.id, instance.c.object_name, instance.c.object_size, instance.c.sha256
    ).where(instance.c.deleted_at.is_not(None), instance.c.object_name != ""),
}
_TABLES = {
    Standing.LIVE: instance,
    Standing.HELD: quarantine,
    Standing.REMOVAL: object_removal,
    Standing.ENDED: instance,
}
_LIVE = (
    sa.select(
        instance.c.id,
        study.c.study_instance_uid,
        series.c.series_instance_uid,
        instance.c.sop_instance_uid,
        instance.c.object_name,
        instance.c.object_size,
        instance.c.sha256,
        instance.c.stored_at,
    )
    .join(series, series.c.id == instance.c.series_pk)
    .join(study, study.c.id == instance.c.study_pk)
    .where(instance.c.deleted_at.is_(None))
)


def known_objects(
    connection: Connection, space: str, standing: Standing, after: int, limit: int
) -> list[KnownObject]:
    """The next objects of one standing whose rows have keys above `after`, in their order."""
    table = _TABLES[standing]
    # instance_pkey, quarantine_pkey, object_removal_pkey
    statement = (
        _KNOWN[standing]
        .where(table.c.space == space, table.c.id > after)
        .order_by(table.c.id)
        .limit(limit)
    )
    return [
        KnownObject(pk, name, size, sha256, standing)
        for pk, name, size, sha256 in connection.execute(statement)
    ]


def live_object(connection: Connection, pk: int) -> LiveObject | None:
    """The live instance with a row's key; None if there is none, or not any more."""
    return _live(connection, _LIVE.where(instance.c.id == pk))  # instance_pkey


def live_object_of(connection: Connection, space: str, sop_instance_uid: str) -> LiveObject | None:
    """The live instance of a space with a SOP Instance UID."""
    # instance_live_uid
    statement = _LIVE.where(
        instance.c.space == space, instance.c.sop_instance_uid == sop_instance_uid
    )
    return _live(connection, statement)


def ended_at(connection: Connection, space: str, sop_instance_uid: str) -> int | None:
    """When an instance was last deleted (microseconds since the epoch); None if it never was."""
    # instance_tombstone
    at: int | None = connection.execute(
        sa.select(sa.func.max(instance.c.deleted_at)).where(
            instance.c.space == space,
            instance.c.sop_instance_uid == sop_instance_uid,
            instance.c.deleted_at.is_not(None),
        )
    ).scalar_one()
    return at


def is_held(connection: Connection, space: str, sop_instance_uid: str, object_name: str) -> bool:
    """Whether an instance waits in quarantine in this object."""
    # quarantine_content
    found = connection.execute(
        sa.select(quarantine.c.id).where(
            quarantine.c.space == space,
            quarantine.c.sop_instance_uid == sop_instance_uid,
            quarantine.c.object_name == object_name,
            quarantine.c.resolved_at.is_(None),
        )
    )
    return found.first() is not None


def repoint(connection: Connection, live: LiveObject, object_name: str) -> bool:
    """Let a live instance be in another object of the same content.

    False, and nothing is done, if it is not any more what it was.
    """
    # instance_pkey
    done = connection.execute(
        sa.update(instance)
        .where(
            instance.c.id == live.pk,
            instance.c.object_name == live.object_name,
            instance.c.sha256 == live.sha256,
            instance.c.deleted_at.is_(None),
        )
        .values(object_name=object_name)
    )
    return done.rowcount == 1


def _live(connection: Connection, statement: sa.Select[Any]) -> LiveObject | None:
    row = connection.execute(statement).one_or_none()
    if row is None:
        return None
    pk, study_uid, series_uid, sop_uid, *rest = row
    return LiveObject(pk, Place(study_uid, series_uid, sop_uid), *rest)
