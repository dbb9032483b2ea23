"""Instances that are kept aside.

Revision: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

IDENTITY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
#: Text that is matched or sorted: compared byte by byte in both databases.
MATCHED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the table `quarantine`. What it means is told in `manifest.schema`."""
    op.create_table(
        "quarantine",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("space", MATCHED, nullable=False),
        sa.Column("study_instance_uid", MATCHED, nullable=False),
        sa.Column("series_instance_uid", MATCHED, nullable=False),
        sa.Column("sop_instance_uid", MATCHED, nullable=False),
        sa.Column("reason", MATCHED, nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("object_name", MATCHED, nullable=False),
        sa.Column("object_size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(32), nullable=False),
        sa.Column("provider", MATCHED, nullable=False),
        sa.Column("stored", sa.LargeBinary(), nullable=False),
        sa.Column("held_at", sa.BigInteger(), nullable=False),
        sa.Column("resolved_at", sa.BigInteger()),
        sa.Column("resolution", MATCHED),
        sa.PrimaryKeyConstraint("id", name=op.f("quarantine_pkey")),
    )
    op.create_index(
        "quarantine_waiting",
        "quarantine",
        ["space", "id"],
        postgresql_where=sa.text("resolved_at IS NULL"),
        sqlite_where=sa.text("resolved_at IS NULL"),
    )
    op.create_index(
        "quarantine_content",
        "quarantine",
        ["space", "sop_instance_uid", "sha256"],
        unique=True,
        postgresql_where=sa.text("resolved_at IS NULL"),
        sqlite_where=sa.text("resolved_at IS NULL"),
    )
