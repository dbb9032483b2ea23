"""What pays with very many instances: narrow rows for what was announced, and storage parameters.

Revision: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

IDENTITY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

#: What is compressed already is not tried again, and a data set up to 4 KB stays in its row.
_STORAGE = (
    "ALTER TABLE instance_metadata ALTER json_zstd SET STORAGE EXTERNAL",
    "ALTER TABLE instance_metadata SET (toast_tuple_target = 4080)",
    "ALTER TABLE revision ALTER event_zstd SET STORAGE EXTERNAL",
    "ALTER TABLE commitment ALTER items_zstd SET STORAGE EXTERNAL",
    # Counts and times of a row that is changed for each batch find room beside it (HOT).
    "ALTER TABLE series SET (fillfactor = 85)",
)
#: Tables that grow without end are vacuumed and analyzed for what is new, not for a fifth of all.
_OFTEN = (
    "autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_insert_scale_factor = 0.01,"
    " autovacuum_analyze_scale_factor = 0.01"
)
_GROWING = ("instance", "instance_metadata", "announced", "change", "delivery")


def upgrade() -> None:
    """Make the table `announced` of the column, and set what PostgreSQL can be told."""
    op.create_table(
        "announced",
        sa.Column("instance_pk", IDENTITY, autoincrement=False, nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_pk"],
            ["instance.id"],
            name=op.f("announced_instance_pk_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("instance_pk", name=op.f("announced_pkey")),
    )
    op.execute(
        "INSERT INTO announced (instance_pk, sha256)"
        " SELECT id, announced_sha256 FROM instance WHERE announced_sha256 IS NOT NULL"
    )
    op.drop_column("instance", "announced_sha256")
    if op.get_bind().dialect.name == "postgresql":
        for statement in _STORAGE:
            op.execute(statement)
        for table in _GROWING:
            op.execute(f"ALTER TABLE {table} SET ({_OFTEN})")
