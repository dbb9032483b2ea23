"""File meta information that is made here (PS3.10 section 7.1), judged by pydicom."""

from __future__ import annotations

from io import BytesIO

import pydicom
import pytest

from imaging_ingestion.dicom.part10 import (
    BEGINNING,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    PREAMBLE,
    completion,
    file_meta,
)
from imaging_ingestion.dicom.uid import is_uid

CT, SOP, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5", "1.2.840.10008.1.2.1"
DATA_SET = b"\x08\x00\x60\x00CS\x02\x00CT"
META = file_meta(CT, SOP, EXPLICIT)
GROUP_2 = META[len(PREAMBLE) :]


@pytest.mark.parametrize("sop", [SOP, "1.2.3.4.55", "9" * 64])
def test_pydicom_reads_what_is_made(sop: str) -> None:
    read = pydicom.dcmread(BytesIO(file_meta(CT, sop, EXPLICIT) + DATA_SET))
    assert read.Modality == "CT"
    meta = read.file_meta
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID) == (CT, sop)
    assert meta.TransferSyntaxUID == EXPLICIT
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationVersionName == IMPLEMENTATION_VERSION_NAME
    pydicom.dataset.validate_file_meta(meta)
    # The group length is that of what follows it.
    at = len(PREAMBLE) + 12
    assert meta.FileMetaInformationGroupLength == len(file_meta(CT, sop, EXPLICIT)) - at


def test_our_own_identifiers_are_valid() -> None:
    assert is_uid(IMPLEMENTATION_CLASS_UID)
    assert 0 < len(IMPLEMENTATION_VERSION_NAME) <= 16


OWN = b"TIFF" + bytes(124) + b"DICM"


@pytest.mark.parametrize(
    ("stored", "leaves"),
    [
        (META + DATA_SET, META + DATA_SET),
        (OWN + GROUP_2 + DATA_SET, OWN + GROUP_2 + DATA_SET),  # a preamble that means something
        (DATA_SET, META + DATA_SET),
        (GROUP_2 + DATA_SET, META + DATA_SET),
        (b"DICM" + GROUP_2 + DATA_SET, META + DATA_SET),
        (b"DICM" + DATA_SET, META + DATA_SET),
        (OWN + DATA_SET, OWN + GROUP_2 + DATA_SET),
        (DATA_SET + bytes(300), META + DATA_SET + bytes(300)),
    ],
)
def test_an_object_is_completed_to_a_part_10_file(stored: bytes, leaves: bytes) -> None:
    made, skipped = completion(stored[:BEGINNING], CT, SOP, EXPLICIT)
    assert made + stored[skipped:] == leaves
    assert pydicom.dcmread(BytesIO(made + stored[skipped:])).Modality == "CT"
