"""Where frames are and how their bytes leave, judged by pydicom over the real files."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.pixels.utils import get_expected_length
from pydicom_judge import expected_frames, without_padding

from imaging_ingestion.dicom.fragments import (
    ByteRange,
    EncapsulatedPixels,
    FramesError,
    Reading,
    UndividedFramesError,
    locate_codestreams,
    locate_stream,
)
from imaging_ingestion.dicom.frames import (
    Frame,
    FrameBytes,
    NativePixels,
    NoSuchFrameError,
    NotAnImageError,
    image_pixels,
    locate_frames,
)
from imaging_ingestion.dicom.header import BulkRange, Header, ScanError
from imaging_ingestion.dicom.scan import HeaderScanner, scan_bytes

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
RLE = "1.2.840.10008.1.2.5"
MPEG4 = "1.2.840.10008.1.2.4.102"

T = TypeVar("T")
DELIMITER = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def answer(reading: Reading[T], data: bytes) -> tuple[T, list[ByteRange]]:
    """Answer what a reading asks from `data`; its result and what it asked."""
    asked = []
    try:
        wanted = next(reading)
        while True:
            asked.append(wanted)
            wanted = reading.send(data[wanted.offset : wanted.offset + wanted.length])
    except StopIteration as stop:
        return stop.value, asked


def frame_bytes(frame: Frame, data: bytes, piece: int = 1 << 20) -> bytes:
    """A frame as it leaves, read in pieces."""
    made = FrameBytes(frame)
    out = b""
    for offset, length in frame.ranges:
        for at in range(offset, offset + length, piece):
            out += made.receive(data[at : min(at + piece, offset + length)])
    out += made.finish()
    assert len(out) == frame.length
    return out


def header_before_pixels(data: bytes) -> Header:
    """The header as somebody sees it who stops reading at Pixel Data."""
    scanner = HeaderScanner()
    for at in range(0, len(data), 4096):
        scanner.feed(data[at : at + 4096])
        if scanner.header_complete:
            break
    return scanner.header_so_far()


def inflated(path: Path) -> bytes:
    """The bytes that offsets count in: the inflated data set, or the file."""
    data = path.read_bytes()
    header = header_before_pixels(data)
    if header.transfer_syntax_uid == "1.2.840.10008.1.2.1.99":
        return zlib.decompress(data[header.dataset_offset :], -zlib.MAX_WBITS)
    return data


def test_every_frame_of_every_real_file_is_what_pydicom_cuts(dicom_files: list[Path]) -> None:
    # W14, W16, W17, W18
    images = frames = 0
    for path in dicom_files:
        data = path.read_bytes()
        try:
            scan_bytes(data)
            header = header_before_pixels(data)
            pixels = image_pixels(header)
        except (ScanError, NotAnImageError):
            continue
        dataset = pydicom.dcmread(path, force=True)
        if "TransferSyntaxUID" not in getattr(dataset, "file_meta", {}):
            continue
        numbers = range(1, pixels.number_of_frames + 1)
        data = inflated(path)
        try:
            expected = expected_frames(dataset)
            if any(len(e) == 0 for e in expected) or len(expected) != len(numbers):
                raise ValueError("pydicom found no frames")
        except (ValueError, AttributeError) as error:
            pytest.fail(f"pydicom finds no frames in {path}: {error}")
        try:
            found, _ = answer(locate_frames(pixels, numbers), data)
        except UndividedFramesError:
            # Pixel Data shorter than its description says; pydicom slices what is there.
            assert len(expected[-1]) < get_expected_length(dataset) / len(numbers), path
            continue
        for number, frame, right in zip(numbers, found, expected, strict=True):
            assert frame_bytes(frame, data) == without_padding(right), (path, number)
            frames += 1
        images += 1
    assert images > 0.5 * len(dicom_files)
    assert frames >= images


def test_one_frame_of_a_large_multi_frame_costs_a_few_small_reads() -> None:
    frames = [b"\xff\xd8\xff" + bytes([n % 256]) * 6000 + b"\xff\xd9" for n in range(500)]
    data = encapsulate(frames, has_bot=True)
    pixels = EncapsulatedPixels(0, JPEG_BASELINE, 500)
    (found,), asked = answer(locate_frames(pixels, [400]), data)
    assert frame_bytes(found, data) == frames[399]
    assert len(asked) <= 5
    assert sum(wanted.length for wanted in asked) < 4096 + 1 << 18


def fragments_of(value: Sequence[Sequence[bytes]]) -> bytes:
    """Encapsulated Pixel Data with an empty Basic Offset Table: frames of fragments."""
    items = [struct.pack("<HHI", 0xFFFE, 0xE000, 0)]
    for frame in value:
        for fragment in frame:
            items.append(struct.pack("<HHI", 0xFFFE, 0xE000, len(fragment)) + fragment)
    return b"".join(items) + DELIMITER


J2K_START = b"\xff\x4f\xff\x51"
codestreams = st.lists(
    st.lists(
        st.binary(min_size=2, max_size=40).map(lambda b: b"\x01" + b + bytes(len(b) % 2 + 1)),
        min_size=1,
        max_size=4,
    ),
    min_size=1,
    max_size=6,
)


@given(codestreams)
def test_fragments_without_an_offset_table_are_told_apart_by_where_codestreams_begin(
    bodies: list[list[bytes]],
) -> None:
    # W17
    frames = [[J2K_START + frame[0], *frame[1:]] for frame in bodies]
    data = fragments_of(frames)
    pixels = EncapsulatedPixels(0, JPEG_2000, len(frames))
    found, _ = answer(locate_frames(pixels, range(1, len(frames) + 1)), data)
    got = [frame_bytes(frame, data) for frame in found]
    assert got == [without_padding(b"".join(frame)) for frame in frames]


def test_one_fragment_a_frame_needs_no_markers() -> None:
    data = fragments_of([[b"ab"], [b"cdef"], [b"gh"]])
    found, _ = answer(locate_codestreams(EncapsulatedPixels(0, RLE, 3), [3, 1]), data)
    assert [data[r.offset : r.offset + r.length] for (r,) in found] == [b"gh", b"ab"]


def test_a_single_frame_has_every_fragment() -> None:
    data = fragments_of([[b"ab", b"cdef", b"gh"]])
    (found,), _ = answer(locate_frames(EncapsulatedPixels(0, RLE, 1), [1]), data)
    assert frame_bytes(found, data) == b"abcdefgh"


def test_frames_that_cannot_be_told_apart_are_refused_and_not_guessed() -> None:
    data = fragments_of([[b"ab", b"cdef"], [b"gh", b"ij"]])
    with pytest.raises(UndividedFramesError, match="2 frames lie in 4 fragments, 0 of which"):
        answer(locate_frames(EncapsulatedPixels(0, JPEG_2000, 2), [1]), data)


def test_rle_fragments_are_told_apart_by_their_headers() -> None:
    start = struct.pack("<16I", 1, 64, *[0] * 14)
    data = fragments_of([[start + b"ab", b"cd"], [start + b"ef"]])
    found, _ = answer(locate_frames(EncapsulatedPixels(0, RLE, 2), [1, 2]), data)
    assert [frame_bytes(f, data) for f in found] == [start + b"abcd", start + b"ef"]


@pytest.mark.parametrize(
    "table",
    [
        struct.pack("<2I", 0, 4),  # points into the middle of a fragment
        struct.pack("<2I", 0, 0),  # does not grow
        struct.pack("<2I", 0, 1 << 31),  # beyond the end
        struct.pack("<1I", 0),  # too few
    ],
)
def test_a_wrong_basic_offset_table_is_not_believed(table: bytes) -> None:
    items = fragments_of([[b"abcdef"], [b"gh"]])[8:]
    data = struct.pack("<HHI", 0xFFFE, 0xE000, len(table)) + table + items
    found, _ = answer(locate_frames(EncapsulatedPixels(0, RLE, 2), [1, 2]), data)
    assert [frame_bytes(f, data) for f in found] == [b"abcdef", b"gh"]


@pytest.mark.parametrize("as_bulk", [True, False])
def test_the_extended_offset_table_gives_frames_their_odd_lengths(as_bulk: bool) -> None:
    frames = [b"\x01abc", b"\x01de", b"\x01f\x00", b"\x01ghij"]
    value, offsets, _ = encapsulate_extended(frames)
    lengths = struct.pack("<4Q", *map(len, frames))
    value += DELIMITER
    data = value + offsets + lengths
    if as_bulk:
        at = len(value)
        tables = (
            BulkRange(at, len(offsets), "OV"),
            BulkRange(at + len(offsets), len(lengths), "OV"),
        )
        pixels = EncapsulatedPixels(0, "1.2.840.10008.1.2.4.110", 4, *tables)
    else:
        pixels = EncapsulatedPixels(0, "1.2.840.10008.1.2.4.110", 4, offsets, lengths)
    found, _ = answer(locate_frames(pixels, [4, 2, 3]), data)
    assert [frame_bytes(f, data) for f in found] == [frames[3], frames[1], frames[2]]


def test_the_padding_byte_behind_a_jpeg_codestream_is_removed_and_rle_keeps_its() -> None:
    # W17
    data = fragments_of([[b"\xff\xd8\xffxy\xff\xd9\x00"]])
    for transfer_syntax, length in ((JPEG_BASELINE, 7), (RLE, 8)):
        pixels = EncapsulatedPixels(0, transfer_syntax, 1)
        (found,), _ = answer(locate_frames(pixels, [1]), data)
        assert found.length == length


def test_a_video_is_one_stream_and_has_no_frames_to_take_apart() -> None:
    data = fragments_of([[b"ab", b"cd"]])
    pixels = EncapsulatedPixels(0, MPEG4, 30)
    with pytest.raises(UndividedFramesError, match="video"):
        answer(locate_frames(pixels, [1]), data)
    ranges, _ = answer(locate_stream(pixels), data)
    assert b"".join(data[o : o + n] for o, n in ranges) == b"abcd"


def test_pixel_data_that_ends_in_the_middle_says_so() -> None:
    data = fragments_of([[b"ab"], [b"cd"], [b"ef"]])
    for cut in range(len(data)):
        with pytest.raises(UndividedFramesError):
            answer(locate_frames(EncapsulatedPixels(0, JPEG_2000, 3), [2]), data[:cut])


@given(st.binary(max_size=200), st.integers(1, 5))
def test_hostile_fragments_only_ever_raise_frames_errors(data: bytes, frames: int) -> None:
    start = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    pixels = EncapsulatedPixels(0, JPEG_2000, frames)
    with contextlib.suppress(FramesError):
        answer(locate_frames(pixels, [frames]), start + data)


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    frames=st.integers(1, 5),
    bits=st.sampled_from([1, 8, 12, 16]),
    word=st.sampled_from([1, 2]),
    piece=st.integers(1, 9),
    data=st.data(),
)
def test_native_frames_begin_at_a_byte_of_their_own_whatever_their_size(
    rows: int, columns: int, frames: int, bits: int, word: int, piece: int, data: st.DataObject
) -> None:
    # W18: bit k of the value is bit k % 8 of byte k // 8 of its little endian words.
    frame_bits = rows * columns * bits
    size = (frames * frame_bits + 7) // 8
    size += size % 2
    value = data.draw(st.binary(min_size=size, max_size=size))
    stored = value if word == 1 else np.frombuffer(value, "<u2").byteswap().tobytes()
    pixels = NativePixels(BulkRange(3, size, "OW"), frames, frame_bits, word)
    found, asked = answer(locate_frames(pixels, range(1, frames + 1)), b"")
    assert not asked
    whole = int.from_bytes(value, "little")
    for number, frame in enumerate(found):
        expected = whole >> number * frame_bits & (1 << frame_bits) - 1
        got = frame_bytes(frame, b"xyz" + stored, piece)
        assert len(got) == (frame_bits + 7) // 8
        assert int.from_bytes(got, "little") == expected


def test_a_frame_above_the_number_of_frames_is_no_frame() -> None:
    # W15
    pixels = NativePixels(BulkRange(0, 100, "OB"), 10, 80, 1)
    for number in (0, 11, 1 << 40):
        with pytest.raises(NoSuchFrameError, match=f"no frame {number}: the instance has 10"):
            answer(locate_frames(pixels, [1, number]), b"")


def test_pixel_data_shorter_than_its_frames_is_not_padded_with_invented_pixels() -> None:
    pixels = NativePixels(BulkRange(0, 99, "OB"), 10, 80, 1)
    with pytest.raises(UndividedFramesError, match="99 bytes ends before frame 10"):
        answer(locate_frames(pixels, [10]), b"")
    (frame,), _ = answer(locate_frames(pixels, [1]), b"")
    with pytest.raises(UndividedFramesError, match="3 bytes of a frame are missing"):
        frame_bytes(frame, bytes(7))
