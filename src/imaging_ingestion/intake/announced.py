"""ImageStoredEvents that arrive: our own come round, and those of other writers to our spaces.

    our own          its entry is in the log, so the instance was recorded with it: nothing changes
    somebody else's  the object is opened in its space, scanned and digested as if it had been sent
                     here, and recorded; the event's own attributes are not believed

Either way what follows is the DicomAvailableEvent of that instance, which is the same whenever the
event comes again. An object that has been replaced or deleted since is not taken up once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

import msgspec
from sqlalchemy.engine import Connection

from imaging_ingestion.events.attributes import MalformedEventError
from imaging_ingestion.events.broker import Broker
from imaging_ingestion.events.model import (
    DICOM_AVAILABLE,
    IMAGE_STORED,
    ChangeKind,
    Event,
    ImageStored,
)
from imaging_ingestion.events.routing import is_plain, read_data
from imaging_ingestion.events.stored import StoredInstance, StoreResult
from imaging_ingestion.intake.description import Describer
from imaging_ingestion.intake.found import Fault, FoundError, found_instance
from imaging_ingestion.intake.identity import usable
from imaging_ingestion.intake.reception import IntakeSettings
from imaging_ingestion.manifest import outbox
from imaging_ingestion.manifest.announced import change_of, change_of_version
from imaging_ingestion.manifest.changes import Change, last_seq
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.event_data import RootsOf, event_data, event_of
from imaging_ingestion.manifest.known import known_instances
from imaging_ingestion.manifest.plan import InstanceRow
from imaging_ingestion.manifest.removal import to_go
from imaging_ingestion.storage.object_name import check_object_name, parse_object_name
from imaging_ingestion.storage.space import Space

#: Objects that are read at a time because events told of them.
READING: Final = 8

_SOP_INSTANCE_UID: Final = ("0008", "0018")


class NotRecordedError(Exception):
    """What an ImageStoredEvent tells of is not recorded.

    `may_come`: the object is not there yet, it may be at another time; `is_ours`: the space or the
    database failed, the event is in order.
    """

    def __init__(self, reason: str, *, may_come: bool = False, is_ours: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.may_come = may_come
        self.is_ours = is_ours


@dataclass(frozen=True, slots=True)
class AnnouncedSpace:
    """A space as events of other writers may tell of it: by its own name, or by its bucket's.

    In a bucket its objects are below `prefix` (without slashes at its ends).
    """

    space: Space
    settings: IntakeSettings = field(default_factory=IntakeSettings)
    bucket: str | None = None
    prefix: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """An ImageStoredEvent that was looked into, with nothing changed yet.

    Either the log's entry says that it is known (`entry`), or there is an instance to record; or
    neither: it was replaced or deleted since. `is_own`: the event is that of the entry.
    """

    entry: Change | None = None
    stored: StoredInstance | None = None
    is_own: bool = False


class AnnouncedInstances:
    """Sees to the ImageStoredEvents that reach one core."""

    def __init__(
        self,
        core: str,
        database: Database,
        broker: Broker,
        spaces: Mapping[str, AnnouncedSpace],
        roots_of: RootsOf,
    ) -> None:
        self._core = core
        self._database = database
        self._broker = broker
        self._spaces = spaces
        self._roots_of = roots_of
        self._reading = asyncio.Semaphore(READING)
        self._describer = Describer()

    async def is_own(self, event: Event) -> bool:
        """Whether an event of any type is in the core's log."""
        return (await self._database.read(outbox.owned, [event], self._core))[0]

    async def look(self, event: Event) -> Seen:
        """What an event tells, without changing anything.

        Raises MalformedEventError, NotRecordedError, and what the database raises.
        """
        own = await self._own_entry(event)
        if own is not None:
            return Seen(own, is_own=True)
        announced = _announced(event)
        space, object_name = self._place(announced.store.bucket_name, announced.store.object_name)
        name = space.space.name
        try:
            check_object_name(object_name)
        except ValueError as error:
            raise NotRecordedError(f"store.objectName: no name of an object: {error}") from error
        told = parse_object_name(object_name)
        uid = told.sop_instance_uid if told is not None else _told_uid(announced)
        rows, goes = await self._database.read(_known, name, uid, object_name)
        if goes:
            return Seen()
        if told is not None:  # such a name is of one content only
            for row in rows:
                if row.object_name == object_name:
                    return await self._seen(row, name)
        stored = await self._read(space, object_name, announced, event)
        if stored.sop_instance_uid != uid:
            rows, _ = await self._database.read(_known, name, stored.sop_instance_uid, object_name)
        for row in rows:
            if row.object_name == object_name and row.sha256 == stored.sha256:
                return await self._seen(row, name)
        return Seen(stored=stored)

    async def record(self, seen: Seen) -> Event | None:
        """Record what was found, durably when this returns; the event that follows, if any.

        Raises NotRecordedError, NotAcceptedError, and what the database raises.
        """
        entry = seen.entry
        if seen.stored is not None:
            before = await self._database.read(last_seq)
            outcome = await self._broker.accept(seen.stored)
            if outcome.result is StoreResult.KEPT:
                raise NotRecordedError(
                    "the space keeps the instance that it has with this SOP Instance UID"
                )
            # What the outcome calls garbage is left: another writer's object is that writer's, and
            # one that was replaced is removed like any other.
            entry = await self._database.read(_entry_of, seen.stored, before)
            if entry is None and outcome.result is StoreResult.UNCHANGED:
                raise NotRecordedError(
                    "store.objectName: an object of this name was replaced or deleted; other "
                    "content needs another name"
                )
        if entry is None:
            return None
        event = event_of(entry, DICOM_AVAILABLE, self._core)
        data = await self._database.read(event_data, event, self._roots_of)
        return msgspec.structs.replace(event, data=data)

    async def _own_entry(self, event: Event) -> Change | None:
        """The log's entry of an event that says it is ours, if that is true."""
        own_source = f"/imaging-ingestion/{quote(self._core, safe='')}/"
        if event.seq is None or not event.source.startswith(own_source):
            return None
        entry = await self._database.read(change_of, event.seq)
        if entry is None or entry.kind not in {ChangeKind.STORED, ChangeKind.REPLACED}:
            return None
        said = event_of(entry, IMAGE_STORED, self._core)
        return entry if (said.id, said.source) == (event.id, event.source) else None

    def _place(self, bucket: str, key: str) -> tuple[AnnouncedSpace, str]:
        """The space that an object is in, and its name there. Raises NotRecordedError."""
        by_name = self._spaces.get(bucket)
        if by_name is not None:
            return by_name, key
        within = [
            (len(one.prefix or ""), one)
            for one in self._spaces.values()
            if one.bucket == bucket and (not one.prefix or key.startswith(f"{one.prefix}/"))
        ]
        if not within:
            raise NotRecordedError(
                f"store.bucketName: no space of this core is called, or lies in, {bucket[:100]!r}; "
                f"there are: {', '.join(self._spaces)}"
            )
        length, found = max(within, key=lambda one: one[0])
        return found, key[length + 1 :] if length else key

    async def _seen(self, row: InstanceRow, space: str) -> Seen:
        """A content that the manifest has, or had until it was deleted."""
        if not row.live:
            return Seen()
        place = row.place
        return Seen(
            await self._database.read(
                change_of_version,
                space,
                place.study_instance_uid,
                place.sop_instance_uid,
                row.version,
            )
        )

    async def _read(
        self, space: AnnouncedSpace, object_name: str, announced: ImageStored, event: Event
    ) -> StoredInstance:
        async with self._reading:
            try:
                return await found_instance(
                    space.space,
                    object_name,
                    provider=announced.store.provider,
                    limits=space.settings.scan_limits,
                    conflict_policy=space.settings.conflict_policy,
                    patient_conflict_policy=space.settings.patient_conflict_policy,
                    traceparent=event.traceparent,
                    describer=self._describer,
                )
            except FoundError as error:
                raise NotRecordedError(
                    f"store.objectName: {error}",
                    may_come=error.fault is Fault.MISSING,
                    is_ours=error.fault is Fault.UNREADABLE,
                ) from error
            except ValueError as error:
                raise NotRecordedError(
                    f"store.objectName: no name of an object: {error}"
                ) from error


