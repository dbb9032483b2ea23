"""The command set: group 0000, always in implicit VR little endian (PS3.7 6.3.1 and annex E)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from imaging_ingestion.dimse.error import EncodingError, MessageError
from imaging_ingestion.dimse.pdu import Buffer

#: Far above any real one (300 bytes); N-GET's attribute list is the only long element there is.
MAX_COMMAND_SET_LENGTH: Final = 65536

NO_DATA_SET: Final = 0x0101  # Command Data Set Type (0000,0800); any other value: there is one
_DATA_SET_FOLLOWS: Final = 0x0001

COMMAND_FIELD: Final = 0x0100
COMMAND_DATA_SET_TYPE: Final = 0x0800

_HEADER = struct.Struct("<HHL")
_GROUP_LENGTH = struct.Struct("<HHLL")
_US = struct.Struct("<H")

Value = str | int | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Element:
    """An element of the command dictionary (PS3.7 table E.1-1): (0000,`number`)."""

    number: int
    vr: str
    name: str

    @property
    def tag(self) -> int:
        """Its tag as an int; the group is 0000."""
        return self.number

    def __str__(self) -> str:
        return f"{self.name} (0000,{self.number:04X})"


#: By the name of the field that holds it.
ELEMENTS: Final[dict[str, Element]] = {
    element.name.replace(" UID", "_uid").replace(" ", "_").replace("-", "").lower(): element
    for element in (
        Element(0x0002, "UI", "Affected SOP Class UID"),
        Element(0x0003, "UI", "Requested SOP Class UID"),
        Element(0x0110, "US", "Message ID"),
        Element(0x0120, "US", "Message ID Being Responded To"),
        Element(0x0600, "AE", "Move Destination"),
        Element(0x0700, "US", "Priority"),
        Element(0x0900, "US", "Status"),
        Element(0x0901, "AT", "Offending Element"),
        Element(0x0902, "LO", "Error Comment"),
        Element(0x0903, "US", "Error ID"),
        Element(0x1000, "UI", "Affected SOP Instance UID"),
        Element(0x1001, "UI", "Requested SOP Instance UID"),
        Element(0x1002, "US", "Event Type ID"),
        Element(0x1005, "AT", "Attribute Identifier List"),
        Element(0x1008, "US", "Action Type ID"),
        Element(0x1020, "US", "Number of Remaining Sub-operations"),
        Element(0x1021, "US", "Number of Completed Sub-operations"),
        Element(0x1022, "US", "Number of Failed Sub-operations"),
        Element(0x1023, "US", "Number of Warning Sub-operations"),
        Element(0x1030, "AE", "Move Originator Application Entity Title"),
        Element(0x1031, "US", "Move Originator Message ID"),
    )
}


class ElementError(Exception):
    """One element's value cannot be read; its message says why, without the value."""


def split(data: Buffer) -> dict[int, memoryview]:
    """The values of a command set by element number. Raises MessageError."""
    view = memoryview(data)
    size = len(view)
    if size < _GROUP_LENGTH.size:
        raise MessageError(f"a command set of {size} bytes")
    if _GROUP_LENGTH.unpack_from(view) != (0, 0, 4, size - _GROUP_LENGTH.size):
        raise MessageError("a command set whose group length is missing or wrong")
    elements: dict[int, memoryview] = {}
    position = _GROUP_LENGTH.size
    while position < size:
        if size - position < _HEADER.size:
            raise MessageError("a command set ends in the middle of an element")
        group, number, length = _HEADER.unpack_from(view, position)
        position += _HEADER.size
        if length > size - position:
            raise MessageError(
                f"(0000,{number:04X}) says it has {length} bytes where {size - position} are left"
            )
        if group != 0:
            raise MessageError(f"an element of group {group:04X} in a command set")
        if number in elements:
            raise MessageError(f"(0000,{number:04X}) occurs twice in a command set")
        elements[number] = view[position : position + length]
        position += length
    return elements


def join(values: list[tuple[Element, Value]], command_field: int, *, has_data_set: bool) -> bytes:
    """A command set with its group length, in order. Raises EncodingError."""
    elements = [(element.number, write(element, value)) for element, value in values]
    data_set = _DATA_SET_FOLLOWS if has_data_set else NO_DATA_SET
    elements.append((COMMAND_FIELD, _US.pack(command_field)))
    elements.append((COMMAND_DATA_SET_TYPE, _US.pack(data_set)))
    elements.sort()
    body = b"".join(_HEADER.pack(0, number, len(raw)) + raw for number, raw in elements)
    return _GROUP_LENGTH.pack(0, 0, 4, len(body)) + body


def read(vr: str, raw: memoryview) -> Value | None:
    """A value; None if it is empty. Padding of any kind is removed. Raises ElementError."""
    if not len(raw):
        return None
    match vr:
        case "US":
            if len(raw) != 2:
                raise ElementError(f"has {len(raw)} bytes instead of 2")
            return int(_US.unpack(raw)[0])
        case "AT":
            if len(raw) % 4:
                raise ElementError(f"has {len(raw)} bytes, which is no list of tags")
            numbers = struct.unpack(f"<{len(raw) // 2}H", raw)
            return tuple(g << 16 | e for g, e in zip(numbers[::2], numbers[1::2], strict=True))
        case _:
            return str(raw, "latin-1").strip(" \0") or None


def write(element: Element, value: Value) -> bytes:
    """A value, padded to an even length (PS3.5 6.2). Raises EncodingError."""
    match element.vr, value:
        case "US", int():
            if not 0 <= value <= 0xFFFF:
                raise EncodingError(f"{element} cannot be {value}")
            return _US.pack(value)
        case "AT", tuple():
            return b"".join(struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in value)
        case "LO", str():
            # For a person to read: what does not fit or cannot be said in ASCII is left out.
            text = " ".join(value.replace("\\", "/").split())
            raw = text.encode("ascii", "replace")[:64].rstrip()
        case (("UI" | "AE"), str()):
            longest = 64 if element.vr == "UI" else 16
            raw = value.encode("latin-1", "replace")
            if not 1 <= len(raw) <= longest:
                raise EncodingError(f"{element} must have 1 to {longest} characters")
        case _:
            raise EncodingError(f"{element} cannot be a {type(value).__name__}")
    return raw + (b"\0" if element.vr == "UI" else b" ") if len(raw) % 2 else raw
