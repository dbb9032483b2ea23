"""Bringing a database to the newest version of the schema.

Every process does this when it starts, so two may do it at once: on PostgreSQL an advisory lock,
on SQLite the write transaction itself makes the second wait, which then finds nothing to do. A
migration that fails leaves the database as it was: all of it is one transaction.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Connection

from imaging_ingestion.manifest.database import Database

#: Any number that nobody else takes an advisory lock on in this database.
_ADVISORY_LOCK = 0x696D6167  # "imag"


def configuration() -> Config:
    """Alembic's configuration; the migrations are found inside the installed package."""
    config = Config()
    config.set_main_option("script_location", "imaging_ingestion.manifest:migrations")
    return config


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Apply, in the connection's transaction, the migrations that the database lacks."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
    config = configuration()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


async def migrate(database: Database) -> None:
    """Bring `database` to the newest version. Harmless when it is there already."""
    await database.write(upgrade)
