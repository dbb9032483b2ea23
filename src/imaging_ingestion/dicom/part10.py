"""File meta information for an object that came without any (PS3.10 section 7.1)."""

from __future__ import annotations

import struct

#: Names this implementation in file meta information and in associations (PS3.7 D.3.3.2).
IMPLEMENTATION_CLASS_UID = "2.25.188349263712350164923075316817261409713"
IMPLEMENTATION_VERSION_NAME = "IMG_INGESTION_1"

PREAMBLE = bytes(128) + b"DICM"
#: Bytes that `completion` looks at.
BEGINNING = len(PREAMBLE) + 2
_PREFIX = len(PREAMBLE)
_GROUP_2 = b"\x02\x00"


def completion(
    first: bytes, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
) -> tuple[bytes, int]:
    """What an object lacks of a PS3.10 file, and how many of its first bytes that stands for.

    `first` is its first `BEGINNING` bytes; the UIDs are for an object without file meta.
    """
    if first[_PREFIX - 4 : _PREFIX] == b"DICM":
        if first[_PREFIX : _PREFIX + 2] == _GROUP_2:
            return b"", 0
        made, skipped = first[:_PREFIX], _PREFIX
    elif first[:4] == b"DICM":
        made, skipped = PREAMBLE, 4
    else:
        made, skipped = PREAMBLE, 0
    if first[skipped : skipped + 2] == _GROUP_2:
        return made, skipped
    meta = file_meta(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
    return made + meta[_PREFIX:], skipped


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
