"""Which study of a space is to go next, by its rules, and letting it go: one transaction.

Whole studies go, those first that changed first. A study stays, whatever the rules say,

- while a revision of it is to come: the one that tells of its deletion must not be the first;
- while a binding has not got an event about it: one that waits, one that was given up (a dead
  letter may be driven again, and would find nothing), one that is not handed out from the log yet.

So a quota is exceeded where a target is away for long. To lose what nobody else has is worse.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.events.model import ChangeKind
from imaging_ingestion.manifest.deletion import delete_instances
from imaging_ingestion.manifest.deliveries import DELIVERED
from imaging_ingestion.manifest.outbox import OUTBOX
from imaging_ingestion.manifest.schema import change, delivery, study, subscription
from imaging_ingestion.manifest.usage import usage

#: Studies that one transaction looks at, at most.
SCAN: Final = 100
#: Any number that nobody else takes an advisory lock on in this database: one process at a time
#: goes by the quota, or two would each remove enough.
_LOCK: Final = 0x6B656570  # "keep"
_CARRIERS: Final = (
    ChangeKind.STORED.value,
    ChangeKind.REPLACED.value,
    ChangeKind.REVISED.value,
)


class Rules(NamedTuple):
    """`max_age` in microseconds since the last change of a study, `max_size` in bytes; or None."""

    max_age: int | None
    max_size: int | None


class Key(NamedTuple):
    """A study's place in the order in which they go."""

    changed_at: int
    pk: int


class Looked(NamedTuple):
    """What became of a look. `deleted` is the UID of a study that went, with how many instances.

    `after` is where to go on; None: nothing is left that is to go. `held` studies were to go, and
    stay for now.
    """

    after: Key | None
    deleted: str | None = None
    instances: int = 0
    held: int = 0


def expire_next(
    connection: Connection,
    space: str,
    rules: Rules,
    bindings: Collection[str],
    now: int,
    revisioning_delay_us: int,
    after: Key | None = None,
) -> Looked:
    """Delete the next study that is to go after a key, if there is one.

    `bindings` are those whose deliveries count. Times are microseconds since the epoch.
    """
    if connection.dialect.name == "postgresql":
        ours = connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(_LOCK))).scalar_one()
        if not ours:
            return Looked(None)
    size = usage(connection, space).bytes
    is_over = rules.max_size is not None and size > rules.max_size
    # study_settled
    wanted = (
        sa.select(study.c.changed_at, study.c.id, study.c.study_instance_uid)
        .where(
            study.c.space == space,
            study.c.revision_due_at.is_(None),
            study.c.number_of_instances > 0,
        )
        .order_by(study.c.changed_at, study.c.id)
        .limit(SCAN)
        .with_for_update(skip_locked=True)
    )
    if not is_over:
        if rules.max_age is None:
            return Looked(None)
        wanted = wanted.where(study.c.changed_at < now - rules.max_age)
    if after is not None:
        wanted = wanted.where(sa.tuple_(study.c.changed_at, study.c.id) > after)
    position = _handed_out(connection, bindings)
    last: Key | None = None
    held = 0
    for changed_at, pk, uid in connection.execute(wanted).all():
        last = Key(changed_at, pk)
        if _is_owed(connection, space, uid, bindings, position):
            held += 1
            continue
        number = delete_instances(connection, space, uid, None, None, now, revisioning_delay_us)
        return Looked(last, uid, number, held)
    return Looked(last, held=held)


def _handed_out(connection: Connection, bindings: Collection[str]) -> int | None:
    """The number up to which every binding, and the broker, has read the log; None without any."""
    # subscription_pkey
    position: int | None = connection.execute(
        sa.select(sa.func.min(subscription.c.position)).where(
            subscription.c.name.in_((*bindings, OUTBOX))
        )
    ).scalar_one()
    return position


def _is_owed(
    connection: Connection,
    space: str,
    study_instance_uid: str,
    bindings: Collection[str],
    position: int | None,
) -> bool:
    """Whether somebody has not got yet what the log says of a study."""
    # delivery_by_study
    owed = sa.select(sa.literal(1)).where(
        delivery.c.study_instance_uid == study_instance_uid,
        delivery.c.binding.in_(bindings),
        delivery.c.space == space,
        delivery.c.state != DELIVERED,
    )
    if bindings and connection.execute(owed.limit(1)).first() is not None:
        return True
    if position is None:
        return False
    # change_by_study
    ahead = sa.select(sa.literal(1)).where(
        change.c.study_instance_uid == study_instance_uid,
        change.c.seq > position,
        change.c.space == space,
        change.c.kind.in_(_CARRIERS),
    )
    return connection.execute(ahead.limit(1)).first() is not None
