"""Links that are no sockets and carry bytes in any pieces: what a tunnel would be, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from imaging_ingestion.association.wire import Wire
from imaging_ingestion.dimse.pdu import Buffer


class PiecewiseLink:
    """One end of a link. Bytes go over in pieces of `cut`, when the event loop comes to it."""

    def __init__(self, wire: Wire, peer: str, *, cut: int, high: int = 1 << 20) -> None:
        self.peer = peer
        self.other: PiecewiseLink | None = None
        self.pauses = 0
        self.most_unsent = 0
        self._wire = wire
        self._cut = cut
        self._high = high
        self._unsent = bytearray()
        self._drained = asyncio.Event()
        self._is_paused = False
        self._is_over = False
        self._is_closing = False
        self._pump = asyncio.get_running_loop().create_task(self._carry())
        self._wake = asyncio.Event()

    @property
    def is_congested(self) -> bool:
        """See `Link`."""
        return len(self._unsent) > self._high

    @property
    def unsent(self) -> int:
        """See `Link`."""
        return len(self._unsent)

    def write(self, buffers: Sequence[Buffer]) -> None:
        """See `Link`."""
        if not self._is_closing:
            for buffer in buffers:
                self._unsent += buffer
            self.most_unsent = max(self.most_unsent, len(self._unsent))
            self._wake.set()

    async def drain(self) -> None:
        """See `Link`."""
        while self.is_congested and not self._is_over:
            self._drained.clear()
            await self._drained.wait()

    def pause_reading(self) -> None:
        """See `Link`."""
        self._is_paused = True
        self.pauses += 1

    def resume_reading(self) -> None:
        """See `Link`."""
        self._is_paused = False
        if self.other is not None:
            self.other._wake.set()

    def close(self) -> None:
        """See `Link`."""
        self._is_closing = True
        self._wake.set()

    def abort(self) -> None:
        """See `Link`."""
        self._unsent.clear()
        self.close()

    def cut_off(self) -> None:
        """The link breaks: both ends are told."""
        for end in (self, self.other):
            assert end is not None
            end.abort()

    async def _carry(self) -> None:
        """Carry what is written to the other end, until the link ends."""
        while True:
            other = self.other
            while self._unsent and other is not None and not other._is_paused:
                piece = bytes(self._unsent[: self._cut])
                del self._unsent[: len(piece)]
                if not self.is_congested:
                    self._drained.set()
                if not other._is_over:
                    other._wire.receive(piece)
                await asyncio.sleep(0)
            if self._is_closing and not self._unsent:
                break
            self._wake.clear()
            await self._wake.wait()
        for end in (self, other):
            if end is not None and not end._is_over:
                end._is_over = True
                end._is_closing = True
                end._drained.set()
                end._wake.set()
                end._wire.lost()

    async def gone(self) -> None:
        """Wait until it has ended."""
        await self._pump


def link(near: Wire, far: Wire, *, cut: int = 1 << 16, high: int = 1 << 20) -> PiecewiseLink:
    """Connect two wires; the end of the near one."""
    one = PiecewiseLink(near, "memory:far", cut=cut, high=high)
    other = PiecewiseLink(far, "memory:near", cut=cut, high=high)
    one.other, other.other = other, one
    far.made(other)
    near.made(one)
    return one
