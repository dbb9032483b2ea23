"""File meta information for an object that came without any (PS3.10 section 7.1)."""

from __future__ import annotations

import struct

#: Names this implementation in file meta information and in associations (PS3.7 D.3.3.2).
IMPLEMENTATION_CLASS_UID = "2.25.188349263712350164923075316817261409713"
IMPLEMENTATION_VERSION_NAME = "IMG_INGESTION_1"

PREAMBLE = bytes(128) + b"DICM"


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Preamble, prefix and group 0002, ready to stand before the data set."""
    group = b"".join(
        (
            struct.pack("<HH2sHI2s", 2, 0x0001, b"OB", 0, 2, b"\0\1"),
            _text(0x0002, b"UI", sop_class_uid),
            _text(0x0003, b"UI", sop_instance_uid),
            _text(0x0010, b"UI", transfer_syntax_uid),
            _text(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _text(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
        )
    )
    return PREAMBLE + struct.pack("<HH2sHI", 2, 0x0000, b"UL", 4, len(group)) + group


def _text(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii")
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value
