"""Finding DICOM files by their content, and what is needed to send each of them."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from imaging_ingestion.dicom.header import ScanError
from imaging_ingestion.dicom.scan import HeaderScanner

SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
#: SOP Instance UID comes early; a file that has not shown one by here is sent all the same.
_LOOK = 1 << 20  # bytes
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class DicomFile:
    """A file to be sent, as it was when it was looked at.

    UIDs are None if they could not be found in it. `data_set_offset`: bytes before its data set.
    """

    path: Path
    size: int
    mtime_ns: int
    sop_instance_uid: str | None
    sop_class_uid: str | None = None
    transfer_syntax_uid: str | None = None
    data_set_offset: int = 0


@dataclass(frozen=True, slots=True)
class NotSent:
    """A file that is not sent, and why: it is not DICOM, or it could not be read (`failed`)."""

    path: Path
    reason: str
    failed: bool = False


def files_of(paths: Iterable[Path]) -> Iterator[Path | NotSent]:
    """The files named, and all files in the folders named, in a fixed order.

    Links are followed; a folder that is reached twice, by a loop of links for one, is read once.
    """
    seen: set[tuple[int, int]] = set()
    for named in paths:
        todo = [named]
        while todo:
            path = todo.pop()
            try:
                status = path.stat()
                if stat.S_ISREG(status.st_mode):
                    yield path
                elif stat.S_ISDIR(status.st_mode):
                    if (status.st_dev, status.st_ino) not in seen:
                        seen.add((status.st_dev, status.st_ino))
                        # Files before folders, each by name; the last that is pushed comes first.
                        todo += sorted(path.iterdir(), key=_place_in_folder, reverse=True)
                else:
                    yield NotSent(path, "neither a file nor a folder")
            except OSError as error:
                yield NotSent(path, error.strerror or str(error), failed=True)


def _place_in_folder(path: Path) -> tuple[bool, str]:
    return path.is_dir(), path.name


def look_at(path: Path) -> DicomFile | NotSent:
    """Whether a file is DICOM, told from its content."""
    scanner = HeaderScanner()
    uid = None
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            seen = 0
            while seen < _LOOK and (piece := file.read(_PIECE)):
                seen += len(piece)
                scanner.feed(piece)
                uid = scanner.peek(SOP_INSTANCE_UID)
                if uid is not None or scanner.header_complete:
                    break
            else:
                if seen == status.st_size:
                    scanner.finish()
    except OSError as error:
        return NotSent(path, error.strerror or str(error), failed=True)
    except ScanError as error:
        if not scanner.is_dicom:
            return NotSent(path, error.reason)
        # Broken DICOM: the server says how.
    try:
        header = scanner.header_so_far()
    except ScanError:  # there is no data set in it
        return DicomFile(path, status.st_size, status.st_mtime_ns, uid)
    return DicomFile(
        path,
        status.st_size,
        status.st_mtime_ns,
        uid,
        scanner.peek(SOP_CLASS_UID) or header.media_storage_sop_class_uid,
        header.transfer_syntax_uid,
        header.dataset_offset,
    )


def sha256_of(path: Path) -> str:
    """The digest of a file's bytes, hexadecimal. Raises OSError."""
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
