"""An upper layer at work: its bytes on a link, its ARTIM timer on a clock.

A link is whatever carries bytes both ways in order: a TCP connection, TLS, a tunnel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from imaging_ingestion.dimse.event import Event
from imaging_ingestion.dimse.pdu import Buffer
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

    def __init__(self, role: Role, *, artim: float) -> None:
        """`artim`: seconds of the ARTIM timer (PS3.8 9.1.5)."""
        self.layer = UpperLayer(role)
        self.sink: Sink = _ignore
        self._artim = artim
        self._artim_starts = 0
        self._timer: asyncio.TimerHandle | None = None
        self._link: Link | None = None

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

    def lost(self) -> None:
        """The link ended, whoever ended it."""
        for event in self.layer.receive_eof():
            self.sink(event)
        self._settle()

    def send(self, primitive: Primitive) -> None:
        """Send something. Raises LocalProtocolError (AssociationOverError if it has ended)."""
        self.link.write(self.layer.send(primitive))
        self._settle()

    def _settle(self) -> None:
        """Write, keep the timer, close: what the upper layer wants after any call."""
        layer = self.layer
        out = layer.data_to_send()
        if out:
            self.link.write(out)
        if layer.artim_starts != self._artim_starts or not layer.artim_running:
            self._artim_starts = layer.artim_starts
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if layer.artim_running:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(self._artim, self._artim_expired)
        if layer.must_close:
            self.link.close()

    def _artim_expired(self) -> None:
        self._timer = None
        self.layer.artim_expired()
        self._settle()
        # The peer was told to close and did not; or it said nothing at all.
        self.link.abort()


def _ignore(_event: Event) -> None:
    return
