"""An object that lies in a space, as an instance that can be recorded.

It is streamed once, through the scanner and the digest, and checked as if it had just arrived; what
is held of it is its header. Its name need not be one of ours (another writer's objects are found
by their content); if it is, what it says must be what the object is.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack
from enum import StrEnum
from typing import Final

from imaging_ingestion.dicom.header import Header, HeaderTooLargeError, NotDicomError, ScanError
from imaging_ingestion.dicom.scan import HeaderScanner, ScanLimits
from imaging_ingestion.events.stored import ConflictPolicy, PatientConflictPolicy, StoredInstance
from imaging_ingestion.intake.description import LARGE_HEADER, Describer
from imaging_ingestion.intake.identity import Identity, identify
from imaging_ingestion.intake.refusal import IntakeRefused
from imaging_ingestion.storage.object_name import parse_object_name
from imaging_ingestion.storage.space import ObjectMissingError, Space

#: Bytes of a piece that the event loop digests itself: a thread costs more than that.
_DIGESTED_HERE: Final = 1 << 17


class Fault(StrEnum):
    """What is wrong with an object."""

    MISSING = "missing"
    UNREADABLE = "unreadable"  # the space failed: it may work later
    NOT_DICOM = "not DICOM"
    MALFORMED = "malformed"  # DICOM that ends too early, or contradicts itself
    HEADER_TOO_LARGE = "header too large"
    NO_INSTANCE = "no instance"  # UIDs missing or wrong, a DICOMDIR, a private transfer syntax
    OTHER_INSTANCE = "other instance"  # the name tells other UIDs than the content
    OTHER_CONTENT = "other content"  # the name tells another digest than that of the content


class FoundError(Exception):
    """An object cannot be recorded. `reason` says why, without patient data."""

    def __init__(self, fault: Fault, object_name: str, reason: str) -> None:
        super().__init__(f"object {object_name!r}: {reason}")
        self.fault = fault
        self.object_name = object_name
        self.reason = reason


async def found_instance(
    space: Space,
    object_name: str,
    *,
    provider: str,
    limits: ScanLimits | None = None,
    conflict_policy: ConflictPolicy = ConflictPolicy.REPLACE,
    patient_conflict_policy: PatientConflictPolicy = PatientConflictPolicy.ACCEPT,
    traceparent: str | None = None,
    stored_at: int | None = None,
    describer: Describer | None = None,
) -> StoredInstance:
    """Read an object of a space, and say of it what is said of one that arrives.

    `provider` is recorded with it: an object does not tell who sent it. `stored_at` is when the
    object was written (microseconds since the epoch), if that is to be recorded, and not the time
    of now. `describer` is one for all that are read at a time, so that few of them are large.
    Raises FoundError, and ValueError for a name that is no object's.
    """
    describer = describer or Describer()
    async with AsyncExitStack() as large:  # as long as the header is held
        header, size, sha256 = await _read(space, object_name, limits, describer, large)
        try:
            identity = identify(header)
        except IntakeRefused as refusal:
            raise FoundError(Fault.NO_INSTANCE, object_name, refusal.message) from refusal
        _compare(object_name, identity, sha256)
        description = await describer.describe(header, identity)
    return description.stored(
        space=space.name,
        provider=provider,
        object_name=object_name,
        object_size=size,
        sha256=sha256,
        conflict_policy=conflict_policy,
        patient_conflict_policy=patient_conflict_policy,
        traceparent=traceparent,
        stored_at=stored_at,
    )


async def _read(
    space: Space,
    object_name: str,
    limits: ScanLimits | None,
    describer: Describer,
    large: AsyncExitStack,
) -> tuple[Header, int, bytes]:
    """The header of an object, its size in bytes, and its SHA-256.

    If its header is large, `large` has one of the describer's permits afterwards.
    """
    is_large = False
    scanner = HeaderScanner(limits)
    digest = hashlib.sha256()
    size = 0
    try:
        reader = await space.open(object_name)
        try:
            async for piece in reader.stream():
                size += len(piece)
                scanner.feed(piece)
                if scanner.held > LARGE_HEADER and not is_large:
                    is_large = True
                    await large.enter_async_context(describer.large_headers)
                if len(piece) > _DIGESTED_HERE:
                    await asyncio.to_thread(digest.update, piece)
                else:
                    digest.update(piece)
        finally:
            await reader.close()
        header = scanner.finish()
    except ObjectMissingError as error:
        raise FoundError(Fault.MISSING, object_name, "it is not in the space") from error
    except OSError as error:
        reason = f"it cannot be read: {error.strerror or error}"
        raise FoundError(Fault.UNREADABLE, object_name, reason) from error
    except ScanError as error:
        raise FoundError(_fault_of(error), object_name, error.reason) from error
    return header, size, digest.digest()


def _compare(object_name: str, identity: Identity, sha256: bytes) -> None:
    """Hold what the name tells against what the object is. Raises FoundError."""
    told = parse_object_name(object_name)
    if told is None:
        return
    if told.uids != (
        identity.study_instance_uid,
        identity.series_instance_uid,
        identity.sop_instance_uid,
    ):
        reason = "its name tells other UIDs than its content"
        raise FoundError(Fault.OTHER_INSTANCE, object_name, reason)
    if not told.is_of(sha256):
        reason = "its name tells another digest than that of its content, which was changed"
        raise FoundError(Fault.OTHER_CONTENT, object_name, reason)


def _fault_of(error: ScanError) -> Fault:
    match error:
        case NotDicomError():
            return Fault.NOT_DICOM
        case HeaderTooLargeError():
            return Fault.HEADER_TOO_LARGE
        case _:
            return Fault.MALFORMED
