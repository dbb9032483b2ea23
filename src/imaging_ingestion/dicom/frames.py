"""Where the frames of Pixel Data are in an object (PS3.5 section 8 and annex A.4).

Pure: what has to be looked at is asked for as byte ranges. `locate_frames` is a generator that yields
a `ByteRange`, is sent its bytes (fewer only at the end of the object), and returns `Frame`s. So
frame N of an object of any size costs a few small reads, and never a walk if there is an offset table.

How frames are told apart in encapsulated Pixel Data, the first that holds:

1. one frame: every fragment belongs to it;
2. an Extended Offset Table (PS3.3 C.7.6.3.1.8), then a Basic Offset Table that has an entry for every
   frame, grows, and points at items;
3. as many fragments as frames: one each;
4. as many fragments that begin like a codestream as frames (SOI, SOC, an RLE header, …): a frame
   begins at each; if all fragments begin so, each is a frame.

Anything else is refused: to guess would be to show the wrong pixels.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from imaging_ingestion.dicom.byte_order import WordSwap, word_size
from imaging_ingestion.dicom.header import BulkRange, Header
from imaging_ingestion.dicom.transfer_syntax import RLE_LOSSLESS, frame_media_type

_ROWS = 0x00280010
_COLUMNS = 0x00280011
_SAMPLES_PER_PIXEL = 0x00280002
_PHOTOMETRIC_INTERPRETATION = 0x00280004
_NUMBER_OF_FRAMES = 0x00280008
_BITS_ALLOCATED = 0x00280100
_EXTENDED_OFFSET_TABLE = 0x7FE00001
_EXTENDED_OFFSET_TABLE_LENGTHS = 0x7FE00002

_ITEM = 0xFFFEE000
_SEQUENCE_DELIMITATION = 0xFFFEE0DD
_ITEM_HEAD = struct.Struct("<HHI")
_HEAD = 8  # bytes of an item's tag and length
#: Memory and time a hostile object may cost. An hour of cine at 30 frames/s is 108,000.
FRAMES_LIMIT = 1 << 20
FRAGMENTS_LIMIT = 1 << 20

#: Read at once while walking fragments: little if they are large, more if many fit.
_SMALL_WINDOW = 64
_LARGE_WINDOW = 1 << 18
_MARKER = 12  # bytes looked at to see whether a codestream begins
_STARTS = (
    b"\xff\xd8\xff",  # JPEG and JPEG-LS: SOI and the next marker
    b"\xff\x4f\xff\x51",  # JPEG 2000 and HTJ2K: SOC, SIZ
    b"\xff\x0a",  # JPEG XL codestream
    b"\x00\x00\x00\x0cJXL \x0d\x0a\x87\x0a",  # JPEG XL file
    b"\x00\x00\x00\x0cjP  \x0d\x0a\x87\x0a",  # JP2 file
)
#: Samples of a pixel, times two, that native Pixel Data keeps (PS3.3 C.7.6.3.1.2).
_SUBSAMPLED = {"YBR_FULL_422": 4, "YBR_PARTIAL_422": 4, "YBR_PARTIAL_420": 3}
_END_OF_CODESTREAM_PADDED = b"\xff\xd9\x00"  # EOI or EOC, then the byte that makes it even

T = TypeVar("T")


class FramesError(ValueError):
    """Frames cannot be had; the message says why, without patient data."""


class NotAnImageError(FramesError):
    """The instance has no frames."""


class NoSuchFrameError(FramesError):
    """A frame number above the number of frames."""


class UndividedFramesError(FramesError):
    """There is Pixel Data, but where its frames begin and end cannot be told."""


class ByteRange(NamedTuple):
    """`length` bytes from `offset` of the object (of the inflated data set if it is deflated)."""

    offset: int
    length: int


#: Yields the ranges it must see, is sent their bytes, returns its result.
Reading = Generator[ByteRange, bytes, T]


@dataclass(frozen=True, slots=True)
class ImagePixels:
    """What has to be known of an image to find its frames."""

    transfer_syntax_uid: str
    value: BulkRange
    number_of_frames: int
    frame_bits: int  # of a native frame; 0 if encapsulated
    word: int  # bytes of the words to be swapped to little endian; 1: none
    offset_table: BulkRange | bytes | None = None  # Extended Offset Table
    length_table: BulkRange | bytes | None = None

    @property
    def encapsulated(self) -> bool:
        """Whether frames are codestreams in fragments."""
        return self.value.length is None


@dataclass(frozen=True, slots=True)
class Frame:
    """Where one frame is, and what has to be done to its bytes (see `FrameBytes`)."""

    number: int  # from 1; 0 if it is the whole stream of a video
    ranges: tuple[ByteRange, ...]
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
        return ImagePixels(
            header.transfer_syntax_uid,
            value,
            frames,
            0,
            1,
            _table(header, _EXTENDED_OFFSET_TABLE),
            _table(header, _EXTENDED_OFFSET_TABLE_LENGTHS),
        )
    rows, columns = header.integer(_ROWS), header.integer(_COLUMNS)
    bits = header.integer(_BITS_ALLOCATED)
    samples = header.integer(_SAMPLES_PER_PIXEL) or 1
    if not rows or not columns or not bits or min(rows, columns, bits, samples) < 0:
        raise NotAnImageError("Rows, Columns or Bits Allocated is missing")
    frame_bits = rows * columns * samples * bits
    halves = _SUBSAMPLED.get(header.text(_PHOTOMETRIC_INTERPRETATION) or "")
    # Some writers name a subsampled colour space and keep every sample: the length decides.
    if halves and samples == 3 and value.length * 8 < frames * frame_bits:
        frame_bits = rows * columns * halves * bits // 2
    word = word_size(value.vr) if header.big_endian else 1
    return ImagePixels(header.transfer_syntax_uid, value, frames, frame_bits, word)


def locate_frames(pixels: ImagePixels, numbers: Sequence[int]) -> Reading[list[Frame]]:
    """Find the frames of these numbers (from 1, any order).

    Raises NoSuchFrameError and UndividedFramesError.
    """
    for number in numbers:
        if not 1 <= number <= pixels.number_of_frames:
            raise NoSuchFrameError(
                f"there is no frame {number}: the instance has {pixels.number_of_frames}"
            )
    if not pixels.encapsulated:
        return [_native_frame(pixels, number) for number in numbers]
    if pixels.number_of_frames == 1:
        fragments = yield from _walk(pixels.value.offset)
        ranges = _joined(fragments, 0, len(fragments.offsets))
        frame = yield from _trimmed(pixels, 1, ranges)
        return [frame] * len(numbers)
    if frame_media_type(pixels.transfer_syntax_uid).startswith("video/"):
        raise UndividedFramesError("the frames of a video stream cannot be taken apart")
    found = yield from _from_extended_offset_table(pixels, numbers)
    if found is None:
        found = yield from _from_basic_offset_table(pixels, numbers)
    if found is None:
        fragments = yield from _walk(pixels.value.offset)
        firsts = _first_fragments(pixels, fragments)
        found = []
        for number in numbers:
            ranges = _joined(fragments, firsts[number - 1], firsts[number])
            found.append((yield from _trimmed(pixels, number, ranges)))
    return found


def locate_stream(pixels: ImagePixels) -> Reading[Frame]:
    """Every fragment of encapsulated Pixel Data as one frame of number 0: a video.

    Raises UndividedFramesError.
    """
    fragments = yield from _walk(pixels.value.offset)
    ranges = _joined(fragments, 0, len(fragments.offsets))
    return Frame(0, ranges, sum(part.length for part in ranges))


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
        if self._swap is not None:
            piece = self._swap.receive(piece)
        return self._put(piece)

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
        # The last byte waits: its upper bits may belong to it, and its lower ones to the one before.
        self._carry = bits[-1:]
        shifted = int.from_bytes(bits, "little") >> self._shift
        return self._cut(shifted.to_bytes(len(bits), "little")[:-1])

    def _cut(self, piece: bytes) -> bytes:
        piece = piece[: self._left]
        self._left -= len(piece)
        if not self._left and piece and self._packed:
            piece = piece[:-1] + bytes((piece[-1] & self._mask,))
        return piece


def _native_frame(pixels: ImagePixels, number: int) -> Frame:
    value = pixels.value
    assert value.length is not None
    first = (number - 1) * pixels.frame_bits
    last = first + pixels.frame_bits  # behind it
    start, stop = first // 8, (last + 7) // 8
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


class _Fragments:
    """The places of all fragments, and which of them begin like a codestream."""

    def __init__(self) -> None:
        self.offsets = array("Q")
        self.lengths = array("L")
        self.starts = bytearray()


class _Window:
    """The bytes around the place being looked at."""

    def __init__(self) -> None:
        self._offset = 0
        self._bytes = b""
        self._size = _SMALL_WINDOW

    def see(self, offset: int, length: int) -> Reading[bytes]:
        """`length` bytes from `offset`, fewer at the end of the object."""
        at = offset - self._offset
        if at < 0 or at + length > len(self._bytes):
            near = 0 <= at <= _LARGE_WINDOW
            self._size = _LARGE_WINDOW if near and self._bytes else _SMALL_WINDOW
            self._bytes = yield ByteRange(offset, max(length, self._size))
            self._offset = offset
            at = 0
        return self._bytes[at : at + length]

    def item(self, offset: int) -> Reading[tuple[int, int, bytes]]:
        """Tag and length of the item at `offset`, and the first bytes of its value."""
        head = yield from self.see(offset, _HEAD + _MARKER)
        if len(head) < _HEAD:
            raise UndividedFramesError("the object ends in the middle of Pixel Data")
        group, element, length = _ITEM_HEAD.unpack_from(head)
        return group << 16 | element, length, head[_HEAD : _HEAD + min(length, _MARKER)]


def _walk(offset: int) -> Reading[_Fragments]:
    """Every fragment of the encapsulated value that begins at `offset` with the offset table."""
    window = _Window()
    fragments = _Fragments()
    tag, length, _ = yield from window.item(offset)
    if tag != _ITEM:
        raise UndividedFramesError("Pixel Data does not begin with an offset table")
    offset += _HEAD + length
    while True:
        tag, length, first = yield from window.item(offset)
        if tag == _SEQUENCE_DELIMITATION:
            return fragments
        if tag != _ITEM:
            raise UndividedFramesError(f"({tag:08X}) stands where a fragment should")
        if len(fragments.offsets) == FRAGMENTS_LIMIT:
            raise UndividedFramesError(f"there are more than {FRAGMENTS_LIMIT} fragments")
        fragments.offsets.append(offset + _HEAD)
        fragments.lengths.append(length)
        fragments.starts.append(_begins_codestream(first))
        offset += _HEAD + length


def _first_fragments(pixels: ImagePixels, fragments: _Fragments) -> Sequence[int]:
    """The index of each frame's first fragment, and one more where the last one ends."""
    frames, count = pixels.number_of_frames, len(fragments.offsets)
    starts = fragments.starts.count(1)
    if count == frames or (count > frames and starts == count):
        return range(frames + 1)
    if starts == frames and fragments.starts[0]:
        return [i for i, begins in enumerate(fragments.starts) if begins] + [count]
    raise UndividedFramesError(
        f"{frames} frames lie in {count} fragments, {starts} of which begin a codestream, "
        "and no offset table says where the frames begin"
    )


