"""Data sets into other encodings as they stream: nothing is lost, judged by pydicom and dcmtk."""

from __future__ import annotations

import hashlib
import io
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pydicom
import pydicom.config
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from imaging_ingestion.dicom.dataset_convert import DataSetConverter
from imaging_ingestion.dicom.element_write import Edit
from imaging_ingestion.dicom.header import MalformedError, ScanError, TruncatedError
from imaging_ingestion.dicom.part10 import file_meta
from imaging_ingestion.dicom.reencode import Changes, EncapsulatedValueError, Hole
from imaging_ingestion.dicom.scan import scan_bytes

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
BIG, DEFLATED, JPEG = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.70"
NATIVE = (EXPLICIT, IMPLICIT, BIG, DEFLATED)


@pytest.fixture(autouse=True)
def as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """pydicom reads UN by its dictionaries, in the byte order of the rest, against PS3.5 6.2.2."""
    monkeypatch.setattr(pydicom.config, "replace_un_with_known_vr", False)


def converted(
    data: bytes,
    source: str,
    target: str,
    *,
    piece: int = 1 << 16,
    changes: Changes | None = None,
    fill: Callable[[str], bytes] = lambda path: path.encode(),
) -> bytes:
    converter = DataSetConverter(source, target, changes)
    out = bytearray()

    def take(pieces: Iterable[bytes | memoryview | Hole]) -> None:
        for part in pieces:
            out.extend(fill(part.path) if isinstance(part, Hole) else part)

    for start in range(0, len(data), piece):
        take(converter.feed(data[start : start + piece]))
    take(converter.finish())
    return bytes(out)


def read(data: bytes, syntax: str) -> Dataset:
    return pydicom.dcmread(io.BytesIO(file_meta("1.2.3", "1.2.3", syntax) + data))