def _announced(event: Event) -> ImageStored:
    announced = read_data(event, ImageStored)
    if not is_plain(announced.store.provider):
        raise MalformedEventError("store.provider: a name without control characters was expected")
    return announced


def _told_uid(announced: ImageStored) -> str:
    """The SOP Instance UID that the event tells, to look for; "" if it tells none."""
    for element in announced.image.elements:
        if (element.group, element.element) == _SOP_INSTANCE_UID:
            return usable(element.value) or ""
    return ""


def _known(
    connection: Connection, space: str, sop_instance_uid: str, object_name: str
) -> tuple[list[InstanceRow], bool]:
    """The rows of an instance, live and tombstones, and whether the object is to be removed."""
    rows = known_instances(connection, space, [sop_instance_uid]) if sop_instance_uid else []
    return rows, bool(to_go(connection, space, [object_name]))


def _entry_of(connection: Connection, stored: StoredInstance, after: int) -> Change | None:
    """The log's entry of an instance that has just been accepted."""
    for row in known_instances(connection, stored.space, [stored.sop_instance_uid]):
        if row.live and row.sha256 == stored.sha256:
            told = (
                stored.space,
                row.place.study_instance_uid,
                row.place.sop_instance_uid,
                row.version,
            )
            # If somebody else has recorded it meanwhile, its entry may be older.
            return change_of_version(connection, *told, after) or change_of_version(
                connection, *told
            )
    return None
