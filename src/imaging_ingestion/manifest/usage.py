"""How much each space holds: kept in the transactions that change it, so that nobody counts rows.

On PostgreSQL a space's row is written by everybody who stores into it, so it is taken last but for
the log's lock, which all of them take anyway. The order (studies, usage by space, log) leaves no
room for a deadlock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from imaging_ingestion.manifest.prepared import Prepared
from imaging_ingestion.manifest.schema import space_usage


class Usage(msgspec.Struct, frozen=True):
    """The live instances of a space and the bytes of their objects."""

    instances: int = 0
    bytes: int = 0


class Growth(NamedTuple):
    """How much more a space holds than before; less if negative."""

    instances: int
    bytes: int


_NEW = {
    name: sa.bindparam(f"more_{name}", type_=sa.BigInteger()) for name in ("instances", "bytes")
}
_ADDED = {name: space_usage.c[name] + more for name, more in _NEW.items()}
_VALUES = {"space": sa.bindparam("in_space", type_=sa.Text()), **_NEW}
# space_usage_pkey
_GROW = {
    "sqlite": Prepared(
        sqlite.insert(space_usage)
        .values(_VALUES)
        .on_conflict_do_update(index_elements=["space"], set_=_ADDED)
    ),
    "postgresql": Prepared(
        postgresql.insert(space_usage)
        .values(_VALUES)
        .on_conflict_do_update(index_elements=["space"], set_=_ADDED)
    ),
}


def grow(connection: Connection, growths: Mapping[str, Growth]) -> None:
    """Add to what spaces hold. In a transaction only the log comes after it."""
    for space, growth in sorted(growths.items()):
        if any(growth):
            more = {"more_instances": growth.instances, "more_bytes": growth.bytes}
            _GROW[connection.dialect.name].run(connection, {"in_space": space, **more})


def usage(connection: Connection, space: str) -> Usage:
    """What a space holds."""
    # space_usage_pkey
    row = connection.execute(
        sa.select(space_usage.c.instances, space_usage.c.bytes).where(space_usage.c.space == space)
    ).one_or_none()
    return Usage() if row is None else Usage(*row)


def all_usage(connection: Connection) -> dict[str, Usage]:
    """What each space holds, by its name; one that never held anything is not there."""
    rows = connection.execute(
        sa.select(space_usage.c.space, space_usage.c.instances, space_usage.c.bytes)
    )
    return {space: Usage(*held) for space, *held in rows}
