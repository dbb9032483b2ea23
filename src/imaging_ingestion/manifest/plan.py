"""What arriving instances, and deletions, mean for what is there already: decided without I/O.

`plan` walks through a batch in order, each instance seeing what the ones before it did, and gives
the final state of every row that changes, so that any number of arrivals are written at once with
the result that one after the other would have had.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from imaging_ingestion.events.model import ChangeKind
from imaging_ingestion.events.stored import (
    ConflictPolicy,
    PatientConflictPolicy,
    QuarantineReason,
    StoredInstance,
    StoreOutcome,
    StoreResult,
)
from imaging_ingestion.manifest.merge import Values
from imaging_ingestion.manifest.patient_conflict import PATIENT_COLUMNS, contradictions
from imaging_ingestion.manifest.removal import Unneeded


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
    object_size: int = 0  # bytes, as it was found

    @property
    def growth(self) -> int:
        """How many bytes more the space holds of it than before."""
        size = self.object_size if self.content is None else self.content.object_size
        return size * self.live - self.object_size * self.was_live


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An entry for the ordered log."""

    kind: ChangeKind
    place: Place
    version: int | None
    provider: str
    traceparent: str | None = None


class Held(NamedTuple):
    """An instance that is kept aside. `differences`: attribute to what is there and what came."""

    stored: StoredInstance
    reason: QuarantineReason
    differences: Mapping[str, tuple[str, str]]


@dataclass(slots=True)
class StudyState:
    """What counts of a study where patient data is compared; it changes with the batch."""

    number_of_instances: int
    patient: Values


@dataclass(frozen=True, slots=True)
class Aside:
    """What the manifest knows of objects that are not live, for one space.

    `to_go` are the names of those that are to be removed; `waiting` the names of those in
    quarantine by SOP Instance UID and SHA-256; `studies` what is there of the batch's studies.
    """

    to_go: Collection[str] = frozenset()
    waiting: Mapping[tuple[str, bytes], str] = field(default_factory=dict)
    studies: Mapping[str, StudyState] = field(default_factory=dict)


@dataclass(slots=True)
class Plan:
    """What is to be written, and the answer to each instance of the batch, in its order."""

    outcomes: list[StoreOutcome] = field(default_factory=list)
    rows: dict[Place, InstanceRow] = field(default_factory=dict)  # those that change
    accepted: list[StoredInstance] = field(default_factory=list)  # whose attributes count
    log: list[LogEntry] = field(default_factory=list)
    unneeded: list[Unneeded] = field(default_factory=list)  # objects that were live
    held: list[Held] = field(default_factory=list)  # to be kept aside

    def end(self, row: InstanceRow) -> None:
        """Make a live row a tombstone."""
        row.live = False
        self.rows[row.place] = row
        self.log.append(LogEntry(ChangeKind.DELETED, row.place, row.version, row.provider))

    def hold(self, held: Held, version: int | None) -> None:
        """Keep an instance aside."""
        stored = held.stored
        place = Place(
            stored.study_instance_uid, stored.series_instance_uid, stored.sop_instance_uid
        )
        self.held.append(held)
        self.log.append(
            LogEntry(ChangeKind.QUARANTINED, place, version, stored.provider, stored.traceparent)
        )

    def put(self, row: InstanceRow, stored: StoredInstance, kind: ChangeKind) -> None:
        """Give a row the content of `stored`, and make it live."""
        row.sha256, row.object_name = stored.sha256, stored.object_name
        row.provider, row.content, row.live = stored.provider, stored, True
        self.rows[row.place] = row
        self.accepted.append(stored)
        self.log.append(LogEntry(kind, row.place, row.version, stored.provider, stored.traceparent))


def compares_patients(stored: StoredInstance) -> bool:
    """Whether its patient data is held against that of its study."""
    return stored.patient_conflict_policy == PatientConflictPolicy.QUARANTINE


def quarantines(stored: StoredInstance) -> bool:
    """Whether it may be kept aside."""
    return compares_patients(stored) or stored.conflict_policy == ConflictPolicy.QUARANTINE


def plan(
    known: Iterable[InstanceRow], batch: Sequence[StoredInstance], aside: Aside | None = None
) -> Plan:
    """Decide about the instances of one space.

    `known` are the rows, live and tombstones, of the batch's SOP Instance UIDs in that space; they
    are changed in place. The version of a row counts the contents that its SOP Instance UID has
    had, so that (space, SOP Instance UID, version) never means two things.

    An arrival is known by its object's name. One that has been replaced or deleted since and is
    told of once more changes nothing, while the same bytes in another object are a new arrival.
    """
    return _Planning(known, aside or Aside()).plan(batch)


