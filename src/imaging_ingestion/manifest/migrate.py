"""Bringing a database to the newest version of the schema.

Every process does this when it starts, so two may do it at once: on PostgreSQL an advisory lock,
on SQLite the write transaction itself makes the second wait, which then finds nothing to do. A
migration that fails leaves the database as it was: all of it is one transaction.

Alembic is imported where there is something to do: it is 10 MiB of memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.manifest.database import Database

if TYPE_CHECKING:
    from alembic.config import Config


class NewerSchemaError(Exception):
    """A newer version of the program has used the database already."""


#: Any number that nobody else takes an advisory lock on in this database.
_ADVISORY_LOCK = 0x696D6167  # "imag"


def configuration() -> Config:
    """Alembic's configuration; the migrations are found inside the installed package."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "imaging_ingestion.manifest:migrations")
    return config


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Apply, in the connection's transaction, the migrations that the database lacks.

    Raises NewerSchemaError if the database is at a version that is not known here.
    """
    from alembic import command
    from alembic.script.revision import ResolutionError
    from alembic.util.exc import CommandError

    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
    config = configuration()
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        if not isinstance(error.__cause__, ResolutionError):
            raise
        raise NewerSchemaError("a newer version of imaging-ingestion has used it") from error


def is_newest(connection: Connection) -> bool:
    """Whether there is nothing to migrate."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return False
    versions = Path(__file__).parent / "migrations" / "versions"
    newest = max(path.name.partition("_")[0] for path in versions.glob("[0-9]*.py"))
    found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars().all()
    return found == [newest]


async def migrate(database: Database) -> None:
    """Bring `database` to the newest version. Harmless when it is there already.

    Raises NewerSchemaError if it is at a version that is not known here.
    """
    if not await database.read(is_newest):
        await database.maintain(upgrade)
