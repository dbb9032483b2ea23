"""One request from the peer: its command, its data set as it streams, its responses."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Protocol

from imaging_ingestion.association.error import AssociationError, DataSetTooLongError
from imaging_ingestion.dimse.command import Request, Response
from imaging_ingestion.dimse.negotiation import AcceptedContext
from imaging_ingestion.dimse.pdu import Buffer
from imaging_ingestion.dimse.status import StatusKind, kind_of

if TYPE_CHECKING:
    from imaging_ingestion.association.association import Association


class DataSetStream:
    """The fragments of one data set between the connection and whoever reads it.

    `on_held` is told how many bytes more, or less, are waiting, so that the peer can wait, too.
    """

    def __init__(self, on_held: Callable[[int], None]) -> None:
        self._on_held = on_held
        self._waiting: deque[memoryview] = deque()
        self._arrived = asyncio.Event()
        self._complete = False
        self._unwanted = False
        self._error: AssociationError | None = None

    def feed(self, data: memoryview, *, is_last: bool) -> None:
        """The next bytes."""
        if data and not self._unwanted:
            self._waiting.append(data)
            self._on_held(len(data))
        self._complete = is_last
        self._arrived.set()

    def fail(self, error: AssociationError) -> None:
        """No more will come."""
        if not self._complete:
            self._error = error
            self._arrived.set()

    async def pieces(self) -> AsyncIterator[memoryview]:
        """The bytes, as they come. Raises AssociationError if the end does not come."""
        waiting = self._waiting
        while True:
            while waiting:
                data = waiting.popleft()
                self._on_held(-len(data))
                yield data
            if self._complete:
                return
            if self._error is not None:
                raise self._error
            self._arrived.clear()
            await self._arrived.wait()

    async def skip(self) -> None:
        """Let what is left come and forget it. Raises AssociationError if the end does not come."""
        self._unwanted = True
        async for _ in self.pieces():
            pass


class IncomingRequest:
    """A request that is being performed. `cancelled` is set when a C-CANCEL-RQ for it comes."""

    def __init__(
        self,
        association: Association,
        context: AcceptedContext,
        command: Request,
        stream: DataSetStream | None,
    ) -> None:
        self.association = association
        self.context = context
        self.command = command
        self.cancelled = asyncio.Event()
        self.is_answered = False  # by a final response
        self._stream = stream

    @property
    def has_data_set(self) -> bool:
        """Whether a data set comes with the command."""
        return self._stream is not None

    async def data_set(self) -> AsyncIterator[memoryview]:
        """The data set's bytes, as they come; nothing if there is none.

        The views hold as long as they are kept. Raises AssociationError if the association ends in
        the middle.
        """
        if self._stream is not None:
            async for piece in self._stream.pieces():
                yield piece

    async def read_data_set(self, limit: int) -> bytes:
        """The whole data set. Raises DataSetTooLongError beyond `limit` bytes, AssociationError."""
        whole = bytearray()
        async for piece in self.data_set():
            if len(whole) + len(piece) > limit:
                raise DataSetTooLongError(limit)
            whole += piece
        return bytes(whole)

    async def respond(self, response: Response, data_set: Buffer | None = None) -> None:
        """Send a response: pending ones, as many as there are, and a final one.

        What has not been read of the data set is forgotten before the final one, for a peer that
        is still sending reads no answer. Raises AssociationError.
        """
        if self.is_answered:
            raise RuntimeError("the request is answered: nothing may follow a final response")
        is_final = kind_of(response.status) is not StatusKind.PENDING
        if is_final and self._stream is not None:
            await self._stream.skip()
        await self.association.send_response(self.context.context_id, response, data_set)
        self.is_answered = is_final


class Service(Protocol):
    """What is done when a request comes on a presentation context of one abstract syntax."""

    async def perform(self, request: IncomingRequest) -> None:
        """Answer it. An exception is answered by 0110H, processing failure."""
