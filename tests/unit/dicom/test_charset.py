"""Specific Character Set: bytes to text (PS3.3 C.12.1.1.2)."""

from __future__ import annotations

import json
import warnings

import pydicom.charset
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from recorded import data_set, part10

from imaging_ingestion.dicom.charset import charset
from imaging_ingestion.dicom.scan import scan_bytes


@pytest.mark.parametrize(
    ("terms", "text", "codec"),
    [
        (("ISO_IR 100",), "Äneas^Rüdiger", "latin_1"),
        (("ISO_IR 101",), "Wałęsa", "iso8859_2"),
        (("ISO_IR 109",), "Ĉapelo", "iso8859_3"),
        (("ISO_IR 110",), "Ākepa", "iso8859_4"),
        (("ISO_IR 126",), "Διονυσιος", "iso8859_7"),
        (("ISO_IR 127",), "قباني^لنزار", "iso8859_6"),
        (("ISO_IR 138",), "שרון^דבורה", "iso8859_8"),
        (("ISO_IR 144",), "Люксембург", "iso8859_5"),
        (("ISO_IR 148",), "Çavuşoğlu", "iso8859_9"),
        (("ISO_IR 166",), "นามสกุล", "iso8859_11"),
        (("ISO_IR 203",), "Œuvre €", "iso8859_15"),
        (("ISO_IR 13",), "ﾔﾏﾀﾞ^ﾀﾛｳ", "shift_jis"),
        (("ISO_IR 192",), "Wang^XiaoDong=王^小东", "utf_8"),
        (("GB18030",), "Wang^XiaoDong=王^小东", "gb18030"),
        (("GBK",), "王^小东", "gbk"),
    ],
)
def test_every_single_character_set_is_decoded(
    terms: tuple[str, ...], text: str, codec: str
) -> None:
    # J9
    assert charset(terms).decode(text.encode(codec)) == text


