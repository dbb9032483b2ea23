"""What a C-MOVE or C-GET identifier asks for (PS3.4 C.4.2.1.4, C.4.3.1.4): unique keys only."""

from __future__ import annotations

from typing import Final

from imaging_ingestion.association.services.identifier import (
    PATIENT_ID,
    SERIES_INSTANCE_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    IdentifierRefusedError,
    QueryLevel,
    ReadIdentifier,
    read_identifier,
)
from imaging_ingestion.dicom.uid import InvalidUidError, check_uid
from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.extended_negotiation import RetrieveOptions
from imaging_ingestion.manifest.selection import MOST_UIDS, Selection

#: What we do of what can be negotiated; `SUPPORTED_OPTIONS.answer` answers an offer.
SUPPORTED_OPTIONS: Final = RetrieveOptions(relational_retrieval=True)


def read_selection(
    data: bytes,
    transfer_syntax_uid: str,
    sop_class_uid: str,
    space: str,
    options: RetrieveOptions,
) -> Selection:
    """The instances that an identifier asks for. Raises IdentifierRefusedError."""
    read = read_identifier(
        data, transfer_syntax_uid, sop_class_uid, relational=options.relational_retrieval
    )
    own = read.level.unique_key
    if not any(read.data_set.texts(own)):
        named = f"({own >> 16:04X},{own & 0xFFFF:04X})"
        raise IdentifierRefusedError(f"{named}: expected, as the key of {read.level}", own)
    return Selection(
        space,
        _patient_id(read),
        _uids(read, QueryLevel.STUDY, STUDY_INSTANCE_UID),
        _uids(read, QueryLevel.SERIES, SERIES_INSTANCE_UID),
        _uids(read, QueryLevel.IMAGE, SOP_INSTANCE_UID),
    )


def _patient_id(read: ReadIdentifier) -> str | None:
    """The Patient ID as it is: a retrieval knows no wildcards."""
    if QueryLevel.PATIENT not in read.levels:
        return None
    values = read.data_set.texts(PATIENT_ID)
    if len(values) > 1:
        raise IdentifierRefusedError("(0010,0020): expected one value", PATIENT_ID)
    return values[0].strip() if values and values[0].strip() else None


def _uids(read: ReadIdentifier, level: QueryLevel, tag: int) -> tuple[str, ...]:
    if level not in read.levels:
        return ()
    named = f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
    try:
        uids = [check_uid(text).uid for text in read.data_set.texts(tag) if text]
    except InvalidUidError as error:
        raise IdentifierRefusedError(f"{named}: a UID {error}", tag) from error
    if len(uids) > MOST_UIDS:
        raise IdentifierRefusedError(
            f"{named}: more than {MOST_UIDS} UIDs",
            tag,
            status_code=status.RETRIEVE_OUT_OF_RESOURCES_MATCHES,
        )
    return tuple(dict.fromkeys(uids))
