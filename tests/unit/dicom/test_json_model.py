"""DICOM JSON of single values (PS3.18 annex F), through the scanner as intake makes it."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from imaging_ingestion.dicom.header import HeaderTooLargeError, MalformedError
from imaging_ingestion.dicom.json_model import is_json_integer, number
from imaging_ingestion.dicom.scan import ScanLimits, scan_bytes
from imaging_ingestion.dicom.transfer_syntax import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

LONG_FORM = set("OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # noqa: SIM905
ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
ITEM_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def element(tag: int, vr: str, value: bytes, *, order: str = "<") -> bytes:
    """An element in explicit VR."""
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    if vr in LONG_FORM:
        return head + struct.pack(f"{order}HI", 0, len(value)) + value
    return head + struct.pack(f"{order}H", len(value)) + value


def implicit(tag: int, value: bytes) -> bytes:
    """An element in implicit VR."""
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


def file(dataset: bytes, syntax: str = EXPLICIT_VR_LITTLE_ENDIAN) -> bytes:
    """A Part 10 file."""
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    return bytes(128) + b"DICM" + element(0x00020010, "UI", uid) + dataset


def text_of(dataset: bytes, syntax: str = EXPLICIT_VR_LITTLE_ENDIAN) -> bytes:
    """Its DICOM JSON as text."""
    return scan_bytes(file(dataset, syntax)).json


def said(vr: str, value: bytes, tag: int = 0x00091001) -> dict[str, Any]:
    """What is said of one element, which must not hold NaN or Infinity as they are."""
    text = text_of(element(0x00080060, "CS", b"CT") + element(tag, vr, value))
    decoded = json.loads(text, parse_constant=pytest.fail)
    return dict(decoded[f"{tag:08X}"])


def values(vr: str, value: bytes) -> object:
    found = said(vr, value)
    assert found["vr"] == vr
    assert "Value" in found or set(found) == {"vr"}
    return found.get("Value")


def test_keys_are_eight_upper_case_digits_in_ascending_order() -> None:
    # J1: whatever order they came in
    dataset = (
        element(0x00080060, "CS", b"CT")
        + element(0x7FE0000A, "LO", b"x ")
        + element(0x00100020, "LO", b"P1")
        + element(0x0008103E, "LO", b"S1")
    )
    text = text_of(dataset)
    assert list(json.loads(text)) == ["00080060", "0008103E", "00100020", "7FE0000A"]
    assert b" " not in text.replace(b'"x "', b"")


@pytest.mark.parametrize("vr", ["LO", "PN", "DS", "IS", "US", "FD", "AT", "OB", "UN", "SQ", "LT"])
def test_an_empty_element_has_only_its_vr(vr: str) -> None:
    # J2
    assert said(vr, b"") == {"vr": vr}


@pytest.mark.parametrize(
    ("vr", "value", "expected"),
    [
        ("CS", b"A\\\\B ", ["A", None, "B"]),
        ("CS", b"\\A", [None, "A"]),
        ("CS", b"A\\", ["A", None]),
        ("LO", b"  ", None),
        ("DS", b"1\\\\2 ", [1, None, 2]),
        ("IS", b"\\7", [None, 7]),
        ("PN", b"A^B\\\\C^D ", [{"Alphabetic": "A^B"}, None, {"Alphabetic": "C^D"}]),
    ],
)
def test_an_empty_value_among_others_is_null(vr: str, value: bytes, expected: object) -> None:
    # J2
    assert values(vr, value) == expected


def test_an_empty_item_is_an_empty_object() -> None:
    # J2
    dataset = element(0x00081140, "SQ", ITEM + ITEM_END + ITEM + ITEM_END)
    assert json.loads(text_of(dataset)) == {"00081140": {"vr": "SQ", "Value": [{}, {}]}}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"Smith^John", [{"Alphabetic": "Smith^John"}]),
        (b"A=B=C ", [{"Alphabetic": "A", "Ideographic": "B", "Phonetic": "C"}]),
        (b"A==C", [{"Alphabetic": "A", "Phonetic": "C"}]),
        (b"=B", [{"Ideographic": "B"}]),
        (b"==", [None]),
        (b"A^B= ", [{"Alphabetic": "A^B"}]),
        (b'O"Neil', [{"Alphabetic": 'O"Neil'}]),
        (b"A=B=C=D ", [{"Alphabetic": "A", "Ideographic": "B", "Phonetic": "C=D"}]),
    ],
)
def test_a_name_is_an_object_of_the_component_groups_it_has(value: bytes, expected: object) -> None:
    # J3
    assert values("PN", value) == expected


@pytest.mark.parametrize(
    ("vr", "value", "expected"),
    [
        # As they are, digit for digit.
        ("DS", b"1.50", "1.50"),
        ("DS", b"-0.5", "-0.5"),
        ("DS", b"0", "0"),
        ("DS", b" 12 ", "12"),
        ("DS", b"1E5 ", "1E5"),
        ("DS", b"1.25e-07", "1.25e-07"),
        ("DS", b"0.30000000000000004 ", "0.30000000000000004"),
        ("DS", b"123456789012345678901234567890", "123456789012345678901234567890"),
        ("IS", b"2147483647", "2147483647"),
        ("IS", b"-2147483648 ", "-2147483648"),
        ("IS", b"1.0 ", "1.0"),
        # What is no JSON number, and what many a reader would not survive, is a string.
        ("DS", b"+1e3", '"+1e3"'),
        ("DS", b"127.", '"127."'),
        ("DS", b".5", '".5"'),
        ("DS", b"007 ", '"007"'),
        ("DS", b"-0", '"-0"'),
        ("DS", b"abc ", '"abc"'),
        ("DS", b"1e999 ", '"1e999"'),
        ("DS", b"1,5 ", '"1,5"'),
        ("DS", b"NaN ", '"NaN"'),
        ("DS", b"9" * 40, f'"{"9" * 40}"'),
        ("IS", b"2147483648", '"2147483648"'),
        ("IS", b"-2147483649 ", '"-2147483649"'),
        ("IS", b"9" * 4300, f'"{"9" * 4300}"'),
        ("IS", b"abc ", '"abc"'),
        ("IS", b"+1", '"+1"'),
        ("IS", b"01", '"01"'),
    ],
)
def test_number_texts_keep_their_digits(vr: str, value: bytes, expected: str) -> None:
    # J4, J5
    text = text_of(element(0x00080060, "CS", b"CT") + element(0x00091001, vr, value))
    assert f'"Value":[{expected}]'.encode() in text
    several = text_of(element(0x00091001, vr, b"1\\" + value + b"\\"))
    assert f'"Value":[1,{expected},null]'.encode() in several


@pytest.mark.parametrize(
    ("vr", "code", "numbers"),
    [
        ("US", "H", [0, 65535]),
        ("SS", "h", [-32768, 32767]),
        ("UL", "I", [0, 2**32 - 1]),
        ("SL", "i", [-(2**31), 2**31 - 1]),
        ("UV", "Q", [0, 2**64 - 1]),
        ("SV", "q", [-(2**63), 2**63 - 1]),
        ("FL", "f", [0.5, -1.5]),
        ("FD", "d", [0.1, 1e300, 5e-324]),
    ],
)
def test_binary_numbers_lose_nothing_in_either_byte_order(
    vr: str, code: str, numbers: list[float]
) -> None:
    # J4
    for order, syntax in (("<", EXPLICIT_VR_LITTLE_ENDIAN), (">", EXPLICIT_VR_BIG_ENDIAN)):
        value = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        dataset = element(0x00080060, "CS", b"CT", order=order)
        found = json.loads(text_of(dataset + element(0x00091001, vr, value, order=order), syntax))
        assert found["00091001"] == {"vr": vr, "Value": numbers}


def test_floats_that_json_cannot_say_are_strings() -> None:
    # J4
    value = struct.pack("<4d", float("nan"), float("inf"), -float("inf"), -0.0)
    assert values("FD", value) == ["NaN", "Infinity", "-Infinity", 0.0]


def test_a_number_that_is_cut_short_is_left_out() -> None:
    assert values("US", b"\1\0\2") == [1]
    assert values("FD", b"\1\0\2") is None


def test_tags_are_eight_digits() -> None:
    # J6
    assert values("AT", struct.pack("<4H", 0x0018, 0x1063, 0x7FE0, 0x0010)) == [
        "00181063",
        "7FE00010",
    ]


@pytest.mark.parametrize("vr", ["OB", "OD", "OF", "OL", "OV", "OW", "UN"])
def test_binary_values_are_one_base64_of_the_whole_value(vr: str) -> None:
    # J6
    value = bytes(range(24))
    assert said(vr, value) == {"vr": vr, "InlineBinary": base64.b64encode(value).decode()}


def test_words_of_big_endian_data_sets_are_turned() -> None:
    # J6
    widths = {"OB": 1, "UN": 1, "OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
    value = bytes(range(24))
    for vr, width in widths.items():
        dataset = element(0x00080060, "CS", b"CT", order=">") + element(
            0x00091001, vr, value, order=">"
        )
        found = json.loads(text_of(dataset, EXPLICIT_VR_BIG_ENDIAN))["00091001"]
        turned = b"".join(value[at : at + width][::-1] for at in range(0, 24, width))
        assert base64.b64decode(found["InlineBinary"]) == turned


def test_un_stays_un_and_implicit_vr_is_that_of_the_dictionary() -> None:
    # J7
    explicit = element(0x00080060, "CS", b"CT") + element(0x00100020, "UN", b"P1")
    assert json.loads(text_of(explicit))["00100020"] == {"vr": "UN", "InlineBinary": "UDE="}
    dataset = (
        implicit(0x00080060, b"CT")
        + implicit(0x00090010, b"ACME")
        + implicit(0x00091001, b"x ")
        + implicit(0x00100020, b"P1")
        + implicit(0x00280010, b"\x00\x02")
        + implicit(0x00280103, b"\1\0")
        + implicit(0x00280106, b"\xff\xff")  # US or SS, as Pixel Representation says
        + implicit(0x60003000, b"\1\0")
    )
    found = json.loads(text_of(dataset, IMPLICIT_VR_LITTLE_ENDIAN))
    assert found["00100020"] == {"vr": "LO", "Value": ["P1"]}
    assert found["00090010"] == {"vr": "LO", "Value": ["ACME"]}
    assert found["00091001"] == {"vr": "UN", "InlineBinary": "eCA="}
    assert found["00280010"] == {"vr": "US", "Value": [512]}
    assert found["00280106"] == {"vr": "SS", "Value": [-1]}
    assert found["60003000"]["vr"] == "OW"


@pytest.mark.parametrize("vr", ["SH", "LO", "UC", "CS", "AE", "UI"])
def test_a_backslash_stands_between_values_of_these(vr: str) -> None:
    # J8
    assert values(vr, b"a \\ b\\c\0") == ["a", " b", "c"]


@pytest.mark.parametrize("vr", ["LT", "ST", "UR", "UT"])
def test_a_backslash_is_a_character_of_these(vr: str) -> None:
    # J8
    assert values(vr, b"a \\ b\\c \0") == ["a \\ b\\c"]
    assert values(vr, b"  \r\n\t x") == ["  \r\n\t x"]


def test_characters_that_json_escapes_are_escaped() -> None:
    assert values("LT", b'"\\/\b\f\n\r\t\x01\x7f') == ['"\\/\b\f\n\r\t\x01\x7f']


def test_group_lengths_and_file_meta_are_left_out() -> None:
    # W10
    dataset = element(0x00080000, "UL", b"\0\0\0\0") + element(0x00080060, "CS", b"CT")
    assert set(json.loads(text_of(dataset))) == {"00080060"}


@pytest.mark.parametrize("depth", [65, 5000])
def test_deep_nesting_is_refused_cleanly(depth: int) -> None:
    # J14
    sequence = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
    dataset = (sequence + ITEM) * depth + (ITEM_END + SEQUENCE_END) * depth
    with pytest.raises(MalformedError, match="nested deeper than 64 levels"):
        text_of(dataset)


def test_nesting_up_to_the_limit_is_read() -> None:
    # J14
    sequence = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
    dataset = (sequence + ITEM) * 64 + (ITEM_END + SEQUENCE_END) * 64
    text = text_of(dataset)
    assert text.count(b'"vr":"SQ"') == 64
    json.loads(text)


def test_values_and_elements_without_end_are_refused() -> None:
    # J14
    many = element(0x00080008, "CS", b"A\\" * 30_000) * 200
    with pytest.raises(HeaderTooLargeError, match="more than 1 MiB"):
        scan_bytes(file(many), ScanLimits(header_bytes=1 << 20))
    elements = b"".join(element(0x00091000 + n, "CS", b"A ") for n in range(1000))
    with pytest.raises(HeaderTooLargeError, match="more than 500 elements"):
        scan_bytes(file(elements), ScanLimits(elements=500))


@pytest.mark.parametrize("text", ["", "-", "1.", ".1", "01", "-01", "+1", "1e", "--1", "1 ", "1e+"])
def test_what_is_no_json_number_is_not_taken_for_one(text: str) -> None:
    assert not number(text.encode())
    assert not is_json_integer(text.encode())
