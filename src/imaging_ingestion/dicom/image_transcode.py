"""One image of a data set on its way into another transfer syntax, frame by frame."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Final, TypeVar

import msgspec

from imaging_ingestion.dicom.byte_order import WordSwap
from imaging_ingestion.dicom.dataset_convert import DataSetConverter
from imaging_ingestion.dicom.dataset_scan import UNDEFINED
from imaging_ingestion.dicom.element_write import SEQUENCE_DELIMITATION, Edit, ElementWriter
from imaging_ingestion.dicom.fragments import EncapsulatedPixels, Reading
from imaging_ingestion.dicom.frames import (
    Frame,
    FrameBytes,
    ImagePixels,
    NativePixels,
    image_pixels,
    locate_frames,
)
from imaging_ingestion.dicom.header import PIXEL_DATA, Header
from imaging_ingestion.dicom.image_codec import (
    CodecError,
    PixelFormat,
    by_pixel,
    decode_frame,
    encode_frame,
)
from imaging_ingestion.dicom.transfer_syntax import RLE_LOSSLESS, Encoding, is_encapsulated

_SAMPLES_PER_PIXEL: Final = 0x00280002
_PHOTOMETRIC_INTERPRETATION: Final = 0x00280004
_PLANAR_CONFIGURATION: Final = 0x00280006
_ROWS: Final = 0x00280010
_COLUMNS: Final = 0x00280011
_BITS_ALLOCATED: Final = 0x00280100
_BITS_STORED: Final = 0x00280101
_PIXEL_REPRESENTATION: Final = 0x00280103
_OFFSET_TABLES: Final = (0x7FE00001, 0x7FE00002)  # the extended one, and its lengths
_IMAGE_PIXEL: Final = (
    _SAMPLES_PER_PIXEL,
    _PHOTOMETRIC_INTERPRETATION,
    _PLANAR_CONFIGURATION,
    _ROWS,
    _COLUMNS,
    _BITS_ALLOCATED,
    _BITS_STORED,
    _PIXEL_REPRESENTATION,
)
_WORDS: Final = (1, 8, 16, 32, 64)  # Bits Allocated that samples can have here
_LONGEST_VALUE: Final = 0xFFFFFFFE  # bytes of an element of defined length
_LARGEST_OFFSET: Final = 0xFFFFFFFF  # in a Basic Offset Table
_KEY_LENGTH: Final = 8

T = TypeVar("T")


@dataclass(slots=True)
class TranscodedImage:
    """An image and what becomes of it. `data_set` is the path of the data set it is in."""

    data_set: str
    _source: BinaryIO
    _source_uid: str
    _encoder: str | None  # the transfer syntax that it is compressed to
    _pixels: ImagePixels
    _frames: list[Frame]
    _form: PixelFormat  # as it is in the source
    _photometric_interpretation: str = ""  # as it will be
    _first: bytes | None = None  # the first frame, decoded already

    def look_at_first(self) -> None:
        """See what the decoder makes of the first frame's colours. Raises CodecError."""
        self._first, self._photometric_interpretation = self._frame(self._frames[0])

    def edits(self) -> Mapping[int, Edit | None]:
        """The attributes that change with the pixels (W7)."""
        changed: dict[int, Edit | None] = {}
        if isinstance(self._pixels, EncapsulatedPixels):
            changed.update(dict.fromkeys(_OFFSET_TABLES))
        if self._photometric_interpretation != self._form.photometric_interpretation:
            text = self._photometric_interpretation.encode("ascii")
            changed[_PHOTOMETRIC_INTERPRETATION] = Edit("CS", text + b" " * (len(text) % 2))
        if self._form.samples > 1:
            # RLE is by plane (PS3.5 G.2), everything else we write is by pixel.
            planar = int(self._encoder == RLE_LOSSLESS)
            changed[_PLANAR_CONFIGURATION] = Edit("US", struct.pack("<H", planar))
        return changed

    def write(self, converter: DataSetConverter, encoding: Encoding, target: BinaryIO) -> None:
        """Write the element of the pixels. Raises CodecError."""
        writer = ElementWriter(encoding)
        if self._encoder is not None:
            self._write_encapsulated(self._encoder, writer, target)
            return
        for piece in self._native(writer):
            for out in converter.put(piece):
                target.write(out)

    def _native(self, writer: ElementWriter) -> Iterator[bytes]:
        length = (self._form.frame_bits * len(self._frames) + 7) // 8
        padding = length % 2
        if length + padding > _LONGEST_VALUE:
            raise CodecError(f"{length} bytes of pixels are too many for an uncompressed object")
        vr = "OW" if self._form.bits_allocated > 8 else "OB"
        yield writer.head(PIXEL_DATA, vr, length + padding)
        swap = WordSwap(2) if writer.big_endian and vr == "OW" else None
        bits = _BitJoiner(self._form.frame_bits) if self._form.frame_bits % 8 else None
        for frame in self._decoded():
            data = frame if bits is None else bits.receive(frame)
            yield data if swap is None else swap.receive(data)
        if bits is not None:
            yield bits.finish()
        yield b"\0" * padding

    def _write_encapsulated(self, encoder: str, writer: ElementWriter, target: BinaryIO) -> None:
        """PS3.5 A.4, with a Basic Offset Table where there are several frames."""
        form = replace(self._form, photometric_interpretation=self._photometric_interpretation)
        count = len(self._frames) if len(self._frames) > 1 else 0
        target.write(writer.head(PIXEL_DATA, "OB", UNDEFINED) + writer.item(4 * count))
        table = target.tell()
        target.write(bytes(4 * count))
        base = target.tell()
        offsets = []
        for frame in self._decoded():
            codestream = encode_frame(encoder, frame, form)
            codestream += b"\0" * (len(codestream) % 2)
            offsets.append(target.tell() - base)
            target.write(writer.item(len(codestream)) + codestream)
        target.write(writer.delimitation(SEQUENCE_DELIMITATION))
        if count:
            if offsets[-1] > _LARGEST_OFFSET:
                raise CodecError("the frames are too many bytes for a Basic Offset Table")
            end = target.tell()
            target.seek(table)
            target.write(struct.pack(f"<{count}I", *offsets))
            target.seek(end)

    def _decoded(self) -> Iterator[bytes]:
        """The frames, colour by pixel. Raises CodecError."""
        if self._first is not None:
            yield self._first
            self._first = None
        for frame in self._frames[1:]:
            data, photometric = self._frame(frame)
            if photometric != self._photometric_interpretation:
                raise CodecError(f"frame {frame.number} has other colours than the first")
            yield data

    def _frame(self, frame: Frame) -> tuple[bytes, str]:
        """A frame, colour by pixel, and its Photometric Interpretation. Raises CodecError."""
        stored = [self._read(place.offset, place.length) for place in frame.ranges]
        if isinstance(self._pixels, NativePixels):
            made = FrameBytes(frame)
            data = b"".join((*map(made.receive, stored), made.finish()))
            return by_pixel(data, self._form), self._form.photometric_interpretation
        decoded = decode_frame(self._source_uid, b"".join(stored), self._form)
        return decoded.data, decoded.photometric_interpretation

    def _read(self, offset: int, length: int) -> bytes:
        self._source.seek(offset)
        return self._source.read(length)


