"""The one ordered log: everything that happened, numbered.

A number is only of use if a reader who has seen N never misses one below N. SQLite has one writer,
so numbers are committed in order. PostgreSQL gives numbers out before it commits, and transactions
end in any order; there every row carries its transaction id, and readers stop below the oldest
transaction that is still open (`pg_snapshot_xmin`), so that they wait for a late one instead of
passing it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.events.model import ChangeKind
from imaging_ingestion.manifest.schema import change

_TXID = sa.text("pg_current_xact_id()::text::bigint")
_VISIBLE = sa.text("change.txid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
_COLUMNS = tuple(c.name for c in change.c if c.name not in {"seq", "txid"})


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
    detail: str | None = None
    traceparent: str | None = None


def append(connection: Connection, rows: Sequence[Mapping[str, object]]) -> None:
    """Add entries, in this order, in the caller's transaction.

    A row has the columns of `change` but `seq` and `txid`; those left out are NULL.
    """
    if not rows:
        return
    values = [{name: row.get(name) for name in _COLUMNS} for row in rows]
    statement = sa.insert(change)
    if connection.dialect.name == "postgresql":
        statement = statement.values(txid=_TXID)
    connection.execute(statement, values)


def publish(connection: Connection, rows: Sequence[Mapping[str, object]]) -> int:
    """Add events from outside, each once: one whose `event_id` is known already changes nothing.

    How many were new.
    """
    ids = [row["event_id"] for row in rows]
    known = set(
        connection.execute(
            sa.select(change.c.event_id).where(  # change_published
                change.c.kind == sa.literal_column(f"'{ChangeKind.PUBLISHED.value}'"),
                change.c.event_id.in_(ids),
            )
        ).scalars()
    )
    new: dict[object, Mapping[str, object]] = {}
    for row in rows:
        if row["event_id"] not in known:
            new.setdefault(row["event_id"], row)
    append(connection, list(new.values()))
    return len(new)


def since(
    connection: Connection,
    seq: int,
    limit: int,
    *,
    kinds: Collection[str] | None = None,
    space: str | None = None,
    study_instance_uid: str | None = None,
) -> list[Change]:
    """The next entries after `seq`, oldest first, at most `limit`."""
    statement = (
        sa.select(*(change.c[name] for name in ("seq", *_COLUMNS)))
        .where(change.c.seq > seq)
        .order_by(change.c.seq)
        .limit(limit)
    )
    if connection.dialect.name == "postgresql":
        statement = statement.where(_VISIBLE)
    if kinds is not None:
        statement = statement.where(change.c.kind.in_(kinds))
    if space is not None:
        statement = statement.where(change.c.space == space)
    if study_instance_uid is not None:
        statement = statement.where(change.c.study_instance_uid == study_instance_uid)
    return [Change(**row) for row in connection.execute(statement).mappings()]


def last_seq(connection: Connection) -> int:
    """The number of the newest entry a reader may see; 0 in an empty log."""
    statement = sa.select(sa.func.coalesce(sa.func.max(change.c.seq), 0))
    if connection.dialect.name == "postgresql":
        statement = statement.where(_VISIBLE)
    return int(connection.execute(statement).scalar_one())
