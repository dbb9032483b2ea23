"""Deliveries as a dispatcher works on them: fanned out, claimed, held, completed.

A delivery that is due is claimed by writing a claim into its row, and how long that holds into
`next_at`. Whoever claimed it moves that time on while it works; a process that dies simply stops
doing so, and the delivery is due again. How a try ended is written down only while the claim is
still there, so that whoever was taken for dead changes nothing any more.

Deliveries of one binding with the same order key (one instance, or the revisions of one study; all
of one study where the binding is ordered so) go strictly one after the other, in whichever process:
while an earlier one is pending, a later one is not due. So a target never sees an older state after
a newer one; the price is that a delivery that fails holds up the later ones of its key until it
succeeds or is given up.

Locks are taken in one order, so that PostgreSQL never meets a deadlock here: subscription,
deliveries by number, counts, log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.events.model import ChangeKind
from imaging_ingestion.manifest import changes
from imaging_ingestion.manifest.changes import (
    Change,
    carries,
    event_id_of,
    order_key_of,
    study_key_of,
)
from imaging_ingestion.manifest.schema import change, delivery, delivery_count, subscription

PENDING = "pending"
DELIVERED = "delivered"
DEAD = "dead"
STATES = (PENDING, DELIVERED, DEAD)

#: Characters of a target's answer that are kept.
ANSWER_LENGTH = 2000
#: Entries of no interest after which a subscription's position is written down nevertheless.
_LAG = 10_000
#: As the indexes delivery_due and delivery_order say it.
_IS_PENDING: sa.ColumnElement[str] = sa.literal_column(f"'{PENDING}'")

_earlier = delivery.alias("earlier")
#: delivery_order. No other claim can make this true or false, only the end of a delivery can.
_IS_ITS_TURN = ~(
    sa.select(sa.literal(1))
    .where(
        _earlier.c.binding == delivery.c.binding,
        _earlier.c.order_key == delivery.c.order_key,
        _earlier.c.state == _IS_PENDING,
        _earlier.c.seq < delivery.c.seq,
    )
    .exists()
)


class Outlook(NamedTuple):
    """What there is to do for a subscription.

    `news` says that the log has entries for it that are not fanned out, `scanned` how far the log
    was looked at; `due` is when the next delivery is due (microseconds since the epoch).
    """

    news: bool
    scanned: int
    due: int | None


class Claim(msgspec.Struct, frozen=True):
    """A delivery to be tried now, held under `token`; `attempt` counts from 1."""

    change: Change
    attempt: int
    token: int


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How a try ended. `next_at` is set if there is to be another one."""

    claim: Claim
    event_id: str
    state: str
    answer: str
    next_at: int | None = None


def subscribe(connection: Connection, name: str, *, from_start: bool = False) -> None:
    """Make a subscription known. A new one begins at the end of the log, unless told otherwise."""
    known = connection.execute(
        sa.select(subscription.c.name).where(subscription.c.name == name)
    ).scalar_one_or_none()
    if known is None:
        position = 0 if from_start else changes.last_seq(connection)
        connection.execute(sa.insert(subscription).values(name=name, position=position))
        connection.execute(
            sa.insert(delivery_count),
            [{"binding": name, "state": state, "number": 0} for state in STATES],
        )


def outlook(
    connection: Connection,
    name: str,
    event_type: str,
    scanned: int,
    holding: Collection[int],
    *,
    by_study: bool = False,
) -> Outlook:
    """Whether there is anything to do, without writing.

    `scanned` is what an earlier outlook said; `holding` are the numbers in the caller's own hands.
    """
    position = connection.execute(
        sa.select(subscription.c.position).where(subscription.c.name == name)
    ).scalar_one()
    page = changes.since(
        connection, max(position, scanned), 1, kinds=changes.kinds_with(event_type)
    )
    while not page.entries and page.more:
        page = changes.since(connection, page.last, 1, kinds=changes.kinds_with(event_type))
    due = next_due(connection, name, holding, by_study=by_study)
    if page.entries:
        return Outlook(True, scanned, due)
    return Outlook(page.last - position > _LAG, page.last, due)


def next_due(
    connection: Connection, name: str, holding: Collection[int], *, by_study: bool = False
) -> int | None:
    """When the next delivery that is not in the caller's own hands is due; None: there is none."""
    first = _open_to(name, holding, by_study, delivery.c.next_at).limit(1)
    return connection.execute(first).scalar_one_or_none()


