"""One direction of a stream, at its sender: what is not acknowledged is kept, to be sent again.

Theory of operation. Bytes have numbers, from 0; the end of the stream has the number behind the
last. `acked` <= `next` <= `written`: what is before `acked` has arrived and is forgotten, what is
before `next` is on its way, what is before `written` waits. Nothing goes beyond the receiver's
`limit`. When the receiver tells of a gap, sending goes back to where it begins, and a new round
starts: gaps in frames of an earlier round were known already.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from imaging_ingestion.tunnel.frame import Buffer

_ROUNDS: Final = 1 << 16


class Sender:
    """What one side sends."""

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.acked = 0
        self.next = 0
        self.written = 0
        self.round = 0
        #: Bytes that were sent again.
        self.resent = 0
        self.is_closed = False
        self._pieces: deque[memoryview] = deque()  # from `acked` to `written`
        self._highest = 0  # behind what was ever sent
        # Where `next` is in the pieces: sending goes on there without looking for it.
        self._index = 0
        self._skip = 0

    @property
    def kept(self) -> int:
        """Bytes that are kept."""
        return self.written - min(self.acked, self.written)

    @property
    def has_outstanding(self) -> bool:
        """Whether something is on its way."""
        return self.acked < self.next

    @property
    def is_blocked(self) -> bool:
        """Whether something waits for the receiver."""
        return self.next < self.written and self.next >= self.limit

    @property
    def can_send(self) -> bool:
        """Whether there are bytes that may go now."""
        return self.next < self.written and self.next < self.limit

    @property
    def can_finish(self) -> bool:
        """Whether the end may be told now."""
        return self.is_closed and self.next == self.written

    @property
    def is_done(self) -> bool:
        """Whether everything has arrived, the end as well."""
        return self.is_closed and self.acked > self.written

    def write(self, data: Buffer) -> None:
        """Take bytes, which must not change any more."""
        if data:
            self._pieces.append(memoryview(data))
            self.written += len(data)

    def close(self) -> None:
        """Nothing follows."""
        self.is_closed = True

    def take(self, longest: int) -> tuple[int, list[Buffer]]:
        """The next bytes to send, and the number of the first of them."""
        offset = self.next
        wanted = min(longest, self.limit - offset, self.written - offset)
        found: list[Buffer] = []
        left = wanted
        while left > 0:
            piece = self._pieces[self._index]
            part = piece[self._skip : self._skip + left]
            found.append(part)
            left -= len(part)
            self._skip += len(part)
            if self._skip == len(piece):
                self._index += 1
                self._skip = 0
        self._sent(wanted)
        return offset, found

    def finish(self) -> int:
        """The number of the end, which is sent now."""
        offset = self.next
        self.next += 1
        self._highest = max(self._highest, self.next)
        return offset

    def acknowledge(self, ack: int, limit: int) -> bool:
        """Whether there was progress. Raises ValueError if it is of what was never sent."""
        if ack > self._highest:
            raise ValueError(f"byte {ack} is acknowledged, {self._highest} were sent")
        progress = ack > self.acked or limit > self.limit
        self.limit = max(self.limit, limit)
        if ack > self.acked:
            self._forget(min(ack, self.written) - min(self.acked, self.written))
            self.acked = ack
            if self.next < ack:  # it had gone back, and what was on its way came after all
                self._go_to(ack)
        return progress

    def gap(self, ack: int, round_: int) -> None:
        """The receiver misses what begins at `ack`; a frame of `round_` told it so."""
        if round_ == self.round and self.acked <= ack < self.next:
            self._go_to(ack)
            self.round = (self.round + 1) % _ROUNDS

    def _sent(self, count: int) -> None:
        self.resent += max(0, min(self._highest, self.next + count) - self.next)
        self.next += count
        self._highest = max(self._highest, self.next)

    def _forget(self, count: int) -> None:
        """Let bytes at the beginning go; what was being sent stays where it is."""
        pieces = self._pieces
        while count > 0:
            first = pieces[0]
            if len(first) <= count:
                pieces.popleft()
                count -= len(first)
                if self._index > 0:
                    self._index -= 1
                else:
                    self._skip = 0
            else:
                pieces[0] = first[count:]
                if self._index == 0:
                    self._skip = max(0, self._skip - count)
                count = 0

    def _go_to(self, number: int) -> None:
        self.next = number
        left = min(number, self.written) - min(self.acked, self.written)
        self._index = 0
        while self._index < len(self._pieces) and left >= len(self._pieces[self._index]):
            left -= len(self._pieces[self._index])
            self._index += 1
        self._skip = left
