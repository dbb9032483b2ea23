"""Whether an instance can be taken in: the UIDs it must have, and what they must be."""

from __future__ import annotations

from dataclasses import dataclass

from imaging_ingestion.dicom import failure_reason as reasons
from imaging_ingestion.dicom.header import Header
from imaging_ingestion.dicom.uid import InvalidUidError, check_uid
from imaging_ingestion.intake.refusal import IntakeRefused

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

#: Media Storage Directory Storage: the class of a DICOMDIR.
MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"
#: Implicit VR Little Endian, and the root of all other transfer syntaxes of the standard (PS3.6
#: annex A). What the bytes of a private one mean, only its maker knows.
_IMPLICIT_VR = "1.2.840.10008.1.2"


@dataclass(frozen=True, slots=True)
class Identity:
    """The UIDs of an instance, checked, and what is wrong with it all the same."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    warnings: tuple[str, ...] = ()


def identify(header: Header, study_instance_uid: str | None = None) -> Identity:
    """Check what an instance says of itself.

    `study_instance_uid` is that of the resource it was sent to, if it was sent to one. Raises
    IntakeRefused.
    """
    sop_class = header.text(SOP_CLASS_UID) or header.media_storage_sop_class_uid
    sop_instance = header.text(SOP_INSTANCE_UID) or header.media_storage_sop_instance_uid

    def refused(reason: int, message: str) -> IntakeRefused:
        return IntakeRefused(reason, message, usable(sop_class), usable(sop_instance))

    if MEDIA_STORAGE_DIRECTORY in {sop_class, header.media_storage_sop_class_uid}:
        raise refused(
            reasons.SOP_CLASS_NOT_SUPPORTED,
            "it is a DICOMDIR, which describes media and is no instance of a study",
        )
    warnings = list(header.warnings)
    uids: dict[int, str] = {}
    for tag, name in _NAMES.items():
        raw = header.text(tag)
        if raw is None:
            raise refused(reasons.CANNOT_UNDERSTAND, f"{name} is missing or empty")
        try:
            checked = check_uid(raw)
        except InvalidUidError as error:
            raise refused(reasons.CANNOT_UNDERSTAND, f"{name} {error}") from error
        uids[tag] = checked.uid
        if checked.warning is not None:
            warnings.append(f"{name}: {checked.warning}")
    transfer_syntax = header.transfer_syntax_uid
    if transfer_syntax != _IMPLICIT_VR and not transfer_syntax.startswith(_IMPLICIT_VR + "."):
        raise refused(
            reasons.TRANSFER_SYNTAX_NOT_SUPPORTED,
            "its transfer syntax is none of the standard's",
        )
    if study_instance_uid is not None and uids[STUDY_INSTANCE_UID] != study_instance_uid:
        raise refused(
            reasons.STUDY_INSTANCE_UID_MISMATCH,
            "its Study Instance UID (0020,000D) is not that of the study it was sent to",
        )
    for tag, of_media in (
        (SOP_CLASS_UID, header.media_storage_sop_class_uid),
        (SOP_INSTANCE_UID, header.media_storage_sop_instance_uid),
    ):
        if of_media is not None and of_media != uids[tag]:
            warnings.append(f"{_NAMES[tag]} is not the one of the file meta information")
    return Identity(
        uids[SOP_CLASS_UID],
        uids[SOP_INSTANCE_UID],
        uids[STUDY_INSTANCE_UID],
        uids[SERIES_INSTANCE_UID],
        tuple(warnings),
    )


def usable(uid: str | None) -> str | None:
    """A UID for a report; None if it is none that a report could carry."""
    if uid is None:
        return None
    try:
        return check_uid(uid).uid
    except InvalidUidError:
        return None
