"""Rebuilding a manifest from a space: every object that it does not know is read and recorded.

It may be stopped at any time and started again, for what is recorded already is not read again; the
manifest may be empty or only lack some. Objects are recorded in the order in which they were
written (`record_found.age_of`), as if they arrived anew one after the other: of several of one SOP
Instance UID the space's conflict policy makes the same one live as then, and the attributes of
studies and series come together as they did.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from imaging_ingestion.audit.finding import NO_OBJECT
from imaging_ingestion.audit.inventory import FOREVER, inventory, youngest
from imaging_ingestion.audit.side_by_side import side_by_side
from imaging_ingestion.dicom.scan import ScanLimits
from imaging_ingestion.events.stored import ConflictPolicy, PatientConflictPolicy, StoredInstance
from imaging_ingestion.intake.description import Describer
from imaging_ingestion.intake.found import Fault, FoundError, found_instance
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.record_found import FoundResult, record_found
from imaging_ingestion.storage.space import ListedObject, Space

#: Objects read at once.
WIDTH: Final = 16
#: Instances, and bytes of their metadata, that are recorded together at most.
BATCH: Final = 256
BATCH_BYTES: Final = 16 << 20


@dataclass(slots=True)
class Rebuilt:
    """What became of the objects of a space."""

    objects: int = 0  # that are in the space
    known: int = 0  # were in the manifest before, or their content was
    recorded: int = 0
    older: int = 0  # than what the manifest has of the instance, or than its deletion
    not_taken: int = 0  # by the space's conflict policy
    young: int = 0  # may be arriving just now, and are left to whoever takes them in
    unusable: int = 0  # no instance, or not readable


@dataclass(frozen=True, slots=True)
class Rebuild:
    """How the manifest of a space is rebuilt.

    `grace`: objects younger than that are left alone, for a running site may be about to record
    them itself. With `announce` what is recorded is announced as what arrives is.
    """

    provider: str
    conflict_policy: ConflictPolicy
    revisioning_delay: timedelta
    grace: timedelta
    announce: bool = False
    patient_conflict_policy: PatientConflictPolicy = PatientConflictPolicy.ACCEPT
    limits: ScanLimits | None = None
    clock: Callable[[], int] = time.time_ns

    async def run(
        self,
        space: Space,
        database: Database,
        *,
        listed: Callable[[int], None],
        progress: Callable[[int, int], None],
        unusable: Callable[[FoundError], None],
    ) -> Rebuilt:
        """Record what the manifest does not know of the space.

        `listed` is told how many objects were listed so far; `progress` how many of how many that
        were not known are done; `unusable` of each object that cannot be recorded. Raises OSError
        if the space cannot be listed, and what SQLAlchemy raises.
        """
        result = Rebuilt()
        # Before the listing: what is as old as that then has been recorded when rows are read.
        until = youngest(self._now(), self.grace)
        async with inventory(space, database, listed) as both:
            total = both.number_of_unknown(until)
            result.objects = both.objects
            result.young = both.number_of_unknown(FOREVER) - total
            result.known = result.objects - result.young - total
            done = 0
            batch: list[StoredInstance] = []
            size = 0
            progress(done, total)
            describer = Describer()

            async def read(listed: ListedObject) -> StoredInstance | FoundError:
                try:
                    return await found_instance(
                        space,
                        listed.name,
                        provider=self.provider,
                        limits=self.limits,
                        conflict_policy=self.conflict_policy,
                        patient_conflict_policy=self.patient_conflict_policy,
                        stored_at=listed.modified,
                        describer=describer,
                    )
                except FoundError as error:
                    return error
                except ValueError:
                    return FoundError(Fault.UNREADABLE, listed.name, NO_OBJECT)

            # One after the other: reading and recording both take the interpreter, not the disk.
            async with aclosing(side_by_side(read, both.unknown(until), WIDTH)) as found:
                async for one in found:
                    done += 1
                    if isinstance(one, FoundError):
                        result.unusable += 1
                        unusable(one)
                        continue
                    batch.append(one)
                    size += len(one.metadata_zstd)
                    if len(batch) >= BATCH or size >= BATCH_BYTES:
                        await self._record(database, batch, result)
                        batch, size = [], 0
                        progress(done, total)
            await self._record(database, batch, result)
            progress(done, total)
        return result

    async def _record(
        self, database: Database, batch: list[StoredInstance], result: Rebuilt
    ) -> None:
        delay = self.revisioning_delay // timedelta(microseconds=1)
        outcomes = await database.write(
            record_found, batch, self._now(), delay, announce=self.announce
        )
        for outcome in outcomes:
            match outcome:
                case FoundResult.RECORDED:
                    result.recorded += 1
                case FoundResult.KNOWN:
                    result.known += 1
                case FoundResult.OLDER:
                    result.older += 1
                case FoundResult.NOT_TAKEN:
                    result.not_taken += 1

    def _now(self) -> int:
        return self.clock() // 1000
