"""The manifest of a core of a site."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.migrate import NewerSchemaError, migrate
from imaging_ingestion.manifest.postgres_settings import PostgresSettings
from imaging_ingestion.resources.plan import CorePlan, DatabasePlan
from imaging_ingestion.resources.site_file import SiteError


def manifest_file(plan: CorePlan, data: Path) -> Path | None:
    """The SQLite file of a core's manifest; None if it is on a database server."""
    if plan.database.url is not None:
        return None
    return data / (plan.database.file or f"{plan.name}.db")


async def open_manifest(stack: AsyncExitStack, plan: CorePlan, data: Path) -> Database:
    """The core's database, in the newest version. Raises SiteError."""
    file = manifest_file(plan, data)
    url = plan.database.url if file is None else URL.create("sqlite", database=str(file))
    assert url is not None
    try:
        database = open_database(
            url, max_size=plan.database.max_size, settings=_postgres_settings(plan.database)
        )
        stack.push_async_callback(database.close)
        await migrate(database)
    except (OSError, DBAPIError, NewerSchemaError) as error:
        reason = str(getattr(error, "orig", None) or getattr(error, "strerror", None) or error)
        raise SiteError(
            [f"core {plan.name}: the database {url} cannot be used: {reason}"]
        ) from error
    return database


def _postgres_settings(plan: DatabasePlan) -> PostgresSettings:
    return PostgresSettings(
        connect_timeout=plan.connect_timeout.total_seconds(),
        pool_timeout=plan.pool_timeout.total_seconds(),
        statement_timeout=plan.statement_timeout.total_seconds(),
        transaction_timeout=4 * plan.statement_timeout.total_seconds(),
        tls=plan.tls,
        tls_ca=plan.tls_ca,
    )
