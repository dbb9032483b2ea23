"""The delivery ledger as people and operators read it, and driving deliveries again."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.events.broker import ReplayFilter
from imaging_ingestion.manifest.deliveries import DEAD, PENDING, STATES, count
from imaging_ingestion.manifest.schema import delivery, delivery_count

#: Deliveries that one transaction drives again: intake waits for it on SQLite.
REPLAY_BATCH = 1000

Key = tuple[str, int]  # binding, number


class Replayed(NamedTuple):
    """How many deliveries are due again, the key to go on after (None at the end), and which of
    them were dead letters."""

    number: int
    after: Key | None
    dead: list[Key]


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the ledger. Times are microseconds since the epoch."""

    binding: str
    seq: int
    state: str
    attempts: int
    next_at: int | None
    event_id: str
    space: str
    study_instance_uid: str | None
    answer: str | None
    changed_at: int


def page(
    connection: Connection,
    *,
    binding: str | None = None,
    state: str | None = None,
    study_instance_uid: str | None = None,
    after: Key | None = None,
    limit: int = 100,
) -> list[LedgerEntry]:
    """A page of the ledger by binding and number; `after` is the last line seen."""
    # delivery_pkey, delivery_by_state, delivery_by_study
    statement = _wanted(
        sa.select(*(delivery.c[f] for f in LedgerEntry.__struct_fields__)),
        {"binding": binding, "state": state, "study_instance_uid": study_instance_uid},
        after,
    ).limit(limit)
    return [LedgerEntry(**row) for row in connection.execute(statement).mappings()]


def replay(
    connection: Connection,
    which: ReplayFilter,
    now: int,
    after: Key | None = None,
    limit: int = REPLAY_BATCH,
) -> tuple[int, Key | None]:
    """Make deliveries due again from their first attempt, the next `limit` after a key at most.

    How many, and the key to go on after (None at the end). One that is being tried at this moment
    is left alone: it is being delivered again already.
    """
    done = replayed(connection, which, now, after, limit)
    return done.number, done.after


def replayed(
    connection: Connection,
    which: ReplayFilter,
    now: int,
    after: Key | None = None,
    limit: int = REPLAY_BATCH,
) -> Replayed:
    """As `replay`, and which of them were dead letters."""
    statement = _wanted(
        sa.select(delivery.c.binding, delivery.c.seq, delivery.c.state),
        {
            "binding": which.binding,
            "state": which.state,
            "space": which.space,
            "study_instance_uid": which.study_instance_uid,
        },
        after,
    ).where(sa.or_(delivery.c.claim.is_(None), delivery.c.next_at <= now))
    if which.since_seq is not None:
        statement = statement.where(delivery.c.seq > which.since_seq)
    found = connection.execute(statement.limit(limit).with_for_update(skip_locked=True)).all()
    if not found:
        return Replayed(0, None, [])
    connection.execute(
        sa.update(delivery)
        .where(
            delivery.c.binding == sa.bindparam("of_binding"),
            delivery.c.seq == sa.bindparam("of_seq"),
        )
        .values(state=PENDING, attempts=0, next_at=now, claim=None, changed_at=now),
        [{"of_binding": row.binding, "of_seq": row.seq} for row in found],
    )
    moves: Counter[tuple[str, str]] = Counter()
    for row in found:
        moves[row.binding, row.state] -= 1
        moves[row.binding, PENDING] += 1
    count(connection, moves)
    last = found[-1]
    return Replayed(
        len(found),
        (last.binding, last.seq) if len(found) == limit else None,
        [(row.binding, row.seq) for row in found if row.state == DEAD],
    )


def summary(connection: Connection) -> dict[str, dict[str, int]]:
    """How many deliveries each binding has in each state."""
    counts: dict[str, dict[str, int]] = {}
    # delivery_count_pkey
    for binding, state, number in connection.execute(
        sa.select(delivery_count.c.binding, delivery_count.c.state, delivery_count.c.number)
    ):
        counts.setdefault(binding, dict.fromkeys(STATES, 0))[state] = number
    return counts


def _wanted(
    statement: sa.Select[Any], conditions: dict[str, str | None], after: Key | None
) -> sa.Select[Any]:
    """With the conditions that are set, in order of binding and number, after a key."""
    for name, value in conditions.items():
        if value is not None:
            statement = statement.where(delivery.c[name] == value)
    if after is not None and after[0] == conditions["binding"]:
        statement = statement.where(delivery.c.seq > after[1])  # SQLite sorts for the row value
    elif after is not None:
        statement = statement.where(sa.tuple_(delivery.c.binding, delivery.c.seq) > after)
    return statement.order_by(delivery.c.binding, delivery.c.seq)
