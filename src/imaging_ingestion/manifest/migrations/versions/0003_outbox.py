"""One reader of the log at a time, where several replicas could be it.

Revision: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the claim to `subscription`. What it means is told in `manifest.schema`."""
    op.add_column("subscription", sa.Column("claim", sa.BigInteger()))
    op.add_column("subscription", sa.Column("claimed_until", sa.BigInteger()))
