"""What the log has said of an instance already: for events about it that come back, or from others.

`change_of` is asked about an event that tells its number in the log; `change_of_version` finds the
entry of one content of an instance.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.events.model import ChangeKind
from imaging_ingestion.manifest.changes import Change
from imaging_ingestion.manifest.schema import change

_COLUMNS = tuple(change.c[name] for name in Change.__struct_fields__)
_STORED = (ChangeKind.STORED.value, ChangeKind.REPLACED.value)


def change_of(connection: Connection, seq: int) -> Change | None:
    """The entry with this number, if there is one."""
    found = connection.execute(  # change_pkey
        sa.select(*_COLUMNS).where(change.c.seq == seq)
    ).mappings()
    row = found.one_or_none()
    return None if row is None else Change(**row)


def change_of_version(
    connection: Connection,
    space: str,
    study_instance_uid: str,
    sop_instance_uid: str,
    version: int,
    after: int = 0,
) -> Change | None:
    """The entry after `after` that told of this content of an instance; None if it is not there.

    It reads the entries of the study: with a late `after` few, from 0 all of them.
    """
    found = connection.execute(  # change_by_study
        sa.select(*_COLUMNS)
        .where(
            change.c.study_instance_uid == study_instance_uid,
            change.c.seq > after,
            change.c.space == space,
            change.c.sop_instance_uid == sop_instance_uid,
            change.c.version == version,
            change.c.kind.in_(_STORED),
        )
        .order_by(change.c.seq)
        .limit(1)
    ).mappings()
    row = found.one_or_none()
    return None if row is None else Change(**row)
