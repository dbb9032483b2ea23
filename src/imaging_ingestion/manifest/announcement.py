"""What the last revision of its study said of an instance: the content that it had.

In a table of its own, of narrow rows. In a column of `instance` it would be a new version of a wide
row, with new entries in all its indexes, for every instance of every study that settles: 52 us and
much log instead of 7 us, and a table of a thousand million rows to be vacuumed (docs/scale.md).
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from imaging_ingestion.manifest.schema import announced, instance

#: Joined to `instance`.
IS_OF_INSTANCE = announced.c.instance_pk == instance.c.id


def mark_announced(connection: Connection, *wanted: sa.ColumnElement[bool]) -> None:
    """From now on, what the live instances that satisfy `wanted` are has been said."""
    # announced_pkey, and the index that `wanted` names
    rows = (
        sa.select(instance.c.id, instance.c.sha256)
        .outerjoin(announced, IS_OF_INSTANCE)
        .where(
            *wanted,
            instance.c.deleted_at.is_(None),
            sa.or_(announced.c.sha256.is_(None), announced.c.sha256 != instance.c.sha256),
        )
    )
    columns = ["instance_pk", "sha256"]
    statement: sa.Insert
    if connection.dialect.name == "sqlite":
        of_sqlite = sqlite.insert(announced).from_select(columns, rows)
        statement = of_sqlite.on_conflict_do_update(
            index_elements=[announced.c.instance_pk], set_={"sha256": of_sqlite.excluded.sha256}
        )
    else:
        of_others = postgresql.insert(announced).from_select(columns, rows)
        statement = of_others.on_conflict_do_update(
            index_elements=[announced.c.instance_pk], set_={"sha256": of_others.excluded.sha256}
        )
    connection.execute(statement)


def mark_unannounced(connection: Connection, pks: sa.Select[Any]) -> None:
    """From now on, nothing has been said of the instances with these keys."""
    # announced_pkey
    connection.execute(sa.delete(announced).where(announced.c.instance_pk.in_(pks)))
