"""Lets one direction of an association through, PDU by PDU, and nothing that is none.

Theory of operation. P-DATA-TF passes as the bytes it is, whatever is in it: the real peers judge
that. Of each PDU the header is looked at: whether there is such a PDU, and whether it may be so
long. The other PDUs are small; they are gathered and pass whole, so that whoever relays them knows
what happened. With `hold` a P-DATA-TF up to that length waits until all of it is there: where the
association ends in the middle, an A-ABORT can still be sent, for no PDU is half written.

Nothing is kept but a header, one small PDU, or a P-DATA-TF that is held.
"""

from __future__ import annotations

from typing import Final

from imaging_ingestion.dimse.error import (
    InvalidParameterError,
    UnexpectedPduError,
    UnrecognizedPduError,
)
from imaging_ingestion.dimse.p_data import OVERHEAD
from imaging_ingestion.dimse.pdu import (
    A_ABORT,
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RJ,
    A_ASSOCIATE_RQ,
    A_RELEASE_RP,
    A_RELEASE_RQ,
    ASSOCIATE_FIXED_LENGTH,
    HEADER,
    P_DATA_TF,
)

#: 128 contexts with 30 transfer syntaxes each and long UIDs take 270 KiB, a token 64 KiB.
LONGEST_ASSOCIATE: Final = 512 << 10

#: What a requestor says first, and an acceptor; and what both may say then.
REQUESTOR_BEGINS: Final = frozenset({A_ASSOCIATE_RQ})
ACCEPTOR_BEGINS: Final = frozenset({A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ABORT})
GOES_ON: Final = frozenset({P_DATA_TF, A_RELEASE_RQ, A_RELEASE_RP, A_ABORT})
_KNOWN: Final = REQUESTOR_BEGINS | ACCEPTOR_BEGINS | GOES_ON
_NAMES: Final = {
    A_ASSOCIATE_RQ: "A-ASSOCIATE-RQ",
    A_ASSOCIATE_AC: "A-ASSOCIATE-AC",
    A_ASSOCIATE_RJ: "A-ASSOCIATE-RJ",
    P_DATA_TF: "P-DATA-TF",
    A_RELEASE_RQ: "A-RELEASE-RQ",
    A_RELEASE_RP: "A-RELEASE-RP",
    A_ABORT: "A-ABORT",
}


class PduGate:
    """One direction. `begins`: the PDUs that may come first; lengths are in bytes."""

    def __init__(self, begins: frozenset[int], *, hold: int = 0) -> None:
        self._allowed = begins
        self._hold = hold
        self._kept = bytearray()
        self._wanted = 0  # until `_kept` is worth looking at
        self._left = 0  # of a P-DATA-TF that passes as it comes

    @property
    def is_between(self) -> bool:
        """Whether what has passed ends with a PDU."""
        return self._left == 0

    @property
    def kept(self) -> int:
        """Bytes that came and have not passed."""
        return len(self._kept)

    def take_kept(self) -> memoryview:
        """What came and has not passed, for another gate."""
        kept = memoryview(bytes(self._kept))
        self._kept.clear()
        return kept

    def receive(self, data: memoryview) -> list[tuple[int, memoryview]]:
        """What passes now: bytes of P-DATA-TF, and whole PDUs of other types.

        Raises RemoteProtocolError; nothing more may be given then.
        """
        kept = self._kept
        if kept:
            kept += data
            if len(kept) < self._wanted:
                return []
            data = memoryview(bytes(kept))
            kept.clear()
        passed: list[tuple[int, memoryview]] = []
        position = begin = 0  # what is between them is P-DATA-TF
        end = len(data)
        while position < end:
            if self._left:
                step = min(self._left, end - position)
                self._left -= step
                position += step
                continue
            available = end - position
            kind = data[position]
            self._check_kind(kind)
            if available < HEADER.size:
                self._wanted = HEADER.size
                break
            size = HEADER.size + self._length(kind, data, position)
            if kind == P_DATA_TF and (available >= size or size > self._hold):
                self._left = size
                continue
            if available < size:
                self._wanted = size
                break
            if position > begin:
                passed.append((P_DATA_TF, data[begin:position]))
            passed.append((kind, data[position : position + size]))
            position += size
            begin = position
            self._allowed = GOES_ON
        if position > begin:
            passed.append((P_DATA_TF, data[begin:position]))
        kept += data[position:]
        return passed

    def _check_kind(self, kind: int) -> None:
        if kind not in _KNOWN:
            raise UnrecognizedPduError(f"no PDU has type {kind:02X}H")
        if kind not in self._allowed:
            raise UnexpectedPduError(f"{_NAMES[kind]} is not what comes now")

    @staticmethod
    def _length(kind: int, data: memoryview, position: int) -> int:
        length: int = HEADER.unpack_from(data, position)[1]
        if kind == P_DATA_TF:
            shortest, longest = OVERHEAD, 0xFFFFFFFF
        elif kind in (A_ASSOCIATE_RQ, A_ASSOCIATE_AC):
            shortest, longest = ASSOCIATE_FIXED_LENGTH, LONGEST_ASSOCIATE
        else:
            shortest = longest = 4
        if not shortest <= length <= longest:
            raise InvalidParameterError(
                f"{_NAMES[kind]} of {length} bytes; {shortest} to {longest} are allowed"
            )
        return length
