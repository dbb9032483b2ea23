"""Requests for storage commitment.

Revision: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

IDENTITY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
#: Text that is matched or sorted: compared byte by byte in both databases.
MATCHED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the table `commitment`. What it means is told in `manifest.schema`."""
    op.create_table(
        "commitment",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("space", MATCHED, nullable=False),
        sa.Column("transaction_uid", MATCHED, nullable=False),
        sa.Column("requester", MATCHED, nullable=False),
        sa.Column("called", MATCHED, nullable=False),
        sa.Column("items_zstd", sa.LargeBinary(), nullable=False),
        sa.Column("number_of_items", sa.Integer(), nullable=False),
        sa.Column("state", MATCHED, nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_at", sa.BigInteger()),
        sa.Column("claim", sa.BigInteger()),
        sa.Column("requested_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("answer", sa.Text()),
        sa.PrimaryKeyConstraint("id", name=op.f("commitment_pkey")),
    )
    op.create_index("commitment_by_change", "commitment", ["space", "state", "changed_at"])
    op.create_index(
        "commitment_due",
        "commitment",
        ["space", "next_at", "id"],
        postgresql_where=sa.text("state = 'pending'"),
        sqlite_where=sa.text("state = 'pending'"),
    )
    op.create_index(
        "commitment_transaction",
        "commitment",
        ["space", "requester", "transaction_uid"],
        unique=True,
        postgresql_where=sa.text("state = 'pending'"),
        sqlite_where=sa.text("state = 'pending'"),
    )
