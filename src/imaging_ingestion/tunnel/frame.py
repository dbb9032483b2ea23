"""The frames of the tunnel: a fixed header, and bytes.

    0   2  "dT"
    2   1  protocol version
    3   1  kind
    4   1  flags
    5   1  reserved, 0
    6   2  round
    8  16  stream: eight bytes of the opener's, eight of the acceptor's (0 while there is none)
    24  8  offset: of the first byte of the payload, in the sender's direction
    32  8  ack: the sender has all bytes of the other direction before this one
    40  8  limit: the sender takes bytes of the other direction up to this one
    48     payload

All numbers are big-endian. The first 24 bytes are the same in every version of the protocol, so
that a peer of another version can be refused by a frame that it understands.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import ClassVar, Final

import msgspec

VERSION: Final = 1
MAGIC: Final = b"dT"
_HEADER: Final = struct.Struct(">2sBBBxH16sQQQ")
HEADER_LENGTH: Final = _HEADER.size
#: Half of a stream's id, and a process's id.
HALF: Final = 8
PROCESS_ID_LENGTH: Final = 16
NO_HALF: Final = bytes(HALF)
#: Bytes of a text in a frame, at most: a name, or why something ended.
_TEXT: Final = 240

Buffer = bytes | bytearray | memoryview


class Kind(IntEnum):
    """What a frame is for."""

    OPEN = 1  # payload: the opener's process, its name
    ACCEPT = 2  # payload: the acceptor's process, its name
    REFUSE = 3  # payload: why
    DATA = 4  # without a payload it asks what has arrived
    ACK = 5
    FIN = 6  # nothing follows in this direction; it has a number, as a byte has
    ABORT = 7  # payload: why
    GONE = 8  # payload: a process that has ended; of no stream


class Flag(IntFlag):
    """What else a frame says."""

    ASK = 1  # answer at once
    GAP = 2  # of ACK: something is missing before a frame of round `round`
    LINK = 4  # the sender's link was down: frames to it may be lost
    SPOOL = 8  # of OPEN: the stream brings instances of a spool (docs/spool.md)


class Reason(IntEnum):
    """Why a stream was refused or aborted."""

    VERSION = 1
    TOO_MANY = 2
    STOPPING = 3
    UNKNOWN_STREAM = 4
    PEER_GONE = 5
    PROTOCOL = 6
    NO_ANSWER = 7
    NOBODY_LISTENS = 8
    ABORTED = 9
    PROCESS_ENDED = 10
    OTHER = 255

    @classmethod
    def _missing_(cls, value: object) -> Reason:
        return cls.OTHER  # of a later version

    @property
    def word(self) -> str:
        """For logs and metrics."""
        return self.name.lower()


class FrameError(Exception):
    """What arrived is no frame; `word` is for metrics."""

    word: ClassVar[str] = "malformed"


class NotAFrameError(FrameError):
    """It is something else."""

    word = "not_a_frame"


class OtherVersionError(FrameError):
    """It is a frame of another version of the protocol."""

    word = "version"

    def __init__(self, version: int, kind: int, stream_id: bytes) -> None:
        super().__init__(f"protocol version {version}; this is version {VERSION}")
        self.kind = kind
        self.stream_id = stream_id


class Frame(msgspec.Struct, frozen=True):
    """A frame; see the module for its fields."""

    kind: Kind
    stream_id: bytes
    offset: int = 0
    ack: int = 0
    limit: int = 0
    round: int = 0
    flags: int = 0
    payload: Buffer = b""


def encode(frame: Frame) -> bytes:
    """A frame's bytes."""
    return encode_parts(frame, (frame.payload,))


def encode_parts(frame: Frame, payload: tuple[Buffer, ...] | list[Buffer]) -> bytes:
    """A frame's bytes, with a payload in pieces: they are copied once."""
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        frame.kind,
        frame.flags,
        frame.round,
        frame.stream_id,
        frame.offset,
        frame.ack,
        frame.limit,
    )
    return b"".join((header, *payload))


def decode(data: Buffer) -> Frame:
    """A frame of bytes; its payload is a view of them. Raises FrameError."""
    if len(data) < 24 or bytes(data[:2]) != MAGIC:
        raise NotAFrameError(f"{len(data)} bytes that are no frame")
    if data[2] != VERSION:
        raise OtherVersionError(data[2], data[3], bytes(data[8:24]))
    if len(data) < HEADER_LENGTH:
        raise FrameError(f"a frame of {len(data)} bytes")
    _, _, kind, flags, round_, stream_id, offset, ack, limit = _HEADER.unpack_from(data)
    try:
        known = Kind(kind)
    except ValueError:
        raise FrameError(f"no frame is of kind {kind}") from None
    return Frame(
        known, stream_id, offset, ack, limit, round_, flags, memoryview(data)[HEADER_LENGTH:]
    )


def introduce(process_id: bytes, name: str) -> bytes:
    """The payload of OPEN and ACCEPT."""
    return process_id + name.encode()[:_TEXT]


def read_introduction(payload: Buffer) -> tuple[bytes, str]:
    """A process and its name. Raises FrameError."""
    if not PROCESS_ID_LENGTH <= len(payload) <= PROCESS_ID_LENGTH + _TEXT:
        raise FrameError(f"an introduction of {len(payload)} bytes")
    name = bytes(payload[PROCESS_ID_LENGTH:])
    return bytes(payload[:PROCESS_ID_LENGTH]), _plain(name)


def explain(reason: Reason, text: str = "") -> bytes:
    """The payload of REFUSE and ABORT."""
    return bytes((reason,)) + text.encode()[:_TEXT]


def read_explanation(payload: Buffer) -> tuple[Reason, str]:
    """Why, and in which words. Raises FrameError."""
    if not 1 <= len(payload) <= 1 + _TEXT:
        raise FrameError(f"an explanation of {len(payload)} bytes")
    return Reason(payload[0]), _plain(bytes(payload[1:]))


def _plain(text: bytes) -> str:
    """A peer's text for a log."""
    decoded = text.decode(errors="replace")
    return "".join(c if c.isprintable() else "?" for c in decoded)
