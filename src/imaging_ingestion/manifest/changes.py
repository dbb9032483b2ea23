"""The one ordered log: everything that happened, numbered.

A number is only of use if a reader who has seen N never misses one below N: numbers have to become
visible in their order. SQLite has one writer, so they do. PostgreSQL gives numbers out before it
commits, and transactions end in any order; there whoever appends first takes a lock that it holds
until its commit, so that numbers are given out and committed in one order (docs/decisions/0002).
Appending is therefore the last thing a transaction does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.events.model import (
    DICOM_AVAILABLE,
    IMAGE_STORED,
    STUDY_REVISION,
    ChangeKind,
    Event,
)
from imaging_ingestion.manifest.prepared import Rows
from imaging_ingestion.manifest.schema import change

#: Entries that a read with a filter looks at, at most; it then says how far it came.
SCAN = 20_000
#: Any number that nobody else takes an advisory lock on in this database.
_LOG_LOCK = 0x6C6F67  # "log"
_COLUMNS = tuple(c.name for c in change.c if c.name != "seq")
_INSERT = Rows.inserted(change, lock=_LOG_LOCK)
_IDS_AT_ONCE = 500

_CARRIED_BY = {
    IMAGE_STORED: (ChangeKind.STORED, ChangeKind.REPLACED),
    DICOM_AVAILABLE: (ChangeKind.STORED, ChangeKind.REPLACED),
    STUDY_REVISION: (ChangeKind.REVISED,),
}
_ID_PREFIX = {IMAGE_STORED: "stored", DICOM_AVAILABLE: "available", STUDY_REVISION: "revised"}


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of the log. `at` is microseconds since the epoch; `kind` an events.ChangeKind."""

    seq: int
    at: int
    kind: str
    space: str
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    sop_instance_uid: str | None = None
    provider: str | None = None
    version: int | None = None
    binding: str | None = None
    event_id: str | None = None
    source: str | None = None
    detail: str | None = None
    traceparent: str | None = None


class Page(NamedTuple):
    """Entries in their order. Reading goes on after `last`; at once if there is `more`."""

    entries: list[Change]
    last: int
    more: bool


def append(connection: Connection, rows: Sequence[Mapping[str, object]]) -> None:
    """Add entries, in this order, in the caller's transaction, which ends soon.

    A row has the columns of `change` but `seq`; those left out are NULL.
    """
    if not rows:
        return
    _INSERT.each(connection, [{name: row.get(name) for name in _COLUMNS} for row in rows])


