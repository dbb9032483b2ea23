"""Which fragments of encapsulated Pixel Data make which frame (PS3.5 annex A.4).

Pure: what has to be looked at is asked for as byte ranges. A `Reading` is a generator that yields a
`ByteRange`, is sent its bytes (fewer only at the end of the object), and returns its result. So
frame N of an object of any size costs a few small reads, and no walk if there is an offset table.

How frames are told apart, the first that holds:

1. one frame: every fragment belongs to it;
2. an Extended Offset Table (PS3.3 C.7.6.3.1.8), then a Basic Offset Table: with an entry for
   every frame, growing, and pointing at items;
3. as many fragments as frames: one each;
4. as many fragments that begin like a codestream (SOI, SOC, an RLE header, …) as frames: a frame
   begins at each; if all fragments begin so, each is a frame.

Anything else is refused: to guess would be to show the wrong pixels.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeVar

from imaging_ingestion.dicom.header import BulkRange
from imaging_ingestion.dicom.transfer_syntax import RLE_LOSSLESS, frame_media_type

_ITEM = 0xFFFEE000
_SEQUENCE_DELIMITATION = 0xFFFEE0DD
_ITEM_HEAD = struct.Struct("<HHI")
_HEAD = 8  # bytes of an item's tag and length
#: Memory and time that a hostile object may cost.
FRAGMENTS_LIMIT = 1 << 20

#: Bytes read at once while walking: few if the fragments are large, more if many fit.
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
_END_OF_CODESTREAM_PADDED = b"\xff\xd9\x00"  # EOI or EOC, then the byte that makes it even

T = TypeVar("T")


class FramesError(ValueError):
    """Frames cannot be had; the message says why, without patient data."""


class UndividedFramesError(FramesError):
    """There is Pixel Data, but where its frames begin and end cannot be told."""


class ByteRange(NamedTuple):
    """`length` bytes from `offset` of the object (of the inflated data set if it is deflated)."""

    offset: int
    length: int


Ranges = tuple[ByteRange, ...]
Reading = Generator[ByteRange, bytes, T]
#: 64-bit entries: their bytes if they are few, else where they are.
OffsetTable = BulkRange | bytes


@dataclass(frozen=True, slots=True)
class EncapsulatedPixels:
    """Encapsulated Pixel Data, whose Basic Offset Table begins at `offset`."""

    offset: int
    transfer_syntax_uid: str
    number_of_frames: int
    extended_offset_table: OffsetTable | None = None
    extended_offset_table_lengths: OffsetTable | None = None


def locate_codestreams(pixels: EncapsulatedPixels, numbers: Sequence[int]) -> Reading[list[Ranges]]:
    """The codestreams of the frames of these numbers, each from 1 to the number of frames.

    Raises UndividedFramesError.
    """
    if pixels.number_of_frames == 1:
        fragments = yield from _walk(pixels.offset)
        ranges = _joined(fragments, 0, len(fragments.offsets))
        ranges = yield from _without_padding(pixels, ranges)
        return [ranges] * len(numbers)
    if frame_media_type(pixels.transfer_syntax_uid).startswith("video/"):
        raise UndividedFramesError("the frames of a video stream cannot be taken apart")
    found = yield from _from_extended_offset_table(pixels, numbers)
    if found is None:
        found = yield from _from_basic_offset_table(pixels, numbers)
    if found is not None:
        return found
    fragments = yield from _walk(pixels.offset)
    firsts = _first_fragments(pixels.number_of_frames, fragments)
    found = []
    for number in numbers:
        ranges = _joined(fragments, firsts[number - 1], firsts[number])
        found.append((yield from _without_padding(pixels, ranges)))
    return found


def locate_stream(pixels: EncapsulatedPixels) -> Reading[Ranges]:
    """Every fragment: the stream of a video. Raises UndividedFramesError."""
    fragments = yield from _walk(pixels.offset)
    return _joined(fragments, 0, len(fragments.offsets))


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

    def item(self, offset: int) -> Reading[tuple[int, int, bytes]]:
        """Tag and length of the item at `offset`, and the first bytes of its value."""
        at = offset - self._offset
        if at < 0 or at + _HEAD + _MARKER > len(self._bytes):
            is_near = bool(self._bytes) and 0 <= at <= _LARGE_WINDOW
            self._bytes = yield ByteRange(offset, _LARGE_WINDOW if is_near else _SMALL_WINDOW)
            self._offset = offset
            at = 0
        head = self._bytes[at : at + _HEAD + _MARKER]
        if len(head) < _HEAD:
            raise UndividedFramesError("the object ends in the middle of Pixel Data")
        group, element, length = _ITEM_HEAD.unpack_from(head)
        return group << 16 | element, length, head[_HEAD : _HEAD + min(length, _MARKER)]


def _walk(offset: int) -> Reading[_Fragments]:
    """Every fragment behind the Basic Offset Table that begins at `offset`."""
    window = _Window()
    fragments = _Fragments()
    offset = yield from _first_item(window, offset)
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


def _first_item(window: _Window, offset: int) -> Reading[int]:
    """Where the first fragment's item is: behind the Basic Offset Table."""
    tag, length, _ = yield from window.item(offset)
    if tag != _ITEM:
        raise UndividedFramesError("Pixel Data does not begin with an offset table")
    return offset + _HEAD + length


