"""Elements of results as DICOM JSON text: what was received, or what a column says of it.

For QIDO-RS and C-FIND alike. The text is spliced from the manifest's, not encoded anew.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from imaging_ingestion.dicom.dictionary import vr_of
from imaging_ingestion.dicom.json_model import is_json_integer
from imaging_ingestion.manifest.query_attributes import COLUMN_ATTRIBUTES, ColumnAttribute
from imaging_ingestion.manifest.query_match import Row

#: What a sender says of these was true somewhere else.
_COUNTS = frozenset({0x00201206, 0x00201208, 0x00201209})
_LENGTH_OF_EMPTY = len(b'{"vr":"XX"}')
_UNKNOWN = b'{"vr":"UN"'
_encode = msgspec.json.Encoder().encode


def element_of(tag: int, row: Row, stored: Mapping[str, bytes]) -> bytes:
    """An element of a study or series, without key: as received, of its column, or empty.

    `stored` are the elements of the row's `attributes` by tag, eight hexadecimal digits.
    """
    attribute = COLUMN_ATTRIBUTES.get(tag)
    found = None if tag in _COUNTS else stored.get(f"{tag:08X}")
    if found is not None and not is_empty(found):
        # What came as UN is base64 here, a Study Instance UID even: our column has it as it is.
        unreadable = attribute is not None and found.startswith(_UNKNOWN)
        if attribute is None or not unreadable or row._mapping[attribute.column.name] is None:
            return found
    return empty_element(tag) if attribute is None else column_element(attribute, row)


def column_element(attribute: ColumnAttribute, row: Row) -> bytes:
    """What a row's column says of an attribute."""
    value = row._mapping[attribute.column.name]
    if value is None:
        return empty_element(attribute.tag)
    if attribute.vr == "IS":
        return integer_text(str(value))
    return _encode(attribute.element(value))


def integer_text(text: str | None) -> bytes:
    """An IS element; a number in JSON if it can be one, as everywhere else (F.2.3)."""
    if text is None:
        return b'{"vr":"IS"}'
    value = text.encode()
    return b'{"vr":"IS","Value":[%b]}' % (value if is_json_integer(value) else _encode(text))


def empty_element(tag: int) -> bytes:
    """An element without a value."""
    vr = (vr_of(tag) or "UN")[:2]  # "US or SS": the first will do for no value
    return b'{"vr":"%b"}' % vr.encode()


def is_empty(element: bytes) -> bool:
    """Whether an element, without key, has no value."""
    return len(element) <= _LENGTH_OF_EMPTY


def private_creator(element: bytes | None) -> str | None:
    """What a Private Creator element says; None if it says nothing."""
    if element is None:
        return None
    values = msgspec.json.decode(element).get("Value", ())
    return values[0].strip(" \0") if values and isinstance(values[0], str) else None
