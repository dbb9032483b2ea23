"""Taking in one instance while it streams, and making it durable with whatever else arrives.

    receive ─ write ─ write ─ … ─ finish ─┬─ scan and check
                                          ├─ seal      the object's bytes are all there
                                          ├─ publish   it is durable, by its name (shared by many)
                                          ├─ accept    it is recorded      (shared by many)
                                          └─ delete    it, if nobody needs it

`finish` returns only when all of it is durable: that is the acknowledgement. Until `publish`
nothing is visible, and until `accept` nothing refers to the object.

Memory: a reception holds its header while it is being scanned, and shares the space's buffers with
all others (`storage.directory.GATHERED`). Headers are small, so any number may be under way; those
that turn out larger than `LARGE_HEADER` go on only `LARGE_HEADERS` at a time, the others' senders
wait. Of an instance that is refused nothing is held.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from imaging_ingestion.brokers.group_commit import Groups, ManifestFullError, NotAcceptedError
from imaging_ingestion.dicom import failure_reason as reasons
from imaging_ingestion.dicom.header import Header, HeaderTooLargeError, ScanError
from imaging_ingestion.dicom.scan import HeaderScanner, ScanLimits
from imaging_ingestion.events.broker import Broker
from imaging_ingestion.events.stored import (
    ConflictPolicy,
    PatientConflictPolicy,
    StoreOutcome,
    StoreResult,
)
from imaging_ingestion.intake.description import LARGE_HEADER, Describer
from imaging_ingestion.intake.identity import (
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    Identity,
    identify,
    usable,
)
from imaging_ingestion.intake.refusal import IntakeRefused
from imaging_ingestion.storage.object_name import arrivals, object_name
from imaging_ingestion.storage.space import ObjectWriter, SealedObject, Space, SpaceFullError

log = structlog.get_logger(__name__)

#: What the sender is told of an instance that is kept aside.
ASIDE = "stored and kept aside: it contradicts what the space has, and somebody has to decide"


@dataclass(frozen=True, slots=True)
class Received:
    """The acknowledgement: the instance is durable, recorded and announced; or kept aside."""

    result: StoreResult
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IntakeSettings:
    """How a space takes instances in.

    `publishes_together`: objects that are ready while others get their names go together next;
    else each goes at once. `removes_replaced`: where nobody reads, what was replaced goes at once;
    else it goes some time later (`manifest.removal`).
    """

    conflict_policy: ConflictPolicy = ConflictPolicy.REPLACE
    scan_limits: ScanLimits = field(default_factory=ScanLimits)
    publishes_together: bool = True
    patient_conflict_policy: PatientConflictPolicy = PatientConflictPolicy.ACCEPT
    removes_replaced: bool = False


class Intake:
    """Takes instances into one space."""

    def __init__(
        self, space: Space, broker: Broker, settings: IntakeSettings | None = None
    ) -> None:
        self.settings = settings or IntakeSettings()
        self._space = space
        self._broker = broker
        self._publishing: Groups[tuple[SealedObject, str], None] = Groups(
            self._publish_group, hopeless=lambda _error: False
        )
        self.describer = Describer()
        self._arrivals = arrivals()
        self._storing: set[asyncio.Task[StoreOutcome]] = set()

    def receive(
        self,
        *,
        source: str,
        provider: str,
        study_instance_uid: str | None = None,
        traceparent: str | None = None,
    ) -> Reception:
        """Begin to take in one instance.

        `source` tells the log who sent it (an address, an AE title); `provider` is recorded with
        it. With `study_instance_uid` an instance of another study is refused.
        """
        return Reception(
            self, self._space.writer(), source, provider, study_instance_uid, traceparent
        )

    async def close(self) -> None:
        """Wait for what is being stored. Begin nothing afterwards."""
        while self._storing:
            await asyncio.wait(self._storing)
        await self._publishing.stop()

    async def store(
        self,
        writer: ObjectWriter,
        header: Header,
        identity: Identity,
        provider: str,
        traceparent: str | None,
    ) -> StoreOutcome:
        """Make an instance whose bytes are all written durable, and known.

        It goes on to its end even if the caller is cancelled, so that a sealed object always has
        somebody who cares for it. Raises SpaceFullError, OSError, NotAcceptedError.
        """
        storing = asyncio.create_task(self._store(writer, header, identity, provider, traceparent))
        self._storing.add(storing)
        storing.add_done_callback(self._storing.discard)
        return await asyncio.shield(storing)

    async def _store(
        self,
        writer: ObjectWriter,
        header: Header,
        identity: Identity,
        provider: str,
        traceparent: str | None,
    ) -> StoreOutcome:
        try:
            description = await self.describer.describe(header, identity)
            sealed = await writer.seal()
        except BaseException:
            await writer.abort()
            raise
        name = object_name(
            identity.study_instance_uid,
            identity.series_instance_uid,
            identity.sop_instance_uid,
            sealed.sha256,
            next(self._arrivals),
        )
        try:
            if self.settings.publishes_together:
                await self._publishing.take((sealed, name))
            else:
                await self._space.publish([(sealed, name)])
        except BaseException:
            # It may have got its name and not been durable under it.
            await self._delete(name)
            await self._space.discard(sealed)
            raise
        stored = description.stored(
            space=self._space.name,
            provider=provider,
            object_name=name,
            object_size=sealed.size,
            sha256=sealed.sha256,
            conflict_policy=self.settings.conflict_policy,
            patient_conflict_policy=self.settings.patient_conflict_policy,
            traceparent=traceparent,
        )
        try:
            outcome = await self._broker.accept(stored)
        except ManifestFullError:
            await self._delete(name)
            raise
        # Any other error does not tell whether it was accepted, so the object stays.
        if outcome.garbage is not None and (
            outcome.garbage == name or self.settings.removes_replaced
        ):
            await self._delete(outcome.garbage)
        return outcome

    async def _publish_group(self, group: Sequence[tuple[SealedObject, str]]) -> Sequence[None]:
        await self._space.publish(group)
        return [None] * len(group)

    async def _delete(self, name: str) -> None:
        """Remove an object that nothing refers to. If that fails, `check` finds it some day."""
        try:
            await self._space.delete(name)
        except OSError as error:
            log.warning(
                "unneeded object not removed",
                space=self._space.name,
                object_name=name,
                error=str(error),
            )


class Reception:
    """One instance on its way in: `write` its bytes, then `finish`, or `abort` at any time."""

    def __init__(
        self,
        intake: Intake,
        writer: ObjectWriter,
        source: str,
        provider: str,
        study_instance_uid: str | None,
        traceparent: str | None,
    ) -> None:
        self._intake = intake
        self._writer = writer
        self._source = source
        self._provider = provider
        self._study_instance_uid = study_instance_uid
        self._traceparent = traceparent
        self._scanner = HeaderScanner(intake.settings.scan_limits)
        self._is_large = False  # holds one of the permits for large headers
        self._header: Header | None = None
        self._refusal: IntakeRefused | None = None
        self._over = False

    @property
    def sop_instance_uid(self) -> str | None:
        """The SOP Instance UID as received; None if there is none that can be read.

        To be asked for after the last `write` only: it ends the scan.
        """
        header = self._scan_to_end()
        return None if header is None else header.text(SOP_INSTANCE_UID)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes; the caller may reuse `data` afterwards.

        It waits when the space is slower than the sender. It never raises for what the bytes are
        or because the space is full: the rest of such an instance is ignored at no cost, and
        `finish` tells why. Raises RuntimeError after `finish` or `abort`.
        """
        if self._over:
            raise RuntimeError("the reception is over: no bytes may follow finish or abort")
        if self._refusal is not None:
            return
        try:
            self._scanner.feed(data)
            if self._scanner.held > LARGE_HEADER and not self._is_large:
                await self._intake.describer.large_headers.acquire()
                self._is_large = True
            await self._writer.write(data)
        except (ScanError, OSError) as error:
            self._refuse(error)
            await self._release()

    async def finish(self) -> Received:
        """The last byte was written: check, store and announce the instance.

        When this returns the instance is durable, recorded and announced. Raises IntakeRefused,
        after which nothing of it is left (except when the broker could not be asked: then the
        object may be there without a record, and the sender is told to send again).
        """
        if self._over:
            raise RuntimeError("the reception is over: it can be finished once")
        self._over = True
        stored = False
        try:
            header = self._scan_to_end()
            if self._refusal is not None:
                raise self._refusal
            assert header is not None
            identity = identify(header, self._study_instance_uid)
            stored = True  # from here on the intake cares for the object
            outcome = await self._intake.store(
                self._writer, header, identity, self._provider, self._traceparent
            )
            return self._answer(identity, outcome)
        except (OSError, NotAcceptedError) as error:
            refusal = _refusal(error, identity.sop_class_uid, identity.sop_instance_uid)
            raise self._logged(refusal) from error
        except IntakeRefused as error:
            self._logged(error)
            raise
        finally:
            await self._release(abort=not stored)

    async def abort(self) -> None:
        """Give the instance up, unless it is finished. Harmless at any time and twice."""
        if not self._over:
            self._over = True
            await self._release()

    def _answer(self, identity: Identity, outcome: StoreOutcome) -> Received:
        if outcome.result is StoreResult.KEPT:
            raise IntakeRefused(
                reasons.DUPLICATE_SOP_INSTANCE,
                "the space keeps the instance that it has with this SOP Instance UID",
                identity.sop_class_uid,
                identity.sop_instance_uid,
            )
        warnings = identity.warnings
        if outcome.result is StoreResult.QUARANTINED:
            warnings = (*warnings, ASIDE)
        return Received(
            outcome.result,
            identity.sop_class_uid,
            identity.sop_instance_uid,
            identity.study_instance_uid,
            identity.series_instance_uid,
            warnings,
        )

    def _scan_to_end(self) -> Header | None:
        """The header; None if the instance is refused already, or now."""
        if self._header is None and self._refusal is None:
            try:
                self._header = self._scanner.finish()
            except ScanError as error:
                self._refuse(error)
        return self._header if self._refusal is None else None

    def _refuse(self, error: ScanError | OSError) -> None:
        sop_class, sop_instance = map(self._scanner.peek, (SOP_CLASS_UID, SOP_INSTANCE_UID))
        self._refusal = _refusal(error, usable(sop_class), usable(sop_instance))
        self._scanner = HeaderScanner()  # what the other one holds is of no more use

    async def _release(self, *, abort: bool = True) -> None:
        if self._is_large:
            self._is_large = False
            self._intake.describer.large_headers.release()
        if abort:
            await self._writer.abort()

    def _logged(self, refusal: IntakeRefused) -> IntakeRefused:
        log.info(
            "instance refused",
            source=self._source,
            provider=self._provider,
            failure_reason=f"{refusal.failure_reason:04X}",
            why=refusal.message,
        )
        return refusal


def _refusal(
    error: ScanError | OSError | NotAcceptedError,
    sop_class_uid: str | None,
    sop_instance_uid: str | None,
) -> IntakeRefused:
    """What the sender is told."""
    match error:
        case HeaderTooLargeError():
            reason, message = reasons.HEADER_TOO_LARGE, error.reason
        case ScanError():
            reason, message = reasons.CANNOT_UNDERSTAND, error.reason
        case SpaceFullError():
            reason, message = reasons.OUT_OF_RESOURCES, "the storage space is full"
        case OSError():
            reason, message = reasons.PROCESSING_FAILURE, "the storage space failed"
        case ManifestFullError():
            reason, message = reasons.OUT_OF_RESOURCES, "the manifest's disk is full"
        case NotAcceptedError():
            reason, message = reasons.PROCESSING_FAILURE, "the instance could not be recorded"
    return IntakeRefused(reason, message, sop_class_uid, sop_instance_uid)
