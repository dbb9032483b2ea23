"""pydicom is the scanner's judge: over every real file, over generated data sets, over damage."""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom_judge import assert_same_json, bulk_references, expected_json, literal_pydicom

from imaging_ingestion.dicom.header import ScanError, TruncatedError
from imaging_ingestion.dicom.scan import HeaderScanner, scan_bytes


@pytest.fixture(autouse=True)
def _literal() -> Iterator[None]:
    with literal_pydicom():
        yield


def assert_same(data: bytes) -> bool:
    """Compare what we say of a data set with what pydicom says; False if that cannot say it."""
    ours: dict[str, Any] = json.loads(scan_bytes(data).json)
    assert all(uri == f"@{path}" for path, _, uri in bulk_references(ours))
    try:
        theirs = expected_json(data)
    except Exception:  # noqa: BLE001 - the judge may stumble over what we can read
        return False
    assert_same_json(ours, theirs)
    return True


def test_every_real_file_says_the_same_as_pydicom(dicom_files: list[Path]) -> None:
    compared = 0
    for path in dicom_files:
        try:
            compared += assert_same(path.read_bytes())
        except ScanError:
            continue
        except AssertionError as error:
            raise AssertionError(f"{path.name}: {error}") from error
    assert compared >= 0.8 * len(dicom_files)


def test_every_real_file_scans_alike_however_it_is_cut(dicom_files: list[Path]) -> None:
    chance = random.Random(7)
    for path in dicom_files[:: max(1, len(dicom_files) // 150)]:
        data = path.read_bytes()[: 1 << 19]
        whole = outcome([data])
        cuts = sorted(chance.randrange(len(data) + 1) for _ in range(200))
        pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        assert outcome(pieces) == whole, path.name


def outcome(pieces: list[bytes]) -> object:
    scanner = HeaderScanner()
    try:
        for piece in pieces:
            scanner.feed(piece)
        header = scanner.finish()
    except ScanError as error:
        return type(error)
    return header.json, header.bulk, header.transfer_syntax_uid


def test_a_byte_at_a_time_is_enough(dicom_file: Callable[[str], Path]) -> None:
    data = dicom_file("reportsi.dcm").read_bytes()
    assert outcome([data[i : i + 1] for i in range(len(data))]) == outcome([data])


@pytest.mark.parametrize("name", ["MR_truncated.dcm", "rtplan_truncated.dcm"])
def test_truncated_real_files_are_recognised(dicom_file: Callable[[str], Path], name: str) -> None:
    with pytest.raises(TruncatedError):
        scan_bytes(dicom_file(name).read_bytes())


def test_damage_never_raises_anything_but_a_scan_error(dicom_files: list[Path]) -> None:
    chance = random.Random(11)
    small = [p for p in dicom_files if p.stat().st_size < 20_000]
    for path in small[:: max(1, len(small) // 60)]:
        data = path.read_bytes()
        for _ in range(25):
            broken = bytearray(data[: chance.randrange(1, len(data) + 1)])
            for _ in range(chance.randrange(4)):
                broken[chance.randrange(len(broken))] = chance.randrange(256)
            with contextlib.suppress(ScanError):
                json.loads(scan_bytes(broken).json)


SIMPLE = {
    # More component groups than three mean nothing: pydicom drops them, we keep them in the third.
    "PatientName": st.text("ABCÄÖ漢字^='\"<& ", max_size=20).filter(lambda t: t.count("=") <= 2),
    "PatientID": st.text("abc123\"' /%_", max_size=16),
    "StudyDescription": st.text(max_size=30).filter(
        lambda t: not any(c in t for c in "\\\x1b") and t.strip("\0") < "\ud800" and t.isprintable()
    ),
    "Rows": st.integers(0, 65535),
    "SliceThickness": st.decimals(-9999, 9999, places=3).map(str),
    "InstanceNumber": st.integers(-(2**31), 2**31 - 1).map(str),
    "ImageType": st.lists(st.sampled_from(["ORIGINAL", "PRIMARY", "", "AXIAL"]), max_size=4),
    "EventElapsedTimes": st.lists(st.integers(0, 99).map(str), max_size=3),
    "DiffusionBValue": st.floats(allow_nan=False, allow_infinity=False),
    "ExaminedBodyThickness": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "FrameIncrementPointer": st.integers(0, 2**32 - 1),
    "ICCProfile": st.binary(max_size=3000),
}


@st.composite
def datasets(draw: st.DrawFn, depth: int = 2) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword in draw(st.lists(st.sampled_from(sorted(SIMPLE)), unique=True)):
        setattr(dataset, keyword, draw(SIMPLE[keyword]))
    if depth and draw(st.booleans()):
        items = draw(st.lists(datasets(depth=depth - 1), max_size=3))
        dataset.RequestAttributesSequence = items
        dataset["RequestAttributesSequence"].is_undefined_length = draw(st.booleans())
        for item in items:
            item.is_undefined_length_sequence_item = draw(st.booleans())
    return dataset


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    datasets(),
    st.sampled_from(
        [
            ImplicitVRLittleEndian,
            ExplicitVRLittleEndian,
            ExplicitVRBigEndian,
            DeflatedExplicitVRLittleEndian,
        ]
    ),
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
)
def test_generated_data_sets_say_the_same_as_pydicom(
    dataset: Dataset, syntax: pydicom.uid.UID, sizes: list[int]
) -> None:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    data = buffer.getvalue()
    assert assert_same(data)
    pieces, position, turn = [], 0, 0
    while position < len(data):
        pieces.append(data[position : position + sizes[turn % len(sizes)]])
        position += sizes[turn % len(sizes)]
        turn += 1
    assert outcome(pieces) == outcome([data])
