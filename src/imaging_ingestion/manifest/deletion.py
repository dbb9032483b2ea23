"""Deleting instances: tombstones, objects that are to go, due time and log, all or nothing.

A study is deleted whole or not at all, however many instances it has: nobody ever sees half of it,
and one revision tells of it. None of them passes through this process; the database goes from row
to row by itself, in a few statements, under the study's lock.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.events.model import ChangeKind
from imaging_ingestion.manifest import changes, usage
from imaging_ingestion.manifest.known import lock_studies
from imaging_ingestion.manifest.removal import GRACE
from imaging_ingestion.manifest.retrieve import find_place
from imaging_ingestion.manifest.schema import change, instance, object_removal, series, study
from imaging_ingestion.manifest.usage import Growth

_MATCHED: Final = sa.Text()


def delete(
    connection: Connection,
    space: str,
    study_instance_uid: str,
    series_instance_uid: str | None,
    sop_instance_uid: str | None,
    now: int,
    revisioning_delay_us: int,
) -> int:
    """As `delete_instances`. Raises UnknownResourceError if nothing of it is live."""
    deleted = delete_instances(
        connection,
        space,
        study_instance_uid,
        series_instance_uid,
        sop_instance_uid,
        now,
        revisioning_delay_us,
    )
    if not deleted:
        find_place(connection, space, study_instance_uid, series_instance_uid, sop_instance_uid)
    return deleted


def delete_instances(
    connection: Connection,
    space: str,
    study_instance_uid: str,
    series_instance_uid: str | None,
    sop_instance_uid: str | None,
    now: int,
    revisioning_delay_us: int,
) -> int:
    """Make tombstones of a study's, a series' or one instance's live rows; how many.

    Their objects are removed some time later (see `removal`). `now` is in microseconds since the
    epoch, `revisioning_delay_us` the microseconds of quiet after which a study counts as settled.
    Raises what SQLAlchemy raises.
    """
    studies = lock_studies(connection, space, {study_instance_uid})
    if not studies:
        return 0
    study_pk = studies[study_instance_uid].pk
    at = _moment(connection, study_pk, now)
    wanted = [instance.c.study_pk == study_pk, instance.c.deleted_at.is_(None)]
    if series_instance_uid is not None:
        # series_uid
        of_series = sa.select(series.c.id).where(
            series.c.study_pk == study_pk, series.c.series_instance_uid == series_instance_uid
        )
        wanted.append(instance.c.series_pk == of_series.scalar_subquery())
    if sop_instance_uid is not None:  # instance_live_uid
        wanted.append(instance.c.space == space)
        wanted.append(instance.c.sop_instance_uid == sop_instance_uid)
    # instance_by_study
    deleted = connection.execute(sa.update(instance).where(*wanted).values(deleted_at=at)).rowcount
    if not deleted:
        return 0
    gone = (instance.c.study_pk == study_pk, instance.c.deleted_at == at)
    size = _count_down(connection, study_pk, gone, now, now + revisioning_delay_us)
    _schedule(connection, gone, now)
    usage.grow(connection, {space: Growth(-deleted, -size)})
    _log(connection, study_instance_uid, gone, now)
    return deleted


def _moment(connection: Connection, study_pk: int, now: int) -> int:
    """A time by which those that are deleted now are told from others of the study."""
    # instance_by_study
    last = connection.execute(
        sa.select(sa.func.max(instance.c.deleted_at)).where(instance.c.study_pk == study_pk)
    ).scalar_one()
    return now if last is None else max(now, int(last) + 1)


def _count_down(
    connection: Connection,
    study_pk: int,
    gone: tuple[sa.ColumnElement[bool], ...],
    now: int,
    due: int,
) -> int:
    """Take what is gone from the counts of series and study; how many bytes it had."""
    size, total, emptied = 0, 0, 0
    # instance_by_study
    each = connection.execute(
        sa.select(series.c.id, series.c.number_of_instances, sa.func.count(), _bytes_of(instance))
        .join(series, series.c.id == instance.c.series_pk)
        .where(*gone)
        .group_by(series.c.id, series.c.number_of_instances)
        .order_by(series.c.id)
    ).all()
    for series_pk, before, number, of_series in each:
        connection.execute(
            sa.update(series)
            .where(series.c.id == series_pk)
            .values(number_of_instances=before - number, changed_at=now)
        )
        size += int(of_series)
        total += number
        emptied += before == number
    connection.execute(
        sa.update(study)
        .where(study.c.id == study_pk)
        .values(
            number_of_instances=study.c.number_of_instances - total,
            number_of_series=study.c.number_of_series - emptied,
            changed_at=now,
            revision_due_at=due,
        )
    )
    return size


def _bytes_of(table: sa.Table) -> sa.ColumnElement[int]:
    return sa.cast(sa.func.sum(table.c.object_size), sa.BigInteger())


def _schedule(connection: Connection, gone: tuple[sa.ColumnElement[bool], ...], now: int) -> None:
    """Have the objects removed, as `removal.schedule`."""
    values: dict[str, sa.ColumnElement[Any]] = {
        "space": instance.c.space,
        "sop_instance_uid": instance.c.sop_instance_uid,
        "object_name": instance.c.object_name,
        "next_at": sa.literal(now + GRACE, sa.BigInteger()),
    }
    rows = sa.select(*values.values()).where(*gone).order_by(instance.c.id)
    connection.execute(sa.insert(object_removal).from_select(list(values), rows))


def _log(
    connection: Connection,
    study_instance_uid: str,
    gone: tuple[sa.ColumnElement[bool], ...],
    now: int,
) -> None:
    """An entry of the log for each that is gone, in the order in which they had come."""
    changes.lock(connection)
    values: dict[str, sa.ColumnElement[Any]] = {
        "at": sa.literal(now, sa.BigInteger()),
        "kind": sa.literal(ChangeKind.DELETED.value, _MATCHED),
        "space": instance.c.space,
        "study_instance_uid": sa.literal(study_instance_uid, _MATCHED),
        "series_instance_uid": series.c.series_instance_uid,
        "sop_instance_uid": instance.c.sop_instance_uid,
        "provider": instance.c.provider,
        "version": instance.c.version,
    }
    rows = (
        sa.select(*values.values())
        .join_from(instance, series, series.c.id == instance.c.series_pk)
        .where(*gone)
        .order_by(instance.c.id)
    )
    connection.execute(sa.insert(change).from_select(list(values), rows))
