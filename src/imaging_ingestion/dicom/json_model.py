"""Element values as DICOM JSON text (PS3.18 annex F): from the bytes of a data set, in one step.

This is the hot path of intake: a CT has some 250 elements, and all of them become JSON while the
instance streams in. So values are bytes from end to end: a text of plain ASCII needs no decoding
and no escaping, and goes through one regular expression (benchmarks/scan.py).

Numbers of DS and IS keep the digits they came with where these are a JSON number, and are strings
otherwise ("+1", "1.", "abc"); so are those that many a reader of JSON would not survive: an IS out
of its range, a DS beyond every double ("1e999"). Floats that JSON cannot say are the strings
"NaN", "Infinity", "-Infinity".
"""

from __future__ import annotations

import math
import re
import struct
from base64 import b64encode
from collections.abc import Callable
from enum import IntEnum

import msgspec

from imaging_ingestion.dicom.charset import Charset

#: Printable ASCII without quotation mark and backslash: the same bytes in JSON.
plain = re.compile(rb"[ !#-\[\]-~]*").fullmatch
#: A DS that is a JSON number, and one that every reader of JSON can hold.
number = re.compile(
    rb"(?:0|-0(?=\.)|-?[1-9][0-9]{0,30})(?:\.[0-9]{1,60})?(?:[eE][+-]?[0-9]{1,2})?"
).fullmatch
#: An IS that is one, but for the few of ten digits that are in its range (PS3.5 table 6.2-1).
integer = re.compile(rb"0|-?[1-9][0-9]{0,8}").fullmatch
_digits = re.compile(rb"-?[1-9][0-9]*").fullmatch
_INTEGERS = range(-(1 << 31), 1 << 31)
_LONGEST_INTEGER = len("-2147483648")
_encode_json = msgspec.json.encode

PADDING = b" \0"


class Kind(IntEnum):
    """How the values of a VR are read."""

    TEXT = 0  # several values, backslash between them
    NUMBER_TEXT = 1
    PERSON_NAME = 2
    NUMBER = 3
    ATTRIBUTE_TAG = 4
    BINARY = 5
    LONG_TEXT = 6  # one value; a backslash is a character
    SEQUENCE = 7
    AMBIGUOUS = 8
    CHARACTER_SET = 9
    LEFT_OUT = 10
    INTEGER_TEXT = 11


KIND_OF_VR = {
    **dict.fromkeys(("AE", "AS", "CS", "DA", "DT", "LO", "SH", "TM", "UC", "UI"), Kind.TEXT),
    "DS": Kind.NUMBER_TEXT,
    "IS": Kind.INTEGER_TEXT,
    "PN": Kind.PERSON_NAME,
    **dict.fromkeys(("US", "SS", "UL", "SL", "FL", "FD", "UV", "SV"), Kind.NUMBER),
    "AT": Kind.ATTRIBUTE_TAG,
    **dict.fromkeys(("OB", "OW", "OD", "OF", "OL", "OV", "UN"), Kind.BINARY),
    **dict.fromkeys(("LT", "ST", "UR", "UT"), Kind.LONG_TEXT),
    "SQ": Kind.SEQUENCE,
}
_FORMAT = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}
_WIDTH = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}


def json_text(key: bytes, value: bytes, charset: Charset) -> bytes:
    """`key` (`"TTTTTTTT":{"vr":"XX"`) with a multi-valued text."""
    value = value.rstrip(PADDING)
    if not value:
        return key + b"}"
    if plain(value):
        return b'%b,"Value":["%b"]}' % (key, value)
    if charset.splits_bytes:
        values = [charset.decode(v) for v in value.split(b"\\")]
    else:
        values = charset.decode(value).split("\\")
    return b'%b,"Value":[%b]}' % (key, b",".join(map(_json_string, values)))


def json_number_text(key: bytes, value: bytes, charset: Charset) -> bytes:
    """`key` with the values of DS."""
    return _json_numbers(key, value, charset, number)


def json_integer_text(key: bytes, value: bytes, charset: Charset) -> bytes:
    """`key` with the values of IS."""
    return _json_numbers(key, value, charset, is_json_integer)


def is_json_integer(text: bytes) -> bool:
    """Whether an IS, without padding, is a JSON number as it is and not out of its VR's range.

    One with a fraction is as well, though no IS may have it: readers make an integer of it.
    """
    if integer(text):
        return True
    if _digits(text):
        return len(text) <= _LONGEST_INTEGER and int(text) in _INTEGERS
    return number(text) is not None


