"""A TCP (or TLS) connection as a link (PS3.8 9.1)."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Sequence
from typing import Final, cast

from imaging_ingestion.association.wire import Wire
from imaging_ingestion.dimse.pdu import Buffer

#: Bytes kept for a peer that reads slowly before writers wait, and until they go on.
WRITE_HIGH = 1 << 20
WRITE_LOW = 1 << 18
#: Connections that the kernel keeps for us.
BACKLOG = 2048
#: Many a sender (dcmtk's storescu) has Nagle's algorithm on: the end of what it writes waits until
#: all before it is acknowledged, which the kernel may put off by 40 ms. That it does not has to be
#: asked for anew each time (benchmarks/dimse.py).
_TCP_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)


class TcpLink(asyncio.Protocol):
    """Drives a wire from asyncio's callbacks.

    Received bytes are objects of their own and never change, so whoever gets views of them may keep
    these: the storage space writes them to the disk without another copy (benchmarks/dimse.py).
    """

    def __init__(self, wire: Wire) -> None:
        self.peer = "?"
        self._wire = wire
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
            # The event loop's own object is slow to set options on. This one never closes anything.
            self._socket = socket.socket(fileno=connection.fileno())
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address = transport.get_extra_info("peername")
        if address:
            self.peer = f"{address[0]}:{address[1]}"
        self._wire.made(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._socket is not None and _TCP_QUICKACK is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, _TCP_QUICKACK, 1)
        self._wire.receive(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._closing = True
        self._writable.set()
        if self._socket is not None:
            self._socket.detach()
            self._socket = None
        self._wire.lost(None if exc is None else reason(exc))

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

    @property
    def unsent(self) -> int:
        """See `Link.unsent`."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def write(self, buffers: Sequence[Buffer]) -> None:
        """See `Link.write`."""
        if buffers and not self._closing and self._transport is not None:
            self._transport.writelines(buffers)

    async def drain(self) -> None:
        """See `Link.drain`."""
        await self._writable.wait()

    def pause_reading(self) -> None:
        """See `Link.pause_reading`."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """See `Link.resume_reading`."""
        if self._transport is not None and not self._transport.is_closing():
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


def reason(error: Exception) -> str:
    """Why there is no connection, or no more, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)  # asyncio's own words are "Connect call failed"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


async def listening_sockets(host: str, port: int, *, reuse_port: bool) -> list[socket.socket]:
    """Sockets that listen on every address of a host; `port` 0 takes one free port. OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    families = {family for family, *_ in found}
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listening = socket.socket(family, kind, protocol)
            sockets.append(listening)
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                # `::` alone is every address of the machine, as it is for HTTP.
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, len(families) > 1)
            listening.bind((address[0], port, *address[2:]))
            listening.listen(BACKLOG)
            port = port or listening.getsockname()[1]
    except BaseException:
        for listening in sockets:
            listening.close()
        raise
    return sockets
