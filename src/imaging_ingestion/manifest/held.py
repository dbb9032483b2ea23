"""Instances that are kept aside: the table `quarantine`, from holding to deciding.

A row waits until somebody accepts or discards it, and then tells what became of it. Whoever decides
locks the study first, as everybody does who changes one, and then the row; of two who decide at
once the second finds it decided.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.events.stored import StoredInstance
from imaging_ingestion.manifest.plan import Held
from imaging_ingestion.manifest.schema import quarantine


class Resolution(StrEnum):
    """What became of an instance that was kept aside."""

    ACCEPTED = "accepted"
    DISCARDED = "discarded"


class Quarantined(msgspec.Struct, frozen=True, kw_only=True):
    """An instance that is, or was, kept aside. Times are microseconds since the epoch.

    `differences`: attribute to what the space has and what came.
    """

    id: int
    space: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    reason: str
    differences: Mapping[str, tuple[str, str]]
    object_size: int
    sha256: str  # hexadecimal
    provider: str
    held_at: int
    resolved_at: int | None
    resolution: str | None


_SHOWN = tuple(
    quarantine.c["detail" if name == "differences" else name]
    for name in Quarantined.__struct_fields__
)


def waiting(
    connection: Connection, space: str, sop_instance_uids: Collection[str]
) -> dict[tuple[str, bytes], str]:
    """The objects of instances that wait, by SOP Instance UID and SHA-256."""
    # quarantine_content
    rows = connection.execute(
        sa.select(
            quarantine.c.sop_instance_uid, quarantine.c.sha256, quarantine.c.object_name
        ).where(
            quarantine.c.space == space,
            quarantine.c.sop_instance_uid.in_(sop_instance_uids),
            quarantine.c.resolved_at.is_(None),
        )
    )
    return {(uid, bytes(sha256)): name for uid, sha256, name in rows}


def hold(connection: Connection, held: Sequence[Held], now: int) -> None:
    """Keep instances aside, whose objects are durable; none of them waits already."""
    connection.execute(
        sa.insert(quarantine),
        [
            {
                "space": one.stored.space,
                "study_instance_uid": one.stored.study_instance_uid,
                "series_instance_uid": one.stored.series_instance_uid,
                "sop_instance_uid": one.stored.sop_instance_uid,
                "reason": one.reason.value,
                "detail": msgspec.json.encode(one.differences).decode(),
                "object_name": one.stored.object_name,
                "object_size": one.stored.object_size,
                "sha256": one.stored.sha256,
                "provider": one.stored.provider,
                "stored": msgspec.msgpack.encode(one.stored),
                "held_at": now,
            }
            for one in held
        ],
    )


def page(
    connection: Connection,
    *,
    space: str | None = None,
    study_instance_uid: str | None = None,
    resolved: bool = False,
    after: int = 0,
    limit: int = 100,
) -> list[Quarantined]:
    """The next instances after the one with the id `after`: those that wait, or all."""
    # quarantine_waiting, or quarantine_pkey
    statement = (
        sa.select(*_SHOWN).where(quarantine.c.id > after).order_by(quarantine.c.id).limit(limit)
    )
    if not resolved:
        statement = statement.where(quarantine.c.resolved_at.is_(None))
    if space is not None:
        statement = statement.where(quarantine.c.space == space)
    if study_instance_uid is not None:
        statement = statement.where(quarantine.c.study_instance_uid == study_instance_uid)
    return [_shown(row) for row in connection.execute(statement)]


def find(connection: Connection, pk: int) -> Quarantined | None:
    """The instance with that id; None if there is none."""
    # quarantine_pkey
    row = connection.execute(sa.select(*_SHOWN).where(quarantine.c.id == pk)).one_or_none()
    return None if row is None else _shown(row)


def object_of(connection: Connection, pk: int) -> tuple[str, str] | None:
    """Space and name of the object of an instance that waits; None for any other."""
    # quarantine_pkey
    row = connection.execute(
        sa.select(quarantine.c.space, quarantine.c.object_name).where(
            quarantine.c.id == pk, quarantine.c.resolved_at.is_(None)
        )
    ).one_or_none()
    return None if row is None else (row.space, row.object_name)


def lock(connection: Connection, pk: int) -> StoredInstance | None:
    """Take an instance that waits, so as to decide about it; None if it does not wait."""
    # quarantine_pkey
    packed = connection.execute(
        sa.select(quarantine.c.stored)
        .where(quarantine.c.id == pk, quarantine.c.resolved_at.is_(None))
        .with_for_update()
    ).scalar_one_or_none()
    return None if packed is None else msgspec.msgpack.decode(packed, type=StoredInstance)


def resolve(connection: Connection, pk: int, resolution: Resolution, now: int) -> None:
    """Write down what became of an instance that was taken by `lock`."""
    # quarantine_pkey
    connection.execute(
        sa.update(quarantine)
        .where(quarantine.c.id == pk)
        .values(resolved_at=now, resolution=resolution.value, stored=b"")
    )


def number_waiting(connection: Connection) -> dict[str, int]:
    """How many wait in each space; spaces where none does are not there."""
    # quarantine_waiting, which has only those
    rows = connection.execute(
        sa.select(quarantine.c.space, sa.func.count())
        .where(quarantine.c.resolved_at.is_(None))
        .group_by(quarantine.c.space)
    )
    return {row[0]: row[1] for row in rows}


def _shown(row: sa.Row[Any]) -> Quarantined:
    values = dict(row._mapping)
    differences = msgspec.json.decode(values.pop("detail"), type=dict[str, tuple[str, str]])
    values["sha256"] = bytes(values["sha256"]).hex()
    return Quarantined(**values, differences=differences)
