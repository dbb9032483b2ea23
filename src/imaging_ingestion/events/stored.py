"""A stored instance as the system speaks of it between intake, broker and manifest."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class StoredInstance(msgspec.Struct, frozen=True, kw_only=True):
    """One instance whose object is durably in its space, ready to be recorded and announced.

    `study`, `series` and `instance` hold the values of the manifest's columns of those names
    (see `manifest.schema`), without keys, counts and times; an absent or empty attribute is None.
    """

    space: str
    provider: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    object_name: str
    object_size: int  # bytes
    sha256: bytes  # 32 bytes, of the object as stored
    study: dict[str, str | int | None]
    series: dict[str, str | int | None]
    instance: dict[str, str | int | None]
    metadata_zstd: bytes  # the data set as zstd-compressed DICOM JSON
    conflict_policy: str = "replace"  # ConflictPolicy of the space
    patient_conflict_policy: str = "accept"  # PatientConflictPolicy of the space
    traceparent: str | None = None
    #: When its object was written (microseconds since the epoch), of one that was found in a space
    #: and did not just arrive.
    stored_at: int | None = None


class ConflictPolicy(StrEnum):
    """What happens when a SOP Instance UID of a space arrives again with other bytes."""

    REPLACE = "replace"
    KEEP = "keep"
    QUARANTINE = "quarantine"  # kept aside, until somebody decides


class PatientConflictPolicy(StrEnum):
    """What happens with an instance whose patient data contradicts what its study has."""

    ACCEPT = "accept"  # the study has what came last
    QUARANTINE = "quarantine"


class QuarantineReason(StrEnum):
    """Why an instance was kept aside."""

    CONTENT = "content"  # the space has other bytes for its SOP Instance UID
    PATIENT = "patient"  # its study has another patient


class StoreResult(StrEnum):
    """What recording an instance did."""

    CREATED = "CREATED"
    REPLACED = "REPLACED"
    UNCHANGED = "UNCHANGED"  # identical bytes were there already
    KEPT = "KEPT"  # other bytes were there already and the space keeps the first
    QUARANTINED = "QUARANTINED"  # kept aside: what the space has is unchanged


class StoreOutcome(msgspec.Struct, frozen=True):
    """The manifest's answer about one stored instance.

    `garbage` is the object name that nothing refers to any more after the transaction, or None: the
    new one itself, which whoever put it removes at once; or one that was live, which readers may
    have in hand and which the table `object_removal` has.
    """

    result: StoreResult
    garbage: str | None = None
