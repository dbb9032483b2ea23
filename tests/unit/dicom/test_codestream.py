"""What codestreams say of their samples."""

from __future__ import annotations

import struct

import pytest

from imaging_ingestion.dicom.codestream import SampleFormat, sample_format


def jpeg(frame: int, precision: int, *before: bytes) -> bytes:
    start = struct.pack(">HHBHHB3B", 0xFF00 | frame, 11, precision, 16, 16, 1, 1, 0x11, 0)
    return b"\xff\xd8" + b"".join(before) + start + b"\xff\xda\0\2\xff\xd9"


def jpeg_2000(component: int) -> bytes:
    size = struct.pack(">HHH8IH3B", 0xFF51, 41, 0, 16, 16, 0, 0, 16, 16, 0, 0, 1, component, 1, 1)
    return b"\xff\x4f" + size


APP0 = struct.pack(">HH14s", 0xFFE0, 16, b"JFIF\0\1\1\0\0\1\0\1\0\0")


@pytest.mark.parametrize("frame", [0xC0, 0xC1, 0xC3, 0xF7])
@pytest.mark.parametrize("before", [(), (APP0,), (b"\xff", APP0), (APP0, APP0)])
def test_jpeg_says_its_precision(frame: int, before: tuple[bytes, ...]) -> None:
    assert sample_format(jpeg(frame, 12, *before)) == SampleFormat(12, None)


@pytest.mark.parametrize(
    ("component", "expected"), [(7, (8, False)), (0x8B, (12, True)), (15, (16, False))]
)
@pytest.mark.parametrize("box", [b"", b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(60)])
def test_jpeg_2000_says_its_precision_and_sign(
    component: int, expected: tuple[int, bool], box: bytes
) -> None:
    assert sample_format(box + jpeg_2000(component)) == SampleFormat(*expected)


@pytest.mark.parametrize(
    "codestream",
    [
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xc4\0\2\xff\xda\0\2",
        jpeg_2000(7)[:42],
        b"\x00\x00\x00\x0cjP  ",
        bytes(64),
    ],
)
def test_nothing_is_told_of_what_breaks_off_or_is_something_else(codestream: bytes) -> None:
    assert sample_format(codestream) is None
