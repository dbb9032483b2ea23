"""Which errors mean that the database is away, so that whoever asks may ask again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.database_error import is_away


async def error_of(
    database: Database, fn: Callable[[Connection], Any], *, read: bool = True
) -> Exception:
    with pytest.raises((SQLAlchemyError, OSError)) as caught:
        await (database.read(fn) if read else database.write(fn))
    return caught.value


@pytest.mark.parametrize(
    ("sqlstate", "away"),
    [
        ("08006", True),  # connection_failure
        ("53100", True),  # disk_full
        ("53300", True),  # too_many_connections
        ("55P03", True),  # lock_not_available
        ("57P01", True),  # admin_shutdown
        ("57P03", True),  # cannot_connect_now
        ("58030", True),  # io_error
        ("22021", False),  # character_not_in_repertoire
        ("23502", False),  # not_null_violation
        ("42601", False),  # syntax_error
        ("P0001", False),  # raise_exception
    ],
)
async def test_postgresqls_errors_are_judged_by_their_class(
    postgres_database_url: str, sqlstate: str, *, away: bool
) -> None:
    database = open_database(postgres_database_url)
    statement = f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{sqlstate}'; END $$"
    try:
        error = await error_of(database, lambda c: c.exec_driver_sql(statement))
        assert is_away(error) is away, error
        assert await database.read(lambda c: c.execute(sa.text("SELECT 1")).scalar_one()) == 1
    finally:
        await database.close()


async def test_a_connection_that_was_ended_is_away_and_the_next_is_not(
    postgres_database_url: str,
) -> None:
    database = open_database(postgres_database_url)
    end = "SELECT pg_terminate_backend(pg_backend_pid())"
    try:
        assert is_away(await error_of(database, lambda c: c.exec_driver_sql(end)))
        assert await database.read(lambda c: c.execute(sa.text("SELECT 1")).scalar_one()) == 1
    finally:
        await database.close()


async def test_a_server_that_is_not_there_is_away(tmp_path: Path) -> None:
    database = open_database(f"postgresql://postgres@/x?host={tmp_path}")
    try:
        assert is_away(await error_of(database, lambda c: c.exec_driver_sql("SELECT 1")))
    finally:
        await database.close()


async def test_a_statement_that_is_wrong_is_not_the_databases_fault(database: Database) -> None:
    def insert_nothing(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO study (space) VALUES (NULL)")

    assert not is_away(await error_of(database, insert_nothing, read=False))
    assert not is_away(ValueError("ours"))
