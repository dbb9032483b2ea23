"""A data set into another transfer syntax, pixels and all, losing nothing of what is there.

From file to file, so that no more than a frame is in memory. Pixels that were lossy compressed are
decompressed as they are: what was lost is lost, Lossy Image Compression (0028,2110) goes on saying
so, and nothing more is lost. Their colour space stays what the decoder gives (YBR_FULL from JPEG,
RGB from the reversible and irreversible transforms of JPEG 2000): to convert it would round.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import BinaryIO, Final

from imaging_ingestion.dicom.dataset_convert import DataSetConverter
from imaging_ingestion.dicom.dataset_scan import DatasetScanner, ScanLimits
from imaging_ingestion.dicom.fragments import FramesError
from imaging_ingestion.dicom.header import Header, ScanError
from imaging_ingestion.dicom.image_codec import (
    JPEG_2000_LOSSLESS,
    CodecError,
    can_decode,
    can_encode,
)
from imaging_ingestion.dicom.image_transcode import TranscodedImage, image_at
from imaging_ingestion.dicom.reencode import Changes, Hole
from imaging_ingestion.dicom.transfer_syntax import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    RLE_LOSSLESS,
    encoding_of,
    is_encapsulated,
)

_PIECE: Final = 1 << 20  # bytes
_PIXELS: Final = "7FE00010"
#: Uncompressed, the most wanted first: every reader knows the first two.
NATIVE: Final = (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
)
#: Compressed losslessly, where a peer takes nothing else.
_COMPRESSED: Final = (RLE_LOSSLESS, JPEG_2000_LOSSLESS)


class TranscodeError(ValueError):
    """The data set cannot be brought into that transfer syntax; the message says why."""


def targets(transfer_syntax_uid: str) -> tuple[str, ...]:
    """What data sets of that transfer syntax can be brought into here, the best first."""
    if transfer_syntax_uid not in NATIVE and not can_decode(transfer_syntax_uid):
        return ()
    possible = (*NATIVE, *(uid for uid in _COMPRESSED if can_encode(uid)))
    return tuple(uid for uid in possible if uid != transfer_syntax_uid)


def transcode(source: BinaryIO, source_uid: str, target: BinaryIO, target_uid: str) -> None:
    """Write the data set in `source` to `target`; both are files that can be sought.

    Raises TranscodeError, and OSError of the files.
    """
    if target_uid not in targets(source_uid):
        raise TranscodeError(f"no way leads from transfer syntax {source_uid} to {target_uid}")
    try:
        if is_encapsulated(source_uid) or source_uid == EXPLICIT_VR_LITTLE_ENDIAN:
            _transcode(source, source_uid, target, target_uid)
            return
        # One encoding to look at pixels in, so that their places are places in a file.
        with tempfile.TemporaryFile() as plain:
            source.seek(0)
            for piece in _pieces(source, DataSetConverter(source_uid, EXPLICIT_VR_LITTLE_ENDIAN)):
                assert not isinstance(piece, Hole)
                plain.write(piece)
            _transcode(plain, EXPLICIT_VR_LITTLE_ENDIAN, target, target_uid)
    except (ScanError, FramesError, CodecError) as error:
        raise TranscodeError(str(error)) from error


def _transcode(source: BinaryIO, source_uid: str, target: BinaryIO, target_uid: str) -> None:
    header = _scan(source, source_uid)
    images: dict[str, TranscodedImage] = {}
    for path, value in header.bulk.items():
        # Icons and the like may stay uncompressed in a compressed object (PS3.5 A.4).
        if value.encapsulated or (path == _PIXELS and is_encapsulated(target_uid)):
            if not path.endswith(_PIXELS):
                raise TranscodeError(f"({path}) is encapsulated, and no Pixel Data")
            images[path] = image_at(source, header, path, target_uid)
    changes = Changes(
        {image.data_set: image.edits() for image in images.values()}, frozenset(images)
    )
    converter = DataSetConverter(source_uid, target_uid, changes)
    source.seek(0)
    for piece in _pieces(source, converter):
        if isinstance(piece, Hole):
            at = source.tell()  # its frames are read from elsewhere in the same file
            images[piece.path].write(converter, encoding_of(target_uid), target)
            source.seek(at)
        else:
            target.write(piece)


def _scan(source: BinaryIO, source_uid: str) -> Header:
    scanner = DatasetScanner(encoding_of(source_uid), ScanLimits(), 0)
    source.seek(0)
    while piece := source.read(_PIECE):
        scanner.receive(piece)
    elements = scanner.finish()
    return Header(
        transfer_syntax_uid=source_uid,
        has_preamble=False,
        has_file_meta=False,
        dataset_offset=0,
        media_storage_sop_class_uid=None,
        media_storage_sop_instance_uid=None,
        elements=elements,
        raw=scanner.raw,
        bulk=scanner.bulk,
        charset=scanner.charset,
        big_endian=scanner.big_endian,
        warnings=(),
    )


def _pieces(source: BinaryIO, converter: DataSetConverter) -> Iterator[bytes | memoryview | Hole]:
    while data := source.read(_PIECE):
        yield from converter.feed(data)
    yield from converter.finish()
