"""Requests for storage commitment (PS3.4 J), from when they are taken until they are answered.

A request is pending until its report has been taken by the requester, or nobody wants to try any
longer. Whoever works on one writes a claim into its row, and how long that holds into `next_at`; a
process that dies stops moving that time on, and the request is due again. How a try ended is
written down only while the claim is still there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec
import sqlalchemy as sa
import zstandard
from sqlalchemy.engine import Connection

from imaging_ingestion.manifest.retrieve import INSTANCES, Instance
from imaging_ingestion.manifest.schema import commitment, instance

PENDING = "pending"
REPORTED = "reported"
DEAD = "dead"

#: Characters of an answer that are kept.
ANSWER_LENGTH = 2000
#: Bytes that the references of one request may unpack to.
_LARGEST_ITEMS = 64 << 20
#: As the indexes commitment_transaction and commitment_due say it.
_IS_PENDING = commitment.c.state == sa.literal_column(f"'{PENDING}'")


class DuplicateTransactionError(LookupError):
    """The requester uses that transaction UID for a request that is not answered yet."""


class Reference(NamedTuple):
    """An instance that the requester wants to be sure of."""

    sop_class_uid: str
    sop_instance_uid: str


class CommitmentRequest(msgspec.Struct, frozen=True):
    """What was asked, by whom, and how it called us."""

    transaction_uid: str
    requester: str
    called: str
    items: tuple[Reference, ...]


class Claim(msgspec.Struct, frozen=True):
    """A request to be worked on now, held under `token`; `attempt` counts from 1."""

    pk: int
    request: CommitmentRequest
    attempt: int
    requested_at: int
    token: int


def take_request(
    connection: Connection,
    space: str,
    request: CommitmentRequest,
    now: int,
    *,
    token: int,
    until: int,
) -> Claim:
    """Write a request down, claimed `until` then by whoever takes it (microseconds, as all times).

    Raises DuplicateTransactionError.
    """
    in_use = connection.execute(
        sa.select(commitment.c.id).where(
            _IS_PENDING,
            commitment.c.space == space,
            commitment.c.requester == request.requester,
            commitment.c.transaction_uid == request.transaction_uid,
        )
    ).first()
    if in_use is not None:
        raise DuplicateTransactionError(request.transaction_uid)
    packed = zstandard.ZstdCompressor(level=1).compress(msgspec.json.encode(request.items))
    pk = connection.execute(
        sa.insert(commitment)
        .values(
            space=space,
            transaction_uid=request.transaction_uid,
            requester=request.requester,
            called=request.called,
            items_zstd=packed,
            number_of_items=len(request.items),
            state=PENDING,
            attempts=1,
            next_at=until,
            claim=token,
            requested_at=now,
            changed_at=now,
        )
        .returning(commitment.c.id)
    ).scalar_one()
    return Claim(pk, request, 1, now, token)


def next_due(connection: Connection, space: str) -> int | None:
    """When the next request is due; None if there is none (commitment_due)."""
    earliest = sa.select(sa.func.min(commitment.c.next_at))
    due: int | None = connection.execute(
        earliest.where(_IS_PENDING, commitment.c.space == space)
    ).scalar_one()
    return due


def claim_due(
    connection: Connection, space: str, now: int, limit: int, *, token: int, until: int
) -> list[Claim]:
    """Take at most `limit` requests that are due, the longest due first (commitment_due)."""
    due = connection.execute(
        sa.select(
            commitment.c.id,
            commitment.c.transaction_uid,
            commitment.c.requester,
            commitment.c.called,
            commitment.c.items_zstd,
            commitment.c.attempts,
            commitment.c.requested_at,
        )
        .where(_IS_PENDING, commitment.c.space == space, commitment.c.next_at <= now)
        .order_by(commitment.c.next_at, commitment.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if due:
        connection.execute(
            sa.update(commitment)
            .where(commitment.c.id.in_([row.id for row in due]))
            .values(claim=token, next_at=until, attempts=commitment.c.attempts + 1, changed_at=now)
        )
    return [
        Claim(
            row.id,
            CommitmentRequest(
                row.transaction_uid, row.requester, row.called, _references(row.items_zstd)
            ),
            row.attempts + 1,
            row.requested_at,
            token,
        )
        for row in due
    ]


def renew(connection: Connection, claim: Claim, until: int) -> bool:
    """Hold a claim longer; False if it is lost."""
    changed = connection.execute(_held(claim).values(next_at=until))
    return changed.rowcount == 1


def finish(
    connection: Connection,
    claim: Claim,
    state: str,
    now: int,
    *,
    answer: str,
    next_at: int | None = None,
) -> bool:
    """Write down how a try ended; False if the claim is lost. `next_at` if there is another one."""
    changed = connection.execute(
        _held(claim).values(
            state=state,
            claim=None,
            next_at=next_at,
            changed_at=now,
            answer=answer[:ANSWER_LENGTH],
        )
    )
    return changed.rowcount == 1


def release(connection: Connection, claims: Collection[Claim], now: int) -> None:
    """Give claims back, as if there had been no try: the requests are due now."""
    for claim in claims:
        connection.execute(
            _held(claim).values(claim=None, next_at=now, attempts=commitment.c.attempts - 1)
        )


def forget(connection: Connection, space: str, before: int, limit: int = 500) -> int:
    """Remove at most `limit` requests that ended before then; how many (commitment_by_change)."""
    ended = (
        sa.select(commitment.c.id)
        .where(
            commitment.c.space == space,
            commitment.c.state.in_((REPORTED, DEAD)),
            commitment.c.changed_at < before,
        )
        .limit(limit)
    )
    return connection.execute(
        sa.delete(commitment).where(commitment.c.id.in_(ended.scalar_subquery()))
    ).rowcount


def instances_named(
    connection: Connection, space: str, sop_instance_uids: Sequence[str]
) -> dict[str, Instance]:
    """Those of the instances that are live, by SOP Instance UID (instance_live_uid)."""
    rows = connection.execute(
        INSTANCES.where(
            instance.c.space == space,
            instance.c.sop_instance_uid.in_(sop_instance_uids),
            instance.c.deleted_at.is_(None),
        )
    )
    return {row.sop_instance_uid: Instance(*row) for row in rows}


def _held(claim: Claim) -> sa.Update:
    return sa.update(commitment).where(
        commitment.c.id == claim.pk, commitment.c.claim == claim.token, _IS_PENDING
    )


def _references(packed: bytes) -> tuple[Reference, ...]:
    text = zstandard.ZstdDecompressor().decompress(packed, max_output_size=_LARGEST_ITEMS)
    return tuple(Reference(*pair) for pair in msgspec.json.decode(text))