class _Planning:
    """The state of one space as it is after each instance of a batch."""

    def __init__(self, known: Iterable[InstanceRow], aside: Aside) -> None:
        self._result = Plan()
        self._aside = aside
        self._at: dict[Place, InstanceRow] = {}
        self._live: dict[str, InstanceRow] = {}
        self._last: dict[str, int] = {}  # highest version of each SOP Instance UID
        self._compares = False  # the patients of studies
        self._studies = {
            uid: StudyState(state.number_of_instances, state.patient)
            for uid, state in aside.studies.items()
        }
        self._waiting = dict(aside.waiting)
        self._over: set[str] = set(aside.to_go)  # names of objects that are not coming back
        for row in known:
            uid = row.place.sop_instance_uid
            self._at[row.place] = row
            self._last[uid] = max(self._last.get(uid, 0), row.version)
            if row.live:
                self._live[uid] = row
            else:
                self._over.add(row.object_name)

    def plan(self, batch: Sequence[StoredInstance]) -> Plan:
        """Decide about each."""
        self._compares = any(map(compares_patients, batch))
        self._result.outcomes += [self._decide(stored) for stored in batch]
        return self._result

    def _decide(self, stored: StoredInstance) -> StoreOutcome:
        uid = stored.sop_instance_uid
        place = Place(stored.study_instance_uid, stored.series_instance_uid, uid)
        current = self._live.get(uid)
        if stored.object_name in self._over:
            return StoreOutcome(StoreResult.UNCHANGED)
        if stored.object_name == self._waiting.get((uid, stored.sha256)):
            return StoreOutcome(StoreResult.QUARANTINED)
        if current is not None and current.sha256 == stored.sha256 and current.place == place:
            return _not_taken(StoreResult.UNCHANGED, current.object_name, stored)
        if current is not None and stored.conflict_policy == ConflictPolicy.KEEP:
            return _not_taken(StoreResult.KEPT, current.object_name, stored)
        held = self._to_be_held(stored, place, current)
        if held is not None:
            return self._hold(held)
        return self._take(stored, place, current)

    def _take(
        self, stored: StoredInstance, place: Place, current: InstanceRow | None
    ) -> StoreOutcome:
        """The instance is recorded: new, back again, or instead of what was there."""
        uid, result = place.sop_instance_uid, self._result
        row = self._at.get(place) or _new_row(place)
        garbage = (row if current is None else current).object_name
        if current is not None:
            self._count(current.place, -1)
            if current is not row:
                result.end(current)  # the instance moves to another series or study
        row.version = self._last[uid] = self._last.get(uid, 0) + 1
        result.put(row, stored, ChangeKind.STORED if current is None else ChangeKind.REPLACED)
        self._at[place] = self._live[uid] = row
        self._count(place, +1, stored.study)
        replaced = garbage if garbage not in {"", stored.object_name} else None
        if current is None:
            return StoreOutcome(StoreResult.CREATED, replaced)
        if replaced is not None:
            self._over.add(replaced)
            result.unneeded.append(Unneeded(uid, replaced))
        return StoreOutcome(StoreResult.REPLACED, replaced)

    def _to_be_held(
        self, stored: StoredInstance, place: Place, current: InstanceRow | None
    ) -> Held | None:
        """Whether the instance is kept aside, and why."""
        if current is not None and stored.conflict_policy == ConflictPolicy.QUARANTINE:
            differences = {"sha256": (current.sha256.hex(), stored.sha256.hex())}
            for name, there, came in zip(Place._fields, current.place, place, strict=True):
                if there != came:
                    differences[name] = (there, came)
            return Held(stored, QuarantineReason.CONTENT, differences)
        if compares_patients(stored):
            state = self._studies.get(place.study_instance_uid)
            if state is None:
                return None
            is_of_study = current is not None and current.place[0] == place[0]
            if state.number_of_instances > is_of_study:  # there is another one to contradict
                found = contradictions(state.patient, stored.study)
                if found:
                    return Held(stored, QuarantineReason.PATIENT, found)
        return None

    def _hold(self, held: Held) -> StoreOutcome:
        stored = held.stored
        key = stored.sop_instance_uid, stored.sha256
        waiting = self._waiting.get(key)
        if waiting is not None:
            return _not_taken(StoreResult.QUARANTINED, waiting, stored)
        self._waiting[key] = stored.object_name
        self._result.hold(held, self._last.get(stored.sop_instance_uid))
        return StoreOutcome(StoreResult.QUARANTINED)

    def _count(self, place: Place, change: int, of_study: Values | None = None) -> None:
        """An instance of a study comes or goes, where that is of interest."""
        state = self._studies.get(place.study_instance_uid)
        if state is None:
            if of_study is None or not self._compares:
                return
            state = self._studies[place.study_instance_uid] = StudyState(0, {})
        state.number_of_instances += change
        if of_study is not None:
            came = {name: of_study.get(name) for name in PATIENT_COLUMNS}
            state.patient = {**state.patient, **{name: v for name, v in came.items() if v}}


def _new_row(place: Place) -> InstanceRow:
    return InstanceRow(place, None, b"", "", 0, "", live=False, was_live=False)


def _not_taken(result: StoreResult, has: str, stored: StoredInstance) -> StoreOutcome:
    """The answer to an instance whose own object nobody will need: there is `has`."""
    unneeded = stored.object_name != has
    return StoreOutcome(result, stored.object_name if unneeded else None)
