"""CT instances for load: one real CT image under as many SOP Instance UIDs as wanted.

Each instance is the same bytes but for its UIDs, kept as slices around them, so that a client can
send any number without holding or copying them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.uid import UID

CT_NAME = "CTImage.dcm_LittleEndianExplicitTransferSyntax_1.2.840.10008.1.2.1.dcm"
BOUNDARY = b"imaging-ingestion-benchmark-boundary"
PART_HEAD = b"\r\n--" + BOUNDARY + b"\r\nContent-Type: application/dicom\r\n\r\n"
CLOSE = b"\r\n--" + BOUNDARY + b"--\r\n"
UID_LENGTH = 50


def shared_dicom() -> Path:
    """The folder of real DICOM files beside the repository (or IMAGING_INGESTION_TEST_DICOM)."""
    named = os.environ.get("IMAGING_INGESTION_TEST_DICOM")
    return Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "dicom"


@dataclass(frozen=True, slots=True)
class Template:
    """A CT instance cut at its UIDs: `pieces` alternate with the kinds in `slots`."""

    pieces: tuple[bytes, ...]
    slots: tuple[str, ...]

    def instance(self, study: int, series: int, number: int) -> list[bytes]:
        """The buffers of one instance, to be sent one after the other."""
        uids = {
            "study": uid(study, 0, 0),
            "series": uid(study, series, 0),
            "sop": uid(study, series, number),
        }
        buffers = [self.pieces[0]]
        for slot, piece in zip(self.slots, self.pieces[1:], strict=True):
            buffers += (uids[slot], piece)
        return buffers

    @property
    def size(self) -> int:
        """Bytes of one instance."""
        return sum(map(len, self.pieces)) + UID_LENGTH * len(self.slots)


def uid(study: int, series: int, number: int) -> bytes:
    """A valid UID of exactly UID_LENGTH characters."""
    return f"1.2.826.0.1.3680043.8.498.1{study:06d}.1{series:04d}.1{number:08d}".ljust(
        UID_LENGTH, "7"
    ).encode()


def ct_template(name: str = CT_NAME) -> Template:
    """A real CT image of the collection, cut at its UIDs: 512 x 512 (531 KB), or another file."""
    file_found = next(shared_dicom().rglob(name), None)
    if file_found is None:
        raise SystemExit(f"{name} is not in {shared_dicom()}")
    dataset = pydicom.dcmread(file_found)
    marks = {
        "study": uid(999999, 0, 0),
        "series": uid(999999, 9999, 0),
        "sop": uid(999999, 9999, 9),
    }
    dataset.StudyInstanceUID = UID(marks["study"].decode())
    dataset.SeriesInstanceUID = UID(marks["series"].decode())
    dataset.SOPInstanceUID = UID(marks["sop"].decode())
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    data = file.getvalue()
    found = sorted((at, slot) for slot, mark in marks.items() for at in _every(data, mark))
    pieces, slots, position = [], [], 0
    for at, slot in found:
        pieces.append(data[position:at])
        slots.append(slot)
        position = at + UID_LENGTH
    pieces.append(data[position:])
    return Template(tuple(pieces), tuple(slots))


def request_buffers(template: Template, numbers: Sequence[tuple[int, int, int]]) -> list[bytes]:
    """The multipart body of one STOW request with the given (study, series, number) instances."""
    buffers: list[bytes] = []
    for study, series, number in numbers:
        buffers.append(PART_HEAD)
        buffers += template.instance(study, series, number)
    buffers.append(CLOSE)
    return buffers


def _every(data: bytes, mark: bytes) -> list[int]:
    places, at = [], data.find(mark)
    while at >= 0:
        places.append(at)
        at = data.find(mark, at + 1)
    return places
