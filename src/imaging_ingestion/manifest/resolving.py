"""Deciding about an instance that was kept aside: it is recorded after all, or given up.

What is accepted is recorded as an ordinary arrival is, in the same transaction: it replaces what is
there, has the next version, is announced and part of the next revision.
"""

from __future__ import annotations

import msgspec
from sqlalchemy.engine import Connection

from imaging_ingestion.events.model import ChangeKind
from imaging_ingestion.events.stored import ConflictPolicy, PatientConflictPolicy
from imaging_ingestion.manifest import changes, held, removal
from imaging_ingestion.manifest.held import Quarantined, Resolution
from imaging_ingestion.manifest.known import lock_studies
from imaging_ingestion.manifest.record import record_batch
from imaging_ingestion.manifest.removal import Unneeded


class UnknownQuarantinedError(LookupError):
    """There is no such instance in quarantine."""


class ResolvedOtherwiseError(Exception):
    """Somebody has decided otherwise before."""

    def __init__(self, found: Quarantined) -> None:
        super().__init__(f"it has been {found.resolution} already")
        self.found = found


def accept(
    connection: Connection, pk: int, now: int, revisioning_delay_us: int
) -> tuple[Quarantined, bool]:
    """Record an instance that waits: what became of it, and whether that is new.

    `now` and `revisioning_delay_us` as in `record_batch`. To accept it twice is to accept it once.
    Raises UnknownQuarantinedError, ResolvedOtherwiseError, and what SQLAlchemy raises.
    """
    found = _found(connection, pk)
    uids = {found.sop_instance_uid}
    lock_studies(connection, found.space, {found.study_instance_uid}, uids)
    stored = held.lock(connection, pk)
    if stored is None:
        return _resolved(connection, pk, Resolution.ACCEPTED), False
    held.resolve(connection, pk, Resolution.ACCEPTED, now)
    stored = msgspec.structs.replace(
        stored,
        conflict_policy=ConflictPolicy.REPLACE.value,
        patient_conflict_policy=PatientConflictPolicy.ACCEPT.value,
    )
    (outcome,) = record_batch(connection, [stored], now, revisioning_delay_us)
    if outcome.garbage == stored.object_name:  # the same bytes have come in by now
        unneeded = Unneeded(stored.sop_instance_uid, stored.object_name)
        removal.schedule(connection, stored.space, [unneeded], now)
    return _found(connection, pk), True


def discard(connection: Connection, pk: int, now: int) -> tuple[Quarantined, bool]:
    """Give an instance that waits up: its object is removed, its row tells of it.

    Results and errors as `accept`.
    """
    found = _found(connection, pk)
    lock_studies(connection, found.space, {found.study_instance_uid}, {found.sop_instance_uid})
    stored = held.lock(connection, pk)
    if stored is None:
        return _resolved(connection, pk, Resolution.DISCARDED), False
    held.resolve(connection, pk, Resolution.DISCARDED, now)
    unneeded = Unneeded(stored.sop_instance_uid, stored.object_name)
    removal.schedule(connection, stored.space, [unneeded], now)
    entry = {
        "at": now,
        "kind": ChangeKind.DISCARDED.value,
        "space": stored.space,
        "study_instance_uid": stored.study_instance_uid,
        "series_instance_uid": stored.series_instance_uid,
        "sop_instance_uid": stored.sop_instance_uid,
        "provider": stored.provider,
        "traceparent": stored.traceparent,
    }
    changes.append(connection, [entry])
    return _found(connection, pk), True


def _found(connection: Connection, pk: int) -> Quarantined:
    found = held.find(connection, pk)
    if found is None:
        raise UnknownQuarantinedError(pk)
    return found


def _resolved(connection: Connection, pk: int, wanted: Resolution) -> Quarantined:
    """What has been decided already, if it is what is wanted."""
    found = _found(connection, pk)
    if found.resolution != wanted:
        raise ResolvedOtherwiseError(found)
    return found
