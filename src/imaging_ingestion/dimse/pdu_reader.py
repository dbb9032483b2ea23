"""Cuts a stream of bytes into PDUs, in place (PS3.8 9.3.1).

Theory of operation. P-DATA-TF is never gathered. Its header and the header of each value in it
are read where they are, and the bytes of a value are handed out as views of what was received,
piece by piece as they come: nothing is copied, and nothing waits for the end of a PDU. Every other
PDU is small and is gathered in `_held`, which grows with what has arrived, never with what is
announced. `_held` also takes a header that is cut by the end of the data.

What is held is therefore at most the longest A-ASSOCIATE PDU that is allowed; while an association
is in use, at most 12 bytes.
"""

from __future__ import annotations

from typing import Final

import msgspec

from imaging_ingestion.dimse.error import (
    InvalidParameterError,
    RemoteProtocolError,
    UnrecognizedPduError,
)
from imaging_ingestion.dimse.p_data import (
    IS_COMMAND,
    IS_LAST,
    OVERHEAD,
    P_DATA_HEADER,
    PDV_HEADER,
    PDataReceived,
)
from imaging_ingestion.dimse.pdu import (
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RQ,
    ASSOCIATE_FIXED_LENGTH,
    DECODERS,
    HEADER,
    P_DATA_TF,
    Buffer,
    Pdu,
)

#: 128 contexts with 30 transfer syntaxes each and long UIDs need 270 KiB; a token may need more.
MAX_ASSOCIATE_LENGTH: Final = 1 << 20

_EMPTY = memoryview(b"")


class InvalidPdu(msgspec.Struct, frozen=True):
    """What arrived is no PDU (Evt19). Nothing after it can be read."""

    error: RemoteProtocolError


Item = Pdu | PDataReceived | InvalidPdu


class PduReader:
    """Reads one connection's bytes.

    `max_pdu_length` is the longest P-DATA-TF that is taken (0: any): set it to what was announced.
    Other lengths are in bytes, too.
    """

    def __init__(self, *, max_associate_length: int = MAX_ASSOCIATE_LENGTH) -> None:
        self.max_pdu_length = 0
        self._max_associate_length = max_associate_length
        self._held = bytearray()
        self._wanted = 0  # how long _held must get before it can be looked at again
        self._pdu_left = 0  # of the P-DATA-TF under way: the bytes behind the value under way
        self._value_left = 0  # of the value under way
        self._context_id = 0
        self._control = 0
        self._broken = False

    @property
    def held(self) -> int:
        """How many bytes are kept for the next call."""
        return len(self._held)

    def receive(self, data: Buffer) -> list[Item]:
        """Take the next bytes, any number of them. InvalidPdu comes at most once, and last."""
        items: list[Item] = []
        if not self._broken:
            try:
                self._read(memoryview(data), items)
            except RemoteProtocolError as error:
                self._broken = True
                self._held.clear()
                items.append(InvalidPdu(error))
        return items

    def _read(self, view: memoryview, items: list[Item]) -> None:
        position, end = 0, len(view)
        while self._held and position < end:
            taken = min(self._wanted - len(self._held), end - position)
            self._held += view[position : position + taken]
            position += taken
            if len(self._held) == self._wanted:
                held = memoryview(bytes(self._held))
                if self._begin(held, 0, len(held), items):
                    self._held.clear()
        while position < end:
            left = self._value_left
            if left == 0:
                taken = self._begin(view, position, end, items)
                if taken == 0:
                    self._held += view[position:]
                    return
                position += taken
                continue
            stop = position + left
            if stop <= end:
                self._value_left = 0
                control = self._control
                items.append(
                    PDataReceived(
                        self._context_id,
                        bool(control & IS_COMMAND),
                        bool(control & IS_LAST),
                        view[position:stop],
                    )
                )
            else:
                stop = end
                self._value_left = left - (end - position)
                is_command = bool(self._control & IS_COMMAND)
                items.append(PDataReceived(self._context_id, is_command, False, view[position:end]))
            position = stop

    def _begin(self, view: memoryview, position: int, end: int, items: list[Item]) -> int:
        """Read a header, or a whole PDU other than P-DATA-TF; how many bytes that took.

        0: there are too few, `_wanted` says how many it takes.
        """
        available = end - position
        if self._pdu_left:
            if available < PDV_HEADER.size:
                self._wanted = PDV_HEADER.size
                return 0
            value_length, context_id, control = PDV_HEADER.unpack_from(view, position)
            self._begin_value(value_length, context_id, control, items)
            return PDV_HEADER.size
        kind = view[position]
        if kind != P_DATA_TF and kind not in DECODERS:
            raise UnrecognizedPduError(f"no PDU has type {kind:02X}H")
        if available < HEADER.size:
            self._wanted = HEADER.size
            return 0
        length: int = HEADER.unpack_from(view, position)[1]
        if kind == P_DATA_TF:
            if length < OVERHEAD or (0 < self.max_pdu_length < length):
                raise InvalidParameterError(
                    f"a P-DATA-TF of {length} bytes; at most {self.max_pdu_length} are allowed"
                    if length >= OVERHEAD
                    else f"a P-DATA-TF of {length} bytes, too few for a value"
                )
            if available < P_DATA_HEADER.size:
                self._wanted = P_DATA_HEADER.size
                return 0
            self._pdu_left = length
            _, _, value_length, context_id, control = P_DATA_HEADER.unpack_from(view, position)
            self._begin_value(value_length, context_id, control, items)
            return P_DATA_HEADER.size
        self._check_length(kind, length)
        size = HEADER.size + length
        if available < size:
            self._wanted = size
            return 0
        items.append(DECODERS[kind](view[position + HEADER.size : position + size]))
        return size

    def _begin_value(self, length: int, context_id: int, control: int, items: list[Item]) -> None:
        behind = self._pdu_left - 4 - length
        if length < 2 or behind < 0:
            raise InvalidParameterError(
                f"a presentation data value of {length} bytes in a P-DATA-TF with "
                f"{self._pdu_left - 4} left"
            )
        if 0 < behind < OVERHEAD:
            raise InvalidParameterError(f"{behind} bytes behind the last value of a P-DATA-TF")
        self._pdu_left = behind
        self._context_id = context_id
        self._control = control
        self._value_left = length - 2
        if length == 2:
            is_command, is_last = bool(control & IS_COMMAND), bool(control & IS_LAST)
            items.append(PDataReceived(context_id, is_command, is_last, _EMPTY))

    def _check_length(self, kind: int, length: int) -> None:
        if kind in (A_ASSOCIATE_RQ, A_ASSOCIATE_AC):
            shortest, longest = ASSOCIATE_FIXED_LENGTH, self._max_associate_length
        else:
            shortest = longest = 4
        if not shortest <= length <= longest:
            raise InvalidParameterError(
                f"a PDU of type {kind:02X}H and {length} bytes; {shortest} to {longest} are allowed"
            )
