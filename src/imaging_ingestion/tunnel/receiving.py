"""One direction of a stream, at its receiver: what arrives twice is dropped, what is missing asked
for.

Bytes are taken in order only. What comes behind a gap is dropped, too, and sent again: NATS keeps
the order between two processes, so a gap is the whole of what was lost with a connection, and
keeping a few late frames would save nothing (docs/tunnel.md).
"""

from __future__ import annotations

from imaging_ingestion.tunnel.frame import Buffer


class Gap(Exception):  # noqa: N818 - it is no error, but an answer
    """Something before this is missing."""


class OverrunError(Exception):
    """The peer sent more than it may."""


class Receiver:
    """What one side receives. `window`: bytes that may come beyond what was consumed."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.expected = 0
        self.consumed = 0
        #: Up to where the peer was told that it may send, and what was acknowledged.
        self.limit = window
        self.acked = 0
        self.is_ended = False

    @property
    def unconsumed(self) -> int:
        """Bytes that have come and are not done with."""
        return self.expected - self.is_ended - self.consumed

    @property
    def owes_ack(self) -> bool:
        """Whether something has come that is not acknowledged."""
        return self.expected > self.acked

    @property
    def is_ack_due(self) -> bool:
        """Whether the peer may need to know at once how far it may go, or what it can forget."""
        quarter = max(1, self.window // 4)
        grown = self.consumed + self.window - self.limit
        return grown >= quarter or self.expected - self.acked >= quarter

    def data(self, offset: int, payload: Buffer) -> memoryview:
        """What is new in it, perhaps nothing. Raises Gap, OverrunError."""
        end = offset + len(payload)
        if payload and (end > self.limit or (self.is_ended and end >= self.expected)):
            raise OverrunError(f"bytes up to {end}, allowed are {self.limit}")
        if offset > self.expected:
            raise Gap
        new = memoryview(payload)[min(self.expected - offset, len(payload)) :]
        self.expected += len(new)
        return new

    def end(self, offset: int) -> bool:
        """The end was told; whether that is new. Raises Gap, OverrunError."""
        if self.is_ended:
            if offset != self.expected - 1:
                raise OverrunError(f"a second end at {offset}")
            return False
        if offset > self.limit or offset < self.expected:
            raise OverrunError(f"an end at {offset}, with {self.expected} bytes received")
        if offset > self.expected:
            raise Gap
        self.expected += 1
        self.is_ended = True
        return True

    def consume(self, count: int) -> None:
        """The user is done with so many bytes."""
        self.consumed += count

    def acknowledge(self) -> tuple[int, int]:
        """What to tell the peer: what has come, and how far it may go."""
        self.acked = self.expected
        self.limit = max(self.limit, self.consumed + self.window)
        return self.acked, self.limit
