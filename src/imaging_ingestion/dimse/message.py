"""DIMSE messages over P-DATA: a command, and the data set that may follow it (PS3.7 6.3, PS3.8 E).

One message follows the other in each direction; its fragments are never mixed with another's. The
data set is not looked at and never gathered: it goes through as views of what was received, and as
views of what is to be sent.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from imaging_ingestion.dimse.command import Command, RefusedRequest
from imaging_ingestion.dimse.command_codec import decode_command, encode_command
from imaging_ingestion.dimse.command_set import MAX_COMMAND_SET_LENGTH
from imaging_ingestion.dimse.error import (
    LocalProtocolError,
    MessageError,
    UnexpectedParameterError,
)
from imaging_ingestion.dimse.p_data import PDataReceived, PDataRequest, fragment
from imaging_ingestion.dimse.pdu import Buffer

_NO_CONTEXT: Final = 0  # context ids are odd


class CommandReceived(msgspec.Struct, frozen=True):
    """A whole command. If `has_data_set`, DataSetFragments on the same context follow."""

    context_id: int
    command: Command | RefusedRequest
    has_data_set: bool


class DataSetFragment(msgspec.Struct, frozen=True, gc=False):
    """The next bytes of the data set of the last command; `data` holds as PDataReceived's does."""

    context_id: int
    data: memoryview
    is_last: bool


MessageEvent = CommandReceived | DataSetFragment


class MessageReader:
    """Reads one direction of an association. `context_ids` are those of the accepted contexts."""

    def __init__(
        self,
        context_ids: Collection[int],
        *,
        max_command_set_length: int = MAX_COMMAND_SET_LENGTH,
    ) -> None:
        self._context_ids = frozenset(context_ids)
        self._max_command_set_length = max_command_set_length
        self._command_set = bytearray()  # what has come of a command that is not complete
        self._command_context = _NO_CONTEXT  # of that command
        self._data_set_context = _NO_CONTEXT  # of the data set that is being received

    @property
    def in_message(self) -> bool:
        """Whether a message has begun and is not complete."""
        return bool(self._command_context or self._data_set_context)

    def receive(self, part: PDataReceived) -> MessageEvent | None:
        """Take the next bytes; None where they only complete a command in part.

        Raises UnexpectedParameterError (a context that was not accepted or is not the message's; a
        data set where there is none), MessageError (a command set that cannot be read). The
        association is to be aborted with `Abort.because_of` the error then.
        """
        context_id = part.context_id
        if not part.is_command:
            if context_id != self._data_set_context:
                raise UnexpectedParameterError(self._misplaced(part))
            if part.is_last:
                self._data_set_context = _NO_CONTEXT
            return DataSetFragment(context_id, part.data, part.is_last)
        if (
            self._data_set_context
            or context_id not in self._context_ids
            or self._command_context not in (_NO_CONTEXT, context_id)
        ):
            raise UnexpectedParameterError(self._misplaced(part))
        if len(self._command_set) + len(part.data) > self._max_command_set_length:
            raise MessageError(f"a command set of more than {self._max_command_set_length} bytes")
        if not part.is_last:
            self._command_set += part.data
            self._command_context = context_id
            return None
        data: Buffer = part.data
        if self._command_set:
            data = bytes(self._command_set) + part.data
            self._command_set.clear()
        self._command_context = _NO_CONTEXT
        command, has_data_set = decode_command(data)
        if has_data_set:
            self._data_set_context = context_id
        return CommandReceived(context_id, command, has_data_set)

    def _misplaced(self, part: PDataReceived) -> str:
        what = "a command" if part.is_command else "a data set"
        where = f"{what} fragment on presentation context {part.context_id}"
        if part.context_id not in self._context_ids:
            return f"{where}, which was not accepted"
        if self._data_set_context:
            return f"{where} inside the data set on {self._data_set_context}"
        if self._command_context:
            return f"{where} inside the command on {self._command_context}"
        return f"{where} where there is none"


class MessageWriter:
    """Writes one direction of an association.

    `max_pdu_length` is what the peer takes, in bytes (0: any length). What it returns goes to
    `UpperLayer.send`, in that order and all of it.
    """

    def __init__(self, max_pdu_length: int) -> None:
        self._max_pdu_length = max_pdu_length
        self._data_set_context = _NO_CONTEXT
        self._odd: Buffer = b""

    @property
    def in_message(self) -> bool:
        """Whether a data set is to be continued."""
        return bool(self._data_set_context)

    def command(
        self, context_id: int, command: Command, *, has_data_set: bool = False
    ) -> PDataRequest:
        """A command. Raises LocalProtocolError inside another message's data set; EncodingError."""
        if self._data_set_context:
            raise LocalProtocolError("a command while a data set is not complete")
        encoded = encode_command(command, has_data_set=has_data_set)
        request = self._fragment(context_id, encoded, is_command=True, is_last=True)
        if has_data_set:
            self._data_set_context = context_id
        return request

    def data_set(self, chunk: Buffer, *, is_last: bool) -> PDataRequest:
        """The next bytes of the data set, any number of them; the end may come with none.

        The buffers are views of `chunk`, which must not change until they are written. Raises
        LocalProtocolError where no data set is due.
        """
        context_id = self._data_set_context
        if not context_id:
            raise LocalProtocolError("a data set without a command that has one")
        if is_last:
            self._data_set_context = _NO_CONTEXT
        if self._odd or (len(chunk) % 2 and not is_last):
            # Fragments have an even length (PS3.8 annex E): an odd byte waits for the next.
            chunk, self._odd = self._even(chunk, is_last)
        return self._fragment(context_id, chunk, is_command=False, is_last=is_last)

    def _even(self, chunk: Buffer, is_last: bool) -> tuple[Buffer, Buffer]:
        whole = bytes(self._odd) + bytes(chunk)
        stop = len(whole) if is_last else len(whole) & ~1
        return whole[:stop], whole[stop:]

    def _fragment(
        self, context_id: int, data: Buffer, *, is_command: bool, is_last: bool
    ) -> PDataRequest:
        return fragment(
            context_id,
            data,
            is_command=is_command,
            is_last=is_last,
            max_pdu_length=self._max_pdu_length,
        )
