"""Settling a study earlier than its quiet time says, for a reason; never later."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.manifest.schema import study


class Unsettled(NamedTuple):
    """A study that has changed since its last revision; `changed_at` in microseconds."""

    number_of_instances: int
    changed_at: int


def unsettled(connection: Connection, space: str, study_instance_uid: str) -> Unsettled | None:
    """The study, if a revision of it is to come."""
    # study_uid
    row = connection.execute(
        sa.select(study.c.number_of_instances, study.c.changed_at).where(
            *_of(space, study_instance_uid), study.c.revision_due_at.is_not(None)
        )
    ).one_or_none()
    return None if row is None else Unsettled(*row)


def hasten(
    connection: Connection, space: str, study_instance_uid: str, changed_at: int, at: int
) -> bool:
    """Let the study be settled at `at` already, unless it has changed since `changed_at`.

    Whether that is earlier than it would have been.
    """
    # study_uid
    done = connection.execute(
        sa.update(study)
        .where(
            *_of(space, study_instance_uid),
            study.c.changed_at == changed_at,
            study.c.revision_due_at > at,
        )
        .values(revision_due_at=at)
    )
    return done.rowcount == 1


def _of(space: str, study_instance_uid: str) -> tuple[sa.ColumnElement[bool], ...]:
    return study.c.space == space, study.c.study_instance_uid == study_instance_uid
