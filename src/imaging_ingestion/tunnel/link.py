"""A stream of the tunnel as the link of an association: the DIMSE services without a TCP hop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from imaging_ingestion.association.wire import Wire
from imaging_ingestion.dimse.pdu import A_ASSOCIATE_AC, Buffer
from imaging_ingestion.tunnel.endpoint import TunnelStream
from imaging_ingestion.tunnel.error import TunnelError
from imaging_ingestion.tunnel.frame import Reason
from imaging_ingestion.tunnel.titles import Titles


class TunnelLink:
    """Drives a wire from a stream.

    `titles`: those of the peer's request before they were changed; None where the request is ours.
    """

    def __init__(self, wire: Wire, stream: TunnelStream, titles: Titles | None = None) -> None:
        through = f"through {stream.peer}"
        self.peer = through if titles is None else f"{titles.calling} {through}"
        self._wire = wire
        self._stream = stream
        self._titles = titles
        self._waiting: deque[memoryview] = deque()  # while reading is paused: the window at most
        self._is_paused = False
        self._is_ended = False
        self._is_closed = False
        self._is_lost = False
        self._why: str | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def begin(self, request: bytes = b"", early: Sequence[memoryview] = ()) -> None:
        """The link is open. `request` is the A-ASSOCIATE-RQ, `early` what came behind it."""
        self._wire.made(self)
        self._stream.attach(self)
        if request:
            self.stream_data(memoryview(request))
        for data in early:
            self.stream_data(data)

    # ---- see `Link`

    @property
    def is_congested(self) -> bool:
        """See `Link.is_congested`."""
        return not self._writable.is_set()

    @property
    def unsent(self) -> int:
        """See `Link.unsent`."""
        return self._stream.unsent

    def write(self, buffers: Sequence[Buffer]) -> None:
        """See `Link.write`."""
        if not buffers or self._is_closed or self._is_lost:
            return
        # They are kept until they have arrived, and whoever wrote them may use them again.
        data = b"".join(buffers)
        if self._titles is not None:
            titles, self._titles = self._titles, None
            if data[0] == A_ASSOCIATE_AC:
                data = titles.put(data)
        self._stream.write((data,))
        if self._stream.is_full:
            self._writable.clear()

    async def drain(self) -> None:
        """See `Link.drain`."""
        await self._writable.wait()

    def pause_reading(self) -> None:
        """See `Link.pause_reading`."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """See `Link.resume_reading`."""
        if self._is_paused:
            self._is_paused = False
            asyncio.get_running_loop().call_soon(self._read)

    def close(self) -> None:
        """See `Link.close`."""
        if not self._is_closed:
            self._is_closed = True
            self._stream.close()
            asyncio.get_running_loop().call_soon(self._lose)

    def abort(self) -> None:
        """See `Link.abort`."""
        self._is_closed = True
        self._stream.abort(Reason.ABORTED, "the service ended the association")
        asyncio.get_running_loop().call_soon(self._lose)

    # ---- see `StreamUser`

    def stream_data(self, data: memoryview) -> None:
        """See `StreamUser`."""
        if self._is_lost:
            self._stream.consumed(len(data))
            return
        self._waiting.append(data)
        self._read()

    def stream_ended(self) -> None:
        """See `StreamUser`."""
        self._is_ended = True
        self._read()

    def stream_failed(self, error: TunnelError) -> None:
        """See `StreamUser`."""
        self._why = str(error)
        self._is_closed = True
        self._lose()

    def stream_writable(self) -> None:
        """See `StreamUser`."""
        self._writable.set()

    # ---- its own

    def _read(self) -> None:
        while self._waiting and not self._is_paused and not self._is_lost:
            data = self._waiting.popleft()
            self._wire.receive(data)
            self._stream.consumed(len(data))
        if self._is_ended and not self._is_paused and not self._waiting:
            self._stream.close()
            self._lose()

    def _lose(self) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._writable.set()
            left = sum(map(len, self._waiting))
            self._waiting.clear()
            self._stream.consumed(left)
            self._wire.lost(self._why)