#: The examples of PS3.5 annexes H, I, J and K.
EXAMPLES = [
    (
        ("", "ISO 2022 IR 87"),
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    (
        ("ISO 2022 IR 13", "ISO 2022 IR 87"),
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J"
        b"=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    ),
    (
        ("", "ISO 2022 IR 149"),
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    (
        ("", "ISO 2022 IR 58"),
        b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
        "Zhang^XiaoDong=张^小东=",
    ),
    (("ISO 2022 IR 6", "ISO 2022 IR 100"), b"\x1b-AB\xfcc^J\xe9r\xf4me", "Büc^Jérôme"),
    (("", "ISO 2022 IR 144"), b"Luxemburg=\x1b-L\xbb\xee\xda", "Luxemburg=Люк"),
    (("ISO 2022 IR 100", "ISO 2022 IR 126"), b"\xc4neas\x1b-F\xc4\xde", "ÄneasΔή"),
]


@pytest.mark.parametrize(("terms", "value", "expected"), EXAMPLES)
def test_code_extensions_are_decoded_as_in_the_annexes_of_the_standard(
    terms: tuple[str, ...], value: bytes, expected: str
) -> None:
    # J9
    assert charset(terms).decode(value) == expected


#: pydicom leaves the escape sequences of this one in the text.
_UNREAD_BY_PYDICOM = ("", "ISO 2022 IR 58")


@pytest.mark.parametrize(
    ("terms", "value", "expected"), [one for one in EXAMPLES if one[0] != _UNREAD_BY_PYDICOM]
)
def test_names_are_those_that_pydicom_reads(
    terms: tuple[str, ...], value: bytes, expected: str
) -> None:
    # J9
    encodings = pydicom.charset.convert_encodings(list(terms))
    name = pydicom.valuerep.PersonName(value, encodings)
    assert str(name).rstrip("=") == expected.rstrip("=")


@pytest.mark.parametrize("term", ["GB18030", "GBK", "ISO_IR 13"])
def test_a_byte_of_a_character_that_looks_like_a_delimiter_is_none(term: str) -> None:
    # J8, J9: the second byte of these may be that of a backslash
    text = {"GB18030": "誠\\乗", "GBK": "誠\\乗", "ISO_IR 13": "ソ\\表"}[term]
    codec = {"GB18030": "gb18030", "GBK": "gbk", "ISO_IR 13": "shift_jis"}[term]
    made = Dataset()
    made.SpecificCharacterSet = term
    header = _scanned(made, 0x00081030, "LO", text.encode(codec))
    assert header["00081030"]["Value"] == text.split("\\")


def _scanned(made: Dataset, tag: int, vr: str, value: bytes) -> dict[str, dict[str, list[object]]]:
    """DICOM JSON of a data set with an element of these bytes."""
    whole = data_set()
    whole.update(made)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoded = part10(whole)
    head = tag.to_bytes(4, "big")
    element = bytes((head[1], head[0], head[3], head[2])) + vr.encode()
    value += b" " * (len(value) % 2)
    return dict(
        json.loads(scan_bytes(encoded + element + len(value).to_bytes(2, "little") + value).json)
    )


def test_an_item_may_have_a_character_set_of_its_own() -> None:
    # J9
    inner = Dataset()
    inner.SpecificCharacterSet = "ISO_IR 144"
    inner.CodeMeaning = "Люк"
    plain = Dataset()
    plain.CodeMeaning = "Größe"
    made = data_set(SpecificCharacterSet="ISO_IR 100", StudyDescription="Größe")
    made.ProcedureCodeSequence = [plain, inner, plain]
    found = json.loads(scan_bytes(part10(made)).json)
    assert found["00081030"]["Value"] == ["Größe"]
    items = found["00081032"]["Value"]
    assert [item["00080104"]["Value"] for item in items] == [["Größe"], ["Люк"], ["Größe"]]
    assert items[1]["00080005"]["Value"] == ["ISO_IR 192"]


@pytest.mark.parametrize(
    ("terms", "value", "expected"),
    [
        (("ISO_IR 192",), b"M\xfcller", "M\ufffdller"),
        (("ISO_IR 127",), b"\xff\xfe", "\ufffd\ufffd"),
        (("GB18030",), b"a\x81", "a\ufffd"),
        (("", "ISO 2022 IR 87"), b"\x1b$B\x7f", "\ufffd"),
    ],
)
def test_bytes_that_mean_nothing_become_replacements(
    terms: tuple[str, ...], value: bytes, expected: str
) -> None:
    # J10
    assert charset(terms).decode(value) == expected


@pytest.mark.parametrize(
    ("term", "value", "expected"),
    [
        ("ISO-IR 100", b"\xe4", "ä"),
        ("ISO_IR_100", b"\xe4", "ä"),
        ("ISO IR 100", b"\xe4", "ä"),
        ("iso_ir 100", b"\xe4", "ä"),
        ("ISO 2022 IR 100", b"\xe4", "ä"),
        ("ISO2022IR100", b"\xe4", "ä"),
        ("UTF-8", b"\xc3\xa4", "ä"),
        ("nonsense", b"\xe4", "ä"),
        # Said to be the default repertoire, which has no such bytes.
        ("", b"\xc3\xa4", "ä"),
        ("", b"\xe4", "ä"),
        ("ISO_IR 6", b"\xe4", "ä"),
    ],
)
def test_wrong_terms_are_read_leniently(term: str, value: bytes, expected: str) -> None:
    # J11
    assert charset((term,)).decode(value) == expected


_TERMS = ["", "ISO_IR 100", "ISO_IR 192", "GBK", "ISO_IR 13", "ISO 2022 IR 87", "ISO 2022 IR 149"]


@given(st.lists(st.sampled_from(_TERMS), max_size=3), st.binary(max_size=60))
def test_decoding_never_fails(terms: list[str], value: bytes) -> None:
    # J10
    charset(tuple(terms)).decode(value).encode("utf-8")
