"""The delivery ledger: for every event and binding the state, the attempts, the last answer.

A delivery is due at `next_at`. To claim it is to move that time one lease into the future; whoever
claimed it moves it on while it works, and a process that dies simply stops doing so. Nothing else
says who works on what, so nothing has to be cleaned up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.events.broker import ReplayFilter
from imaging_ingestion.events.model import (
    DICOM_AVAILABLE,
    IMAGE_STORED,
    STUDY_REVISION,
    ChangeKind,
    Event,
)
from imaging_ingestion.manifest import changes
from imaging_ingestion.manifest.changes import Change
from imaging_ingestion.manifest.schema import change, delivery, subscription

PENDING = "pending"
DELIVERED = "delivered"
DEAD = "dead"
STATES = (PENDING, DELIVERED, DEAD)

#: Characters of a target's answer that are kept.
ANSWER_LENGTH = 2000

_KINDS = {
    IMAGE_STORED: (ChangeKind.STORED, ChangeKind.REPLACED),
    DICOM_AVAILABLE: (ChangeKind.STORED, ChangeKind.REPLACED),
    STUDY_REVISION: (ChangeKind.REVISED,),
}


class Claim(msgspec.Struct, frozen=True):
    """A delivery to be tried now; `attempt` counts from 1."""

    change: Change
    attempt: int


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How a try ended. `next_at` is set if there is to be another one."""

    binding: str
    change: Change
    event_id: str
    state: str
    attempt: int
    answer: str
    next_at: int | None = None


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


def published_type(entry: Change) -> str | None:
    """The type of an event that was given to the broker from outside; None for any other entry."""
    if entry.kind != ChangeKind.PUBLISHED or entry.detail is None:
        return None
    return msgspec.json.decode(entry.detail, type=Event).type


def event_id_of(entry: Change) -> str:
    """The deterministic id of the event that a log entry carries."""
    return entry.event_id or f"{entry.sop_instance_uid}.{entry.version}"


def subscribe(connection: Connection, name: str, *, from_start: bool = False) -> None:
    """Make a subscription known. A new one begins at the end of the log, unless told otherwise."""
    known = connection.execute(
        sa.select(subscription.c.name).where(subscription.c.name == name)
    ).scalar_one_or_none()
    if known is None:
        position = 0 if from_start else changes.last_seq(connection)
        connection.execute(sa.insert(subscription).values(name=name, position=position))


def fan_out(
    connection: Connection,
    name: str,
    event_type: str,
    wants: Callable[[Change], bool],
    now: int,
    limit: int = 500,
) -> int:
    """Read the log after the subscription's position; how many entries were passed.

    Deliveries for the wanted ones and the new position are one transaction.
    """
    position = connection.execute(
        sa.select(subscription.c.position).where(subscription.c.name == name).with_for_update()
    ).scalar_one()
    entries = changes.since(connection, position, limit)
    if not entries:
        return 0
    kinds = _KINDS.get(event_type, ())
    due = [
        entry
        for entry in entries
        if (entry.kind in kinds or published_type(entry) == event_type) and wants(entry)
    ]
    if due:
        connection.execute(
            sa.insert(delivery),
            [
                {
                    "binding": name,
                    "seq": entry.seq,
                    "state": PENDING,
                    "attempts": 0,
                    "next_at": now,
                    "event_id": event_id_of(entry),
                    "space": entry.space,
                    "study_instance_uid": entry.study_instance_uid,
                    "answer": None,
                    "changed_at": now,
                }
                for entry in due
            ],
        )
    connection.execute(
        sa.update(subscription).where(subscription.c.name == name).values(position=entries[-1].seq)
    )
    return len(entries)