def lock(connection: Connection) -> None:
    """Take the log's lock until the commit, for whoever adds entries by a statement of his own."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOG_LOCK)))


def publish(connection: Connection, rows: Sequence[Mapping[str, object]]) -> int:
    """Add events from outside, each once: one whose source and id are known changes nothing.

    How many were new.
    """
    new: dict[tuple[object, object], Mapping[str, object]] = {}
    for row in rows:
        new.setdefault((row["source"], row["event_id"]), row)
    ids = [event_id for _, event_id in new]
    for start in range(0, len(ids), _IDS_AT_ONCE):
        known = connection.execute(
            sa.select(change.c.source, change.c.event_id).where(  # change_published
                change.c.kind == sa.literal_column(f"'{ChangeKind.PUBLISHED.value}'"),
                change.c.event_id.in_(ids[start : start + _IDS_AT_ONCE]),
            )
        )
        for source, event_id in known:
            new.pop((source, event_id), None)
    append(connection, list(new.values()))
    return len(new)


def published_numbers(
    connection: Connection, identities: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], int]:
    """The numbers of published events by source and id; of those that are there."""
    wanted = set(identities)
    ids = sorted({event_id for _, event_id in wanted})
    found: dict[tuple[str, str], int] = {}
    for start in range(0, len(ids), _IDS_AT_ONCE):
        rows = connection.execute(
            sa.select(change.c.source, change.c.event_id, change.c.seq).where(  # change_published
                change.c.kind == sa.literal_column(f"'{ChangeKind.PUBLISHED.value}'"),
                change.c.event_id.in_(ids[start : start + _IDS_AT_ONCE]),
            )
        )
        found |= {(row.source, row.event_id): row.seq for row in rows}
    return {identity: number for identity, number in found.items() if identity in wanted}


def since(
    connection: Connection,
    seq: int,
    limit: int,
    *,
    kinds: Collection[str] | None = None,
    space: str | None = None,
    study_instance_uid: str | None = None,
) -> Page:
    """The next entries after `seq`, oldest first, at most `limit`.

    With a filter the page may have fewer although there is more to read: no more than `SCAN`
    entries are looked at, so that a rare kind in a long log does not hold a reader up. A reader
    who is ahead of the log (it was restored from a backup) is told to go on at its end.
    """
    newest = top = last_seq(connection)
    statement = (  # change_pkey, or change_by_study
        sa.select(*(change.c[name] for name in ("seq", *_COLUMNS)))
        .where(change.c.seq > seq)
        .order_by(change.c.seq)
        .limit(limit)
    )
    if study_instance_uid is not None:
        statement = statement.where(change.c.study_instance_uid == study_instance_uid)
    elif kinds is not None or space is not None:
        top = min(newest, seq + SCAN)
    if kinds is not None:
        statement = statement.where(change.c.kind.in_(kinds))
    if space is not None:
        statement = statement.where(change.c.space == space)
    rows = connection.execute(statement.where(change.c.seq <= top)).mappings()
    entries = [Change(**row) for row in rows]
    last = entries[-1].seq if len(entries) == limit else top
    return Page(entries, last, last < newest)


def last_seq(connection: Connection) -> int:
    """The number of the newest entry; 0 in an empty log."""
    return int(
        connection.execute(sa.select(sa.func.coalesce(sa.func.max(change.c.seq), 0))).scalar_one()
    )


def kinds_with(event_type: str) -> tuple[ChangeKind, ...]:
    """The kinds of entry that may carry an event of the type."""
    return (*_CARRIED_BY.get(event_type, ()), ChangeKind.PUBLISHED)


def carries(entry: Change, event_type: str) -> bool:
    """Whether an entry of one of `kinds_with(event_type)` carries an event of that type."""
    if entry.kind != ChangeKind.PUBLISHED:
        return True
    published = entry.detail or "{}"
    return msgspec.json.decode(published, type=_TypeOnly).type == event_type


def event_id_of(entry: Change, event_type: str) -> str:
    """The deterministic id of the event of that type which a log entry carries.

    An entry about an instance carries two events, so the type is part of the id; the space is part
    of the source (CloudEvents 1.0: source and id together are unique).
    """
    if entry.kind == ChangeKind.PUBLISHED:
        return entry.event_id or ""
    uid = entry.sop_instance_uid or entry.study_instance_uid
    return f"{_ID_PREFIX[event_type]}/{uid}/{entry.version}"


def order_key_of(entry: Change) -> str | None:
    """What a delivery has to wait its turn for: the instance or study; None for neither."""
    uid = entry.sop_instance_uid or entry.study_instance_uid
    return uid and f"{entry.space}/{uid}"


def study_key_of(entry: Change) -> str | None:
    """The same where all deliveries of a study wait for each other."""
    return entry.study_instance_uid and f"{entry.space}/{entry.study_instance_uid}"


def event_of_published(entry: Change) -> Event:
    """The event of an entry of kind `published`."""
    event = msgspec.json.decode(entry.detail or "", type=Event)
    return msgspec.structs.replace(event, seq=entry.seq)


def published_detail(event: Event, *, by_carrier: bool = False) -> str:
    """What an entry of kind `published` keeps of its event: all of it, and how it came."""
    text = msgspec.json.encode(event).decode()
    return f'{{"byCarrier":true,{text[1:]}' if by_carrier else text


def came_by_carrier(entry: Change) -> bool:
    """Whether a published event was brought by the carrier, which need not be told of it."""
    return msgspec.json.decode(entry.detail or "{}", type=_Arrival).byCarrier


class _Arrival(msgspec.Struct):
    byCarrier: bool = False  # noqa: N815 - as in the detail


class _TypeOnly(msgspec.Struct):
    type: str = ""
