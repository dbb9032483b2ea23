"""What a header may cost: memory is bounded whatever the bytes are."""

from __future__ import annotations

import struct

import pytest

from imaging_ingestion.dicom.header import HeaderTooLargeError, MalformedError
from imaging_ingestion.dicom.scan import HeaderScanner, ScanLimits, scan_bytes

ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
STRAY = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)


def element(number: int, vr: bytes, payload: bytes, length: int | None = None) -> bytes:
    length = len(payload) if length is None else length
    if vr in {b"OB", b"SQ", b"UT"}:
        return struct.pack("<HH2sHI", 0x41, number, vr, 0, length) + payload
    return struct.pack("<HH2sH", 0x41, number, vr, length) + payload


START = struct.pack("<HH2sH", 8, 0x18, b"UI", 6) + b"1.2.3\0"


def test_items_count_as_elements_though_they_are_empty() -> None:
    limits = ScanLimits(elements=1000)
    sequence = START + element(0x1000, b"SQ", b"", 0xFFFFFFFF)
    scan_bytes(sequence + ITEM * 900 + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0), limits)
    with pytest.raises(HeaderTooLargeError, match="elements"):
        scan_bytes(sequence + ITEM * 1100, limits)


def test_stray_delimiters_are_one_warning_and_too_many_are_an_error() -> None:
    header = scan_bytes(START + STRAY * 500)
    assert [w for w in header.warnings if "delimiter" in w] == [
        "a delimiter stands where nothing is to be delimited"
    ]
    with pytest.raises(MalformedError, match="delimiters"):
        scan_bytes(START + STRAY * 2000)


def test_bulk_values_do_not_count_but_knowing_their_places_does() -> None:
    limits = ScanLimits(header_bytes=100_000)
    large = b"".join(element(n, b"OB", bytes(50_000)) for n in range(0x1000, 0x1020))
    assert len(scan_bytes(START + large, limits).bulk) == 32
    many = b"".join(element(n, b"OB", bytes(1026)) for n in range(0x1000, 0x1200))
    with pytest.raises(HeaderTooLargeError):
        scan_bytes(START + many, limits)


@pytest.mark.parametrize("piece", [1000, 1 << 16])
def test_what_is_held_is_the_attributes_and_what_waits(piece: int) -> None:
    scanner = HeaderScanner()
    assert scanner.held == 0
    scanner.feed(START + element(0x1000, b"OB", b"", 10_000_000))
    before = scanner.held
    for _ in range(10_000_000 // piece):
        scanner.feed(bytes(piece))
    assert scanner.held <= before + 512  # a bulk value is not held
    waiting = HeaderScanner()
    waiting.feed(START + element(0x1000, b"UT", b"", 10_000_000))
    waiting.feed(bytes(60_000))  # the beginning of a text that is bulk is not held, either
    assert waiting.held < 1000
    text = HeaderScanner()
    text.feed(START + element(0x1000, b"LO", b"", 60_000) + bytes(30_000))
    assert text.held > 30_000