def fan_out(
    connection: Connection,
    name: str,
    event_type: str,
    wants: Callable[[Change], bool],
    now: int,
    limit: int = 500,
    *,
    by_study: bool = False,
    up_to: int | None = None,
) -> bool:
    """Read the log after the subscription's position, `up_to` a number; whether there is more.

    Deliveries for the wanted entries and the new position are one transaction.
    """
    position = connection.execute(
        sa.select(subscription.c.position).where(subscription.c.name == name).with_for_update()
    ).scalar_one()
    if up_to is not None and up_to <= position:
        return False
    page = changes.since(connection, position, limit, kinds=changes.kinds_with(event_type))
    if up_to is not None and page.last > up_to:
        page = changes.Page([entry for entry in page.entries if entry.seq <= up_to], up_to, False)
    due = [entry for entry in page.entries if carries(entry, event_type) and wants(entry)]
    key_of = study_key_of if by_study else order_key_of
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
                    "order_key": key_of(entry),
                    "event_id": event_id_of(entry, event_type),
                    "space": entry.space,
                    "study_instance_uid": entry.study_instance_uid,
                    "changed_at": now,
                }
                for entry in due
            ],
        )
        count(connection, {(name, PENDING): len(due)})
    if page.last != position:
        connection.execute(
            sa.update(subscription).where(subscription.c.name == name).values(position=page.last)
        )
    return page.more


def claim(
    connection: Connection,
    name: str,
    now: int,
    lease: int,
    limit: int,
    token: int,
    holding: Collection[int] = (),
    *,
    by_study: bool = False,
) -> list[Claim]:
    """Take up to `limit` deliveries whose time and turn have come, those waiting longest first.

    `lease` is in microseconds. What the caller holds already (`holding`) is not taken again,
    whatever the clock says.
    """
    due = (
        _open_to(name, holding, by_study, delivery.c.seq, delivery.c.attempts)
        .where(delivery.c.next_at <= now)
        .limit(limit)
        .with_for_update(skip_locked=True, of=delivery)
    )
    attempts = {row.seq: row.attempts for row in connection.execute(due)}
    if not attempts:
        return []
    connection.execute(
        sa.update(delivery)
        .where(delivery.c.binding == name, delivery.c.seq.in_(attempts))
        .values(attempts=delivery.c.attempts + 1, next_at=now + lease, claim=token)
    )
    columns = [change.c[f] for f in Change.__struct_fields__]
    entries = connection.execute(
        sa.select(*columns).where(change.c.seq.in_(attempts)).order_by(change.c.seq)
    ).mappings()
    return [Claim(Change(**entry), attempts[entry["seq"]] + 1, token) for entry in entries]


def _open_to(
    name: str, holding: Collection[int], by_study: bool, *columns: sa.Column[Any]
) -> sa.Select[Any]:
    """Pending deliveries whose turn has come, those waiting longest first, but the caller's own."""
    # delivery_due
    statement = (
        sa.select(*columns)
        .where(
            delivery.c.binding == name,
            delivery.c.state == _IS_PENDING,
            delivery.c.seq.in_(_heads(name)) if by_study else _IS_ITS_TURN,
        )
        .order_by(delivery.c.next_at, delivery.c.seq)
    )
    return statement.where(delivery.c.seq.not_in(holding)) if holding else statement


def _heads(name: str) -> sa.Select[Any]:
    """The first pending delivery of each key, found by going from key to key (delivery_order).

    Where many wait behind each of few keys, asking each whether it is its turn would take as long
    as there are deliveries.
    """
    pending = (delivery.c.binding == name, delivery.c.state == _IS_PENDING)
    first_key = sa.select(sa.func.min(delivery.c.order_key)).where(*pending).scalar_subquery()
    keys = sa.select(first_key.label("order_key")).cte("keys", recursive=True)
    next_key = (
        sa.select(sa.func.min(delivery.c.order_key))
        .where(*pending, delivery.c.order_key > keys.c.order_key)
        .scalar_subquery()
    )
    keys = keys.union_all(sa.select(next_key).where(keys.c.order_key.is_not(None)))
    first = (
        sa.select(sa.func.min(delivery.c.seq))
        .where(*pending, delivery.c.order_key == keys.c.order_key)
        .scalar_subquery()
    )
    return sa.select(first).where(keys.c.order_key.is_not(None))


_OF_CLAIM = (
    delivery.c.binding == sa.bindparam("of_binding"),
    delivery.c.seq == sa.bindparam("of_seq"),
    delivery.c.claim == sa.bindparam("of_claim"),
)
_END = (
    sa.update(delivery)
    .where(*_OF_CLAIM)
    .values(
        state=sa.bindparam("to_state"),
        next_at=sa.bindparam("to_next_at"),
        claim=None,
        answer=sa.bindparam("to_answer"),
        changed_at=sa.bindparam("at"),
    )
)


