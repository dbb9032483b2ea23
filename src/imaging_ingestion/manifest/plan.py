"""What arriving instances, and deletions, mean for what is there already: decided without I/O.

`plan` walks through a batch in order, each instance seeing what the ones before it did, and gives
the final state of every row that changes, so that any number of arrivals are written at once with
the result that one after the other would have had.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from imaging_ingestion.events.model import ChangeKind
from imaging_ingestion.events.stored import (
    ConflictPolicy,
    StoredInstance,
    StoreOutcome,
    StoreResult,
)


class Place(NamedTuple):
    """Where an instance is in its space."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str


@dataclass(slots=True)
class InstanceRow:
    """A row of the table `instance`: as it was found, then as it is to be.

    `pk` is None for a row that is to be inserted; `content` is what is to be written into it, None
    if its content stays.
    """

    place: Place
    pk: int | None
    sha256: bytes
    object_name: str
    version: int
    provider: str
    live: bool
    was_live: bool
    content: StoredInstance | None = None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An entry for the ordered log."""

    kind: ChangeKind
    place: Place
    version: int
    provider: str
    traceparent: str | None = None


@dataclass(slots=True)
class Plan:
    """What is to be written, and the answer to each instance of the batch, in its order."""

    outcomes: list[StoreOutcome] = field(default_factory=list)
    rows: dict[Place, InstanceRow] = field(default_factory=dict)  # those that change
    accepted: list[StoredInstance] = field(default_factory=list)  # whose attributes count
    log: list[LogEntry] = field(default_factory=list)

    def end(self, row: InstanceRow) -> None:
        """Make a live row a tombstone."""
        row.live = False
        self.rows[row.place] = row
        self.log.append(LogEntry(ChangeKind.DELETED, row.place, row.version, row.provider))

    def put(self, row: InstanceRow, stored: StoredInstance, kind: ChangeKind) -> None:
        """Give a row the content of `stored`, and make it live."""
        row.sha256, row.object_name = stored.sha256, stored.object_name
        row.provider, row.content, row.live = stored.provider, stored, True
        self.rows[row.place] = row
        self.accepted.append(stored)
        self.log.append(LogEntry(kind, row.place, row.version, stored.provider, stored.traceparent))


def plan(known: Iterable[InstanceRow], batch: Sequence[StoredInstance]) -> Plan:
    """Decide about the instances of one space.

    `known` are the rows, live and tombstones, of the batch's SOP Instance UIDs in that space; they
    are changed in place. The version of a row counts the contents that its SOP Instance UID has
    had, so that (space, SOP Instance UID, version) never means two things.
    """
    result = Plan()
    at: dict[Place, InstanceRow] = {}
    live: dict[str, InstanceRow] = {}
    last: dict[str, int] = {}  # highest version of each SOP Instance UID
    for row in known:
        uid = row.place.sop_instance_uid
        at[row.place] = row
        last[uid] = max(last.get(uid, 0), row.version)
        if row.live:
            live[uid] = row
    for stored in batch:
        uid = stored.sop_instance_uid
        place = Place(stored.study_instance_uid, stored.series_instance_uid, uid)
        current = live.get(uid)
        if current is not None and current.sha256 == stored.sha256 and current.place == place:
            result.outcomes.append(_not_taken(StoreResult.UNCHANGED, current, stored))
            continue
        if current is not None and stored.conflict_policy == ConflictPolicy.KEEP:
            result.outcomes.append(_not_taken(StoreResult.KEPT, current, stored))
            continue
        row = at.get(place) or _new_row(place)
        garbage = (row if current is None else current).object_name
        if current is not None and current is not row:
            result.end(current)  # the instance moves to another series or study
        row.version = last[uid] = last.get(uid, 0) + 1
        result.put(row, stored, ChangeKind.STORED if current is None else ChangeKind.REPLACED)
        at[place] = live[uid] = row
        result.outcomes.append(
            StoreOutcome(
                StoreResult.CREATED if current is None else StoreResult.REPLACED,
                garbage if garbage not in {"", stored.object_name} else None,
            )
        )
    return result


def plan_deletion(rows: Iterable[InstanceRow]) -> Plan:
    """Make every one of the live `rows` a tombstone."""
    result = Plan()
    for row in rows:
        result.end(row)
    return result


def _new_row(place: Place) -> InstanceRow:
    return InstanceRow(place, None, b"", "", 0, "", live=False, was_live=False)


def _not_taken(result: StoreResult, current: InstanceRow, stored: StoredInstance) -> StoreOutcome:
    """The answer to an instance whose own object nobody will need."""
    unneeded = stored.object_name != current.object_name
    return StoreOutcome(result, stored.object_name if unneeded else None)
