"""Small data sets, written and read: what the property tests do not say by themselves."""

from __future__ import annotations

import io
import struct

import pytest
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from imaging_ingestion.dicom.charset_write import CannotEncodeError, TextEncoder
from imaging_ingestion.dicom.dataset_read import read_data_set
from imaging_ingestion.dicom.dataset_write import UnwritableError, write_data_set
from imaging_ingestion.dicom.header import MalformedError, ScanError, TruncatedError
from imaging_ingestion.dicom.transfer_syntax import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

EXPLICIT, IMPLICIT = EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN


def name(text: str) -> dict[str, object]:
    groups = zip(("Alphabetic", "Ideographic", "Phonetic"), text.split("="), strict=False)
    return {"vr": "PN", "Value": [{group: value for group, value in groups if value}]}


def judged(data: bytes, syntax: str = EXPLICIT) -> Dataset:
    """The data set as pydicom reads it, all of it."""
    found = read_dataset(io.BytesIO(data), syntax == IMPLICIT, is_little_endian=True)
    found.decode()
    return found


def test_elements_are_written_in_ascending_order() -> None:
    written = write_data_set(
        {
            "0020000D": {"vr": "UI", "Value": ["1.2"]},
            "00080052": {"vr": "CS", "Value": ["STUDY"]},
            "00100010": {"vr": "PN"},
        },
        EXPLICIT,
    )
    assert [element.tag for element in judged(written)] == [0x00080052, 0x00100010, 0x0020000D]


def test_a_data_set_of_ascii_names_no_character_set() -> None:  # C12
    written = write_data_set({"00100010": name("Smith^John")}, EXPLICIT, ("ISO_IR 100",))
    assert "SpecificCharacterSet" not in judged(written)


@pytest.mark.parametrize(
    ("wanted", "text", "used"),
    [
        (("ISO_IR 100",), "Müller^Jörg", "ISO_IR 100"),
        (("ISO_IR 100",), "Иванов^Иван", "ISO_IR 192"),
        (("ISO_IR 144",), "Иванов^Иван", "ISO_IR 144"),
        (("GB18030",), "Wang^XiaoDong=王^小东", "GB18030"),
        (("ISO_IR 192",), "Müller^Jörg", "ISO_IR 192"),
        ((), "Müller^Jörg", "ISO_IR 192"),
        (("ISO-IR 100",), "Müller^Jörg", "ISO_IR 192"),
        (("", "ISO 2022 IR 87"), "Yamada^Tarou=山田^太郎=やまだ^たろう", ["", "ISO 2022 IR 87"]),
        (("", "ISO 2022 IR 149"), "Hong^Gildong=洪^吉洞=홍^길동", ["", "ISO 2022 IR 149"]),
        (("", "ISO 2022 IR 87"), "Hong^Gildong=洪^吉洞=홍^길동", "ISO_IR 192"),
    ],
)
def test_text_is_in_the_wanted_character_set_or_else_in_utf_8(  # C14
    wanted: tuple[str, ...], text: str, used: str | list[str]
) -> None:
    found = judged(write_data_set({"00100010": name(text)}, EXPLICIT, wanted))
    assert found.SpecificCharacterSet == used
    assert str(found.PatientName) == text


def test_gb2312_is_encoded_as_in_the_example_of_the_standard() -> None:
    # PS3.5 K.2; pydicom leaves these escape sequences in, so the bytes are compared.
    encoder = TextEncoder(("", "ISO 2022 IR 58"))
    assert encoder.encode("Zhang^XiaoDong=张^小东=") == (
        b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab="
    )


@pytest.mark.parametrize(
    ("terms", "text"),
    [
        (("ISO_IR 13",), "山田"),  # single bytes only
        (("ISO_IR 13",), "¥"),  # would become a delimiter
        (("ISO_IR 100",), "山"),
        (("", "ISO 2022 IR 159"), "山"),  # of JIS X 0208, which is not declared
        (("ISO 2022 IR 100", "ISO 2022 IR 144"), "山"),
        (("ISO_IR 100",), "\x1b$B;3"),  # an escape sequence must not come through
    ],
)
def test_what_a_character_set_does_not_have_is_refused(terms: tuple[str, ...], text: str) -> None:
    encoder = TextEncoder(terms)
    if "\x1b" in text:
        assert encoder.encode(text) == text.encode()  # read as it is where nothing is extended
        return
    with pytest.raises(CannotEncodeError):
        encoder.encode(text)


def test_an_escape_sequence_in_a_value_does_not_change_the_character_set() -> None:
    with pytest.raises(CannotEncodeError):
        TextEncoder(("", "ISO 2022 IR 87")).encode("\x1b$B;3")


def test_items_use_the_character_set_of_the_whole() -> None:
    item = {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
        "00400007": {"vr": "LO", "Value": ["Größe"]},
    }
    found = judged(
        write_data_set({"00400275": {"vr": "SQ", "Value": [item]}}, EXPLICIT, ("ISO_IR 100",))
    )
    assert found.SpecificCharacterSet == "ISO_IR 100"
    (read,) = found.RequestAttributesSequence
    assert "SpecificCharacterSet" not in read
    assert read.ScheduledProcedureStepDescription == "Größe"


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_empty_items_and_empty_values_among_others_are_kept(syntax: str) -> None:
    elements = {
        "00101020": {"vr": "DS", "Value": [None, "1.50"]},
        "00200011": {"vr": "IS", "Value": [7, None, 9]},
        "00400275": {"vr": "SQ", "Value": [{}, {"00401001": {"vr": "SH", "Value": ["R1"]}}]},
        "00081032": {"vr": "SQ"},
    }
    read = read_data_set(write_data_set(elements, syntax), syntax).elements
    assert read == dict(sorted(elements.items()))


