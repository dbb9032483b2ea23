"""Which operations are outstanding on an association (PS3.7 D.3.3.3 and 9.1.1.1.1)."""

from __future__ import annotations

from typing import Final

from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.error import LocalProtocolError, UnexpectedParameterError

_MESSAGE_IDS: Final = 65536


class PerformedOperations:
    """What the peer asked us to do and we have not finished. `limit` at a time; 0: any number."""

    def __init__(self, limit: int = 1) -> None:
        self.limit = limit
        self._message_ids: set[int] = set()

    def __len__(self) -> int:
        return len(self._message_ids)

    @property
    def at_limit(self) -> bool:
        """Whether the peer may ask for no more, so that reading from it can wait."""
        return bool(self.limit) and len(self._message_ids) >= self.limit

    def begin(self, message_id: int) -> status.Status | None:
        """A request came; the failure to answer it with if its Message ID is in use (C.5.9)."""
        if message_id in self._message_ids:
            return status.DUPLICATE_INVOCATION
        self._message_ids.add(message_id)
        return None

    def is_under_way(self, message_id: int) -> bool:
        """Whether a C-CANCEL for it means anything; it may be late, and is ignored then (C15)."""
        return message_id in self._message_ids

    def end(self, message_id: int) -> None:
        """The final response is sent."""
        self._message_ids.discard(message_id)


class InvokedOperations:
    """What we asked the peer to do and it has not finished. `limit` at a time; 0: any number."""

    def __init__(self, limit: int = 1) -> None:
        self.limit = limit
        self._message_ids: set[int] = set()
        self._last = 0

    def __len__(self) -> int:
        return len(self._message_ids)

    @property
    def at_limit(self) -> bool:
        """Whether the next request has to wait for a response."""
        return bool(self.limit) and len(self._message_ids) >= self.limit

    def begin(self) -> int:
        """A Message ID that is not in use. Raises LocalProtocolError at the limit."""
        if self.at_limit or len(self._message_ids) == _MESSAGE_IDS - 1:
            raise LocalProtocolError(f"{len(self._message_ids)} operations are outstanding")
        while True:
            self._last = self._last % (_MESSAGE_IDS - 1) + 1
            if self._last not in self._message_ids:
                self._message_ids.add(self._last)
                return self._last

    def response(self, message_id: int, *, is_final: bool) -> None:
        """A response came. Raises UnexpectedParameterError if nothing like that was asked."""
        if message_id not in self._message_ids:
            raise UnexpectedParameterError(f"a response to message {message_id}, which is not due")
        if is_final:
            self._message_ids.discard(message_id)
