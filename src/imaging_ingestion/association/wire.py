"""An upper layer at work: its bytes on a link, its ARTIM timer on a clock.

A link is whatever carries bytes both ways in order: a TCP connection, TLS, a tunnel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from imaging_ingestion.dimse.event import Event
from imaging_ingestion.dimse.pdu import Buffer
from imaging_ingestion.dimse.pdu_reader import MAX_ASSOCIATE_LENGTH
from imaging_ingestion.dimse.upper_layer import Primitive, Role, UpperLayer

Sink = Callable[[Event], None]


class Link(Protocol):
    """Carries bytes. Nothing raises: a link that is gone is told by `Wire.lost`."""

    @property
    def peer(self) -> str:
        """Who is at the other end, for logs."""

    @property
    def is_congested(self) -> bool:
        """Whether a good deal of what was written is still kept."""

    @property
    def unsent(self) -> int:
        """How many bytes of what was written are still kept."""

    def write(self, buffers: Sequence[Buffer]) -> None:
        """Send, in order; what cannot be sent at once is kept."""

    async def drain(self) -> None:
        """Wait until little of what was written is still kept."""

    def pause_reading(self) -> None:
        """Let the peer wait."""

    def resume_reading(self) -> None:
        """Go on."""

    def close(self) -> None:
        """Send what is kept, then end."""

    def abort(self) -> None:
        """End at once."""


class Wire:
    """One upper layer on one link. `sink` takes its events, and may send in the middle of them."""

    def __init__(
        self,
        role: Role,
        *,
        artim: float,
        max_associate_length: int = MAX_ASSOCIATE_LENGTH,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        """`artim`: seconds of the ARTIM timer (PS3.8 9.1.5); `max_associate_length` in bytes.

        `on_lost` is told last of all that the link has ended.
        """
        self.layer = UpperLayer(role, max_associate_length=max_associate_length)
        self.sink: Sink = _ignore
        #: Why the link was lost, where it told; for logs.
        self.loss: str | None = None
        self._artim = artim
        self._on_lost = on_lost
        self._artim_starts = 0
        self._timer: asyncio.TimerHandle | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._link: Link | None = None
        self._is_lost = False

    @property
    def is_open(self) -> bool:
        """Whether there is a link."""
        return self._link is not None and not self._is_lost

    @property
    def was_made(self) -> bool:
        """Whether there has been a link, be it open or lost."""
        return self._link is not None

    @property
    def link(self) -> Link:
        """What carries it. There is one after `made`."""
        assert self._link is not None
        return self._link

    def made(self, link: Link) -> None:
        """The link is open."""
        self._link = link
        link.write(self.layer.connection_made())
        self._settle()

    def receive(self, data: Buffer) -> None:
        """Bytes came. The events hold views of `data`."""
        for event in self.layer.receive_data(data):
            self.sink(event)
        self._settle()

    def lost(self, why: str | None = None) -> None:
        """The link ended, whoever ended it."""
        self._is_lost = True
        self.loss = why
        for event in self.layer.receive_eof():
            self.sink(event)
        self._settle()
        if self._on_lost is not None:
            self._on_lost()

    def send(self, primitive: Primitive) -> None:
        """Send something. Raises LocalProtocolError (AssociationOverError if it has ended)."""
        self.link.write(self.layer.send(primitive))
        self._settle()

    def linger(self) -> None:
        """Give the peer no longer than the ARTIM timer's time to end the link.

        PS3.8 has the timer run in Sta2 and Sta13 only; but a peer must not be able to keep a
        connection by never reading our last words, or by never confirming a release.
        """
        if self._lingering is None and not self._is_lost:
            loop = asyncio.get_running_loop()
            self._lingering = loop.call_later(self._artim, self.link.abort)

    def _settle(self) -> None:
        """Write, keep the timer, close: what the upper layer wants after any call."""
        layer = self.layer
        out = layer.data_to_send()
        if out:
            self.link.write(out)
        if layer.artim_starts != self._artim_starts or not layer.artim_running:
            self._artim_starts = layer.artim_starts
            self._stop_timers(self._timer)
            self._timer = None
            if layer.artim_running and not self._is_lost:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(self._artim, self._artim_expired)
        if layer.must_close:
            self.link.close()
            self.linger()
        if self._is_lost:
            self._stop_timers(self._timer, self._lingering)

    @staticmethod
    def _stop_timers(*timers: asyncio.TimerHandle | None) -> None:
        for timer in timers:
            if timer is not None:
                timer.cancel()

    def _artim_expired(self) -> None:
        self._timer = None
        self.layer.artim_expired()
        self._settle()
        # The peer was told to close and did not; or it said nothing at all.
        self.link.abort()


def _ignore(_event: Event) -> None:
    return