def test_a_value_that_is_only_referenced_is_written_empty() -> None:
    written = write_data_set({"00420011": {"vr": "OB", "BulkDataURI": "@00420011"}}, EXPLICIT)
    assert judged(written)[0x00420011].value in (b"", None)


def test_a_value_longer_than_its_vr_can_tell_is_written_as_un() -> None:
    text = "x" * 70_000  # PS3.5 6.2.2
    written = write_data_set({"00081030": {"vr": "LO", "Value": [text]}}, EXPLICIT)
    assert written[4:6] == b"UN"
    assert struct.unpack_from("<I", written, 8) == (70_000,)


def test_binary_decimals_are_given_as_many_digits_as_a_ds_may_have() -> None:
    written = write_data_set(
        {"00101030": {"vr": "DS", "Value": [1 / 3, -1.2345678901234567e-7, 70.5]}}, EXPLICIT
    )
    texts = written[8:].decode().strip().split("\\")
    assert all(len(text) <= 16 for text in texts)
    assert [float(text) for text in texts] == pytest.approx([1 / 3, -1.2345678901234567e-7, 70.5])


def test_numbers_that_are_texts_in_json_are_written_as_numbers() -> None:
    elements = {
        "00082134": {"vr": "FD", "Value": ["Infinity", 1, "0.5"]},
        "00720082": {"vr": "SV", "Value": ["-9223372036854775808"]},
    }
    found = judged(write_data_set(elements, EXPLICIT))
    assert list(found[0x00082134].value) == [float("inf"), 1.0, 0.5]
    assert found[0x00720082].value == -(1 << 63)


@pytest.mark.parametrize(
    "element",
    [
        {"vr": "US", "Value": [70_000]},
        {"vr": "US", "Value": ["abc"]},
        {"vr": "US", "Value": [1.5]},
        {"vr": "US", "Value": [None]},
        {"vr": "AT", "Value": ["0010001G"]},
        {"vr": "DS", "Value": [float("nan")]},
        {"vr": "OB", "InlineBinary": "no base64!"},
        {"vr": "XX"},
    ],
)
def test_a_value_that_is_none_of_its_vr_is_refused_by_its_tag(element: dict[str, object]) -> None:
    with pytest.raises(UnwritableError, match=r"\(00280010\)"):
        write_data_set({"00280010": element}, EXPLICIT)


def test_only_little_endian_data_sets_are_written() -> None:
    with pytest.raises(ValueError, match="transfer syntax"):
        write_data_set({}, EXPLICIT_VR_BIG_ENDIAN)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_an_identifier_is_read_by_its_character_set(syntax: str) -> None:  # C14
    written = write_data_set({"00100010": name("Müller^*")}, syntax, ("ISO_IR 100",))
    read = read_data_set(written, syntax)
    assert read.character_set == ("ISO_IR 100",)
    assert read.elements["00100010"]["Value"] == [{"Alphabetic": "Müller^*"}]


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_list_of_thousands_of_uids_is_read(syntax: str) -> None:
    uids = [f"1.2.826.0.1.3680043.8.498.1{number:036}" for number in range(1, 1500)]
    text = "\\".join(uids).encode()
    text += b"\0" * (len(text) % 2)
    if syntax == IMPLICIT:
        written = struct.pack("<HHI", 0x0008, 0x0018, len(text)) + text
    else:
        written = struct.pack("<HH2s2xI", 0x0008, 0x0018, b"UN", len(text)) + text
    assert list(read_data_set(written, syntax).texts(0x00080018)) == uids


def test_any_other_long_value_is_refused() -> None:
    written = write_data_set({"00081030": {"vr": "LO", "Value": ["x" * 70_000]}}, IMPLICIT)
    with pytest.raises(MalformedError, match="00081030"):
        read_data_set(written, IMPLICIT)


@pytest.mark.parametrize(
    "data", [b"\x08\0\x52\0CS\x10\0STUDY ", b"\x08\0\x52", b"no data set at all, is it?"]
)
def test_a_broken_data_set_is_refused(data: bytes) -> None:
    with pytest.raises(ScanError):
        read_data_set(data, EXPLICIT)


def test_a_data_set_that_ends_early_is_told_from_a_malformed_one() -> None:
    with pytest.raises(TruncatedError):
        read_data_set(b"\x08\0\x52\0CS\x06\0STU", EXPLICIT)


def test_absent_elements_have_no_values() -> None:
    read = read_data_set(b"", EXPLICIT)
    assert read.elements == {}
    assert (read.texts(0x0020000D), read.text(0x0020000D), read.items(0x00081199)) == ((), "", ())


def test_several_values_are_not_one() -> None:
    written = write_data_set({"0020000D": {"vr": "UI", "Value": ["1.2", "1.3"]}}, EXPLICIT)
    read = read_data_set(written, EXPLICIT)
    assert read.texts(0x0020000D) == ("1.2", "1.3")
    assert read.text(0x0020000D) == ""
