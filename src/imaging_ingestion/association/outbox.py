"""Sends messages over an association, whole and one after the other (PS3.7 6.3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from imaging_ingestion.association.error import (
    AssociationAbortedError,
    AssociationError,
    AssociationReleasedError,
    PeerTimeoutError,
)
from imaging_ingestion.association.limits import AssociationLimits
from imaging_ingestion.association.wire import Wire
from imaging_ingestion.dimse.command import Command
from imaging_ingestion.dimse.error import WrongStateError
from imaging_ingestion.dimse.message import MessageWriter
from imaging_ingestion.dimse.pdu import Buffer

#: Bytes of a data set that are laid into PDUs at once.
_CHUNK: Final = 256 << 10


class Outbox:
    """What goes to the peer of one association.

    `check` raises the AssociationError by which the association has ended, if it has; `fail` ends
    it.
    """

    def __init__(
        self,
        wire: Wire,
        max_pdu_length: int,
        limits: AssociationLimits,
        *,
        check: Callable[[], None],
        fail: Callable[[AssociationError], None],
    ) -> None:
        self._wire = wire
        self._limits = limits
        self._check = check
        self._fail = fail
        self._writer = MessageWriter(max_pdu_length)
        self._turn = asyncio.Lock()

    @property
    def is_busy(self) -> bool:
        """Whether a message is being sent."""
        return self._turn.locked()

    async def send(
        self,
        context_id: int,
        command: Command,
        data_set: Buffer | AsyncIterator[Buffer] | None = None,
        *,
        on_begun: Callable[[], None] | None = None,
    ) -> None:
        """Send one message, after those that are being sent; `on_begun` is told when it begins.

        Raises AssociationError; LocalProtocolError if nothing was sent. What `data_set` raises, and
        being cancelled in its middle, ends the association: nothing can follow half a message.
        """
        async with self._turn:
            self._check()
            try:
                first = self._writer.command(context_id, command, has_data_set=data_set is not None)
                self._wire.send(first)
                if on_begun is not None:
                    on_begun()
                if isinstance(data_set, AsyncIterator):
                    await self._send_stream(data_set)
                elif data_set is not None:
                    await self._send_whole(memoryview(data_set))
                await self._room()
            except WrongStateError:
                self._check()
                raise AssociationReleasedError("the association has ended") from None
            except BaseException:
                if self._writer.in_message:
                    self._fail(AssociationAbortedError("a message could not be finished"))
                raise

    async def _send_whole(self, data: memoryview) -> None:
        for start in range(0, max(len(data), 1), _CHUNK):
            stop = start + _CHUNK
            self._wire.send(self._writer.data_set(data[start:stop], is_last=stop >= len(data)))
            await self._room()

    async def _send_stream(self, pieces: AsyncIterator[Buffer]) -> None:
        """One piece is kept back, so that the last fragment is one with bytes in it."""
        kept: Buffer = b""
        async for piece in pieces:
            if kept:
                self._wire.send(self._writer.data_set(kept, is_last=False))
                await self._room()
            kept = piece
        self._wire.send(self._writer.data_set(kept, is_last=True))

    async def _room(self) -> None:
        """Wait for a peer that reads slowly, but not for one that does not read at all."""
        link, limits = self._wire.link, self._limits
        while link.is_congested:
            before = link.unsent
            try:
                async with asyncio.timeout(limits.progress):
                    await link.drain()
            except TimeoutError:
                if before - link.unsent < limits.least_progress:
                    error = PeerTimeoutError("the peer does not read what is sent to it")
                    self._fail(error)
                    raise error from None
        self._check()
