"""SOP classes and transfer syntaxes by the service they belong to (PS3.4, PS3.6 annex A).

The tables are those of `dicom.dictionary`, so a server need not import a DICOM toolkit.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from imaging_ingestion.dicom.dictionary import storage_sop_classes as _named_storage
from imaging_ingestion.dicom.dictionary import transfer_syntaxes as _all_transfer_syntaxes
from imaging_ingestion.dicom.transfer_syntax import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    is_lossy,
)

VERIFICATION: Final = "1.2.840.10008.1.1"
STORAGE_COMMITMENT_PUSH_MODEL: Final = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
PATIENT_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.1.1"
PATIENT_ROOT_MOVE: Final = "1.2.840.10008.5.1.4.1.2.1.2"
PATIENT_ROOT_GET: Final = "1.2.840.10008.5.1.4.1.2.1.3"
STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET: Final = "1.2.840.10008.5.1.4.1.2.2.3"

#: The storage service class, as named in common extended negotiation (PS3.7 D.3.3.6).
STORAGE_SERVICE_CLASS: Final = "1.2.840.10008.4.2"

FIND_CLASSES: Final = frozenset({PATIENT_ROOT_FIND, STUDY_ROOT_FIND})
MOVE_CLASSES: Final = frozenset({PATIENT_ROOT_MOVE, STUDY_ROOT_MOVE})
GET_CLASSES: Final = frozenset({PATIENT_ROOT_GET, STUDY_ROOT_GET})
PATIENT_ROOT_CLASSES: Final = frozenset({PATIENT_ROOT_FIND, PATIENT_ROOT_MOVE, PATIENT_ROOT_GET})

#: Objects of no patient, study and series: a service class of their own (PS3.4 table GG.3-1).
NON_PATIENT_OBJECT_CLASSES: Final = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.200.1",  # CT Defined Procedure Protocol Storage
        "1.2.840.10008.5.1.4.1.1.200.3",  # Protocol Approval Storage
        "1.2.840.10008.5.1.4.1.1.200.7",  # XA Defined Procedure Protocol Storage
        "1.2.840.10008.5.1.4.1.1.201.1",  # Inventory Storage
        "1.2.840.10008.5.1.4.38.1",  # Hanging Protocol Storage
        "1.2.840.10008.5.1.4.39.1",  # Color Palette Storage
        "1.2.840.10008.5.1.4.43.1",  # Generic Implant Template Storage
        "1.2.840.10008.5.1.4.44.1",  # Implant Assembly Template Storage
        "1.2.840.10008.5.1.4.45.1",  # Implant Template Group Storage
    }
)
#: A DICOMDIR: on media only, never on an association.
_MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"

#: For identifiers, action and event information, which are no stored objects; any peer offers the
#: second.
DATA_SET_TRANSFER_SYNTAXES: Final = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)

#: Registered as transfer syntaxes, but of no data set that an association could carry: MIME and XML
#: (PS3.10), SMPTE ST 2110 (real-time video, PS3.22), and Papyrus.
_NOT_ON_ASSOCIATIONS = frozenset(
    {
        "1.2.840.10008.1.2.6.1",
        "1.2.840.10008.1.2.6.2",
        "1.2.840.10008.1.2.7.1",
        "1.2.840.10008.1.2.7.2",
        "1.2.840.10008.1.2.7.3",
        "1.2.840.10008.1.20",
    }
)
_STANDARD_ROOT = "1.2.840.10008."


@cache
def storage_sop_classes() -> frozenset[str]:
    """Every storage SOP class of the standard, the retired ones too (PS3.4 B.5, PS3.6 A)."""
    return frozenset(_named_storage()) - NON_PATIENT_OBJECT_CLASSES - {_MEDIA_STORAGE_DIRECTORY}


@cache
def storage_transfer_syntaxes() -> tuple[str, ...]:
    """Every transfer syntax an instance may come in, the most wanted first.

    1. Explicit VR little endian: nothing is lost, and anything can read it.
    2. Lossless compression: what was compressed stays as it is, and its VRs are kept.
    3. Implicit VR little endian, which every peer offers: loses the VR of private elements.
    4. Deflated, and 5. big endian: seldom met.
    6. What may be lossy, last: a sender that has the pixels uncompressed must never be led to
       compress them. It comes to this where the sender has nothing else, and then it is stored
       as it is.
    """
    first = (EXPLICIT_VR_LITTLE_ENDIAN,)
    middle = (IMPLICIT_VR_LITTLE_ENDIAN, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN)
    rest = [
        uid
        for uid in _all_transfer_syntaxes()
        if uid not in first and uid not in middle and uid not in _NOT_ON_ASSOCIATIONS
    ]
    lossless = tuple(uid for uid in rest if not is_lossy(uid))
    return first + lossless + middle + tuple(uid for uid in rest if is_lossy(uid))


def is_storage(sop_class_uid: str) -> bool:
    """Whether it is a storage SOP class of the standard."""
    return sop_class_uid in storage_sop_classes()


def is_private(uid: str) -> bool:
    """Whether a UID is not one of the standard's (PS3.5 9.1)."""
    return not uid.startswith(_STANDARD_ROOT)
