"""pydicom is the scanner's judge: over every real file, over generated data sets, over damage."""

from __future__ import annotations

import base64
import io
import json
import math
import random
import warnings
from collections.abc import Callable
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

from imaging_ingestion.dicom.header import ScanError, TruncatedError
from imaging_ingestion.dicom.scan import HeaderScanner, scan_bytes

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _lenient_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real files break rules of value length; the judge is to read them all the same."""
    monkeypatch.setattr(pydicom.config.settings, "_reading_validation_mode", pydicom.config.IGNORE)
    monkeypatch.setattr(pydicom.config.settings, "_writing_validation_mode", pydicom.config.IGNORE)


def ours(data: bytes) -> dict[str, Any]:
    return json.loads(scan_bytes(data).json)


def theirs(data: bytes) -> dict[str, Any] | None:
    """pydicom's DICOM JSON; None where pydicom itself cannot read or say it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(io.BytesIO(data), force=True)
            return dataset.to_json_dict(bulk_data_threshold=1 << 62)
        except Exception:  # noqa: BLE001 - the judge may stumble over what we can read
            return None


def same(tag: str, mine: dict[str, Any], other: dict[str, Any], where: str) -> None:
    """Compare one element; what the two may differ in is said here, case by case."""
    place = f"{where}{tag}"
    if tag == "00080005" or tag.endswith("0000"):
        return  # ours names UTF-8, the character set of the JSON; group lengths are left out
    if mine["vr"] != other["vr"]:
        # pydicom knows private dictionaries, and guesses at VRs of UN; we say what is written.
        assert mine["vr"] in {"UN", "US", "SS", "OW", "LO"} or other["vr"] in {"UN", "OB"}, place
        return
    if "BulkDataURI" in mine:
        assert mine["BulkDataURI"] == f"@{place}"
        return
    vr = mine["vr"]
    if vr == "SQ":
        a, b = mine.get("Value", []), other.get("Value", [])
        assert len(a) == len(b), place
        for index, (x, y) in enumerate(zip(a, b, strict=True), start=1):
            equal(x, y, f"{place}/{index}/")
        return
    if "InlineBinary" in mine or "InlineBinary" in other:
        a, b = (base64.b64decode(e.get("InlineBinary", "")) for e in (mine, other))
        assert a.rstrip(b"\0") == b.rstrip(b"\0"), place
        return
    a = [norm(v) for v in mine.get("Value", [])]
    b = [norm(v) for v in other.get("Value", [])]
    assert a == b or (not any(a) and not any(b)), f"{place}: {a} != {b}"


def norm(value: object) -> object:
    if isinstance(value, dict):
        cleaned = {k: v.strip() for k, v in value.items() if v.strip(" ^=")}
        return cleaned or None
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value.strip(" \0").replace("\ufffd", "?") or None
        return number if math.isfinite(number) else value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return value


def equal(mine: dict[str, Any], other: dict[str, Any], where: str = "") -> None:
    kept = {t for t in other if not t.endswith("0000")}
    missing = {t for t in kept - set(mine) if t != "00080005"}
    assert missing == set(), f"{where}: {missing} missing"
    assert set(mine) - kept <= {"00080005"}, f"{where}: {set(mine) - kept} are not there"
    assert list(mine) == sorted(mine)
    for tag, element in mine.items():
        if tag in other:
            same(tag, element, other[tag], where)


def test_every_real_file_says_the_same_as_pydicom(dicom_files: list[Path]) -> None:
    compared = 0
    for path in dicom_files:
        data = path.read_bytes()
        try:
            mine = ours(data)
        except ScanError:
            continue
        other = theirs(data)
        if other is not None:
            try:
                equal(mine, other)
            except AssertionError as error:
                raise AssertionError(f"{path.name}: {error}") from error
            compared += 1
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
            try:
                json.loads(scan_bytes(broken).json)
            except ScanError:
                pass


SIMPLE = {
    "PatientName": st.text("ABCÄÖ漢字^='\"<& ", max_size=20),
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
    other = theirs(data)
    assert other is not None
    equal(ours(data), other)
    pieces, position, turn = [], 0, 0
    while position < len(data):
        pieces.append(data[position : position + sizes[turn % len(sizes)]])
        position += sizes[turn % len(sizes)]
        turn += 1
    assert outcome(pieces) == outcome([data])