def _from_basic_offset_table(
    pixels: ImagePixels, numbers: Sequence[int]
) -> Reading[list[Frame] | None]:
    """The frames as the Basic Offset Table says; None if there is none, or it is wrong."""
    frames = pixels.number_of_frames
    window = _Window()
    tag, length, _ = yield from window.item(pixels.value.offset)
    if tag != _ITEM or length != 4 * frames:
        return None
    table = yield ByteRange(pixels.value.offset + _HEAD, length)
    if len(table) != length:
        return None
    offsets = struct.unpack(f"<{frames}I", table)
    if offsets[0] != 0 or not _grows(offsets):
        return None
    base = pixels.value.offset + _HEAD + length
    found = []
    for number in numbers:
        end = base + offsets[number] if number < frames else None
        ranges = yield from _fragments_between(window, base + offsets[number - 1], end)
        if ranges is None:
            return None
        found.append((yield from _trimmed(pixels, number, ranges)))
    return found


def _from_extended_offset_table(
    pixels: ImagePixels, numbers: Sequence[int]
) -> Reading[list[Frame] | None]:
    """The frames as the Extended Offset Table says: one fragment each, of the length given."""
    frames = pixels.number_of_frames
    if pixels.offset_table is None:
        return None
    offsets = yield from _entries(pixels.offset_table, frames)
    lengths = None
    if pixels.length_table is not None:
        lengths = yield from _entries(pixels.length_table, frames)
    if offsets is None or offsets[0] != 0 or not _grows(offsets):
        return None
    window = _Window()
    tag, length, _ = yield from window.item(pixels.value.offset)
    if tag != _ITEM:
        return None
    base = pixels.value.offset + _HEAD + length
    found = []
    for number in numbers:
        offset = base + offsets[number - 1]
        tag, length, _ = yield from window.item(offset)
        if tag != _ITEM or (number < frames and offset + _HEAD + length != base + offsets[number]):
            return None
        place = ByteRange(offset + _HEAD, length)
        if lengths is not None and length - lengths[number - 1] in {0, 1}:
            found.append(
                Frame(number, (place._replace(length=lengths[number - 1]),), lengths[number - 1])
            )
        else:
            found.append((yield from _trimmed(pixels, number, (place,))))
    return found


