"""Identifiers of queries and retrievals: the level, and the keys above it (PS3.4 C.3, C.4 and C.6).

The rules are those of the hierarchical search method: every unique key above the level has one
value. Where relational behaviour was negotiated these keys may be missing, or be anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from imaging_ingestion.dicom.dataset_read import SmallDataSet, read_data_set
from imaging_ingestion.dicom.header import ScanError
from imaging_ingestion.dicom.uid import is_uid
from imaging_ingestion.dicom.wildcard import has_wildcard
from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.sop_class import PATIENT_ROOT_CLASSES

#: Bytes of the longest identifier that is read.
MAX_IDENTIFIER_LENGTH: Final = 8 << 20

QUERY_RETRIEVE_LEVEL: Final = 0x00080052
PATIENT_ID: Final = 0x00100020
STUDY_INSTANCE_UID: Final = 0x0020000D
SERIES_INSTANCE_UID: Final = 0x0020000E
SOP_INSTANCE_UID: Final = 0x00080018


class QueryLevel(StrEnum):
    """Query/Retrieve Level (0008,0052), from the whole to the part."""

    PATIENT = "PATIENT"
    STUDY = "STUDY"
    SERIES = "SERIES"
    IMAGE = "IMAGE"

    @property
    def unique_key(self) -> int:
        """The tag that names an entity of the level (tables C.6-1 to C.6-5)."""
        return _UNIQUE_KEYS[self]


_UNIQUE_KEYS: Final = {
    QueryLevel.PATIENT: PATIENT_ID,
    QueryLevel.STUDY: STUDY_INSTANCE_UID,
    QueryLevel.SERIES: SERIES_INSTANCE_UID,
    QueryLevel.IMAGE: SOP_INSTANCE_UID,
}
_PATIENT_ROOT: Final = tuple(QueryLevel)
_STUDY_ROOT: Final = _PATIENT_ROOT[1:]


class IdentifierRefusedError(Exception):
    """An identifier that cannot be served: the status, and what it is about."""

    def __init__(
        self, comment: str, *offending_element: int, status_code: int | None = None
    ) -> None:
        """Without a status it is A900H, which C-FIND, C-MOVE and C-GET have in common."""
        super().__init__(comment)
        self.comment = comment
        self.offending_element = offending_element or None
        self.status = (
            status.FIND_DATA_SET_DOES_NOT_MATCH_SOP_CLASS if status_code is None else status_code
        )


@dataclass(frozen=True, slots=True)
class ReadIdentifier:
    """An identifier that fits its information model. `levels` are those of the model down to it."""

    level: QueryLevel
    data_set: SmallDataSet
    levels: tuple[QueryLevel, ...]


def read_identifier(
    data: bytes, transfer_syntax_uid: str, sop_class_uid: str, *, relational: bool
) -> ReadIdentifier:
    """Read the identifier of a request for that SOP class. Raises IdentifierRefusedError."""
    try:
        data_set = read_data_set(data, transfer_syntax_uid)
    except ScanError as error:
        raise IdentifierRefusedError(
            f"the identifier cannot be read: {error.reason}",
            status_code=status.FIND_UNABLE_TO_PROCESS,
        ) from error
    model = _PATIENT_ROOT if sop_class_uid in PATIENT_ROOT_CLASSES else _STUDY_ROOT
    text = data_set.text(QUERY_RETRIEVE_LEVEL)
    if text not in model:
        expected = ", ".join(model)
        raise IdentifierRefusedError(f"(0008,0052): expected one of {expected}", 0x00080052)
    level = QueryLevel(text)
    levels = model[: model.index(level) + 1]
    if not relational:
        for above in levels[:-1]:
            _check_single_value(data_set, above)
    return ReadIdentifier(level, data_set, levels)


def _check_single_value(data_set: SmallDataSet, level: QueryLevel) -> None:
    """Raise unless the level's unique key names one entity (C.4.1.2.1, C.4.2.2.1)."""
    tag = level.unique_key
    values = data_set.texts(tag)
    named = f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
    if not any(values):
        raise IdentifierRefusedError(f"{named}: expected, as the key of the {level} level", tag)
    is_one = len(values) == 1 and (
        not has_wildcard(values[0]) if tag == PATIENT_ID else is_uid(values[0])
    )
    if not is_one:
        raise IdentifierRefusedError(f"{named}: expected one value, at the {level} level", tag)