class _BitJoiner:
    """Puts frames of a number of bits that is no multiple of 8 behind one another (PS3.5 8.1.1)."""

    def __init__(self, frame_bits: int) -> None:
        self._frame_bits = frame_bits
        self._held = 0
        self._held_bits = 0

    def receive(self, frame: bytes) -> bytes:
        """The whole bytes that are ready."""
        value = int.from_bytes(frame, "little") & ((1 << self._frame_bits) - 1)
        self._held |= value << self._held_bits
        self._held_bits += self._frame_bits
        whole = self._held_bits // 8
        ready = (self._held & ((1 << 8 * whole) - 1)).to_bytes(whole, "little")
        self._held >>= 8 * whole
        self._held_bits -= 8 * whole
        return ready

    def finish(self) -> bytes:
        """The last byte, filled up with zeros."""
        return self._held.to_bytes((self._held_bits + 7) // 8, "little")


def image_at(source: BinaryIO, header: Header, path: str, target_uid: str) -> TranscodedImage:
    """The image whose Pixel Data is at `path`. Raises FramesError and CodecError.

    One that is not the data set's own image (an icon) always leaves uncompressed.
    """
    data_set = path[:-_KEY_LENGTH]
    if data_set:
        pixels: ImagePixels = EncapsulatedPixels(
            header.bulk[path].offset, header.transfer_syntax_uid, 1
        )
        form = _format(_nested_attributes(header, data_set))
    else:
        pixels = image_pixels(header)
        form = _format({tag: _value(header, tag) for tag in _IMAGE_PIXEL})
    numbers = range(1, pixels.number_of_frames + 1)
    frames = _answer(source, locate_frames(pixels, numbers))
    encoder = target_uid if is_encapsulated(target_uid) and not data_set else None
    image = TranscodedImage(
        data_set, source, header.transfer_syntax_uid, encoder, pixels, frames, form
    )
    image.look_at_first()
    return image


def _answer(source: BinaryIO, reading: Reading[T]) -> T:
    """What a reading finds in a file."""
    try:
        wanted = next(reading)
        while True:
            source.seek(wanted.offset)
            wanted = reading.send(source.read(wanted.length))
    except StopIteration as stop:
        found: T = stop.value
        return found


def _value(header: Header, tag: int) -> object:
    return header.text(tag) if tag == _PHOTOMETRIC_INTERPRETATION else header.integer(tag)


def _nested_attributes(header: Header, data_set: str) -> dict[int, object]:
    """The first values of the item that `data_set` leads to."""
    keys = data_set.rstrip("/").split("/")
    item: Any = {keys[0]: msgspec.json.decode(header.element_json(int(keys[0], 16)) or b"{}")}
    for key, number in zip(keys[::2], keys[1::2], strict=True):
        item = item[key]["Value"][int(number) - 1]
    return {
        int(key, 16): element["Value"][0] for key, element in item.items() if element.get("Value")
    }


def _format(attributes: Mapping[int, object]) -> PixelFormat:
    """The Image Pixel Module. Raises CodecError."""

    def number(tag: int, default: int | None = None) -> int:
        value = attributes.get(tag)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or value < 0:
            raise CodecError(f"({tag:08X}) of the Image Pixel Module is missing or no number")
        return value

    allocated = number(_BITS_ALLOCATED)
    if allocated not in _WORDS:
        raise CodecError(f"pixels with Bits Allocated {allocated} are not known here")
    samples = number(_SAMPLES_PER_PIXEL, 1)
    photometric = attributes.get(_PHOTOMETRIC_INTERPRETATION)
    return PixelFormat(
        rows=number(_ROWS),
        columns=number(_COLUMNS),
        samples=samples,
        bits_allocated=allocated,
        bits_stored=number(_BITS_STORED, allocated),
        is_signed=number(_PIXEL_REPRESENTATION, 0) == 1,
        photometric_interpretation=str(photometric or ("MONOCHROME2" if samples == 1 else "RGB")),
        planar_configuration=number(_PLANAR_CONFIGURATION, 0),
    )