def written(dataset: Dataset, syntax: str) -> bytes:
    """As pydicom writes it."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = syntax == IMPLICIT
    buffer.is_little_endian = syntax != BIG
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def native_files(dicom_files: list[Path]) -> list[tuple[Path, str, bytes]]:
    """Name, transfer syntax and data set of every uncompressed file that can be read."""
    found = []
    for path in dicom_files:
        if path.stat().st_size > 1 << 20:
            continue
        content = path.read_bytes()
        try:
            header = scan_bytes(content)
        except ScanError:
            continue
        if header.transfer_syntax_uid in NATIVE:
            found.append((path, header.transfer_syntax_uid, content[header.dataset_offset :]))
    assert found
    return found


WORDS = {"OB": "u1", "OW": "u2", "OF": "u4", "OL": "u4", "OD": "u8", "OV": "u8"}


def flat(dataset: Dataset, *, vr_counts: bool, is_big: bool = False) -> list[tuple[object, ...]]:
    """Every element, those of items too, as values that can be compared."""
    found: list[tuple[object, ...]] = []
    for element in dataset:
        if element.tag.element == 0:
            continue  # group lengths say nothing
        value: object = repr(element.value)
        if element.tag.is_private and not vr_counts:
            value = "private"
        elif element.VR == "SQ":
            value = [flat(item, vr_counts=vr_counts, is_big=is_big) for item in element.value]
        elif element.VR in WORDS and element.value:
            words = np.frombuffer(element.value, "<>"[is_big] + WORDS[element.VR])
            value = hashlib.sha256(words.astype(words.dtype.newbyteorder("<"))).hexdigest()
        found.append((element.tag, element.VR if vr_counts else None, value))
    return found


@pytest.mark.parametrize("target", NATIVE)
def test_real_data_sets_say_the_same_in_every_encoding(
    dicom_files: list[Path], target: str
) -> None:
    for path, syntax, data in native_files(dicom_files):
        there = converted(data, syntax, target)
        if target == EXPLICIT and syntax != IMPLICIT:
            there = converted(there, target, BIG)
            back = converted(there, BIG, EXPLICIT)
        else:
            back = converted(there, target, EXPLICIT)
        keeps_vr = IMPLICIT not in (syntax, target)
        expected = scan_bytes(file_meta("1.2", "1.2", syntax) + data)
        found = scan_bytes(file_meta("1.2", "1.2", EXPLICIT) + back)
        if keeps_vr:
            assert found.json == expected.json, path
        assert found.elements.keys() == expected.elements.keys(), path
        assert found.bulk.keys() == expected.bulk.keys() or not keeps_vr, path


@pytest.mark.parametrize("target", NATIVE)
def test_pydicom_reads_the_same_values_from_what_was_converted(
    dicom_files: list[Path], target: str
) -> None:
    checked = 0
    for path, syntax, data in native_files(dicom_files)[::7]:
        vr_counts = IMPLICIT not in (syntax, target)
        try:
            expected = flat(read(data, syntax), vr_counts=vr_counts, is_big=syntax == BIG)
        except Exception:  # noqa: BLE001 - pydicom cannot read the original
            continue
        checked += 1
        found = read(converted(data, syntax, target), target)
        assert flat(found, vr_counts=vr_counts, is_big=target == BIG) == expected, path
    assert checked > 5


@pytest.mark.parametrize(
    ("target", "option"), [(IMPLICIT, "+ti"), (BIG, "+tb"), (EXPLICIT, "+te"), (DEFLATED, "+td")]
)
@pytest.mark.parametrize(
    "name",
    ["CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "rtdose.dcm",
     "waveform_ecg.dcm", "image_dfl.dcm", "test-SR.dcm", "nested_priv_SQ.dcm"],
)  # fmt: skip
def test_dcmtk_makes_the_same_of_it(
    dicom_file: Callable[[str], Path], tmp_path: Path, name: str, target: str, option: str
) -> None:
    content = dicom_file(name).read_bytes()
    header = scan_bytes(content)
    found = converted(content[header.dataset_offset :], header.transfer_syntax_uid, target)
    theirs = tmp_path / "theirs.dcm"
    subprocess.run(["dcmconv", option, dicom_file(name), theirs], check=True, capture_output=True)
    is_big = target == BIG
    expected = flat(pydicom.dcmread(theirs), vr_counts=False, is_big=is_big)
    ours = flat(read(found, target), vr_counts=False, is_big=is_big)
    assert [one for one in ours if one[0] != 0xFFFCFFFC] == [
        one for one in expected if one[0] != 0xFFFCFFFC
    ]


@given(st.integers(1, 4000))
@settings(deadline=None, max_examples=30)
def test_the_size_of_the_pieces_makes_no_difference(piece: int) -> None:
    dataset = nested_data_set()
    dataset.add_new(0x7FE00010, "OW", bytes(range(256)) * 40)
    for source in (EXPLICIT, IMPLICIT, BIG):
        data = written(dataset, source)
        for target in (EXPLICIT, IMPLICIT, BIG):
            assert converted(data, source, target, piece=piece) == converted(data, source, target)


def nested_data_set() -> Dataset:
    inner = Dataset()
    inner.CodeValue = "1"
    outer = Dataset()
    outer.ConceptNameCodeSequence = [inner, Dataset()]
    outer.ContentSequence = []
    dataset = Dataset()
    dataset.PatientID = "1"
    dataset.ContentSequence = [outer, outer]
    return dataset


def test_where_the_encoding_is_the_same_the_bytes_are() -> None:
    data = written(nested_data_set(), EXPLICIT)
    assert converted(data, EXPLICIT, EXPLICIT) == data
    deflated = converted(data, EXPLICIT, DEFLATED)
    assert converted(deflated, DEFLATED, EXPLICIT) == data


def test_a_deflated_data_set_has_an_even_length() -> None:  # PS3.5 A.5
    for length in range(2, 40, 2):
        data = struct.pack("<HH2sH", 0x0010, 0x0020, b"LO", length) + b"x" * length
        deflated = converted(data, EXPLICIT, DEFLATED)
        assert len(deflated) % 2 == 0
        assert zlib.decompressobj(-15).decompress(deflated) == data


def test_group_lengths_are_left_out() -> None:
    data = struct.pack("<HH2sHI", 0x0010, 0, b"UL", 4, 12)
    data += struct.pack("<HH2sH", 0x0010, 0x0020, b"LO", 2) + b"1 "
    assert converted(data, EXPLICIT, IMPLICIT) == struct.pack("<HHI", 0x0010, 0x0020, 2) + b"1 "


def test_a_private_element_of_no_known_vr_stays_as_it_is() -> None:
    value = struct.pack("<HH2sHI", 0x0011, 0x1001, b"UL", 4, 0x01020304)
    implicit = converted(value, EXPLICIT, IMPLICIT)
    assert implicit == struct.pack("<HHII", 0x0011, 0x1001, 4, 0x01020304)
    # PS3.5 6.2.2: UN is little endian whatever the rest is.
    assert converted(implicit, IMPLICIT, BIG) == (
        struct.pack(">HH2s2xI", 0x0011, 0x1001, b"UN", 4) + b"\4\3\2\1"
    )
    un = struct.pack("<HH2s2xI", 0x0011, 0x1001, b"UN", 4) + b"\4\3\2\1"
    assert converted(un, EXPLICIT, BIG)[12:] == b"\4\3\2\1"
    assert converted(converted(un, EXPLICIT, BIG), BIG, EXPLICIT) == un


def test_a_private_sequence_stays_a_sequence() -> None:
    item = Dataset()
    item.PatientID = "1"
    dataset = Dataset()
    dataset.add_new(0x00110010, "LO", "CREATOR")
    dataset.add_new(0x00111001, "SQ", [item])
    implicit = converted(written(dataset, EXPLICIT), EXPLICIT, IMPLICIT)
    back = read(converted(implicit, IMPLICIT, EXPLICIT), EXPLICIT)
    assert back[0x00111001].VR == "SQ"
    assert back[0x00111001].value[0].PatientID == "1"


def test_what_is_unknown_and_of_undefined_length_becomes_a_sequence() -> None:
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 10) + struct.pack("<HHI", 0x0010, 0x0020, 2) + b"1 "
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    head = struct.pack("<HH2s2xI", 0x0011, 0x1001, b"UN", 0xFFFFFFFF)
    for target in (EXPLICIT, BIG, IMPLICIT):
        found = read(converted(head + item + end, EXPLICIT, target, changes=NOTHING), target)
        assert found[0x00111001].value[0].PatientID == "1"


#: Makes the converter look at every element.
NOTHING = Changes({"": {0x00000001: None}})


def test_a_value_too_long_for_its_vr_becomes_un_and_comes_back() -> None:  # PS3.5 6.2.2
    value = b"1\\" * 40_000
    implicit = struct.pack("<HHI", 0x0028, 0x0009, 4) + b"\0\0\0\0"
    implicit += struct.pack("<HHI", 0x0040, 0xA123, len(value)) + value
    explicit = converted(implicit, IMPLICIT, EXPLICIT)
    assert struct.pack("<HH2s2xI", 0x0040, 0xA123, b"UN", len(value)) in explicit
    assert converted(explicit, EXPLICIT, IMPLICIT) == implicit


def test_look_up_table_data_becomes_ow() -> None:
    implicit = struct.pack("<HHI", 0x0028, 0x3006, 70_000) + b"ab" * 35_000
    explicit = converted(implicit, IMPLICIT, EXPLICIT)
    assert explicit == struct.pack("<HH2s2xI", 0x0028, 0x3006, b"OW", 70_000) + b"ab" * 35_000
    assert converted(implicit, IMPLICIT, BIG)[12:] == b"ba" * 35_000


@pytest.mark.parametrize(("representation", "vr"), [(0, b"US"), (1, b"SS")])
def test_us_or_ss_goes_by_pixel_representation(representation: int, vr: bytes) -> None:
    implicit = struct.pack("<HHIH", 0x0028, 0x0103, 2, representation)
    implicit += struct.pack("<HHIh", 0x0028, 0x0106, 2, -5)
    assert converted(implicit, IMPLICIT, EXPLICIT)[10:] == struct.pack(
        "<HH2sHh", 0x0028, 0x0106, vr, 2, -5
    )


@pytest.mark.parametrize(
    ("vr", "little", "big"),
    [
        ("US", "0102", "0201"),
        ("SL", "01020304", "04030201"),
        ("FD", "0102030405060708", "0807060504030201"),
        ("OV", "0102030405060708", "0807060504030201"),
        ("AT", "10002000", "00100020"),
        ("OB", "0102", "0102"),
        ("OW", "01020304", "02010403"),
        ("OF", "01020304", "04030201"),
        ("LO", "3141", "3141"),
    ],
)
def test_words_are_turned_by_their_size(vr: str, little: str, big: str) -> None:
    def element(order: str, value: str) -> bytes:
        data = bytes.fromhex(value)
        long_form = vr in {"OB", "OW", "OF", "OV"}
        head = order + ("HH2s2xI" if long_form else "HH2sH")
        return struct.pack(head, 0x0011, 0x1001, vr.encode(), len(data)) + data

    assert converted(element("<", little), EXPLICIT, BIG) == element(">", big)
    assert converted(element(">", big), BIG, EXPLICIT) == element("<", little)


# --- changes


def edited(edits: dict[str, dict[int, Edit | None]], target: str = EXPLICIT) -> Dataset:
    data = written(nested_data_set(), EXPLICIT)
    return read(converted(data, EXPLICIT, target, changes=Changes(edits)), target)


@pytest.mark.parametrize("target", [EXPLICIT, IMPLICIT, BIG])
def test_values_are_replaced_inserted_and_left_out(target: str) -> None:
    found = edited(
        {
            "": {
                0x00080005: Edit("CS", b"ISO_IR 192"),
                0x00100020: Edit("LO", b"22"),
                0x7FE00001: None,
                0x00280010: Edit("US", b"\x01\x02"),
            },
            "0040A730/2/0040A043/2/": {0x00080100: Edit("SH", b"new ")},
        },
        target,
    )
    assert found.SpecificCharacterSet == "ISO_IR 192"
    assert found.PatientID == "22"
    assert found.Rows == 0x0201
    first, second = found.ContentSequence
    assert [item.get("CodeValue") for item in first.ConceptNameCodeSequence] == ["1", None]
    assert [item.get("CodeValue") for item in second.ConceptNameCodeSequence] == ["1", "new"]


def test_an_element_can_be_left_out() -> None:
    assert "PatientID" not in edited({"": {0x00100020: None}})


def test_a_sequence_is_not_edited() -> None:
    with pytest.raises(MalformedError, match="sequence"):
        edited({"": {0x0040A730: None}})


def test_a_hole_is_where_its_element_was() -> None:
    dataset = Dataset()
    dataset.PatientID = "1"
    dataset.add_new(0x7FE00010, "OW", b"ab" * 50_000)
    dataset.add_new(0xFFFCFFFC, "OB", b"end.")
    data = written(dataset, EXPLICIT)
    changes = Changes(holes=frozenset({"7FE00010"}))
    found = converted(data, EXPLICIT, EXPLICIT, changes=changes, piece=777)
    before, path, after = found.partition(b"7FE00010")
    assert path
    assert read(before, EXPLICIT).PatientID == "1"
    assert after == struct.pack("<HH2s2xI", 0xFFFC, 0xFFFC, b"OB", 4) + b"end."


def test_encapsulated_values_are_for_encapsulated_transfer_syntaxes() -> None:
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0) + struct.pack("<HHI", 0xFFFE, 0xE000, 2) + b"xx"
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    data = struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OB", 0xFFFFFFFF) + item + end
    with pytest.raises(EncapsulatedValueError):
        converted(data, JPEG, EXPLICIT)
    assert converted(data, JPEG, JPEG, changes=NOTHING) == data
    changes = Changes(holes=frozenset({"7FE00010"}))
    assert converted(data, JPEG, EXPLICIT, changes=changes, piece=3) == b"7FE00010"


# --- bad input


def sequence(content: bytes, length: int | None = None) -> bytes:
    stated = len(content) if length is None else length
    return struct.pack("<HH2s2xI", 0x0040, 0xA730, b"SQ", stated) + content


ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
BAD = {
    "element beyond its item": sequence(
        struct.pack("<HHI", 0xFFFE, 0xE000, 10)
        + struct.pack("<HH2sH", 0x0010, 0x0020, b"LO", 8)
        + b"12345678"
    ),
    "item beyond its sequence": sequence(struct.pack("<HHI", 0xFFFE, 0xE000, 100) + bytes(100), 20),
    "element where an item should be": sequence(
        struct.pack("<HH2sH", 0x0010, 0x0020, b"LO", 8) + b"12345678"
    ),
    "undefined length of text": struct.pack("<HH2s2xI", 0x0010, 0x0020, b"UT", 0xFFFFFFFF),
    "an item where an element should be": ITEM + bytes(8),
    "bytes after the padding": struct.pack("<HH2sH", 0x0010, 0x0020, b"LO", 0) + bytes(8) + b"x",
    "nested too deeply": (
        struct.pack("<HH2s2xI", 0x0040, 0xA730, b"SQ", 0xFFFFFFFF) + ITEM
    ) * 200,
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("piece", [1, 1 << 16])
def test_what_contradicts_itself_is_refused(what: str, piece: int) -> None:
    with pytest.raises(MalformedError):
        converted(BAD[what], EXPLICIT, IMPLICIT, piece=piece)


def test_every_truncation_is_noticed() -> None:
    data = written(nested_data_set(), EXPLICIT)
    ends = {len(data)}
    for length in range(1, len(data)):
        try:
            converted(data[:length], EXPLICIT, IMPLICIT)
        except TruncatedError:
            continue
        ends.add(length)
    # At the end of a whole element nothing shows that more should have come.
    assert ends == {len(data), data.index(b"SQ") - 4}


@given(st.binary(max_size=400), st.sampled_from(NATIVE), st.sampled_from(NATIVE))
def test_garbage_is_converted_or_refused(data: bytes, source: str, target: str) -> None:
    try:
        converted(data, source, target)
    except ScanError:
        return


def test_a_deflated_data_set_that_breaks_off_is_noticed() -> None:
    whole = converted(written(nested_data_set(), EXPLICIT), EXPLICIT, DEFLATED)
    with pytest.raises(TruncatedError):
        converted(whole[:-4], DEFLATED, EXPLICIT)
    with pytest.raises(MalformedError):
        converted(b"\xff" * 10, DEFLATED, EXPLICIT)


def test_what_inflates_a_thousandfold_comes_in_pieces() -> None:
    value = bytes(50 << 20)
    data = struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OW", len(value)) + value
    deflated = converted(data, EXPLICIT, DEFLATED)
    converter = DataSetConverter(DEFLATED, IMPLICIT)
    sizes = [len(piece) for piece in converter.feed(deflated) if not isinstance(piece, Hole)]
    sizes += [len(piece) for piece in converter.finish() if not isinstance(piece, Hole)]
    assert sum(sizes) == len(value) + 8
    assert max(sizes) <= 1 << 18
