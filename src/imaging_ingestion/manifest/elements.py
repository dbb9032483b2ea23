"""Attributes as upstream's events list them: group, element, VR and one text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from imaging_ingestion.events.model import Element

#: Attributes that upstream's events always have, empty or not.
STUDY_ELEMENTS = (
    "00080050",
    "00080090",
    "00081030",
    "00100010",
    "00100020",
    "00100030",
    "00100040",
)
SERIES_ELEMENTS = ("0008103E", "00400244", "00400245", "00400275")
_VRS = {
    "00080050": "SH",
    "00080090": "PN",
    "00081030": "LO",
    "00100010": "PN",
    "00100020": "LO",
    "00100030": "DA",
    "00100040": "CS",
    "0008103E": "LO",
    "00400244": "DA",
    "00400245": "TM",
    "00400275": "SQ",
}

_INTEGER = re.compile(r"[+-]?[0-9]{1,12}")


class _Attribute(msgspec.Struct):
    """One attribute of DICOM JSON, without what is no value (a quarter less work than a dict)."""

    vr: str
    values: list[Any] = msgspec.field(name="Value", default_factory=list)


_ATTRIBUTES = msgspec.json.Decoder(dict[str, _Attribute])


def elements_of(dicom_json: str | bytes, always: Sequence[str]) -> tuple[Element, ...]:
    """Attributes as upstream's events list them; sequences and bulk values have no `value`."""
    attributes = _ATTRIBUTES.decode(dicom_json)
    for tag in always:
        if tag not in attributes:
            attributes[tag] = _Attribute(_VRS[tag])
    return tuple(
        [
            Element(tag[:4], tag[4:], attribute.vr, _text(attribute))
            for tag, attribute in sorted(attributes.items())
        ]
    )


def _text(attribute: _Attribute) -> str | None:
    values = attribute.values
    if not values or attribute.vr == "SQ":
        return None
    return "\\".join([value if type(value) is str else _one(value) for value in values])


def _one(value: object) -> str:
    if isinstance(value, dict):  # a person name
        groups = [value.get(g, "") for g in ("Alphabetic", "Ideographic", "Phonetic")]
        return "=".join(groups).rstrip("=")
    return "" if value is None else str(value)


def integer_of(text: str | None) -> int | None:
    """An IS as received, as a number; None if it is none (PS3.5 6.2: 32 bits, signed)."""
    if text is None or not _INTEGER.fullmatch(text):
        return None
    number = int(text)
    return number if -(1 << 31) <= number < 1 << 31 else None
