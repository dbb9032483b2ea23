"""Fixtures: a fresh, migrated manifest on each of the two databases."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL

from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.migrate import migrate


class Databases(Protocol):
    """Makes databases of one kind."""

    def __call__(self) -> AbstractAsyncContextManager[str]:
        """The URL of a new, empty or migrated database, which is gone at the end."""


async def _administer(url: URL, statement: str) -> None:
    """Run one statement outside any transaction, as CREATE DATABASE asks for."""
    connection = await asyncpg.connect(url.render_as_string(hide_password=False))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@asynccontextmanager
async def postgres_database(server: URL, template: str = "template0") -> AsyncIterator[str]:
    """A new database on the server, made from `template`."""
    name = f"t_{uuid.uuid4().hex}"
    await _administer(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        await _administer(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def migrated_template(postgres_url: str) -> str:
    """The name of a migrated PostgreSQL database to make others from."""
    server = sa.make_url(postgres_url)
    name = f"template_{uuid.uuid4().hex}"

    async def make() -> None:
        await _administer(server, f"CREATE DATABASE {name} TEMPLATE template0")
        database = open_database(server.set(database=name))
        await migrate(database)
        await database.close()

    with ThreadPoolExecutor(1) as thread:  # a loop may be running in this one
        thread.submit(lambda: asyncio.run(make())).result()
    return name


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Databases:
    """Makes empty databases of either kind."""
    if request.param == "postgresql":
        server = sa.make_url(request.getfixturevalue("postgres_url"))
        return lambda: postgres_database(server)

    @asynccontextmanager
    async def sqlite_file() -> AsyncIterator[str]:
        yield f"sqlite:///{tmp_path / uuid.uuid4().hex}.db"

    return sqlite_file


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a fresh migrated database, on SQLite and on PostgreSQL."""
    if request.param == "postgresql":
        server = sa.make_url(request.getfixturevalue("postgres_url"))
        template = request.getfixturevalue("migrated_template")
        async with postgres_database(server, template) as url:
            yield url
        return
    url = f"sqlite:///{tmp_path / 'manifest.db'}"
    database = open_database(url)
    await migrate(database)
    await database.close()
    yield url


@pytest.fixture
async def postgres_database_url(postgres_url: str, migrated_template: str) -> AsyncIterator[str]:
    """The URL of a fresh migrated database on PostgreSQL."""
    async with postgres_database(sa.make_url(postgres_url), migrated_template) as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A fresh migrated database, on SQLite and on PostgreSQL."""
    opened = open_database(database_url)
    try:
        yield opened
    finally:
        await opened.close()
