"""A small data set to bytes, from elements in DICOM JSON (PS3.18 F.2, PS3.5 section 7).

For identifiers and event information, not for images: everything is in memory, and a value that is
only referenced (BulkDataURI) is written empty. Sequences and items have defined lengths. All text
is in one character set, which the result names if any of it is not ASCII (PS3.4 C.4.1.1.3.2): the
one that is wanted if it has every character, else UTF-8.
"""

from __future__ import annotations

import math
import struct
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping, Sequence
from typing import Any, Final

from imaging_ingestion.dicom.charset_write import (
    UTF_8,
    CannotEncodeError,
    TextEncoder,
    text_encoder,
)
from imaging_ingestion.dicom.criterion import Element
from imaging_ingestion.dicom.element_kind import LONG_FORM
from imaging_ingestion.dicom.header import SPECIFIC_CHARACTER_SET
from imaging_ingestion.dicom.json_model import KIND_OF_VR, Kind
from imaging_ingestion.dicom.transfer_syntax import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

_ITEM: Final = struct.Struct("<HHI")
_ITEM_TAG: Final = (0xFFFE, 0xE000)
_IMPLICIT: Final = struct.Struct("<HHI")
_SHORT: Final = struct.Struct("<HH2sH")
_LONG: Final = struct.Struct("<HH2s2xI")
_FORMAT: Final = {
    "US": "H",
    "SS": "h",
    "UL": "I",
    "SL": "i",
    "UV": "Q",
    "SV": "q",
    "FL": "f",
    "FD": "d",
}
#: The longest value that a 16-bit length can tell, being even.
LONGEST_SHORT_VALUE: Final = 0xFFFE
#: Characters of one DS (PS3.5 table 6.2-1).
_LONGEST_DECIMAL: Final = 16
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


class UnwritableError(ValueError):
    """An element that no data set can hold; the message names its tag, and not its value."""


def write_data_set(
    elements: Mapping[str, Element],
    transfer_syntax_uid: str,
    character_set: tuple[str, ...] = UTF_8,
) -> bytes:
    """The data set, its elements in ascending order.

    `elements` are by tag, eight hexadecimal digits, and may stand in any order; Specific Character
    Set among them is not looked at. `character_set` is the wanted one, as values of that attribute.
    Raises UnwritableError, and ValueError for a transfer syntax other than explicit and implicit VR
    little endian.
    """
    if transfer_syntax_uid not in {EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN}:
        raise ValueError(f"data sets are not written in transfer syntax {transfer_syntax_uid}")
    implicit = transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
    try:
        return _Writer(text_encoder(character_set), implicit=implicit).data_set(elements)
    except CannotEncodeError:
        return _Writer(text_encoder(UTF_8), implicit=implicit).data_set(elements)


class _Writer:
    """Writes one data set in one character set."""

    def __init__(self, encoder: TextEncoder, *, implicit: bool) -> None:
        self._encoder = encoder
        self._implicit = implicit
        self._is_ascii = True

    def data_set(self, elements: Mapping[str, Element]) -> bytes:
        """The whole data set. Raises CannotEncodeError and UnwritableError."""
        encoded = self._encoded(elements)
        if not self._is_ascii:
            encoded[SPECIFIC_CHARACTER_SET] = self._element(
                SPECIFIC_CHARACTER_SET, "CS", _padded("\\".join(self._encoder.terms).encode(), b" ")
            )
        return b"".join(encoded[tag] for tag in sorted(encoded))

    def _encoded(self, elements: Mapping[str, Element]) -> dict[int, bytes]:
        encoded = {}
        for key, element in elements.items():
            tag = int(key, 16)
            if tag == SPECIFIC_CHARACTER_SET:
                continue  # one for all, also for the items (PS3.3 C.12.1.1.2)
            vr = str(element["vr"])
            if vr not in KIND_OF_VR:
                raise UnwritableError(f"({key}) has the VR {vr!r}, which does not exist")
            try:
                encoded[tag] = self._element(tag, vr, self._value(vr, element))
            except CannotEncodeError:
                raise
            except (struct.error, TypeError, ValueError, OverflowError) as error:
                raise UnwritableError(f"({key}) has a value that is none of VR {vr}") from error
        return encoded

    def _element(self, tag: int, vr: str, value: bytes) -> bytes:
        group, number = tag >> 16, tag & 0xFFFF
        if self._implicit:
            return _IMPLICIT.pack(group, number, len(value)) + value
        if vr not in LONG_FORM:
            if len(value) <= LONGEST_SHORT_VALUE:
                return _SHORT.pack(group, number, vr.encode(), len(value)) + value
            vr = "UN"  # PS3.5 6.2.2: the only way to say so long a value
        return _LONG.pack(group, number, vr.encode(), len(value)) + value

    def _value(self, vr: str, element: Element) -> bytes:
        if "InlineBinary" in element:
            return _padded(_binary(element["InlineBinary"]), b"\0")
        values: Sequence[Any] = element.get("Value", ())
        kind = KIND_OF_VR[vr]
        if kind is Kind.SEQUENCE:
            # As deep as the data set, which whoever read it has bounded.
            return b"".join(self._item(item) for item in values)
        if kind is Kind.NUMBER:
            return _numbers(vr, values)
        if kind is Kind.ATTRIBUTE_TAG:
            return b"".join(struct.pack("<HH", *divmod(int(tag, 16), 1 << 16)) for tag in values)
        if kind is Kind.BINARY:
            return b""  # and no InlineBinary: nothing, or somewhere else
        if kind is Kind.PERSON_NAME:
            text = "\\".join(map(_person_name, values))
        elif kind is Kind.NUMBER_TEXT:
            text = "\\".join(map(_decimal, values))
        else:
            text = "\\".join("" if value is None else str(value) for value in values)
        encoded = self._encoder.encode(text)
        if not text.isascii():
            self._is_ascii = False
        return _padded(encoded, b"\0" if vr == "UI" else b" ")

    def _item(self, elements: Mapping[str, Element] | None) -> bytes:
        encoded = self._encoded(elements or {})
        content = b"".join(encoded[tag] for tag in sorted(encoded))
        return _ITEM.pack(*_ITEM_TAG, len(content)) + content


def _padded(value: bytes, padding: bytes) -> bytes:
    """The value with an even length (PS3.5 6.2)."""
    return value + padding if len(value) % 2 else value


def _binary(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except Base64Error as error:
        raise ValueError("no base64") from error


def _numbers(vr: str, values: Sequence[Any]) -> bytes:
    """Binary numbers; in JSON 64-bit ones and those that are no numbers may be strings (F.2.3)."""
    convert = float if vr in {"FL", "FD"} else _whole
    return struct.pack(f"<{len(values)}{_FORMAT[vr]}", *map(convert, values))


def _whole(value: Any) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise ValueError("no integer")
    return int(value)


def _person_name(name: Mapping[str, str] | None) -> str:
    if name is None:
        return ""
    return "=".join(name.get(group) or "" for group in _GROUPS).rstrip("=")


def _decimal(value: Any) -> str:
    """A DS; a binary number is given as many digits as fit."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        raise ValueError("no decimal string")
    text = repr(value)
    digits = _LONGEST_DECIMAL
    while len(text) > _LONGEST_DECIMAL:
        text = f"{value:.{digits}g}"
        digits -= 1
    return text