def _first_fragments(frames: int, fragments: _Fragments) -> Sequence[int]:
    """The index of each frame's first fragment, and one more where the last one ends."""
    count = len(fragments.offsets)
    starts = fragments.starts.count(1)
    if count == frames or (count > frames and starts == count):
        return range(frames + 1)
    if starts == frames and fragments.starts[0]:
        return [i for i, begins in enumerate(fragments.starts) if begins] + [count]
    raise UndividedFramesError(
        f"{frames} frames lie in {count} fragments, {starts} of which begin a codestream, "
        "and no usable offset table says where the frames begin"
    )


def _from_basic_offset_table(
    pixels: EncapsulatedPixels, numbers: Sequence[int]
) -> Reading[list[Ranges] | None]:
    """The frames as the Basic Offset Table says; None if there is none, or it is wrong."""
    frames = pixels.number_of_frames
    window = _Window()
    base = yield from _first_item(window, pixels.offset)
    length = base - pixels.offset - _HEAD
    if length != 4 * frames:
        return None
    table = yield ByteRange(pixels.offset + _HEAD, length)
    if len(table) != length:
        return None
    offsets = struct.unpack(f"<{frames}I", table)
    if not _is_plausible(offsets):
        return None
    found = []
    for number in numbers:
        end = base + offsets[number] if number < frames else None
        ranges = yield from _fragments_between(window, base + offsets[number - 1], end)
        if ranges is None:
            return None
        found.append((yield from _without_padding(pixels, ranges)))
    return found


def _from_extended_offset_table(
    pixels: EncapsulatedPixels, numbers: Sequence[int]
) -> Reading[list[Ranges] | None]:
    """The frames as the Extended Offset Table says: one fragment each, of the length given."""
    frames = pixels.number_of_frames
    offsets = yield from _entries(pixels.extended_offset_table, frames)
    lengths = yield from _entries(pixels.extended_offset_table_lengths, frames)
    if offsets is None or not _is_plausible(offsets):
        return None
    window = _Window()
    base = yield from _first_item(window, pixels.offset)
    found: list[Ranges] = []
    for number in numbers:
        end = base + offsets[number] if number < frames else None
        ranges = yield from _fragments_between(window, base + offsets[number - 1], end)
        if ranges is None or len(ranges) != 1:
            return None
        (fragment,) = ranges
        if lengths is not None and fragment.length - lengths[number - 1] in {0, 1}:
            found.append((fragment._replace(length=lengths[number - 1]),))
        else:
            found.append((yield from _without_padding(pixels, ranges)))
    return found


def _fragments_between(window: _Window, offset: int, end: int | None) -> Reading[Ranges | None]:
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


def _entries(table: OffsetTable | None, frames: int) -> Reading[tuple[int, ...] | None]:
    """The entries of a table; None unless there is one for each frame."""
    if isinstance(table, BulkRange):
        if table.length != 8 * frames:
            return None
        table = yield ByteRange(table.offset, table.length)
    if table is None or len(table) != 8 * frames:
        return None
    return struct.unpack(f"<{frames}Q", table)


def _without_padding(pixels: EncapsulatedPixels, ranges: Ranges) -> Reading[Ranges]:
    """The ranges of a frame without the byte that only makes its last fragment even.

    A JPEG or JPEG 2000 codestream ends with its marker; what follows is padding (PS3.5 A.4). With
    RLE and codecs that do not mark their end it cannot be told, and stays.
    """
    if ranges and ranges[-1].length > 2 and pixels.transfer_syntax_uid != RLE_LOSSLESS:
        last = ranges[-1]
        tail = yield ByteRange(last.offset + last.length - 3, 3)
        if tail == _END_OF_CODESTREAM_PADDED:
            return (*ranges[:-1], last._replace(length=last.length - 1))
    return ranges


def _joined(fragments: _Fragments, first: int, stop: int) -> Ranges:
    places = zip(fragments.offsets[first:stop], fragments.lengths[first:stop], strict=True)
    return tuple(ByteRange(offset, length) for offset, length in places if length)


def _is_plausible(offsets: Sequence[int]) -> bool:
    return offsets[0] == 0 and all(a < b for a, b in pairwise(offsets))


def _begins_codestream(first: bytes) -> bool:
    # RLE: 1 to 15 segments, the first right behind the header of 64 bytes (PS3.5 G.5).
    is_rle = first[1:4] == b"\0\0\0" and 1 <= first[0] <= 15 and first[4:8] == b"\x40\0\0\0"
    return is_rle or first.startswith(_STARTS)
