"""Times in the manifest that a clock which ran ahead has left too far in the future.

Nothing is ever due later than its longest delay from now. Where something is, the clock was set
back since it was written down, and it would wait as long as that.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.manifest.schema import (
    commitment,
    delivery,
    object_removal,
    study,
    subscription,
)


def bring_back(connection: Connection, now: int, revisioning_delay: int, longest: int) -> int:
    """Bring what is due too late back; how many rows that were. Times are in microseconds.

    A study is due within the revisioning delay; a delivery, a report of storage commitment, the
    removal of an object within `longest` (0: whatever is to be tried later is tried now). What
    somebody has claimed is due again then, too, which costs a second try at most.
    """
    latest = now + revisioning_delay
    # study_revision_due, delivery_due, commitment_due, object_removal_due
    statements = (
        sa.update(study).where(study.c.revision_due_at > latest).values(revision_due_at=latest),
        sa.update(delivery)
        .where(
            delivery.c.binding.in_(sa.select(subscription.c.name)),
            delivery.c.state == sa.literal_column("'pending'"),
            delivery.c.next_at > now + longest,
        )
        .values(next_at=now),
        sa.update(commitment)
        .where(
            commitment.c.state == sa.literal_column("'pending'"),
            commitment.c.next_at > now + longest,
        )
        .values(next_at=now),
        sa.update(object_removal)
        .where(object_removal.c.next_at > now + longest)
        .values(next_at=now),
    )
    return sum(connection.execute(statement).rowcount for statement in statements)