def renew(connection: Connection, name: str, claims: Collection[Claim], until: int) -> None:
    """Hold on to claimed deliveries."""
    _by_claim(connection, name, claims, sa.update(delivery).where(*_OF_CLAIM).values(next_at=until))


def release(connection: Connection, name: str, claims: Collection[Claim], now: int) -> None:
    """Give claimed deliveries back, to be tried at once by whoever comes next."""
    given = sa.update(delivery).where(*_OF_CLAIM).values(next_at=now, claim=None)
    _by_claim(connection, name, claims, given)


def _by_claim(
    connection: Connection, name: str, claims: Collection[Claim], statement: sa.Update
) -> None:
    rows = [
        {"of_binding": name, "of_seq": one.change.seq, "of_claim": one.token}
        for one in sorted(claims, key=lambda one: one.change.seq)
    ]
    if rows:
        connection.execute(statement, rows)


def complete(connection: Connection, name: str, results: Sequence[Result], now: int) -> list[bool]:
    """Write down how tries ended, in the ledger and, if that is the end of it, in the log.

    For each result, whether it counted: a claim that somebody else has taken over does not.
    """
    counted = write_down(connection, name, results, now)
    log_ends(connection, name, results, counted, now)
    return counted


def write_down(
    connection: Connection, name: str, results: Sequence[Result], now: int
) -> list[bool]:
    """The first half of `complete`: the ledger."""
    claims = connection.execute(
        sa.select(delivery.c.seq, delivery.c.claim)
        .where(
            delivery.c.binding == name,
            delivery.c.seq.in_([result.claim.change.seq for result in results]),
        )
        .order_by(delivery.c.seq)
        .with_for_update()
    )
    held = {row.seq: row.claim for row in claims}
    counted = [held.get(result.claim.change.seq) == result.claim.token for result in results]
    rows = [
        {
            "of_binding": name,
            "of_seq": result.claim.change.seq,
            "of_claim": result.claim.token,
            "to_state": result.state,
            "to_next_at": result.next_at,
            "to_answer": _storable(result.answer),
            "at": now,
        }
        for result, counts in zip(results, counted, strict=True)
        if counts
    ]
    if rows:
        connection.execute(_END, rows)
        moves = Counter((name, str(row["to_state"])) for row in rows)
        moves[name, PENDING] -= len(rows)
        count(connection, moves)
    return counted


def log_ends(
    connection: Connection,
    name: str,
    results: Sequence[Result],
    counted: Sequence[bool],
    now: int,
) -> None:
    """The second half of `complete`: the log, whose lock is taken last."""
    changes.append(
        connection,
        [
            _entry(name, result, now)
            for result, counts in zip(results, counted, strict=True)
            if counts and result.state in _ENDS
        ],
    )


_ENDS = {DELIVERED: ChangeKind.DELIVERED, DEAD: ChangeKind.FAILED}


def _entry(name: str, result: Result, now: int) -> dict[str, object]:
    of = result.claim.change
    return {
        "at": now,
        "kind": _ENDS[result.state].value,
        "space": of.space,
        "study_instance_uid": of.study_instance_uid,
        "series_instance_uid": of.series_instance_uid,
        "sop_instance_uid": of.sop_instance_uid,
        "provider": of.provider,
        "version": of.version,
        "binding": name,
        "event_id": result.event_id,
        "detail": f'{{"number":{of.seq}}}' if result.state == DEAD else None,
        "traceparent": of.traceparent,
    }


def count(connection: Connection, moves: Mapping[tuple[str, str], int]) -> None:
    """Add to the counts of (binding, state)."""
    rows = [
        {"of_binding": binding, "of_state": state, "more": more}
        for (binding, state), more in sorted(moves.items())
        if more
    ]
    if rows:
        connection.execute(
            sa.update(delivery_count)
            .where(
                delivery_count.c.binding == sa.bindparam("of_binding"),
                delivery_count.c.state == sa.bindparam("of_state"),
            )
            .values(number=delivery_count.c.number + sa.bindparam("more")),
            rows,
        )


def _storable(answer: str) -> str:
    """A target may answer anything; PostgreSQL keeps no NUL, and no database half a character."""
    answer = answer.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return answer.encode("utf-8", "replace").decode()[:ANSWER_LENGTH]