def claim(connection: Connection, name: str, now: int, lease: int, limit: int) -> list[Claim]:
    """Take up to `limit` due deliveries, those waiting longest first."""
    # delivery_due
    due = (
        sa.select(delivery.c.seq, delivery.c.attempts)
        .where(
            delivery.c.binding == name,
            delivery.c.state == sa.literal_column(f"'{PENDING}'"),
            delivery.c.next_at <= now,
        )
        .order_by(delivery.c.next_at, delivery.c.seq)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    attempts = {row.seq: row.attempts for row in connection.execute(due)}
    if not attempts:
        return []
    connection.execute(
        sa.update(delivery)
        .where(delivery.c.binding == name, delivery.c.seq.in_(attempts))
        .values(attempts=delivery.c.attempts + 1, next_at=now + lease)
    )
    columns = [change.c[f] for f in Change.__struct_fields__]
    entries = connection.execute(
        sa.select(*columns).where(change.c.seq.in_(attempts)).order_by(change.c.seq)
    ).mappings()
    return [Claim(Change(**entry), attempts[entry["seq"]] + 1) for entry in entries]


def renew(connection: Connection, name: str, seqs: Collection[int], until: int) -> None:
    """Hold on to claimed deliveries."""
    connection.execute(
        sa.update(delivery)
        .where(
            delivery.c.binding == name,
            delivery.c.seq.in_(seqs),
            delivery.c.state == PENDING,
        )
        .values(next_at=until)
    )


def next_due(connection: Connection, name: str) -> int | None:
    """When the subscription's next delivery is due; None if none is pending."""
    due: int | None = connection.execute(
        sa.select(sa.func.min(delivery.c.next_at)).where(
            delivery.c.binding == name, delivery.c.state == sa.literal_column(f"'{PENDING}'")
        )
    ).scalar_one()
    return due


def complete(connection: Connection, results: Sequence[Result], now: int) -> None:
    """Write down how tries ended, in the ledger and, if that is the end of it, in the log."""
    connection.execute(
        sa.update(delivery)
        .where(
            delivery.c.binding == sa.bindparam("of_binding"),
            delivery.c.seq == sa.bindparam("of_seq"),
        )
        .values(
            state=sa.bindparam("to_state"),
            next_at=sa.bindparam("to_next_at"),
            answer=sa.bindparam("to_answer"),
            changed_at=now,
        ),
        [
            {
                "of_binding": result.binding,
                "of_seq": result.change.seq,
                "to_state": result.state,
                "to_next_at": result.next_at,
                "to_answer": result.answer[:ANSWER_LENGTH],
            }
            for result in results
        ],
    )
    kinds = {DELIVERED: ChangeKind.DELIVERED, DEAD: ChangeKind.FAILED}
    changes.append(
        connection,
        [
            {
                "at": now,
                "kind": kinds[result.state].value,
                "space": result.change.space,
                "study_instance_uid": result.change.study_instance_uid,
                "series_instance_uid": result.change.series_instance_uid,
                "sop_instance_uid": result.change.sop_instance_uid,
                "provider": result.change.provider,
                "version": result.change.version,
                "binding": result.binding,
                "event_id": result.event_id,
            }
            for result in results
            if result.state in kinds
        ],
    )


def replay(connection: Connection, which: ReplayFilter, now: int) -> int:
    """Make deliveries due again from their first attempt; how many."""
    statement = sa.update(delivery).values(state=PENDING, attempts=0, next_at=now, changed_at=now)
    if which.binding is not None:
        statement = statement.where(delivery.c.binding == which.binding)
    if which.state is not None:
        statement = statement.where(delivery.c.state == which.state)
    if which.space is not None:
        statement = statement.where(delivery.c.space == which.space)
    if which.study_instance_uid is not None:
        statement = statement.where(delivery.c.study_instance_uid == which.study_instance_uid)
    if which.since_seq is not None:
        statement = statement.where(delivery.c.seq > which.since_seq)
    return connection.execute(statement).rowcount


def ledger(
    connection: Connection,
    *,
    binding: str | None = None,
    state: str | None = None,
    study_instance_uid: str | None = None,
    after: tuple[str, int] | None = None,
    limit: int = 100,
) -> list[LedgerEntry]:
    """A page of the ledger by binding and number; `after` is the last line seen."""
    statement = (
        sa.select(*(delivery.c[f] for f in LedgerEntry.__struct_fields__))
        .order_by(delivery.c.binding, delivery.c.seq)
        .limit(limit)
    )
    conditions: dict[str, Any] = {
        "binding": binding,
        "state": state,
        "study_instance_uid": study_instance_uid,
    }
    for name, value in conditions.items():
        if value is not None:
            statement = statement.where(delivery.c[name] == value)
    if after is not None:
        statement = statement.where(sa.tuple_(delivery.c.binding, delivery.c.seq) > after)
    return [LedgerEntry(**row) for row in connection.execute(statement).mappings()]


def summary(connection: Connection) -> dict[str, dict[str, int]]:
    """How many deliveries each binding has in each state."""
    # delivery_by_state
    counts: dict[str, dict[str, int]] = {}
    rows = connection.execute(
        sa.select(delivery.c.binding, delivery.c.state, sa.func.count()).group_by(
            delivery.c.binding, delivery.c.state
        )
    )
    for binding, state, count in rows:
        counts.setdefault(binding, dict.fromkeys(STATES, 0))[state] = count
    return counts
