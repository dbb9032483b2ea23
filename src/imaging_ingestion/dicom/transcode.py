"""A data set into another transfer syntax, pixels and all, losing nothing of what is there.

From file to file, so that no more than a frame is in memory. Pixels that were lossy compressed are
decompressed as they are: what was lost is lost, Lossy Image Compression (0028,2110) goes on saying
so, and nothing more is lost. Their colour space stays what the decoder gives (YBR_FULL from JPEG,
RGB from the reversible and irreversible transforms of JPEG 2000): to convert it would round.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Final, TypeVar

import msgspec

from imaging_ingestion.dicom.byte_order import WordSwap, word_size
from imaging_ingestion.dicom.dataset_convert import DataSetConverter
from imaging_ingestion.dicom.dataset_scan import UNDEFINED, DatasetScanner, ScanLimits
from imaging_ingestion.dicom.element_write import SEQUENCE_DELIMITATION, Edit, ElementWriter
from imaging_ingestion.dicom.fragments import (
    EncapsulatedPixels,
    FramesError,
    OffsetTable,
    Reading,
    UndividedFramesError,
)
from imaging_ingestion.dicom.frames import FrameBytes, ImagePixels, NativePixels, locate_frames
from imaging_ingestion.dicom.header import PIXEL_DATA, BulkRange, Header, ScanError
from imaging_ingestion.dicom.image_codec import (
    CodecError,
    PixelFormat,
    by_pixel,
    can_decode,
    can_encode,
    decode_frame,
    encode_frame,
)
from imaging_ingestion.dicom.reencode import Changes, Hole
from imaging_ingestion.dicom.transfer_syntax import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    RLE_LOSSLESS,
    encoding_of,
    is_encapsulated,
)

_PIECE: Final = 1 << 20  # bytes
_PIXELS: Final = "7FE00010"
_SAMPLES_PER_PIXEL: Final = 0x00280002
_PHOTOMETRIC_INTERPRETATION: Final = 0x00280004
_PLANAR_CONFIGURATION: Final = 0x00280006
_NUMBER_OF_FRAMES: Final = 0x00280008
_ROWS: Final = 0x00280010
_COLUMNS: Final = 0x00280011
_BITS_ALLOCATED: Final = 0x00280100
_BITS_STORED: Final = 0x00280101
_PIXEL_REPRESENTATION: Final = 0x00280103
_EXTENDED_OFFSET_TABLE: Final = 0x7FE00001
_EXTENDED_OFFSET_TABLE_LENGTHS: Final = 0x7FE00002
_LONGEST_VALUE: Final = 0xFFFFFFFE  # bytes of an element of defined length

T = TypeVar("T")


class TranscodeError(ValueError):
    """The data set cannot be brought into that transfer syntax; the message says why."""


def transcode(source: BinaryIO, source_uid: str, target: BinaryIO, target_uid: str) -> None:
    """Write the data set in `source`, a file that can be sought, to `target`.

    Raises TranscodeError, and OSError of the files.
    """
    try:
        if is_encapsulated(source_uid) or source_uid == EXPLICIT_VR_LITTLE_ENDIAN:
            _transcode(source, source_uid, target, target_uid)
            return
        # One encoding to look at pixels in, so that their places are places in a file.
        with tempfile.TemporaryFile() as plain:
            _convert(source, DataSetConverter(source_uid, EXPLICIT_VR_LITTLE_ENDIAN), plain)
            _transcode(plain, EXPLICIT_VR_LITTLE_ENDIAN, target, target_uid)
    except (ScanError, FramesError, CodecError) as error:
        raise TranscodeError(str(error)) from error


def _transcode(source: BinaryIO, source_uid: str, target: BinaryIO, target_uid: str) -> None:
    header = _scan(source, source_uid)
    images = {}
    for path, value in header.bulk.items():
        if value.encapsulated:
            if not path.endswith(_PIXELS):
                raise TranscodeError(f"({path}) is encapsulated, and no Pixel Data")
            images[path] = _image(source, header, path, target_uid)
        elif path == _PIXELS and is_encapsulated(target_uid):
            images[path] = _image(source, header, path, target_uid)
    changes = Changes({i.data_set: i.edits() for i in images.values()}, frozenset(images))
    converter = DataSetConverter(source_uid, target_uid, changes)
    writer = ElementWriter(encoding_of(target_uid))
    source.seek(0)
    for piece in _pieces(source, converter):
        if isinstance(piece, Hole):
            # The holes' frames are read from elsewhere in the same file.
            at = source.tell()
            images[piece.path].write(converter, writer, target)
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


def _convert(source: BinaryIO, converter: DataSetConverter, target: BinaryIO) -> None:
    source.seek(0)
    for piece in _pieces(source, converter):
        assert not isinstance(piece, Hole)
        target.write(piece)
