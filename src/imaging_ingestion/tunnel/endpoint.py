"""One end of a stream, for whoever uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from imaging_ingestion.tunnel.error import TunnelError
from imaging_ingestion.tunnel.frame import Buffer, Frame, Reason
from imaging_ingestion.tunnel.stream import Ended, Event, Failed, Received, Stream


class StreamUser(Protocol):
    """Who gets what comes. Nothing may raise."""

    def stream_data(self, data: memoryview) -> None:
        """Bytes came, in order; call `consumed` when they are done with. The view may be kept."""

    def stream_ended(self) -> None:
        """The peer sends nothing more."""

    def stream_failed(self, error: TunnelError) -> None:
        """The stream is over in the middle; last of all."""

    def stream_writable(self) -> None:
        """There is room again."""


class TunnelStream:
    """A stream through the tunnel. `settle` is called after whatever may have changed it."""

    def __init__(
        self,
        core: Stream,
        subject: str,
        peer_process: bytes,
        peer: str,
        settle: Callable[[TunnelStream], None],
    ) -> None:
        self.core = core
        #: Where frames to the peer are published, and where it answers.
        self.subject = subject
        self.reply = ""
        self.peer_process = peer_process
        self.peer = peer
        self.is_queued = False  # to be sent from
        self.is_absent = False  # NATS says that nobody listens there
        self.is_spool = False  # it brings instances of a spool
        self._settle = settle
        self._user: StreamUser | None = None
        self.failure: TunnelError | None = None
        self._was_full = False

    @property
    def is_full(self) -> bool:
        """Whether a writer should wait for `stream_writable`."""
        full = self.core.room <= 0
        self._was_full = self._was_full or full
        return full

    @property
    def unsent(self) -> int:
        """Bytes that have not arrived."""
        return self.core.sender.kept

    def attach(self, user: StreamUser) -> None:
        """Give what comes to somebody."""
        self._user = user
        if self.failure is not None:
            asyncio.get_running_loop().call_soon(user.stream_failed, self.failure)

    def write(self, buffers: Sequence[Buffer]) -> None:
        """Send bytes, which must not change any more."""
        for data in buffers:
            self.core.write(data)
        self._settle(self)

    def consumed(self, count: int) -> None:
        """So many bytes of what came are done with."""
        if count:
            self.core.consumed(count)
            self._settle(self)

    def close(self) -> None:
        """Send what is written, then the end."""
        self.core.close()
        self._settle(self)

    def abort(self, reason: Reason, text: str = "") -> None:
        """End at once. The user is told nothing more."""
        self._user = None
        self.core.abort(reason, text)
        self._settle(self)

    # ---- for the tunnel

    def receive(self, frame: Frame, now: float) -> None:
        """A frame came."""
        self.is_absent = False
        self._dispatch(self.core.receive(frame, now))
        if self._was_full and self.core.room >= self.core.window // 2:
            self._was_full = False
            if self._user is not None:
                self._user.stream_writable()
        self._settle(self)

    def tick(self, now: float) -> None:
        """Time has passed."""
        self._dispatch(self.core.tick(now))
        self._settle(self)

    def fail(self, reason: Reason, text: str) -> None:
        """It is over: the peer is gone, or this process ends."""
        if not self.core.is_over:
            self.core.abort(reason, text)
            self._dispatch([Failed(reason, text, is_peers=False)])
            self._settle(self)

    def _dispatch(self, events: list[Event]) -> None:
        for event in events:
            user = self._user
            match event:
                case Received(data):
                    if user is None:
                        self.core.consumed(len(data))
                    else:
                        user.stream_data(data)
                case Ended():
                    if user is not None:
                        user.stream_ended()
                case Failed(reason, text):
                    self.failure = TunnelError(reason, text)
                    if user is not None:
                        user.stream_failed(self.failure)
