"""A TCP (or TLS) connection as a link (PS3.8 9.1)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Final, cast

from imaging_ingestion.association.wire import Wire
from imaging_ingestion.dimse.pdu import Buffer

#: Bytes kept for a peer that reads slowly before writers wait, and until they go on.
WRITE_HIGH = 1 << 20
WRITE_LOW = 1 << 18

#: Many a sender has Nagle's algorithm on: its data set waits for the acknowledgement of the command
#: before it, which the kernel would delay by 40 ms. To ask for it at once has to be repeated; only
#: what is not much can be what such a sender waits for.
_TCP_QUICKACK: Final = getattr(socket, "TCP_QUICKACK", socket.TCP_NODELAY)
_SMALL: Final = 1 << 16


class TcpLink(asyncio.Protocol):
    """Drives a wire from asyncio's callbacks.

    Received bytes are objects of their own, so views of them may be kept: the copy that costs is
    made up for by the one the store would make otherwise (benchmarks/dimse.py).
    """

    def __init__(
        self,
        wire: Wire,
        *,
        on_made: Callable[[TcpLink], None] | None = None,
        on_lost: Callable[[TcpLink], None] | None = None,
    ) -> None:
        self.wire = wire
        self.peer = "?"
        self._on_made = on_made
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._closing = False
        self._socket: socket.socket | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH, low=WRITE_LOW)
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            # The event loop's object is slow to set options on; this one is never closed.
            self._socket = socket.socket(fileno=connection.fileno())
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address = transport.get_extra_info("peername")
        if address:
            self.peer = f"{address[0]}:{address[1]}"
        if self._on_made is not None:
            self._on_made(self)
        if not self._closing:
            self.wire.made(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._socket is not None and len(data) < _SMALL:
            self._socket.setsockopt(socket.IPPROTO_TCP, _TCP_QUICKACK, 1)
        self.wire.receive(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._closing = True
        self._writable.set()
        if self._socket is not None:
            self._socket.detach()
            self._socket = None
        self.wire.lost()
        if self._on_lost is not None:
            self._on_lost(self)

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._writable.set()

    @property
    def is_congested(self) -> bool:
        """See `Link.is_congested`."""
        return not self._writable.is_set()

    def write(self, buffers: Sequence[Buffer]) -> None:
        """See `Link.write`."""
        if buffers and not self._closing and self._transport is not None:
            self._transport.writelines(buffers)

    async def drain(self) -> None:
        """See `Link.drain`."""
        await self._writable.wait()

    def pause_reading(self) -> None:
        """See `Link.pause_reading`."""
        if not self._closing and self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """See `Link.resume_reading`."""
        if not self._closing and self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        """See `Link.close`."""
        if not self._closing and self._transport is not None:
            self._closing = True
            self._transport.close()

    def abort(self) -> None:
        """See `Link.abort`."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()
