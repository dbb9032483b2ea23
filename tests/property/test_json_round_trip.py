"""DICOM JSON there and back: what we say of any data set is, to pydicom, that data set.

data set ─ pydicom writes ─ we scan ─ DICOM JSON ─ pydicom reads ─ the same data set
                                          └─ as a file again ─ we scan ─ the same JSON
"""

from __future__ import annotations

import io
import json
import string
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_model import json_of
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom_judge import assert_same_values, literal_pydicom, read

from imaging_ingestion.dicom.scan import scan_bytes
from imaging_ingestion.dicom.xml_model import xml_of_json

SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)

#: What may be in a text: no backslash, no control character, nothing that is no character.
_characters = st.characters(
    codec="utf-8", exclude_characters="\\", exclude_categories=("Cc", "Cs", "Zl", "Zp")
)


def _text(most: int) -> st.SearchStrategy[str]:
    return st.text(_characters, min_size=1, max_size=most).map(str.rstrip).filter(bool)


def _some(one: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A value, several of them, or none."""
    return st.one_of(one, st.lists(one, min_size=2, max_size=4), st.just(""))


_names = st.lists(
    st.text(_characters.filter(lambda c: c not in "=^"), max_size=8).map(str.strip),
    min_size=1,
    max_size=3,
).map(lambda groups: "=".join(f"{group}^x" if group else "" for group in groups).rstrip("="))
_integers = st.integers(-(2**31), 2**31 - 1)
_decimals = st.one_of(
    st.decimals(-99999, 99999, places=4).map(str),
    st.integers(-(10**15), 10**15).map(str),
    st.sampled_from(["1.50", "-0.0", "1E5", "+1e3", "007", "127.", ".5", "1e-10", "0"]),
)
_uids = st.lists(st.integers(0, 10**9), min_size=2, max_size=5).map(
    lambda parts: ".".join(map(str, [1, *parts]))
)

#: A standard attribute of every VR, and its values. Implicit VR finds the VR by the tag.
ATTRIBUTES: dict[int, tuple[str, st.SearchStrategy[Any]]] = {
    0x00080008: ("CS", _some(st.text(string.ascii_uppercase + "_ ", min_size=1).map(str.strip))),
    0x00080020: ("DA", _some(st.dates().map(lambda day: f"{day.year:04}{day:%m%d}"))),
    0x0008002A: ("DT", _some(st.datetimes().map(lambda t: f"{t.year:04}{t:%m%d%H%M%S}"))),
    0x00080030: ("TM", _some(st.times().map(lambda time: f"{time:%H%M%S.%f}"))),
    0x00080055: ("AE", _some(st.text(string.ascii_uppercase, min_size=1, max_size=16))),
    0x00080119: ("UC", _some(_text(40))),
    0x00081190: ("UR", st.just("http://x/?a=1&b='2'")),
    0x00081160: ("IS", _some(_integers.map(str))),
    0x0008103E: ("LO", _some(_text(20))),
    0x00100010: ("PN", _some(_names)),
    0x00101010: ("AS", _some(st.sampled_from(["030Y", "006M"]))),
    0x00104000: ("LT", _text(60)),
    0x00081080: ("LO", _some(_text(20))),
    0x0008114A: ("SQ", st.just([])),
    0x00181310: ("US", _some(st.integers(0, 65535))),
    0x00182002: ("SH", _some(_text(9))),
    0x00189087: ("FD", _some(st.floats(allow_nan=False, allow_infinity=False))),
    0x00186020: ("SL", _some(_integers)),
    0x00189219: ("SS", _some(st.integers(-32768, 32767))),
    0x0020000D: ("UI", _some(_uids)),
    0x00209165: ("AT", _some(st.integers(0x00080000, 0x7FFFFFFF))),
    0x00280010: ("US", _some(st.integers(0, 65535))),
    0x00282000: ("OB", st.binary(max_size=900).map(lambda b: b + bytes(len(b) % 2))),
    0x00287FE0: ("UR", st.just("http://y/")),
    0x00400280: ("ST", _text(60)),
    0x0040A160: ("UT", _text(60)),
    0x0040A30A: ("DS", _some(_decimals)),
    0x00660016: ("OF", st.binary(max_size=20).map(lambda b: b * 4)),
    0x00660040: ("OL", st.binary(max_size=20).map(lambda b: b * 4)),
    0x00720065: ("OB", st.binary(max_size=9).map(lambda b: b * 2)),
    0x00720069: ("OW", st.binary(max_size=9).map(lambda b: b * 2)),
    0x00720073: ("OD", st.binary(max_size=9).map(lambda b: b * 8)),
    0x00720075: ("OL", st.binary(max_size=9).map(lambda b: b * 4)),
    0x00720076: ("FL", _some(st.floats(width=32, allow_nan=False, allow_infinity=False))),
    0x00720078: ("UL", _some(st.integers(0, 2**32 - 1))),
    0x00720082: ("SV", _some(st.integers(-(2**63), 2**63 - 1))),
    0x00720083: ("UV", _some(st.integers(0, 2**64 - 1))),
    0x00720081: ("OV", st.binary(max_size=9).map(lambda b: b * 8)),
}
_SEQUENCE = 0x0040A730


@pytest.fixture(autouse=True)
def _literal() -> Iterator[None]:
    with literal_pydicom():
        yield


@st.composite
def data_sets(draw: st.DrawFn, depth: int = 2) -> Dataset:
    """Data sets of every VR, in UTF-8, with items in items."""
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    for tag in draw(st.lists(st.sampled_from(sorted(ATTRIBUTES)), unique=True, max_size=12)):
        vr, values = ATTRIBUTES[tag]
        made.add_new(tag, vr, draw(values))
    if draw(st.booleans()):
        made.add_new(0x00090010, "LO", "ACME")
        made.add_new(0x00091001, "UN", draw(st.binary(max_size=20).map(lambda b: b * 2)))
    if depth and draw(st.booleans()):
        made.add_new(_SEQUENCE, "SQ", draw(st.lists(data_sets(depth=depth - 1), max_size=2)))
    return made


def _file(made: Dataset, syntax: UID) -> bytes:
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.7")
    made.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data_sets(), st.sampled_from(SYNTAXES))
def test_what_we_say_is_the_data_set_there_and_back(made: Dataset, syntax: UID) -> None:
    # J1 to J9, J12
    data = _file(made, syntax)
    text = scan_bytes(data).json
    said = json.loads(text, parse_constant=pytest.fail)
    back = Dataset.from_json(said)
    assert_same_values(back, read(data), turned=syntax == ExplicitVRBigEndian)
    again = scan_bytes(_file(back, ExplicitVRLittleEndian)).json
    assert _numbers(json.loads(again)) == _numbers(said)


def _numbers(said: Any) -> Any:
    """Without the difference between a number and its text: pydicom writes "007" as it likes."""
    if isinstance(said, dict):
        if said.get("vr") in {"DS", "IS"}:
            values = said.get("Value", [])
            return [None if value is None else float(value) for value in values]
        return {key: _numbers(value) for key, value in said.items()}
    return [_numbers(value) for value in said] if isinstance(said, list) else said


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data_sets())
def test_xml_holds_the_same_values_as_json(made: Dataset) -> None:
    # J13
    text = scan_bytes(_file(made, ExplicitVRLittleEndian)).json
    document = ElementTree.fromstring(xml_of_json(text))
    expected = json.loads(text, parse_float=str, parse_int=str)
    assert json_of(document) == _without_empty_parts(expected)


def _without_empty_parts(said: Any) -> Any:
    """The parts of a name at its end say nothing in XML."""
    if isinstance(said, dict):
        return {
            key: value.rstrip("^") if key in _GROUPS else _without_empty_parts(value)
            for key, value in said.items()
        }
    return [_without_empty_parts(value) for value in said] if isinstance(said, list) else said


_GROUPS = {"Alphabetic", "Ideographic", "Phonetic"}
