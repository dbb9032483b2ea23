"""Finding DICOM files by their content, and what is needed to send each of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from imaging_ingestion.dicom.header import ScanError
from imaging_ingestion.dicom.scan import HeaderScanner

SOP_INSTANCE_UID = 0x00080018
#: SOP Instance UID comes early; a file that has not shown one by here is sent all the same.
_LOOK = 1 << 20  # bytes
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class DicomFile:
    """A file to be sent. `sop_instance_uid` is None if it could not be found in it."""

    path: Path
    size: int
    sop_instance_uid: str | None


@dataclass(frozen=True, slots=True)
class NotSent:
    """A file that is not sent, and why."""

    path: Path
    reason: str


def files_of(paths: Iterable[Path]) -> Iterator[Path]:
    """The files named, and all files in the folders named, in a fixed order."""
    for path in paths:
        if path.is_dir():
            for folder, folders, names in os.walk(path):
                folders.sort()
                yield from (Path(folder) / name for name in sorted(names))
        else:
            yield path


def look_at(path: Path) -> DicomFile | NotSent:
    """Whether a file is DICOM, told from its content."""
    scanner = HeaderScanner()
    uid = None
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            seen = 0
            while seen < _LOOK and (piece := file.read(_PIECE)):
                seen += len(piece)
                scanner.feed(piece)
                uid = scanner.peek(SOP_INSTANCE_UID)
                if uid is not None or scanner.header_complete:
                    break
            else:
                if seen == size:
                    scanner.finish()
    except OSError as error:
        return NotSent(path, error.strerror or str(error))
    except ScanError as error:
        if seen and scanner.is_dicom:
            return DicomFile(path, size, uid)  # broken DICOM: the server says how
        return NotSent(path, f"not DICOM: {error.reason}")
    return DicomFile(path, size, uid)


def sha256_of(path: Path) -> str:
    """The digest of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lanes(files: Iterable[DicomFile]) -> list[list[DicomFile]]:
    """Files that must be sent one after the other, together: those of one SOP Instance UID.

    The order of the files is kept, so that the last one of a lane is the one that stays.
    """
    grouped: dict[str, list[DicomFile]] = {}
    for file in files:
        grouped.setdefault(file.sop_instance_uid or f"path:{file.path}", []).append(file)
    return list(grouped.values())
