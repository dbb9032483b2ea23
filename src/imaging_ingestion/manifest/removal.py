"""Objects that are to go: written down in the transaction that lets go of them, removed later.

Later, because a reader may be about to open the object, or reads it piece by piece from a store.
Whoever removes objects claims their rows by moving `next_at` on; a process that dies stops at that,
and they are due again. To remove an object twice is to remove it once, for no name is used twice.

A row must never take away what is live. No live row can have the name of one that is to go
(`plan.plan` ignores such an arrival), and before an object is removed that is looked at once more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.manifest.prepared import Prepared, Rows, one_of
from imaging_ingestion.manifest.schema import instance, object_removal, quarantine

#: Microseconds that an object stays after nothing refers to it any more. Readers look its row up
#: again when it is gone; who reads a large one from a store in ranges has to be through by then.
GRACE: Final = 60_000_000

_INSERT = Rows.inserted(object_removal)
# object_removal_name
_TO_GO = Prepared(
    sa.select(object_removal.c.object_name).where(
        object_removal.c.space == sa.bindparam("in_space"),
        one_of(object_removal.c.object_name, "names"),
    )
)


class Unneeded(NamedTuple):
    """An object that nothing refers to any more, and whose it was."""

    sop_instance_uid: str
    object_name: str


class Removal(NamedTuple):
    """An object to be removed now. `attempt` counts from 1."""

    pk: int
    space: str
    sop_instance_uid: str
    object_name: str
    attempt: int


def schedule(connection: Connection, space: str, objects: Iterable[Unneeded], now: int) -> None:
    """Have objects removed, some time after `now` (microseconds since the epoch)."""
    rows = [
        {
            "space": space,
            "sop_instance_uid": one.sop_instance_uid,
            "object_name": one.object_name,
            "next_at": now + GRACE,
        }
        for one in objects
    ]
    if rows:
        _INSERT.each(connection, rows)


def to_go(connection: Connection, space: str, names: Iterable[str]) -> set[str]:
    """Those of the objects that are to be removed."""
    rows = _TO_GO.all(connection, {"in_space": space, "names": sorted(set(names))})
    return {name for (name,) in rows}


def next_due(connection: Connection, spaces: Collection[str]) -> int | None:
    """When the next object of the spaces is due (microseconds since the epoch), if there is one."""
    # object_removal_due
    due: int | None = connection.execute(
        sa.select(object_removal.c.next_at)
        .where(object_removal.c.space.in_(spaces))
        .order_by(object_removal.c.next_at, object_removal.c.id)
        .limit(1)
    ).scalar_one_or_none()
    return due


def claim(
    connection: Connection, spaces: Collection[str], now: int, until: int, limit: int
) -> list[Removal]:
    """Take objects that are due, those waiting longest first; nobody else has them until `until`.

    A row that names an object which is in use is no order to remove it, and goes.
    """
    # object_removal_due
    rows = connection.execute(
        sa.select(
            object_removal.c.id,
            object_removal.c.space,
            object_removal.c.sop_instance_uid,
            object_removal.c.object_name,
            object_removal.c.attempts + 1,
        )
        .where(object_removal.c.next_at <= now, object_removal.c.space.in_(spaces))
        .order_by(object_removal.c.next_at, object_removal.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    found = [Removal(*row) for row in rows]
    if not found:
        return []
    in_use = _in_use(connection, found)
    kept = [one for one in found if one.pk in in_use]
    taken = [one for one in found if one.pk not in in_use]
    finish(connection, kept)
    connection.execute(
        sa.update(object_removal)
        .where(object_removal.c.id.in_([one.pk for one in taken]))
        .values(next_at=until, attempts=object_removal.c.attempts + 1)
    )
    return taken


def finish(connection: Connection, removals: Sequence[Removal]) -> None:
    """The objects are gone."""
    if removals:
        # object_removal_pkey
        connection.execute(
            sa.delete(object_removal).where(object_removal.c.id.in_([one.pk for one in removals]))
        )


def put_off(connection: Connection, removal: Removal, at: int) -> None:
    """Try an object again at that time."""
    # object_removal_pkey
    connection.execute(
        sa.update(object_removal).where(object_removal.c.id == removal.pk).values(next_at=at)
    )


def _in_use(connection: Connection, removals: Sequence[Removal]) -> set[int]:
    """The rows whose objects a live instance has, or one that waits in quarantine."""
    names = {(one.space, one.object_name): one.pk for one in removals}
    uids = {one.sop_instance_uid for one in removals}
    spaces = {one.space for one in removals}
    # instance_live_uid, quarantine_content
    rows = connection.execute(
        sa.union_all(
            sa.select(instance.c.space, instance.c.object_name).where(
                instance.c.space.in_(spaces),
                instance.c.sop_instance_uid.in_(uids),
                instance.c.deleted_at.is_(None),
            ),
            sa.select(quarantine.c.space, quarantine.c.object_name).where(
                quarantine.c.space.in_(spaces),
                quarantine.c.sop_instance_uid.in_(uids),
                quarantine.c.resolved_at.is_(None),
            ),
        )
    )
    return {names[tuple(row)] for row in rows if tuple(row) in names}
