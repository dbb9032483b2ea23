"""From a scanned header to the manifest's columns of study, series and instance.

A column holds what is matched, sorted and shown in lists; the attributes as received, whole, are in
the DICOM JSON of each level. So a value that cannot be in its column (Rows that are no number, a
Patient ID of a thousand characters) is left out of the column only, and an instance is never
refused for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from imaging_ingestion.dicom.header import Header
from imaging_ingestion.dicom.person_name import fold_name
from imaging_ingestion.manifest.attribute_levels import PATIENT_STUDY_TAGS, SERIES_TAGS

Values = dict[str, str | int | None]

#: UTF-8 bytes of the longest text in a column. No VR that these attributes have is meant to hold
#: more (a PN at most 3 x 64 characters), and PostgreSQL cannot index much more than twice of it.
LONGEST_TEXT = 1024
_SMALLINT = 0x7FFF
_INTEGER = 0x7FFFFFFF

_STUDY_TEXT = {
    "study_date": 0x00080020,
    "study_time": 0x00080030,
    "accession_number": 0x00080050,
    "referring_physician_name": 0x00080090,
    "patient_name": 0x00100010,
    "patient_id": 0x00100020,
    "issuer_of_patient_id": 0x00100021,
    "patient_birth_date": 0x00100030,
    "patient_sex": 0x00100040,
    "study_id": 0x00200010,
    "study_description": 0x00081030,
    "timezone_offset_from_utc": 0x00080201,
}
_SERIES_TEXT = {
    "modality": 0x00080060,
    "series_number": 0x00200011,
    "series_description": 0x0008103E,
    "performed_procedure_step_start_date": 0x00400244,
    "performed_procedure_step_start_time": 0x00400245,
    "timezone_offset_from_utc": 0x00080201,
}
_INSTANCE_TEXT = {
    "instance_number": 0x00200013,
    "number_of_frames": 0x00280008,
    "timezone_offset_from_utc": 0x00080201,
}
_INSTANCE_NUMBERS = {
    "rows": (0x00280010, _INTEGER),
    "columns": (0x00280011, _INTEGER),
    "bits_allocated": (0x00280100, _SMALLINT),
}
_STUDY_LEVEL = tuple(sorted(PATIENT_STUDY_TAGS))
_SERIES_LEVEL = tuple(sorted(SERIES_TAGS))


@dataclass(frozen=True, slots=True)
class Columns:
    """What `events.stored.StoredInstance` says of the three levels."""

    study: Values
    series: Values
    instance: Values


def columns_of(header: Header) -> Columns:
    """The columns of one instance. Never fails, whatever the values are."""
    study: Values = {name: _text(header, tag) for name, tag in _STUDY_TEXT.items()}
    study["patient_name_folded"] = _folded(study["patient_name"])
    study["referring_physician_name_folded"] = _folded(study["referring_physician_name"])
    study["attributes"] = _attributes(header, _STUDY_LEVEL)
    series: Values = {name: _text(header, tag) for name, tag in _SERIES_TEXT.items()}
    series["attributes"] = _attributes(header, _SERIES_LEVEL)
    instance: Values = {name: _text(header, tag) for name, tag in _INSTANCE_TEXT.items()}
    for name, (tag, most) in _INSTANCE_NUMBERS.items():
        instance[name] = _number(header, tag, most)
    return Columns(study, series, instance)


def storable(text: str) -> str | None:
    """The text as a column may hold it: without NUL, valid Unicode, None if empty or too long."""
    if "\0" in text:  # PostgreSQL has no place for it
        text = text.replace("\0", "").strip()
    if text.isascii():
        return text if 0 < len(text) <= LONGEST_TEXT else None
    encoded = text.encode("utf-8", "replace")  # a surrogate alone is no character
    return encoded.decode() if len(encoded) <= LONGEST_TEXT else None


def _text(header: Header, tag: int) -> str | None:
    value = header.text(tag)
    return None if value is None else storable(value)


def _folded(name: str | int | None) -> str | None:
    return None if name is None else storable(fold_name(str(name)))


def _number(header: Header, tag: int, most: int) -> int | None:
    value = header.integer(tag)
    return value if value is not None and 0 <= value <= most else None


def _attributes(header: Header, tags: tuple[int, ...]) -> str:
    """The elements that are there, in ascending order, as one DICOM JSON object (PS3.18 F.2)."""
    # Elements are DICOM JSON text already, with their keys: to join them costs a few microseconds.
    elements = header.elements
    return "{" + b",".join([elements[tag] for tag in tags if tag in elements]).decode() + "}"
