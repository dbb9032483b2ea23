"""DICOM instances made from a real one, each under UIDs of its own."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pydicom
from pydicom.uid import UID


def with_uids(source: Path, study: str, series: str, sop: str) -> bytes:
    """The file's bytes with other UIDs."""
    dataset = pydicom.dcmread(source)
    dataset.StudyInstanceUID = UID(study)
    dataset.SeriesInstanceUID = UID(series)
    dataset.SOPInstanceUID = UID(sop)
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(sop)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def padded(instance: bytes, size: int) -> bytes:
    """The instance with Data Set Trailing Padding of `size` bytes at its end."""
    tag_and_vr = b"\xfc\xff\xfc\xffOB"
    at = instance.rfind(tag_and_vr)
    start = instance if at < 0 else instance[:at]
    return start + tag_and_vr + b"\0\0" + size.to_bytes(4, "little") + bytes(size)


def multipart(parts: Sequence[bytes], boundary: str = "test-boundary") -> tuple[bytes, str]:
    """A multipart/related body of application/dicom parts, and its Content-Type."""
    body = b"".join(
        b"--%s\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % (boundary.encode(), part)
        for part in parts
    )
    content_type = f'multipart/related; type="application/dicom"; boundary={boundary}'
    return body + b"--%s--\r\n" % boundary.encode(), content_type
