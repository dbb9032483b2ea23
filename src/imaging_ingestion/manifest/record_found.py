"""Recording instances whose objects were found in a space, and did not just arrive.

What the manifest has goes before what is found, unless that is newer: an object that is older than
the instance that is live, or than its deletion, changes nothing. So it does not matter how often,
in how many pieces or beside whom a space is gone through.

Without an announcement what is recorded counts as told already: nothing is written to the log, no
study becomes due, and the next revision of a study tells of what changes from here on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.events.stored import StoredInstance, StoreResult
from imaging_ingestion.manifest.announcement import mark_announced
from imaging_ingestion.manifest.database_error import BeginAgainError
from imaging_ingestion.manifest.known import lock_studies
from imaging_ingestion.manifest.record import record_batch
from imaging_ingestion.manifest.schema import instance, object_removal, study
from imaging_ingestion.storage.object_name import parse_object_name

#: When an object was written (microseconds since the epoch), the process that did, and its count.
Age = tuple[int, str, int]

#: Microseconds by which the time of an object may be too late: stores count in seconds, rounded up.
_ROUNDED = 999_999
#: Hexadecimal digits of an arrival that tell the process (`object_name.arrivals`).
_PROCESS = 12


class FoundResult(StrEnum):
    """What recording a found instance did."""

    RECORDED = "recorded"
    KNOWN = "known"  # the live instance has the same content
    OLDER = "older"  # than the live instance, or than its deletion
    NOT_TAKEN = "not taken"  # the space's conflict policy was against it


#: What can only be where there is a live instance.
_MEETS_ANOTHER = {StoreResult.REPLACED, StoreResult.KEPT, StoreResult.UNCHANGED}
_UIDS: sa.BindParameter[Any] = sa.bindparam("uids", expanding=True)
_OF_UIDS = sa.select(
    instance.c.sop_instance_uid,
    instance.c.object_name,
    instance.c.sha256,
    instance.c.stored_at,
    instance.c.deleted_at,
).where(instance.c.space == sa.bindparam("in_space"), instance.c.sop_instance_uid.in_(_UIDS))
# instance_live_uid, instance_tombstone
_STATES = sa.union_all(
    _OF_UIDS.where(instance.c.deleted_at.is_(None)),
    _OF_UIDS.where(instance.c.deleted_at.is_not(None)),
)


def age_of(object_name: str, modified: int) -> Age:
    """What objects of one instance are ordered by, the oldest first.

    `modified` is in microseconds since the epoch. Of two that one process wrote in one moment, the
    later arrival has the higher count.
    """
    told = parse_object_name(object_name)
    if told is None or len(told.arrival) <= _PROCESS:
        return modified, "", 0
    return modified, told.arrival[:_PROCESS], int(told.arrival[_PROCESS:], 16)


def is_newer(age: Age, than: Age) -> bool:
    """Whether one object was certainly written after another one, or after a row was.

    Arrivals of one process are told apart by their count; otherwise by times, of which that of an
    object may be up to a second late.
    """
    if age[1] and age[1] == than[1]:
        return age[2] > than[2]
    return age[0] > than[0] + _ROUNDED


def record_found(
    connection: Connection,
    batch: Sequence[StoredInstance],
    now: int,
    revisioning_delay_us: int,
    *,
    announce: bool,
) -> list[FoundResult]:
    """Record found instances of one space, all with `stored_at`; the results are in their order.

    The other arguments and errors are those of `record_batch`; BeginAgainError is among them.
    """
    if not batch:
        return []
    space = batch[0].space
    study_uids = sorted({stored.study_instance_uid for stored in batch})
    uids = sorted({stored.sop_instance_uid for stored in batch})
    lock_studies(connection, space, study_uids, uids)
    due = _due_times(connection, space, study_uids)
    newest, live = _states(connection, space, uids)
    results: list[FoundResult] = []
    taken: list[StoredInstance] = []
    expected: list[bool] = []  # whether there is a live instance before
    for stored in batch:
        assert stored.stored_at is not None
        uid = stored.sop_instance_uid
        age = age_of(stored.object_name, stored.stored_at)
        if live.get(uid) == stored.sha256:
            results.append(FoundResult.KNOWN)
        elif uid in newest and not is_newer(age, newest[uid]):
            results.append(FoundResult.OLDER)
        else:
            results.append(FoundResult.RECORDED)
            taken.append(stored)
            expected.append(uid in live)
            newest[uid], live[uid] = age, stored.sha256
    outcomes = record_batch(connection, taken, now, revisioning_delay_us, announce=announce)
    decided = iter(zip(outcomes, expected, strict=True))
    for number, result in enumerate(results):
        if result is not FoundResult.RECORDED:
            continue
        outcome, was_live = next(decided)
        if not was_live and outcome.result in _MEETS_ANOTHER:
            # Somebody has stored the instance in a study that was not there to be locked.
            raise BeginAgainError
        if outcome.result not in {StoreResult.CREATED, StoreResult.REPLACED}:
            results[number] = FoundResult.NOT_TAKEN
    _keep(connection, space, [one.garbage for one in outcomes if one.garbage is not None])
    if not announce and taken:
        _count_as_told(connection, space, {stored.sop_instance_uid for stored in taken}, due)
    return results


def _keep(connection: Connection, space: str, object_names: Sequence[str]) -> None:
    """Let objects that were replaced stay: the times that tell which is the newest may be wrong.

    Whoever copied a space may have given its objects new ones. `check` tells of them.
    """
    if not object_names:
        return
    # object_removal_name
    connection.execute(
        sa.delete(object_removal).where(
            object_removal.c.space == space, object_removal.c.object_name.in_(object_names)
        )
    )


def _states(
    connection: Connection, space: str, uids: Sequence[str]
) -> tuple[dict[str, Age], dict[str, bytes]]:
    """The age of what each instance was last, and the content of those that are live."""
    newest: dict[str, Age] = {}
    live: dict[str, bytes] = {}
    rows = connection.execute(_STATES, {"in_space": space, "uids": uids})
    for uid, object_name, sha256, stored_at, deleted_at in rows:
        if deleted_at is None:
            live[uid] = sha256
            age = age_of(object_name, stored_at)
        else:
            age = age_of("", deleted_at)
        newest[uid] = max(newest.get(uid, age), age)
    return newest, live


def _due_times(
    connection: Connection, space: str, study_uids: Sequence[str]
) -> dict[str, int | None]:
    """When each study is due; None also for one that is not there."""
    # study_uid
    rows = connection.execute(
        sa.select(study.c.study_instance_uid, study.c.revision_due_at).where(
            study.c.space == space, study.c.study_instance_uid.in_(study_uids)
        )
    )
    return dict.fromkeys(study_uids) | dict(tuple(row) for row in rows)


def _count_as_told(
    connection: Connection, space: str, uids: Iterable[str], due: dict[str, int | None]
) -> None:
    """As if a revision had told of these instances; other changes of their studies stay due."""
    # instance_live_uid
    mark_announced(
        connection, instance.c.space == space, instance.c.sop_instance_uid.in_(sorted(uids))
    )
    # study_uid
    connection.execute(
        sa.update(study)
        .where(study.c.space == space, study.c.study_instance_uid == sa.bindparam("uid"))
        .values(revision_due_at=sa.bindparam("due")),
        [{"uid": uid, "due": at} for uid, at in due.items()],
    )
