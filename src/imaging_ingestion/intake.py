"""The one way in: every instance, whichever door it comes by, is scanned, checked, put, announced.

    receive ─ write ─ write ─ … ─ finish ─┬─ scan and check
                                          ├─ seal      the object's bytes are durable
                                          ├─ publish   it has its name     (shared by many)
                                          ├─ accept    it is recorded      (shared by many)
                                          └─ delete    what it replaced, if anything

`finish` returns only when all of it is durable: that is the acknowledgement. Until `publish`
nothing is visible, and until `accept` nothing refers to the object.

Memory: a reception holds its header while it is being scanned, and shares the space's buffers with
all others (`storage.directory.GATHERED`). Headers are small, so any number may be under way; those
that turn out larger than `LARGE_HEADER` go on only `LARGE_HEADERS` at a time, the others' senders
wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
import zstandard

from imaging_ingestion.brokers.group_commit import Groups, NotAcceptedError
from imaging_ingestion.dicom import failure_reason as reasons
from imaging_ingestion.dicom.header import Header, HeaderTooLargeError, ScanError
from imaging_ingestion.dicom.scan import HeaderScanner, ScanLimits
from imaging_ingestion.dicom.uid import InvalidUidError, check_uid
from imaging_ingestion.events.broker import Broker
from imaging_ingestion.events.stored import ConflictPolicy, StoredInstance, StoreResult
from imaging_ingestion.manifest.attributes import columns_of
from imaging_ingestion.storage.object_name import new_arrival, object_name
from imaging_ingestion.storage.space import SealedObject, Space, SpaceFullError

log = structlog.get_logger(__name__)

SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
_NAMES = {
    SOP_CLASS_UID: "SOP Class UID (0008,0016)",
    SOP_INSTANCE_UID: "SOP Instance UID (0008,0018)",
    STUDY_INSTANCE_UID: "Study Instance UID (0020,000D)",
    SERIES_INSTANCE_UID: "Series Instance UID (0020,000E)",
}

MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"  # a DICOMDIR
#: Every transfer syntax of the standard has this root (PS3.6 annex A); of a private one nobody
#: could tell what the bytes mean.
STANDARD_TRANSFER_SYNTAXES = "1.2.840.10008.1.2"

#: Measured on CT and enhanced MR headers: level 1 costs half the time of level 3 for 4 % more bytes.
COMPRESSION_LEVEL = 1
LARGE_HEADER = 1 << 20  # bytes
LARGE_HEADERS = 4


class IntakeRefused(Exception):  # noqa: N818 - a refusal is an answer, the sender's fault or ours
    """An instance was not stored, and nothing is left of it.

    `failure_reason` is a value of Failure Reason (0008,1197), see `dicom.failure_reason`; the
    message says what was wrong, without patient data. The UIDs are there if they could be read.
    """

    def __init__(
        self,
        failure_reason: int,
        message: str,
        sop_class_uid: str | None = None,
        sop_instance_uid: str | None = None,
    ) -> None:
        super().__init__(message)
        self.failure_reason = failure_reason
        self.message = message
        self.sop_class_uid = sop_class_uid
        self.sop_instance_uid = sop_instance_uid


@dataclass(frozen=True, slots=True)
class Identity:
    """The UIDs of an instance, checked, and what is wrong with it all the same."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Received:
    """The acknowledgement: the instance is durable, recorded and announced."""

    result: StoreResult
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IntakeSettings:
    """How a space takes instances in."""

    conflict_policy: ConflictPolicy = ConflictPolicy.REPLACE
    scan_limits: ScanLimits = field(default_factory=ScanLimits)


class Intake:
    """Takes instances into one space."""

    def __init__(
        self, space: Space, broker: Broker, settings: IntakeSettings | None = None
    ) -> None:
        self.space = space
        self.broker = broker
        self.settings = settings or IntakeSettings()
        self.large_headers = asyncio.Semaphore(LARGE_HEADERS)
        self._publishing: Groups[tuple[SealedObject, str], None] = Groups(
            self._publish, hopeless=lambda _error: False
        )
        self._compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL)
        self._storing: set[asyncio.Task[Received]] = set()

    def receive(
        self,
        *,
        source: str,
        provider: str,
        study_instance_uid: str | None = None,
        traceparent: str | None = None,
    ) -> Reception:
        """Begin to take in one instance.

        `source` says in the logs who sent it (an address, an AE title); `provider` is recorded
        with it. With `study_instance_uid` an instance of another study is refused.
        """
        return Reception(self, source, provider, study_instance_uid, traceparent)

    async def close(self) -> None:
        """Wait for what is being stored. Begin nothing afterwards."""
        while self._storing:
            await asyncio.wait(self._storing)
        await self._publishing.stop()

    async def store(
        self, writer: _Writer, header: Header, identity: Identity, origin: _Origin
    ) -> Received:
        """Make what was received durable, and known. Raises IntakeRefused.

        It runs to its end even if the caller is cancelled: a sealed object has an owner, always.
        """
        storing = asyncio.create_task(self._store(writer, header, identity, origin))
        self._storing.add(storing)
        storing.add_done_callback(self._storing.discard)
        return await asyncio.shield(storing)
