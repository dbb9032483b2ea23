"""Where the frames of an image are in its object, and how their bytes leave (PS3.5 section 8).

Native frames are found by arithmetic, encapsulated ones by `dicom.fragments`. Both are pure: see
there for what a `Reading` is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from imaging_ingestion.dicom.byte_order import WordSwap, word_size
from imaging_ingestion.dicom.fragments import (
    ByteRange,
    EncapsulatedPixels,
    FramesError,
    OffsetTable,
    Ranges,
    Reading,
    UndividedFramesError,
    locate_codestreams,
)
from imaging_ingestion.dicom.header import BulkRange, Header

_ROWS = 0x00280010
_COLUMNS = 0x00280011
_SAMPLES_PER_PIXEL = 0x00280002
_PHOTOMETRIC_INTERPRETATION = 0x00280004
_NUMBER_OF_FRAMES = 0x00280008
_BITS_ALLOCATED = 0x00280100
_EXTENDED_OFFSET_TABLE = 0x7FE00001
_EXTENDED_OFFSET_TABLE_LENGTHS = 0x7FE00002

#: Of one instance. An hour of cine at 30 frames/s has 108,000; tables of a million are 12 MiB.
FRAMES_LIMIT = 1 << 20
#: Samples of two pixels that subsampled native Pixel Data keeps (PS3.3 C.7.6.3.1.2).
_SUBSAMPLED = {"YBR_FULL_422": 4, "YBR_PARTIAL_422": 4, "YBR_PARTIAL_420": 3}


class NotAnImageError(FramesError):
    """The instance has no frames."""


class NoSuchFrameError(FramesError):
    """A frame number above the number of frames."""


@dataclass(frozen=True, slots=True)
class NativePixels:
    """Uncompressed Pixel Data: frames follow one another without padding (PS3.5 8.1.1)."""

    value: BulkRange
    number_of_frames: int
    frame_bits: int
    word: int  # bytes of the words that are to be swapped to little endian; 1: none


ImagePixels = NativePixels | EncapsulatedPixels


@dataclass(frozen=True, slots=True)
class Frame:
    """Where one frame is, and what has to be done to its bytes (see `FrameBytes`)."""

    number: int  # from 1; 0 for a stream that is not divided
    ranges: Ranges
    length: int  # bytes, as it leaves
    word: int = 1
    skipped: int = 0  # bytes before it in the first range, which begins at a word
    first_bit: int = 0  # of the first byte, for pixels packed across bytes
    last_bits: int = 8  # that count in the last byte


def image_pixels(header: Header) -> ImagePixels:
    """The image in an instance whose header has been read up to Pixel Data.

    Raises NotAnImageError: there is none, or the Image Pixel Module (PS3.3 C.7.6.3) is not usable.
    """
    value = header.pixel_data
    if value is None:
        raise NotAnImageError("the instance has no Pixel Data")
    frames = header.integer(_NUMBER_OF_FRAMES) if header.text(_NUMBER_OF_FRAMES) else 1
    if frames is None or not 1 <= frames <= FRAMES_LIMIT:
        raise NotAnImageError(f"Number of Frames is not a number from 1 to {FRAMES_LIMIT}")
    if value.length is None:
        return EncapsulatedPixels(
            value.offset,
            header.transfer_syntax_uid,
            frames,
            _table(header, _EXTENDED_OFFSET_TABLE),
            _table(header, _EXTENDED_OFFSET_TABLE_LENGTHS),
        )
    rows, columns = header.integer(_ROWS), header.integer(_COLUMNS)
    bits = header.integer(_BITS_ALLOCATED)
    samples = header.integer(_SAMPLES_PER_PIXEL) or 1
    if not rows or not columns or not bits or min(rows, columns, bits, samples) < 0:
        raise NotAnImageError("Rows, Columns or Bits Allocated is missing")
    frame_bits = rows * columns * samples * bits
    kept = _SUBSAMPLED.get(header.text(_PHOTOMETRIC_INTERPRETATION) or "")
    # Some writers name a subsampled colour space and keep every sample: the length decides.
    if kept and samples == 3 and value.length * 8 < frames * frame_bits:
        frame_bits = rows * columns * kept * bits // 2
    word = word_size(value.vr) if header.big_endian else 1
    return NativePixels(value, frames, frame_bits, word)


def locate_frames(pixels: ImagePixels, numbers: Sequence[int]) -> Reading[list[Frame]]:
    """Find the frames of these numbers (from 1, in any order).

    Raises NoSuchFrameError and UndividedFramesError.
    """
    for number in numbers:
        if not 1 <= number <= pixels.number_of_frames:
            raise NoSuchFrameError(
                f"there is no frame {number}: the instance has {pixels.number_of_frames}"
            )
    if isinstance(pixels, NativePixels):
        return [_native_frame(pixels, number) for number in numbers]
    codestreams = yield from locate_codestreams(pixels, numbers)
    return [
        Frame(number, ranges, sum(part.length for part in ranges))
        for number, ranges in zip(numbers, codestreams, strict=True)
    ]


class FrameBytes:
    """Makes a frame's bytes as they leave from the bytes of its ranges, in pieces of any size.

    Words are turned to little endian, and a frame that begins within a byte (Bits Allocated 1,
    PS3.5 8.1.1) is moved to begin with one; the bits after its end are zero.
    """

    def __init__(self, frame: Frame) -> None:
        self._swap = WordSwap(frame.word) if frame.word > 1 else None
        self._skip = frame.skipped
        self._shift = frame.first_bit
        self._packed = frame.first_bit > 0 or frame.last_bits < 8
        self._mask = (1 << frame.last_bits) - 1
        self._left = frame.length
        self._carry = b""

    def receive(self, piece: bytes) -> bytes:
        """The bytes that are ready once `piece` has come."""
        return self._put(piece if self._swap is None else self._swap.receive(piece))

    def finish(self) -> bytes:
        """The last bytes. Raises UndividedFramesError if the ranges were too short."""
        rest = self._put(self._swap.finish()) if self._swap is not None else b""
        if self._left and self._carry:
            rest += self._cut(bytes((self._carry[0] >> self._shift,)))
        if self._left:
            raise UndividedFramesError(f"{self._left} bytes of a frame are missing")
        return rest

    def _put(self, piece: bytes) -> bytes:
        if self._skip:
            skipped = min(self._skip, len(piece))
            self._skip -= skipped
            piece = piece[skipped:]
        if not self._packed:
            return self._cut(piece)
        bits = self._carry + piece
        if len(bits) < 2:
            self._carry = bits
            return b""
        # The last byte waits: the next one's lower bits may become its upper ones.
        self._carry = bits[-1:]
        shifted = int.from_bytes(bits, "little") >> self._shift
        return self._cut(shifted.to_bytes(len(bits), "little")[:-1])

    def _cut(self, piece: bytes) -> bytes:
        piece = piece[: self._left]
        self._left -= len(piece)
        if not self._left and piece and self._packed:
            piece = piece[:-1] + bytes((piece[-1] & self._mask,))
        return piece


def _native_frame(pixels: NativePixels, number: int) -> Frame:
    value = pixels.value
    assert value.length is not None
    first = (number - 1) * pixels.frame_bits
    stop = (first + pixels.frame_bits + 7) // 8
    start = first // 8
    if stop > value.length:
        raise UndividedFramesError(
            f"Pixel Data of {value.length} bytes ends before frame {number}, which ends at {stop}"
        )
    aligned = start - start % pixels.word
    end = min(stop + -stop % pixels.word, value.length)
    return Frame(
        number,
        (ByteRange(value.offset + aligned, end - aligned),),
        (pixels.frame_bits + 7) // 8,
        pixels.word,
        start - aligned,
        first % 8,
        (pixels.frame_bits - 1) % 8 + 1,
    )


def _table(header: Header, tag: int) -> OffsetTable | None:
    return header.bulk.get(f"{tag:08X}") or header.raw.get(tag) or None