def _fragments_between(
    window: _Window, offset: int, end: int | None
) -> Reading[tuple[ByteRange, ...] | None]:
    """The fragments from `offset` to `end` (None: the delimiter); None if they do not fit."""
    ranges: list[ByteRange] = []
    while offset != end:
        tag, length, _ = yield from window.item(offset)
        if tag == _SEQUENCE_DELIMITATION and end is None:
            break
        offset += _HEAD + length
        if tag != _ITEM or (end is not None and offset > end) or len(ranges) == FRAGMENTS_LIMIT:
            return None
        ranges.append(ByteRange(offset - length, length))
    return tuple(ranges) or None


def _entries(table: BulkRange | bytes, frames: int) -> Reading[tuple[int, ...] | None]:
    """The 64-bit entries of a table; None unless there is one for each frame."""
    if isinstance(table, BulkRange):
        if table.length != 8 * frames:
            return None
        table = yield ByteRange(table.offset, table.length)
    if len(table) != 8 * frames:
        return None
    return struct.unpack(f"<{frames}Q", table)


def _trimmed(pixels: ImagePixels, number: int, ranges: tuple[ByteRange, ...]) -> Reading[Frame]:
    """The frame in these ranges, without the byte that only makes its last fragment even.

    A JPEG or JPEG 2000 codestream ends with its marker; what follows is padding (PS3.5 A.4). With
    RLE and codecs that do not mark their end it cannot be told, and stays.
    """
    length = sum(part.length for part in ranges)
    if length > 2 and pixels.transfer_syntax_uid != RLE_LOSSLESS and ranges[-1].length > 2:
        last = ranges[-1]
        tail = yield ByteRange(last.offset + last.length - 3, 3)
        if tail == _END_OF_CODESTREAM_PADDED:
            ranges = (*ranges[:-1], last._replace(length=last.length - 1))
            length -= 1
    return Frame(number, ranges, length)


def _joined(fragments: _Fragments, first: int, stop: int) -> tuple[ByteRange, ...]:
    return tuple(
        ByteRange(fragments.offsets[i], fragments.lengths[i])
        for i in range(first, stop)
        if fragments.lengths[i]
    )


def _table(header: Header, tag: int) -> BulkRange | bytes | None:
    return header.bulk.get(f"{tag:08X}") or header.raw.get(tag) or None


def _grows(offsets: Collection[int]) -> bool:
    following = iter(offsets)
    next(following)
    return all(a < b for a, b in zip(offsets, following, strict=False))


def _begins_codestream(first: bytes) -> bool:
    # RLE: 1 to 15 segments, the first behind the header of 64 bytes (PS3.5 G.5).
    is_rle = first[1:4] == b"\0\0\0" and 1 <= first[0] <= 15 and first[4:8] == b"\x40\0\0\0"
    return is_rle or first.startswith(_STARTS)
