"""From a header to columns: what fits is there, what does not is left out, nothing fails."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from imaging_ingestion.dicom.header import Header, ScanError
from imaging_ingestion.dicom.person_name import fold_name
from imaging_ingestion.dicom.scan import scan_bytes
from imaging_ingestion.manifest.attribute_levels import PATIENT_STUDY_TAGS, SERIES_TAGS
from imaging_ingestion.manifest.attributes import LONGEST_TEXT, columns_of, storable
from imaging_ingestion.manifest.known import SERIES_COLUMNS, STUDY_COLUMNS
from imaging_ingestion.manifest.record import INSTANCE_COLUMNS


def header_of(dataset: Dataset) -> Header:
    """What a scan of the data set tells."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = "1.2"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.3"
    buffer = BytesIO()
    with warnings.catch_warnings(action="ignore"):
        dataset.save_as(buffer, enforce_file_format=True)
    return scan_bytes(buffer.getvalue())


def test_the_columns_are_those_of_the_manifest() -> None:
    columns = columns_of(header_of(Dataset()))
    assert set(columns.study) == set(STUDY_COLUMNS)
    assert {*columns.series, "provider"} == set(SERIES_COLUMNS)
    assert set(columns.instance) == set(INSTANCE_COLUMNS)
    assert columns.study["patient_id"] is None
    assert columns.study["attributes"] == columns.series["attributes"] == "{}"


def test_values_go_to_their_columns_and_their_level() -> None:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = "Yamada^Tarou=山田^太郎"
    dataset.PatientID = " 12 "
    dataset.StudyDate = "20200131"
    dataset.StudyDescription = ""
    dataset.Modality = "CT"
    dataset.SeriesNumber = "3"
    dataset.Rows = 512
    dataset.BitsAllocated = 16
    dataset.NumberOfFrames = "2"
    columns = columns_of(header_of(dataset))
    assert columns.study["patient_name"] == "Yamada^Tarou=山田^太郎"
    assert columns.study["patient_name_folded"] == "yamada^tarou"
    assert (columns.study["patient_id"], columns.study["study_date"]) == ("12", "20200131")
    assert columns.study["study_description"] is None
    assert (columns.series["modality"], columns.series["series_number"]) == ("CT", "3")
    assert columns.instance["rows"] == 512
    assert columns.instance["columns"] is None
    assert (columns.instance["bits_allocated"], columns.instance["number_of_frames"]) == (16, "2")
    of_study = json.loads(str(columns.study["attributes"]))
    assert list(of_study) == ["00080020", "00081030", "00100010", "00100020"]
    assert of_study["00081030"] == {"vr": "LO"}
    assert list(json.loads(str(columns.series["attributes"]))) == ["00080060", "00200011"]


def test_what_does_not_fit_a_column_is_left_out_of_it_only() -> None:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    with warnings.catch_warnings(action="ignore"):
        dataset.add_new("PatientID", "LO", "x" * (LONGEST_TEXT + 1))
        dataset.add_new("StudyID", "SH", "é" * LONGEST_TEXT)
        dataset.add_new("AccessionNumber", "SH", "\0")
        dataset.add_new("BitsAllocated", "UL", 1 << 31)
        dataset.add_new("Rows", "SS", -1)
        dataset.add_new("Columns", "LO", "many")
    columns = columns_of(header_of(dataset))
    for name in ("patient_id", "study_id", "accession_number"):
        assert columns.study[name] is None
    for name in ("bits_allocated", "rows", "columns"):
        assert columns.instance[name] is None
    assert len(str(columns.study["attributes"])) > 2 * LONGEST_TEXT


@pytest.mark.filterwarnings("ignore")
def test_every_real_file_has_columns(dicom_files: list[Path]) -> None:
    read = 0
    for path in dicom_files:
        try:
            header = scan_bytes(path.read_bytes())
        except ScanError:
            continue
        read += 1
        columns = columns_of(header)
        for level, tags in ((columns.study, PATIENT_STUDY_TAGS), (columns.series, SERIES_TAGS)):
            attributes = json.loads(str(level["attributes"]))
            assert list(attributes) == sorted(attributes)
            whole = json.loads(header.json)
            assert attributes == {
                tag: element for tag, element in whole.items() if int(tag, 16) in tags
            }
    assert read > 0.8 * len(dicom_files)


@given(st.text(st.characters(), max_size=60))
def test_whatever_is_storable_has_no_nul_and_is_unicode(text: str) -> None:
    kept = storable(text)
    if kept is not None:
        assert kept
        assert "\0" not in kept
        assert len(kept.encode()) <= LONGEST_TEXT
    else:
        assert not text.replace("\0", "").strip()


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("SMITH^JOHN", "smith^john"),
        ("Smith^John^^^", "smith^john"),
        ("Smith ^ John ", "smith^john"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "yamada^tarou"),
        ("=山田^太郎", ""),
        ("Müller^Straße", "müller^strasse"),
        ("ＳＭＩＴＨ", "smith"),  # noqa: RUF001 - full width on purpose
        ("^John", "^john"),
        ("SM?TH*", "sm?th*"),
        ("", ""),
    ],
)
def test_names_fold(name: str, folded: str) -> None:  # Q9
    assert fold_name(name) == folded


@given(st.text())
def test_folding_twice_changes_nothing_and_case_does_not_matter(name: str) -> None:
    folded = fold_name(name)
    assert fold_name(folded) == folded
    ascii_only = name.encode("ascii", "ignore").decode()
    assert fold_name(ascii_only.upper()) == fold_name(ascii_only.lower())


def test_a_file_found_by_name_is_read(dicom_file: Callable[[str], Path]) -> None:
    columns = columns_of(scan_bytes(dicom_file("CT_small.dcm").read_bytes()))
    assert columns.study["patient_id"] == "1CT1"
    assert columns.series["modality"] == "CT"
    assert columns.instance["rows"] == 128
