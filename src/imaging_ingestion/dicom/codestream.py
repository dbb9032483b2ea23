"""What a compressed frame says of its samples: their precision, and for JPEG 2000 their sign."""

from __future__ import annotations

from typing import NamedTuple

#: Start of frame of JPEG (ITU-T T.81 table B.1) and JPEG-LS (T.87); C4, C8 and CC are no frames.
_START_OF_FRAME = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}
#: Markers without a length: TEM, RST0 to RST7, SOI.
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))
_START_OF_SCAN = 0xDA
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
_JPEG_2000 = b"\xff\x4f\xff\x51"  # SOC, SIZ


class SampleFormat(NamedTuple):
    """`precision` in bits; `is_signed` None where the codestream does not say."""

    precision: int
    is_signed: bool | None


def sample_format(codestream: bytes) -> SampleFormat | None:
    """The format of the first component's samples; None where it cannot be told."""
    if codestream.startswith(_JP2_SIGNATURE):
        start = codestream.find(_JPEG_2000)
        codestream = codestream[start:] if start > 0 else b""
    if codestream.startswith(_JPEG_2000):
        # SIZ: Lsiz, Rsiz, eight 32-bit sizes, Csiz, and Ssiz of each component (T.800 A.5.1).
        if len(codestream) < 43:
            return None
        component = codestream[42]
        return SampleFormat((component & 0x7F) + 1, bool(component & 0x80))
    return _jpeg(codestream) if codestream.startswith(b"\xff\xd8") else None


def _jpeg(codestream: bytes) -> SampleFormat | None:
    at = 2
    while at + 5 <= len(codestream) and codestream[at] == 0xFF:
        marker = codestream[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in _ALONE:
            at += 2
        elif marker in _START_OF_FRAME:
            return SampleFormat(codestream[at + 4], None)
        elif marker == _START_OF_SCAN:
            return None
        else:
            at += 2 + int.from_bytes(codestream[at + 2 : at + 4], "big")
    return None
