"""Alembic's environment: migrations run on the connection that `manifest.migrate` hands over.

For a developer's `alembic revision --autogenerate` the URL is read from the environment variable
MANIFEST_URL.
"""

from __future__ import annotations

import os

import sqlalchemy as sa
from alembic import context
from sqlalchemy.engine import Connection

from imaging_ingestion.manifest.schema import metadata


def run(connection: Connection) -> None:
    """Run what was asked for in the transaction of `connection`, if one is open."""
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if isinstance(given, Connection):
    run(given)
else:
    with sa.create_engine(os.environ["MANIFEST_URL"]).connect() as opened:
        run(opened)
