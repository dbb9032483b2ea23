"""P-DATA-TF both ways, without copying (PS3.8 9.3.5 and annex E).

Each P-DATA-TF holds presentation data values: a context id, a control byte (bit 0: command or data
set, bit 1: last fragment or not) and the fragment's bytes.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from imaging_ingestion.dimse.error import EncodingError
from imaging_ingestion.dimse.pdu import P_DATA_TF, Buffer

IS_COMMAND: Final = 0x01
IS_LAST: Final = 0x02

#: Length of a presentation data value, its context id, its control byte.
PDV_HEADER = struct.Struct(">LBB")
#: The header of a P-DATA-TF together with that of its first (for us: only) value.
P_DATA_HEADER = struct.Struct(">BxLLBB")

#: What a P-DATA-TF's length counts beside the fragment: the value's header.
OVERHEAD: Final = PDV_HEADER.size

#: We do not serve a peer whose P-DATA-TF must be shorter still: a fragment a few bytes long would
#: cost it nothing to ask for and us a million PDUs an instance. The standard has no smallest value.
SMALLEST_MAX_PDU_LENGTH: Final = 128
#: How long our P-DATA-TF get where the peer sets no limit (or a higher one).
LONGEST_SENT_PDU: Final = 1 << 20


class PDataReceived(msgspec.Struct, frozen=True, gc=False):
    """Bytes of one presentation data value, as they arrived: a value may come in several of these.

    `is_last` is true for the last bytes of a last fragment. `data` is a view of the buffer that was
    given to `receive_data`: it holds until the caller writes to that buffer again.
    """

    # A msgspec Struct, for it is made in 0.15 us where a frozen dataclass takes 1.1 us, and there
    # is one for each fragment (benchmarks/dimse_codec.py).
    context_id: int
    is_command: bool
    is_last: bool
    data: memoryview


class PDataRequest(msgspec.Struct, frozen=True):
    """Whole P-DATA-TF PDUs, as buffers in the wire's order; `longest` is their largest length."""

    buffers: list[Buffer]
    longest: int


def fragment(
    context_id: int, data: Buffer, *, is_command: bool, is_last: bool, max_pdu_length: int
) -> PDataRequest:
    """Lay data into P-DATA-TF PDUs of at most `max_pdu_length` bytes (0: no limit of the peer).

    Fragments have an even number of bytes, but for the last where the data has an odd one. The
    buffers are headers and views of `data`, which must not change until they are written. Raises
    EncodingError.
    """
    limit = min(max_pdu_length or LONGEST_SENT_PDU, LONGEST_SENT_PDU)
    room = (limit - OVERHEAD) & ~1
    if room <= 0:
        raise EncodingError(f"nothing fits into a P-DATA-TF of {max_pdu_length} bytes")
    view = memoryview(data)
    size = len(view)
    control = IS_COMMAND if is_command else 0
    buffers: list[Buffer] = []
    start = 0
    if size > room:
        header = _header(context_id, control, room)
        stop = (size - 1) // room * room
        for start in range(0, stop, room):
            buffers += (header, view[start : start + room])
        start = stop
    rest = size - start
    if rest or is_last:
        buffers += (_header(context_id, control | (IS_LAST if is_last else 0), rest), view[start:])
    return PDataRequest(buffers, min(size, room) + OVERHEAD if buffers else 0)


def _header(context_id: int, control: int, size: int) -> bytes:
    return P_DATA_HEADER.pack(P_DATA_TF, size + OVERHEAD, size + 2, context_id, control)
