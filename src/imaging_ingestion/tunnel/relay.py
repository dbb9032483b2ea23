"""One association between a local peer on TCP and a stream of the tunnel.

Whichever side the request came from, the relay is the same: PDUs of the peer go into the stream,
PDUs of the stream to the peer, each direction waiting where the other end waits. It ends as the
association ends: a connection that closes ends the stream, an end of the stream closes the
connection, and a stream that fails is told to the peer in DICOM's terms.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from enum import Enum, auto
from typing import Final, cast

import structlog

from imaging_ingestion.association.tcp import reason as in_words
from imaging_ingestion.dimse.error import AbortSource, RemoteProtocolError
from imaging_ingestion.dimse.pdu import (
    A_ABORT,
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RJ,
    A_RELEASE_RP,
    Abort,
    AssociateReject,
    Buffer,
    encode_pdu,
)
from imaging_ingestion.dimse.rejection import TEMPORARY_CONGESTION
from imaging_ingestion.tunnel.endpoint import TunnelStream
from imaging_ingestion.tunnel.error import TunnelError
from imaging_ingestion.tunnel.frame import Reason
from imaging_ingestion.tunnel.pdu_gate import ACCEPTOR_BEGINS, REQUESTOR_BEGINS, PduGate
from imaging_ingestion.tunnel.titles import Titles

log = structlog.get_logger(__name__)

#: A P-DATA-TF up to this length is written to the peer at once, or not at all: what dcmtk and most
#: others take at most. It is less than the smallest window, which it must fit in.
HOLD: Final = 132 << 10
#: Bytes that wait to be written to the peer before the stream waits, and until it goes on.
_HIGH: Final = 256 << 10
_LOW: Final = 64 << 10
#: What ends an association: after it the peer is to close the connection.
_LAST: Final = frozenset({A_ASSOCIATE_RJ, A_RELEASE_RP, A_ABORT})
#: The connection of a peer that has vanished is found broken in about two minutes.
_KEEP_ALIVE: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
#: Peers with Nagle's algorithm wait for our acknowledgement, which the kernel may put off by 40 ms
#: (docs/association.md); it has to be asked for anew each time (benchmarks/tunnel.py).
_TCP_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)

Told = Callable[[], None]


class Side(Enum):
    """Whom the local peer is to the association."""

    REQUESTOR = auto()
    ACCEPTOR = auto()


class Relay(asyncio.Protocol):
    """A local peer's connection, before and while there is a stream.

    `first`: takes the requestor's A-ASSOCIATE-RQ. `titles`: those of the request before they were
    changed, for the acceptance of an acceptor. `on_end`: is told last of all. `artim` in seconds.
    """

    def __init__(
        self,
        side: Side,
        *,
        artim: float,
        on_end: Callable[[Relay], None],
        on_request: Callable[[Relay, memoryview], None] | None = None,
        titles: Titles | None = None,
    ) -> None:
        self.peer = "?"
        self.is_over = False
        self.why = ""  # it ended in the middle
        self._side = side
        self._artim = artim
        self._on_end = on_end
        self._on_request = on_request
        self._titles = titles
        is_requestor = side is Side.REQUESTOR
        self._from_peer = PduGate(REQUESTOR_BEGINS if is_requestor else ACCEPTOR_BEGINS)
        self._to_peer = PduGate(ACCEPTOR_BEGINS if is_requestor else REQUESTOR_BEGINS, hold=HOLD)
        self._stream: TunnelStream | None = None
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._is_answered = not is_requestor  # the requestor has its answer
        self._is_last_said = False
        self._is_dropped = False
        self._is_deaf = False  # the last word was ours: whatever the peer says now is dropped
        self._early: list[memoryview] = []  # what the requestor sent before it was answered
        self._is_reading = True
        self._is_congested = False
        self._unconsumed = 0
        self._timer: asyncio.TimerHandle | None = None

    # ---- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)
        if self._is_dropped:
            self._transport.abort()
        self._transport.set_write_buffer_limits(high=_HIGH, low=_LOW)
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            # The event loop's own object is slow to set options on. This one never closes anything.
            self._socket = socket.socket(fileno=connection.fileno())
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEP_ALIVE.items():
                if hasattr(socket, name):
                    self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        address = transport.get_extra_info("peername")
        if address:
            self.peer = f"{address[0]}:{address[1]}"
        if self._side is Side.REQUESTOR:
            self._limit_time()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._socket is not None and _TCP_QUICKACK is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, _TCP_QUICKACK, 1)
        if self._is_deaf:
            return
        try:
            passed = self._from_peer.receive(memoryview(data))
        except RemoteProtocolError as error:
            self._broken_by_peer(error)
            return
        if self._stream is None:
            self._early += [part for _, part in passed]
            if self._on_request is not None and self._early:
                self._requested(self._early.pop(0))
            return
        for kind, part in passed:
            if kind in _LAST:
                self._limit_time()
            elif kind == A_ASSOCIATE_AC and self._titles is not None:
                self._stream.write((self._titles.put(part),))
                continue
            self._stream.write((part,))
        if self._stream.is_full:
            self._pause()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if exc is not None and not self._is_last_said:
            self.why = self.why or f"the connection of {self.peer} was lost: {in_words(exc)}"
        self._stop_timer()
        if self._socket is not None:
            self._socket.detach()
            self._socket = None
        self._is_congested = False
        if self._stream is not None:
            self._consume(0)  # what still comes is read and dropped
            self._stream.close()
        self._end()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._is_congested = True

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._is_congested = False
        self._consume(self._to_peer.kept)

    # ---- whoever owns it

    @property
    def is_connected(self) -> bool:
        """Whether the peer is there."""
        return self._transport is not None and not self._transport.is_closing()

    def join(self, stream: TunnelStream, request: Buffer) -> None:
        """There is a stream. `request` goes to the other end of whatever this is."""
        self._stream = stream
        stream.attach(self)
        if not self.is_connected:
            stream.close()
        elif self._side is Side.REQUESTOR:
            stream.write((request, *self._early))
            self._early.clear()
            self._resume()
        elif self._transport is not None:
            self._to_peer.receive(memoryview(request))
            self._transport.write(request)
            stream.consumed(len(request))

    def hand_over(self, protocol: asyncio.Protocol, request: Buffer) -> None:
        """Give the connection to somebody else, with all that came on it."""
        transport = self._transport
        assert transport is not None
        if self._socket is not None:
            self._socket.detach()
            self._socket = None
        self._transport = None
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        for data in (request, *self._early):
            protocol.data_received(bytes(data))
        self._early.clear()
        self._end()

    def reject(self, rejection: AssociateReject) -> None:
        """Answer the request by A-ASSOCIATE-RJ."""
        self._say_last(encode_pdu(rejection))

    def refuse(self, error: RemoteProtocolError) -> None:
        """The request cannot be read."""
        self._broken_by_peer(error)

    def drop(self) -> None:
        """Close the connection, whatever is said on it; also before it is made."""
        self._is_dropped = True
        if self._transport is not None:
            self._transport.abort()

    def abort(self, why: str) -> None:
        """End it in the middle, in both directions."""
        self._fail(why)
        if self._stream is not None:
            self._stream.abort(Reason.ABORTED, why)

    # ---- the stream

    def stream_data(self, data: memoryview) -> None:
        """See `StreamUser`."""
        self._unconsumed += len(data)
        transport = self._transport
        if transport is None or transport.is_closing():
            self._consume(0)
            return
        try:
            passed = self._to_peer.receive(data)
        except RemoteProtocolError as error:
            text = f"what came through the tunnel: {error}"
            self._fail(text)
            assert self._stream is not None
            self._stream.abort(Reason.PROTOCOL, text)
            return
        for kind, part in passed:
            transport.write(part)
            if kind in _LAST or kind == A_ASSOCIATE_AC:
                self._is_answered = True
            if kind in _LAST:
                self._is_last_said = True
                self._limit_time()
        self._consume(self._to_peer.kept)

    def stream_ended(self) -> None:
        """See `StreamUser`."""
        if self._transport is not None and not self._transport.is_closing():
            self._is_last_said = True
            self._transport.close()
            self._limit_time()

    def stream_failed(self, error: TunnelError) -> None:
        """See `StreamUser`."""
        self._fail(f"the tunnel: {error}")
        if self._transport is None:
            self._end()

    def stream_writable(self) -> None:
        """See `StreamUser`."""
        self._resume()

    # ---- its own

    def _requested(self, request: memoryview) -> None:
        """The peer asks for an association; it has to wait for the answer."""
        self._stop_timer()
        self._pause()
        if self._on_request is not None:
            take, self._on_request = self._on_request, None
            take(self, request)

    def _consume(self, kept: int) -> None:
        """Let the other side send as much as was written here."""
        if self._stream is not None and not self._is_congested:
            count, self._unconsumed = self._unconsumed - kept, kept
            self._stream.consumed(count)

    def _broken_by_peer(self, error: RemoteProtocolError) -> None:
        self.why = self.why or f"{self.peer} broke the protocol: {error}"
        if self._stream is not None:
            self._stream.abort(Reason.ABORTED, f"the other peer broke the protocol: {error}")
            self._stream = None
        if self._to_peer.is_between:
            self._say_last(encode_pdu(Abort.because_of(error)))
        else:
            self._close()

    def _fail(self, why: str) -> None:
        """Tell the peer that it is over, if it does not know."""
        if not self._is_last_said:
            self.why = self.why or why
            if self._is_answered and self._to_peer.is_between:
                self._say_last(encode_pdu(Abort(AbortSource.SERVICE_PROVIDER)))
            elif not self._is_answered:
                self._say_last(encode_pdu(TEMPORARY_CONGESTION))
            else:
                self._close()  # in the middle of a PDU: nothing that is said would be understood
        elif not self._is_deaf:
            self._close()

    def _say_last(self, pdu: bytes) -> None:
        """Say it, and wait for the peer to close: what it has sent is read, for a connection that
        is closed before that takes the last word with it."""
        if self._transport is not None and self.is_connected and not self._is_last_said:
            self._is_last_said = self._is_deaf = True
            self._transport.write(pdu)
            self._limit_time()
            self._resume()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._limit_time()

    def _limit_time(self) -> None:
        """Give the peer no longer than the ARTIM timer's time (PS3.8 9.1.5)."""
        if self._timer is None and self._transport is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._artim, self._transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _pause(self) -> None:
        if self._is_reading and self.is_connected and self._transport is not None:
            self._is_reading = False
            self._transport.pause_reading()

    def _resume(self) -> None:
        if not self._is_reading and self.is_connected and self._transport is not None:
            self._is_reading = True
            self._transport.resume_reading()

    def _end(self) -> None:
        if not self.is_over:
            self.is_over = True
            self._on_end(self)
