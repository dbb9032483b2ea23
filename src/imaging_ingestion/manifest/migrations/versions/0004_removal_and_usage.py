"""Objects that are to go, and what each space holds.

Revision: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

IDENTITY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
#: Text that is matched or sorted: compared byte by byte in both databases.
MATCHED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the tables. What they mean is told in `manifest.schema`."""
    op.create_table(
        "object_removal",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("space", MATCHED, nullable=False),
        sa.Column("sop_instance_uid", MATCHED, server_default="", nullable=False),
        sa.Column("object_name", MATCHED, nullable=False),
        sa.Column("next_at", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("object_removal_pkey")),
    )
    op.create_index("object_removal_due", "object_removal", ["next_at", "id"])
    op.create_index("object_removal_name", "object_removal", ["space", "object_name"])
    op.create_table(
        "space_usage",
        sa.Column("space", MATCHED, nullable=False),
        sa.Column("instances", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("space", name=op.f("space_usage_pkey")),
    )
    settled = sa.text("revision_due_at IS NULL AND number_of_instances > 0")
    op.create_index(
        "study_settled",
        "study",
        ["space", "changed_at", "id"],
        postgresql_where=settled,
        sqlite_where=settled,
    )
    op.execute(
        "INSERT INTO object_removal (space, sop_instance_uid, object_name, next_at)"
        " SELECT space, sop_instance_uid, object_name, 0 FROM instance"
        " WHERE deleted_at IS NOT NULL"
    )
    op.execute(
        "INSERT INTO space_usage (space, instances, bytes)"
        " SELECT space, count(*), sum(object_size) FROM instance"
        " WHERE deleted_at IS NULL GROUP BY space"
    )
