"""`-k`: the keys of a query, by keyword or tag, with a value or to be returned."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from imaging_ingestion.cli.dimse.peer import UsageError
from imaging_ingestion.dicom.dataset_write import UnwritableError, write_data_set
from imaging_ingestion.dicom.dictionary import keyword_of, tag_of, vr_of
from imaging_ingestion.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN

Element = Mapping[str, Any]
Keys = dict[str, Element]

#: Levels as they are typed, and as they are sent (PS3.4 C.6.1.1, C.6.2.1).
LEVELS: Final = {"patient": "PATIENT", "study": "STUDY", "series": "SERIES", "image": "IMAGE"}
UNIQUE_KEYS: Final = {
    "patient": "00100020",
    "study": "0020000D",
    "series": "0020000E",
    "image": "00080018",
}
_TAG = re.compile(r"\(?([0-9A-Fa-f]{4}),?([0-9A-Fa-f]{4})\)?")
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


def parse_keys(texts: Iterable[str]) -> Keys:
    """Keys in DICOM JSON, by tag. Raises UsageError.

    `NAME` or `NAME=VALUE`; a NAME is a keyword, a tag, or several joined by a dot that lead into
    the item of a sequence. A backslash separates values.
    """
    keys: Keys = {}
    for text in texts:
        name, _, value = text.partition("=")
        item = keys
        *sequences, last = (_tag(part, text) for part in name.split("."))
        for tag in sequences:
            if _vr(tag, text) != "SQ":
                raise UsageError(f"-k {text}: {_name(tag)} is no sequence")
            if "Value" not in item.get(tag, {}):
                item[tag] = {"vr": "SQ", "Value": [{}]}
            item = item[tag]["Value"][0]
        item[last] = _element(last, value, text)
    try:
        write_data_set(keys, EXPLICIT_VR_LITTLE_ENDIAN)
    except UnwritableError as error:
        raise UsageError(f"-k: {error}") from error
    return keys


def level_of(keys: Mapping[str, Element]) -> str:
    """The level that the unique keys speak of: the lowest that has a value. Raises UsageError."""
    for level in reversed(LEVELS):
        if keys.get(UNIQUE_KEYS[level], {}).get("Value"):
            return level
    raise UsageError(
        "-k: one of PatientID, StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID was expected"
    )


def identifier(level: str, keys: Mapping[str, Element], transfer_syntax_uid: str) -> bytes:
    """The data set of a query or retrieval."""
    elements = {"00080052": {"vr": "CS", "Value": [LEVELS[level]]}, **keys}
    return write_data_set(elements, transfer_syntax_uid)


def return_key(keyword: str) -> tuple[str, Element]:
    """A key without a value."""
    tag = tag_of(keyword)
    assert tag is not None
    return f"{tag:08X}", {"vr": vr_of(tag)}


def text_of(element: Mapping[str, Any] | None) -> str:
    """An element's values for people."""
    if element is None:
        return ""
    if "InlineBinary" in element:
        return "(binary)"
    values = element.get("Value", ())
    if element["vr"] == "SQ":
        return f"({len(values)} {'item' if len(values) == 1 else 'items'})"
    return "\\".join(map(_value_text, values))


def _value_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "=".join(value.get(group) or "" for group in _GROUPS).rstrip("=")
    return "" if value is None else str(value)


def _tag(name: str, text: str) -> str:
    found = _TAG.fullmatch(name.strip())
    if found is not None:
        return (found[1] + found[2]).upper()
    tag = tag_of(name.strip())
    if tag is None:
        raise UsageError(f"-k {text}: {name!r} is no keyword of PS3.6 and no tag such as 00100020")
    return f"{tag:08X}"


def _vr(tag: str, text: str) -> str:
    number = int(tag, 16)
    if number >> 16 & 1:
        # Private: a creator is LO (PS3.5 7.8.1), and text is what can be matched.
        return "LO"
    vr = vr_of(number)
    if vr is None:
        raise UsageError(f"-k {text}: ({tag[:4]},{tag[4:]}) is no attribute of PS3.6")
    return vr.split(" or ", 1)[0]


def _element(tag: str, value: str, text: str) -> Element:
    vr = _vr(tag, text)
    if vr == "SQ" and value:
        raise UsageError(f"-k {text}: {_name(tag)} is a sequence: {_name(tag)}.NAME=VALUE")
    if not value:
        return {"vr": vr}
    values: list[Any] = value.split("\\")
    if vr == "PN":
        values = [dict(zip(_GROUPS, name.split("="), strict=False)) for name in values]
    elif vr in {"US", "SS", "UL", "SL", "UV", "SV", "FL", "FD"}:
        try:
            values = [float(number) if vr[0] == "F" else int(number) for number in values]
        except ValueError as error:
            raise UsageError(f"-k {text}: a number was expected") from error
    elif vr in {"OB", "OD", "OF", "OL", "OV", "OW", "UN"}:
        raise UsageError(f"-k {text}: a value of VR {vr} cannot be matched")
    return {"vr": vr, "Value": values}


def _name(tag: str) -> str:
    return keyword_of(int(tag, 16)) or f"({tag[:4]},{tag[4:]})"
