"""Migrations: what they make is exactly the schema, whoever runs them and how often."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.engine import Connection

from imaging_ingestion.manifest import schema
from imaging_ingestion.manifest.database import open_database
from imaging_ingestion.manifest.migrate import migrate

MIGRATE = """
import asyncio, sys
from imaging_ingestion.manifest.database import open_database
from imaging_ingestion.manifest.migrate import migrate
async def main():
    database = open_database(sys.argv[1])
    await migrate(database)
    await database.close()
asyncio.run(main())
"""


def _definitions(connection: Connection) -> set[tuple[str, ...]]:
    """Every table column and index as the database itself describes it."""
    if connection.dialect.name == "sqlite":
        found = connection.execute(
            sa.text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        )
        rows = {(name, " ".join(str(sql).replace('"', "").split())) for name, sql in found}
        # "AUTOINCREMENT" tables bring their own bookkeeping table.
        return {row for row in rows if not row[0].startswith("sqlite_")}
    columns = connection.execute(
        sa.text(
            "SELECT table_name, column_name, data_type, is_nullable, column_default,"
            " collation_name,"
            # In the same order; the places of columns that were dropped stay empty.
            " row_number() OVER (PARTITION BY table_name ORDER BY ordinal_position)"
            " FROM information_schema.columns"
            " WHERE table_schema = 'public'"
        )
    )
    indexes = connection.execute(
        sa.text("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'")
    )
    constraints = connection.execute(
        sa.text(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = 'public'::regnamespace"
        )
    )
    return {tuple(map(str, row)) for part in (columns, indexes, constraints) for row in part}


def _of_manifest(definitions: set[tuple[str, ...]]) -> set[tuple[str, ...]]:
    return {row for row in definitions if not row[0].startswith("alembic_version")}


async def test_a_migrated_database_is_what_the_schema_says(empty_database_url) -> None:
    async with empty_database_url() as migrated_url, empty_database_url() as made_url:
        migrated, made = open_database(migrated_url), open_database(made_url)
        try:
            await migrate(migrated)
            await made.write(schema.metadata.create_all)

            def differences(connection: Connection) -> list[object]:
                context = MigrationContext.configure(connection, opts={"compare_type": True})
                return list(compare_metadata(context, schema.metadata))

            assert await migrated.read(differences) == []
            of_migrated = _of_manifest(await migrated.read(_definitions))
            assert of_migrated == _of_manifest(await made.read(_definitions))
            assert of_migrated
        finally:
            await migrated.close()
            await made.close()


async def test_migrating_twice_changes_nothing(database) -> None:
    before = await database.read(_definitions)
    await migrate(database)
    assert await database.read(_definitions) == before


async def test_two_processes_may_migrate_one_database_at_once(empty_database_url) -> None:
    async with empty_database_url() as url:
        processes = [
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                MIGRATE,
                url,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for _ in range(2)
        ]
        answers = [await process.communicate() for process in processes]
        assert answers == [(b"", b""), (b"", b"")]  # Alembic keeps quiet, too
        assert [process.returncode for process in processes] == [0, 0]
        database = open_database(url)
        try:
            await migrate(database)
            assert await database.read(_definitions)
        finally:
            await database.close()


async def test_a_migration_that_fails_leaves_nothing_behind(empty_database_url) -> None:
    async with empty_database_url() as url:
        database = open_database(url)
        try:
            # The last table of the first version is there already, so making it fails.
            await database.write(schema.delivery.create)
            before = await database.read(_definitions)
            with pytest.raises(sa.exc.DBAPIError, match="already exists"):
                await migrate(database)
            assert await database.read(_definitions) == before
        finally:
            await database.close()


async def test_migrating_leaves_the_configuration_of_logging_alone(database) -> None:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    await migrate(database)
    assert (list(root.handlers), root.level) == (handlers, level)
    alembic = logging.getLogger("alembic")
    assert [type(handler) for handler in alembic.handlers] in ([], [logging.NullHandler])
