"""Instances that wait to be sent on, and then go: a spool keeps nothing that was delivered.

A delivery of the spool's subscription is ordered by study (`Subscription.by_study`). Whoever has
the first delivery of a study in hand sends what waits behind it as well and settles it here; its
own is the dispatcher's to complete. An instance goes with its delivery, unless other bytes have
come for it meanwhile: their delivery is behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.manifest.changes import Change
from imaging_ingestion.manifest.deliveries import (
    DEAD,
    DELIVERED,
    PENDING,
    Claim,
    Result,
    count,
    log_ends,
)
from imaging_ingestion.manifest.retrieve import INSTANCES, Instance
from imaging_ingestion.manifest.schema import (
    change,
    delivery,
    delivery_count,
    instance,
    object_removal,
    series,
    study,
    subscription,
)

_IS_PENDING: sa.ColumnElement[str] = sa.literal_column(f"'{PENDING}'")
_IS_DEAD: sa.ColumnElement[str] = sa.literal_column(f"'{DEAD}'")
_IS_DELIVERED: sa.ColumnElement[str] = sa.literal_column(f"'{DELIVERED}'")
_NOBODYS = -1


class Waiting(msgspec.Struct, frozen=True):
    """A delivery that is not made. Without an instance there is nothing to be sent any more."""

    change: Change
    event_id: str
    instance: Instance | None


class Settled(msgspec.Struct, frozen=True):
    """How one ended: `state` is DELIVERED or DEAD."""

    of: Waiting
    state: str
    answer: str


class Backlog(msgspec.Struct, frozen=True):
    """How much a spool has. `oldest`: when the first came of those that wait (microseconds)."""

    waiting: int
    dead: int
    delivered: int
    oldest: int | None


class WaitingStudy(msgspec.Struct, frozen=True):
    """What waits of one study; `attempts` and `answer` are those of its first delivery."""

    space: str
    study_instance_uid: str
    waiting: int
    oldest: int
    attempts: int
    answer: str | None


def waiting(
    connection: Connection, name: str, order_key: str, after: int, limit: int
) -> list[Waiting]:
    """The next deliveries of a study after a number in the log, in their order."""
    columns = [change.c[field] for field in Change.__struct_fields__]
    # delivery_order
    rows = (
        connection.execute(
            sa.select(delivery.c.event_id.label("of_event"), *columns)
            .join(change, change.c.seq == delivery.c.seq)
            .where(
                delivery.c.binding == name,
                delivery.c.order_key == order_key,
                delivery.c.state == _IS_PENDING,
                delivery.c.seq > after,
            )
            .order_by(delivery.c.seq)
            .limit(limit)
        )
        .mappings()
        .all()
    )
    entries = [
        (row["of_event"], Change(**{field: row[field] for field in Change.__struct_fields__}))
        for row in rows
    ]
    live = _live(connection, {entry.space for _, entry in entries}, (e for _, e in entries))
    found = []
    for event_id, entry in reversed(entries):  # the last delivery of an instance has it
        instance_now = live.pop((entry.space, entry.sop_instance_uid), None)
        found.append(Waiting(entry, event_id, instance_now))
    return found[::-1]


def _live(
    connection: Connection, spaces: Iterable[str], entries: Iterable[Change]
) -> dict[tuple[str, str | None], Instance]:
    uids = {entry.sop_instance_uid for entry in entries}
    found: dict[tuple[str, str | None], Instance] = {}
    for space in spaces:
        # instance_live_uid
        rows = connection.execute(
            INSTANCES.where(
                instance.c.space == space,
                instance.c.sop_instance_uid.in_(uids),
                instance.c.deleted_at.is_(None),
            )
        )
        for row in rows:
            one = Instance(*row)
            found[space, one.sop_instance_uid] = one
    return found


def settle(connection: Connection, name: str, settled: Sequence[Settled], now: int) -> None:
    """Write down how deliveries ended, and remove what was delivered.

    A delivery in a dispatcher's hand is left to it; its instance is not.
    """
    # delivery_pkey
    free = set(
        connection.execute(
            sa.select(delivery.c.seq).where(
                delivery.c.binding == name,
                delivery.c.seq.in_([one.of.change.seq for one in settled]),
                delivery.c.state == _IS_PENDING,
                delivery.c.claim.is_(None),
            )
        ).scalars()
    )
    ours = [one for one in settled if one.of.change.seq in free]
    if ours:
        connection.execute(
            sa.update(delivery)
            .where(delivery.c.binding == name, delivery.c.seq == sa.bindparam("of_seq"))
            .values(
                state=sa.bindparam("to_state"),
                next_at=None,
                attempts=delivery.c.attempts + 1,
                answer=sa.bindparam("to_answer"),
                changed_at=now,
            ),
            [
                {"of_seq": one.of.change.seq, "to_state": one.state, "to_answer": one.answer}
                for one in ours
            ],
        )
        moves = Counter((name, one.state) for one in ours)
        moves[name, PENDING] -= len(ours)
        count(connection, moves)
    _remove(connection, [one.of.instance for one in settled if one.state == DELIVERED])
    results = [
        Result(
            claim=Claim(one.of.change, 1, _NOBODYS),
            event_id=one.of.event_id,
            state=one.state,
            answer=one.answer,
        )
        for one in ours
    ]
    log_ends(connection, name, results, [True] * len(results), now)


def _remove(connection: Connection, instances: Iterable[Instance | None]) -> None:
    """Remove rows whose object is still the one that was sent, and what holds nothing any more."""
    sent = {one.pk: one.object_name for one in instances if one is not None}
    if not sent:
        return
    # instance_pkey
    rows = connection.execute(
        sa.select(
            instance.c.id, instance.c.object_name, instance.c.series_pk, instance.c.study_pk
        ).where(instance.c.id.in_(sent), instance.c.deleted_at.is_(None))
    ).all()
    gone = [row for row in rows if row.object_name == sent[row.id]]
    if not gone:
        return
    connection.execute(sa.delete(instance).where(instance.c.id.in_([row.id for row in gone])))
    emptied = _take_away(connection, series, Counter(row.series_pk for row in gone))
    _take_away(connection, study, Counter(row.study_pk for row in gone))
    if not emptied:
        return
    # instance_by_series, series_uid
    of_series = sa.select(instance.c.id).where(instance.c.series_pk == series.c.id).exists()
    lost = Counter(
        connection.execute(
            sa.delete(series)
            .where(series.c.id.in_(emptied), ~of_series)
            .returning(series.c.study_pk)
        ).scalars()
    )
    of_study = sa.select(series.c.id).where(series.c.study_pk == study.c.id).exists()
    for study_pk, number in lost.items():
        connection.execute(
            sa.update(study)
            .where(study.c.id == study_pk)
            .values(number_of_series=study.c.number_of_series - number)
        )
    connection.execute(sa.delete(study).where(study.c.id.in_(lost), ~of_study))


def _take_away(connection: Connection, table: sa.Table, numbers: Counter[int]) -> list[int]:
    """Count so many instances fewer; the rows that have none left."""
    emptied = []
    for pk, number in numbers.items():
        left = connection.execute(
            sa.update(table)
            .where(table.c.id == pk)
            .values(number_of_instances=table.c.number_of_instances - number)
            .returning(table.c.number_of_instances)
        ).scalar_one_or_none()
        if left is not None and left <= 0:
            emptied.append(pk)
    return emptied


def revive(
    connection: Connection, name: str, study_instance_uid: str, sop_instance_uid: str, now: int
) -> int:
    """Make the dead letters of an instance due again, for it has been sent again; how many."""
    # delivery_by_study
    found = connection.execute(
        sa.select(delivery.c.seq)
        .join(change, change.c.seq == delivery.c.seq)
        .where(
            delivery.c.study_instance_uid == study_instance_uid,
            delivery.c.binding == name,
            delivery.c.state == _IS_DEAD,
            change.c.sop_instance_uid == sop_instance_uid,
        )
    ).scalars()
    numbers = list(found)
    if numbers:
        connection.execute(
            sa.update(delivery)
            .where(delivery.c.binding == name, delivery.c.seq.in_(numbers))
            .values(state=PENDING, attempts=0, next_at=now, claim=None, changed_at=now)
        )
        count(connection, {(name, DEAD): -len(numbers), (name, PENDING): len(numbers)})
    return len(numbers)


def discard(
    connection: Connection, name: str, study_instance_uid: str | None, limit: int
) -> tuple[int, list[str]]:
    """Forget dead letters, the oldest first: how many, and the objects to be deleted then.

    An instance of which other bytes wait stays.
    """
    columns = [change.c[field] for field in Change.__struct_fields__]
    # delivery_by_state
    statement = (
        sa.select(*columns)
        .join(delivery, change.c.seq == delivery.c.seq)
        .where(delivery.c.binding == name, delivery.c.state == _IS_DEAD)
        .order_by(delivery.c.seq)
        .limit(limit)
    )
    if study_instance_uid is not None:
        statement = statement.where(delivery.c.study_instance_uid == study_instance_uid)
    dead = [Change(**row) for row in connection.execute(statement).mappings()]
    if not dead:
        return 0, []
    # delivery_by_study
    wanted = connection.execute(
        sa.select(change.c.space, change.c.sop_instance_uid)
        .join(delivery, delivery.c.seq == change.c.seq)
        .where(
            delivery.c.study_instance_uid.in_({entry.study_instance_uid for entry in dead}),
            delivery.c.binding == name,
            delivery.c.state == _IS_PENDING,
        )
    )
    live = _live(connection, {entry.space for entry in dead}, dead)
    for space, sop_instance_uid in wanted:
        live.pop((space, sop_instance_uid), None)
    connection.execute(
        sa.delete(delivery).where(
            delivery.c.binding == name, delivery.c.seq.in_([entry.seq for entry in dead])
        )
    )
    count(connection, {(name, DEAD): -len(dead)})
    _remove(connection, live.values())
    return len(dead), [one.object_name for one in live.values()]


def prune(connection: Connection, name: str, before: int, limit: int) -> bool:
    """Forget deliveries that were made before a time, and the log of them; whether there is more.

    The last entry of the log stays: its numbers go on after it. Orders to remove what was replaced
    go, too: here it is removed at once.
    """
    # object_removal_due
    connection.execute(sa.delete(object_removal).where(object_removal.c.next_at < before))
    # delivery_by_state
    oldest = connection.execute(
        sa.select(delivery.c.seq, delivery.c.changed_at)
        .where(delivery.c.state == _IS_DELIVERED, delivery.c.binding == name)
        .order_by(delivery.c.seq)
        .limit(limit)
    ).all()
    old = [row.seq for row in oldest if row.changed_at < before]
    if old:
        connection.execute(
            sa.delete(delivery).where(delivery.c.binding == name, delivery.c.seq.in_(old))
        )
        count(connection, {(name, DELIVERED): -len(old)})
    position = (
        sa.select(subscription.c.position).where(subscription.c.name == name).scalar_subquery()
    )
    newest = sa.select(sa.func.max(change.c.seq)).scalar_subquery()
    is_needed = (
        sa.select(sa.literal(1))
        .where(delivery.c.binding == name, delivery.c.seq == change.c.seq)
        .exists()
    )
    entries = (
        connection.execute(
            sa.select(change.c.seq)
            .where(
                change.c.seq <= position,
                change.c.seq < newest,
                change.c.at < before,
                ~is_needed,
            )
            .order_by(change.c.seq)
            .limit(limit)
        )
        .scalars()
        .all()
    )
    if entries:
        connection.execute(sa.delete(change).where(change.c.seq.in_(entries)))
    return len(old) == limit or len(entries) == limit


def backlog(connection: Connection, name: str) -> Backlog:
    """How much there is."""
    # delivery_count_pkey
    numbers = {
        row.state: row.number
        for row in connection.execute(
            sa.select(delivery_count.c.state, delivery_count.c.number).where(
                delivery_count.c.binding == name
            )
        )
    }
    return Backlog(
        numbers.get(PENDING, 0),
        numbers.get(DEAD, 0),
        numbers.get(DELIVERED, 0),
        oldest(connection, name),
    )


def kept(connection: Connection) -> int:
    """Bytes of all objects."""
    total = sa.func.coalesce(sa.func.sum(instance.c.object_size), 0)
    return int(
        connection.execute(sa.select(total).where(instance.c.deleted_at.is_(None))).scalar_one()
    )


def oldest(connection: Connection, name: str) -> int | None:
    """When the instance came that has waited longest; None if none waits."""
    # delivery_by_state
    first = (
        sa.select(change.c.at)
        .join(delivery, delivery.c.seq == change.c.seq)
        .where(delivery.c.state == _IS_PENDING, delivery.c.binding == name)
        .order_by(delivery.c.seq)
        .limit(1)
    )
    return connection.execute(first).scalar_one_or_none()


def waiting_studies(connection: Connection, name: str, limit: int) -> list[WaitingStudy]:
    """The studies that wait, those first that came first."""
    groups = (
        sa.select(sa.func.min(delivery.c.seq).label("first"), sa.func.count().label("waiting"))
        .where(delivery.c.binding == name, delivery.c.state == _IS_PENDING)
        .group_by(delivery.c.order_key)
        .order_by(sa.func.min(delivery.c.seq))
        .limit(limit)
        .subquery()
    )
    rows = connection.execute(
        sa.select(
            change.c.space,
            change.c.study_instance_uid,
            groups.c.waiting,
            change.c.at,
            delivery.c.attempts,
            delivery.c.answer,
        )
        .join(delivery, (delivery.c.seq == groups.c.first) & (delivery.c.binding == name))
        .join(change, change.c.seq == groups.c.first)
        .order_by(groups.c.first)
    )
    return [WaitingStudy(*row) for row in rows]


def known_objects(connection: Connection, names: Mapping[str, str]) -> set[str]:
    """Which objects some row refers to, of those with these names (to SOP Instance UIDs)."""
    spaces = connection.execute(sa.select(study.c.space).distinct()).scalars().all()
    found: set[str] = set()
    for space in spaces:
        # instance_live_uid
        found.update(
            connection.execute(
                sa.select(instance.c.object_name).where(
                    instance.c.space == space,
                    instance.c.sop_instance_uid.in_(set(names.values())),
                    instance.c.deleted_at.is_(None),
                )
            ).scalars()
        )
    return found & names.keys()