def _json_numbers(
    key: bytes, value: bytes, charset: Charset, is_number: Callable[[bytes], object]
) -> bytes:
    value = value.strip(PADDING)
    if not value:
        return key + b"}"
    values = []
    for text in value.split(b"\\"):
        one = text.strip(PADDING)
        if not one:
            values.append(b"null")
        else:
            values.append(one if is_number(one) else _encode_json(charset.decode(one)))
    return b'%b,"Value":[%b]}' % (key, b",".join(values))


def json_person_name(key: bytes, value: bytes, charset: Charset) -> bytes:
    """`key` with person names: an object of component groups each (F.2.2)."""
    value = value.rstrip(PADDING)
    if not value:
        return key + b"}"
    if plain(value) and b"=" not in value:
        return b'%b,"Value":[{"Alphabetic":"%b"}]}' % (key, value)
    names = [_json_name(name) for name in charset.decode(value).split("\\")]
    return b'%b,"Value":[%b]}' % (key, b",".join(names))


def json_long_text(key: bytes, value: bytes, charset: Charset) -> bytes:
    """`key` with the one value of LT, ST, UR or UT."""
    value = value.rstrip(PADDING)
    if not value:
        return key + b"}"
    text = b'"%b"' % value if plain(value) else _encode_json(charset.decode(value))
    return b'%b,"Value":[%b]}' % (key, text)


def json_number(key: bytes, vr: str, value: bytes, big_endian: bool) -> bytes:
    """`key` with binary numbers; bytes too few for a last number are left out."""
    code = _FORMAT[vr]
    count = len(value) // struct.calcsize(code)
    if not count:
        return key + b"}"
    numbers = struct.unpack_from(f"{'>' if big_endian else '<'}{count}{code}", value)
    text = _float_text if vr in {"FL", "FD"} else str
    return b'%b,"Value":[%b]}' % (key, ",".join(map(text, numbers)).encode())


def json_attribute_tag(key: bytes, value: bytes, big_endian: bool) -> bytes:
    """`key` with tags as eight hexadecimal digits."""
    count = len(value) // 4
    if not count:
        return key + b"}"
    parts = struct.unpack_from(f"{'>' if big_endian else '<'}{2 * count}H", value)
    tags = [b'"%04X%04X"' % pair for pair in zip(parts[::2], parts[1::2], strict=True)]
    return b'%b,"Value":[%b]}' % (key, b",".join(tags))


def json_inline_binary(key: bytes, vr: str, value: bytes, big_endian: bool) -> bytes:
    """`key` with base64 of the value, little endian (F.2.7)."""
    if not value:
        return key + b"}"
    if big_endian:
        value = little_endian(value, vr)
    return b'%b,"InlineBinary":"%b"}' % (key, b64encode(value))


def json_bulk(key: bytes, path: str) -> bytes:
    """`key` with a reference; whoever answers a request puts its base in place of the `@`."""
    return b'%b,"BulkDataURI":"@%b"}' % (key, path.encode())


def little_endian(value: bytes, vr: str) -> bytes:
    """A big-endian value of a binary VR with its words turned; whole words only."""
    width = _WIDTH.get(vr, 1)
    if width == 1:
        return value
    turned = bytearray(len(value) - len(value) % width)
    for offset in range(width):
        turned[offset::width] = value[width - 1 - offset : len(turned) : width]
    return bytes(turned) + value[len(turned) :]


TEXT_ENCODERS: dict[int, Callable[[bytes, bytes, Charset], bytes]] = {
    Kind.INTEGER_TEXT: json_integer_text,
    Kind.PERSON_NAME: json_person_name,
    Kind.LONG_TEXT: json_long_text,
}


def _json_string(value: str) -> bytes:
    value = value.rstrip(" \0")
    return _encode_json(value) if value else b"null"


def _json_name(name: str) -> bytes:
    groups = name.rstrip(" \0").split("=", 2)
    named = zip(("Alphabetic", "Ideographic", "Phonetic"), groups, strict=False)
    present = {key: text.rstrip(" \0") for key, text in named if text.rstrip(" \0")}
    return _encode_json(present) if present else b"null"


def _float_text(number: float) -> str:
    if math.isfinite(number):
        return repr(number)
    return '"NaN"' if math.isnan(number) else '"Infinity"' if number > 0 else '"-Infinity"'
