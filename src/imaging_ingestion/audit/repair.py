"""Repairing what a check found, where that is safe: nothing goes that might be the only copy.

An orphan is read first. What is an instance
- that the manifest does not have, or that is newer than what it has, is recorded and announced, as
  if it had just arrived (its sender may not have got an answer),
- with the content of the live instance takes the place of its object if that is missing or damaged,
  and is removed if not,
- that is older than the live instance was replaced, and is removed if the live one is whole,
- that is older than its deletion is removed.
What is no instance stays, for it may be somebody else's. A missing or damaged object cannot be made
from nothing: it is only reported, so that the instance can be sent again.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from imaging_ingestion.audit.content import is_whole
from imaging_ingestion.audit.finding import NO_OBJECT, Finding, FindingKind
from imaging_ingestion.dicom.scan import ScanLimits
from imaging_ingestion.events.stored import ConflictPolicy, PatientConflictPolicy, StoredInstance
from imaging_ingestion.intake.found import Fault, FoundError, found_instance
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.object_names import LiveObject, ended_at, live_object_of, repoint
from imaging_ingestion.manifest.plan import Place
from imaging_ingestion.manifest.record_found import FoundResult, age_of, is_newer, record_found
from imaging_ingestion.storage.space import Space


@dataclass(frozen=True, slots=True)
class Repair:
    """How a space and its manifest are repaired; the fields are those of `Rebuild`."""

    space: Space
    database: Database
    provider: str
    conflict_policy: ConflictPolicy
    revisioning_delay: timedelta
    patient_conflict_policy: PatientConflictPolicy = PatientConflictPolicy.ACCEPT
    limits: ScanLimits | None = None
    clock: Callable[[], int] = time.time_ns

    async def of(self, finding: Finding) -> Finding | None:
        """Repair it if that can be; the finding with what was done, None if there was nothing.

        Raises OSError if the space cannot be used, and what SQLAlchemy raises.
        """
        match finding.kind:
            case FindingKind.ORPHAN:
                return await self._adopt(finding)
            case FindingKind.LEFTOVER:
                return await self._remove(finding, "the instance was deleted")
            case _:
                return finding

    async def _adopt(self, finding: Finding) -> Finding | None:
        """Find a place for an orphan, or remove it."""
        modified = finding.modified
        assert modified is not None
        try:
            found = await found_instance(
                self.space,
                finding.object_name,
                provider=self.provider,
                limits=self.limits,
                conflict_policy=self.conflict_policy,
                patient_conflict_policy=self.patient_conflict_policy,
                stored_at=modified,
            )
        except FoundError as error:
            if error.fault is Fault.MISSING:
                return None  # removed since
            return dataclasses.replace(finding, detail=error.reason)
        except ValueError:
            return dataclasses.replace(finding, detail=NO_OBJECT)
        place = Place(found.study_instance_uid, found.series_instance_uid, found.sop_instance_uid)
        finding = dataclasses.replace(finding, place=place)
        live = await self.database.read(live_object_of, self.space.name, found.sop_instance_uid)
        if live is not None and live.object_name == found.object_name:
            return None  # recorded since
        if live is None:
            ended = await self.database.read(ended_at, self.space.name, found.sop_instance_uid)
            if ended is not None and is_newer(age_of("", ended), age_of("", modified)):
                return await self._remove(finding, "the instance was deleted")
            return await self._record(finding, found)
        if live.sha256 == found.sha256:
            return await self._same(finding, live)
        mine, its = age_of(finding.object_name, modified), age_of(live.object_name, live.stored_at)
        if is_newer(mine, its):
            return await self._record(finding, found)
        # Of two within a second nobody can tell: it stays.
        was_replaced = self.conflict_policy is ConflictPolicy.REPLACE and is_newer(its, mine)
        if was_replaced and await is_whole(self.space, live):
            return await self._remove(finding, f"it was replaced by {live.object_name}")
        return finding

    async def _same(self, finding: Finding, live: LiveObject) -> Finding:
        """An orphan with the content of the live instance."""
        if await is_whole(self.space, live):
            return await self._remove(finding, f"{live.object_name} has the same content")
        if await self.database.write(repoint, live, finding.object_name):
            done = f"the instance is in it now, for {live.object_name} is missing or damaged"
            return dataclasses.replace(finding, repair=done)
        return finding

    async def _record(self, finding: Finding, found: StoredInstance) -> Finding:
        (result,) = await self.database.write(
            record_found,
            [found],
            self.clock() // 1000,
            self.revisioning_delay // timedelta(microseconds=1),
            announce=True,
        )
        if result is FoundResult.RECORDED:
            return dataclasses.replace(finding, repair="recorded and announced")
        return dataclasses.replace(finding, detail=f"not recorded: {result.value}")

    async def _remove(self, finding: Finding, why: str) -> Finding:
        await self.space.delete(finding.object_name)
        return dataclasses.replace(finding, repair=f"removed: {why}")
