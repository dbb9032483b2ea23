"""Data sets that we write are read by pydicom, and by our own reader, as what they were meant."""

from __future__ import annotations

import io
import struct
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.charset import decode_bytes
from pydicom.filereader import read_dataset
from pydicom_judge import assert_same_json, literal_pydicom

from imaging_ingestion.dicom.charset_write import CannotEncodeError, TextEncoder
from imaging_ingestion.dicom.dataset_read import read_data_set
from imaging_ingestion.dicom.dataset_write import write_data_set
from imaging_ingestion.dicom.json_model import KIND_OF_VR
from imaging_ingestion.dicom.transfer_syntax import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

JsonObject = dict[str, Any]

#: Attributes of the dictionary, so that implicit VR tells the same; one of each VR at least.
TAGS = {
    "AE": ("00080055", "00080054"),
    "AS": ("00101010",),
    "AT": ("00280009", "00209165"),
    "CS": ("00080060", "00100040"),
    "DA": ("00080020", "00100030"),
    "DS": ("00101030", "00101020"),
    "DT": ("0008002A",),
    "FD": ("00082134",),
    "FL": ("00109431", "00089459"),
    "IS": ("00200011", "00200013"),
    "LO": ("00081030", "00100020"),
    "LT": ("00104000",),
    "OB": ("00420011",),
    "OD": ("00660022",),
    "OF": ("00660016",),
    "OL": ("00660040",),
    "OV": ("00720081",),
    "OW": ("00281201",),
    "PN": ("00100010", "00080090"),
    "SH": ("00080050", "00200010"),
    "SL": ("00186020",),
    "SQ": ("00400275", "00081032"),
    "SS": ("00189219",),
    "ST": ("00080081",),
    "SV": ("00720082",),
    "TM": ("00080030",),
    "UC": ("00080119",),
    "UI": ("0020000D", "00080018"),
    "UL": ("00720078",),
    "UN": ("0072006D",),
    "UR": ("00081190",),
    "US": ("00280010", "00280011"),
    "UT": ("0008030E",),
    "UV": ("0008040C",),
}
WIDTHS = {"OB": 2, "UN": 2, "OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
RANGES = {
    "US": (0, 0xFFFF),
    "SS": (-0x8000, 0x7FFF),
    "UL": (0, 0xFFFFFFFF),
    "SL": (-(1 << 31), (1 << 31) - 1),
    "UV": (0, (1 << 64) - 1),
    "SV": (-(1 << 63), (1 << 63) - 1),
}
SYNTAXES = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
#: Character sets in which the judge and we write the same.
CHARACTER_SETS = (
    (),
    ("ISO_IR 100",),
    ("ISO_IR 144",),
    ("ISO_IR 13",),
    ("ISO_IR 192",),
    ("GB18030",),
    ("", "ISO 2022 IR 87"),
    ("ISO 2022 IR 13", "ISO 2022 IR 87"),
    ("", "ISO 2022 IR 149"),
)

#: Letters of several scripts; no blank at an end, which would be padding.
letters = st.sampled_from("abcXYZ 019.-_äöüßéИванЖ山田太郎やまだﾔﾏﾀﾞ洪吉洞홍길동王小东€")


def text(longest: int = 24) -> st.SearchStrategy[str]:
    return st.text(letters, min_size=1, max_size=longest).map(str.strip).filter(bool)


def several(one: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Values, some of them perhaps empty, the last one not."""
    gaps = st.lists(st.none() | one, max_size=3)
    return st.tuples(gaps, one).map(lambda found: [*found[0], found[1]])


def name() -> st.SearchStrategy[JsonObject]:
    groups = st.fixed_dictionaries(
        {"Alphabetic": text(12)}, optional={"Ideographic": text(6), "Phonetic": text(6)}
    )
    return groups


def single(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


decimals = st.decimals(-10000, 10000, places=3).map(lambda d: float(str(d)))

VALUES: dict[str, Callable[[], st.SearchStrategy[Any]]] = {
    **dict.fromkeys(
        ("AE", "CS"), lambda: several(st.from_regex(r"[A-Z0-9_]{1,16}", fullmatch=True))
    ),
    "AS": lambda: several(st.from_regex(r"[0-9]{3}[DWMY]", fullmatch=True)),
    "AT": lambda: st.lists(st.from_regex(r"[0-9A-F]{8}", fullmatch=True), min_size=1, max_size=3),
    "DA": lambda: several(st.dates().map(lambda day: f"{day.year:04}{day:%m%d}")),
    "TM": lambda: several(st.times().map(lambda time: f"{time:%H%M%S}")),
    "DT": lambda: several(st.from_regex(r"20[0-9]{12}", fullmatch=True)),
    "DS": lambda: st.lists(decimals, min_size=1, max_size=3),
    "IS": lambda: st.lists(st.integers(-(1 << 31), (1 << 31) - 1), min_size=1, max_size=3),
    **dict.fromkeys(("LO", "SH", "UC"), lambda: several(text())),
    **dict.fromkeys(("LT", "ST", "UT"), lambda: text(60).map(lambda value: [value + "\\a"])),
    "UR": lambda: st.just(["https://example.org/a?b=c"]),
    "UI": lambda: several(st.from_regex(r"1\.2(\.[1-9][0-9]{0,8}){1,5}", fullmatch=True)),
    "PN": lambda: several(name()),
    "FL": lambda: st.lists(
        st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=3
    ),
    "FD": lambda: st.lists(
        st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=3
    ),
    **{
        vr: lambda low=low, high=high: st.lists(st.integers(low, high), min_size=1, max_size=3)
        for vr, (low, high) in RANGES.items()
    },
}


@st.composite
def data_sets(draw: st.DrawFn, depth: int = 2) -> JsonObject:
    """Any data set in DICOM JSON, in the form that a reader gives it."""
    vrs = draw(st.lists(st.sampled_from(sorted(TAGS)), max_size=8))
    made: JsonObject = {}
    for vr in vrs:
        tag = draw(st.sampled_from(TAGS[vr]))
        element: JsonObject = {"vr": vr}
        if draw(st.booleans()) or draw(st.booleans()):
            if vr == "SQ":
                items = draw(st.lists(data_sets(depth - 1), max_size=2)) if depth else []
                if items:
                    element["Value"] = items
            elif vr in WIDTHS:
                words = draw(st.binary(min_size=1, max_size=6))
                element["InlineBinary"] = b64encode(words * WIDTHS[vr]).decode()
            else:
                element["Value"] = draw(VALUES[vr]())
        made[tag] = element
    return dict(sorted(made.items()))


def test_every_vr_is_tried() -> None:
    assert set(TAGS) == set(KIND_OF_VR)


def without_character_set(elements: JsonObject) -> JsonObject:
    return {tag: element for tag, element in elements.items() if tag != "00080005"}


def as_read(element: Any) -> Any:
    """Decimals of DS are texts when we read them, binary ones as well."""
    if isinstance(element, float):
        return element
    if isinstance(element, dict):
        if element.get("vr") in {"DS", "FL", "FD"}:
            values = element.get("Value", [])
            return {
                **element,
                **({"Value": [None if v is None else float(v) for v in values]} if values else {}),
            }
        return {key: as_read(value) for key, value in element.items()}
    if isinstance(element, list):
        return [as_read(value) for value in element]
    return element


@given(data_sets(), st.sampled_from(SYNTAXES), st.sampled_from(CHARACTER_SETS))
def test_our_reader_reads_back_what_was_written(
    elements: JsonObject, syntax: str, character_set: tuple[str, ...]
) -> None:
    written = write_data_set(elements, syntax, character_set)
    assert len(written) % 2 == 0
    found = without_character_set(read_data_set(written, syntax).elements)
    assert as_read(found) == as_read(elements)


@given(data_sets(), st.sampled_from(SYNTAXES), st.sampled_from(CHARACTER_SETS))
def test_pydicom_reads_what_was_written(
    elements: JsonObject, syntax: str, character_set: tuple[str, ...]
) -> None:
    written = write_data_set(elements, syntax, character_set)
    with literal_pydicom():
        theirs = read_dataset(
            io.BytesIO(written),
            is_implicit_VR=syntax == IMPLICIT_VR_LITTLE_ENDIAN,
            is_little_endian=True,
        )
        theirs.decode()
        found = theirs.to_json_dict(bulk_data_threshold=1 << 62)
    assert_same_json(elements, without_character_set(found))


@given(st.text(letters | st.sampled_from("^=\\"), max_size=20), st.sampled_from(CHARACTER_SETS))
def test_text_that_is_encoded_at_all_is_the_same_to_pydicom(
    value: str, terms: tuple[str, ...]
) -> None:
    encoder = TextEncoder(terms)
    try:
        encoded = encoder.encode(value)
    except CannotEncodeError:
        return
    from pydicom.charset import convert_encodings

    decoded = decode_bytes(encoded, convert_encodings(list(terms)), set("\\^="))
    assert decoded == value


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_element_has_an_even_length(syntax: str) -> None:
    one: JsonObject = {
        "00081030": {"vr": "LO", "Value": ["odd"]},
        "0020000D": {"vr": "UI", "Value": ["1.2"]},
        "00420011": {"vr": "OB", "InlineBinary": b64encode(b"abc").decode()},
    }
    written = write_data_set(one, syntax)
    assert b"odd " in written
    assert b"1.2\0" in written
    assert b"abc\0" in written
