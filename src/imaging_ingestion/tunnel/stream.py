"""A reliable, ordered stream of bytes both ways, over frames that may be lost: sans I/O.

    stream = Stream(StreamSettings(), now)
    stream.write(data)                        # while there is room
    for event in stream.receive(frame, now): …
    for event in stream.tick(stream_time): …  # several times a second
    while (frame := stream.next_frame(longest, now)) is not None: publish(frame)

Theory of operation. Both directions are alike, and independent: a `Sender` here and a `Receiver`
there. Every frame tells what has been received and how far the peer may send. Frames are lost when
a connection to NATS breaks, at either end; nothing tells so. They are found missing by what comes
after: a later frame shows the gap, and where nothing comes after, the sender asks (DATA without a
payload at the number that is next). So an answer to a question is always either "all of it" or
"from here on", and only the latter makes it send again.

A stream is alive while the peer is heard: each side says something at least every `keep_alive`
seconds, and gives up after `patience` seconds of silence, whatever made it: a peer that ended
without a word, a network that is cut, our own connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from imaging_ingestion.tunnel.frame import (
    Buffer,
    Flag,
    Frame,
    FrameError,
    Kind,
    Reason,
    encode,
    encode_parts,
    explain,
    read_explanation,
)
from imaging_ingestion.tunnel.receiving import Gap, OverrunError, Receiver
from imaging_ingestion.tunnel.sending import Sender


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """`window` in bytes: what may be on its way or unread in each direction. Times in seconds.

    `patience`: of silence, until the peer is taken for gone. `ask_after` and `ask_at_most`: until
    it is asked what has come, the first time and later. `ack_delay`: an acknowledgement may wait so
    long for something to travel with.
    """

    window: int = 4 << 20
    patience: float = 60.0
    keep_alive: float = 5.0
    ask_after: float = 1.0
    ask_at_most: float = 4.0
    ack_delay: float = 0.2


class Received(msgspec.Struct, frozen=True):
    """Bytes, in order. Tell `Stream.consumed` when they are done with."""

    data: memoryview


class Ended(msgspec.Struct, frozen=True):
    """The peer sends nothing more."""


class Failed(msgspec.Struct, frozen=True):
    """The stream is over in the middle. `is_peers`: the peer said so."""

    reason: Reason
    text: str
    is_peers: bool


Event = Received | Ended | Failed


class Stream:
    """One stream, once it is accepted, at either side."""

    def __init__(
        self,
        stream_id: bytes,
        settings: StreamSettings,
        now: float,
        *,
        greeting: bytes | None = None,
        peer_limit: int = 0,
    ) -> None:
        """`greeting`: the payload of ACCEPT, at the acceptor. `peer_limit`: what the peer takes."""
        self.stream_id = stream_id
        #: Failed or aborted; nothing more comes or goes, but for a last frame.
        self.is_over = False
        self.sender = Sender(peer_limit)
        self.receiver = Receiver(settings.window)
        self._settings = settings
        self._greeting = greeting
        self._greet = greeting is not None
        self._parting: bytes | None = None  # an ABORT to send
        self._ack_now = False
        self._ack_at: float | None = None
        self._gap: int | None = None  # the round of the frame that showed it
        self._ask_now = False
        self._ask_at: float | None = None
        self._ask_after = settings.ask_after
        self._link_was_down = False
        self._heard = now
        self._said = now

    # ---- the user's side

    @property
    def window(self) -> int:
        """How many bytes are kept until they are acknowledged."""
        return self._settings.window

    @property
    def room(self) -> int:
        """How many bytes may be written now; a little more does no harm."""
        return self._settings.window - self.sender.kept

    @property
    def is_done(self) -> bool:
        """Whether the stream can be forgotten: both have ended and know it, or it is over."""
        if self.is_over:
            return self._parting is None
        return self.receiver.is_ended and self.sender.is_done and not self._ack_now

    def write(self, data: Buffer) -> None:
        """Send bytes. They must not change any more."""
        if not self.is_over and not self.sender.is_closed:
            self.sender.write(data)

    def close(self) -> None:
        """Send what is written, then the end."""
        self.sender.close()

    def abort(self, reason: Reason = Reason.ABORTED, text: str = "") -> None:
        """End it now; what is on its way is lost."""
        if not self.is_over:
            self.is_over = True
            self._parting = explain(reason, text)

    def forget(self) -> None:
        """Say no last word; it must be over."""
        self._parting = None

    def consumed(self, count: int) -> None:
        """So many received bytes are done with: the peer may send as many more."""
        self.receiver.consume(count)
        self._ack_now = self._ack_now or self.receiver.is_ack_due

    # ---- the network's side

    def link_is_up(self, now: float) -> None:
        """The connection to NATS is there again: what was on its way may be lost."""
        self._link_was_down = True
        self._ack_now = True
        self._ask(now)

    def receive(self, frame: Frame, now: float) -> list[Event]:
        """A frame of this stream came."""
        if self.is_over:
            return []
        self._heard = now
        try:
            return self._receive(frame, now)
        except (OverrunError, ValueError, FrameError) as error:
            self.abort(Reason.PROTOCOL, str(error))
            return [Failed(Reason.PROTOCOL, str(error), is_peers=False)]

    def tick(self, now: float) -> list[Event]:
        """Time has passed."""
        if self.is_over:
            return []
        silence = now - self._heard
        if silence >= self._settings.patience:
            text = f"nothing was heard of it for {silence:.0f} s"
            self.abort(Reason.PEER_GONE, text)
            return [Failed(Reason.PEER_GONE, text, is_peers=False)]
        if self._ack_at is not None and now >= self._ack_at:
            self._ack_now = True
        if self._ask_at is not None and now >= self._ask_at:
            self._ask(now)
        elif self.sender.is_blocked:
            self._expect_answer(now)
        if now - self._said >= self._settings.keep_alive:
            self._ack_now = True
        return []

    @property
    def wants_to_send(self) -> bool:
        """Whether `next_frame` has something."""
        if self.is_over:
            return self._parting is not None
        return (
            self._greet
            or self._ack_now
            or self._ask_now
            or self.sender.can_send
            or self.sender.can_finish
        )

    def next_frame(self, longest: int, now: float) -> bytes | None:
        """The next frame, with a payload of `longest` bytes at most."""
        if self._parting is not None:
            payload, self._parting = self._parting, None
            return encode(Frame(Kind.ABORT, self.stream_id, payload=payload))
        if self.is_over:
            return None
        sender = self.sender
        if self._greet:
            assert self._greeting is not None
            self._greet = False
            return self._frame(Kind.ACCEPT, now, 0, (self._greeting,))
        if self._gap is not None:
            # Not together with data: a gap has the peer's round, data have ours.
            gap, self._gap = self._gap, None
            return self._frame(Kind.ACK, now, sender.next, flags=Flag.GAP, round_=gap)
        if sender.can_send:
            offset, payload_parts = sender.take(longest)
            self._expect_answer(now)
            return self._frame(Kind.DATA, now, offset, payload_parts)
        if sender.can_finish:
            self._expect_answer(now)
            return self._frame(Kind.FIN, now, sender.finish(), flags=Flag.ASK)
        if self._ask_now:
            return self._frame(Kind.DATA, now, sender.next, flags=Flag.ASK)
        if self._ack_now:
            return self._frame(Kind.ACK, now, sender.next)
        return None

    # ---- its own

    def _frame(
        self,
        kind: Kind,
        now: float,
        offset: int,
        payload: Sequence[Buffer] = (),
        *,
        flags: int = 0,
        round_: int | None = None,
    ) -> bytes:
        """Every frame acknowledges."""
        ack, limit = self.receiver.acknowledge()
        self._ack_now, self._ack_at = False, None
        if kind in (Kind.DATA, Kind.FIN):
            flags |= Flag.ASK if self._ask_now else 0
            self._ask_now = False
        if self._link_was_down:
            flags |= Flag.LINK
            self._link_was_down = False
        self._said = now
        number = self.sender.round if round_ is None else round_
        frame = Frame(kind, self.stream_id, offset, ack, limit, number, flags)
        return encode_parts(frame, list(payload))

    def _receive(self, frame: Frame, now: float) -> list[Event]:
        kind = frame.kind
        if kind is Kind.ABORT:
            reason, text = read_explanation(frame.payload)
            self.is_over = True
            if self.receiver.is_ended and self.sender.is_closed:
                return []  # it has closed and forgotten us; only its last word was lost
            return [Failed(reason, text, is_peers=True)]
        if kind in (Kind.OPEN, Kind.ACCEPT):
            # Again, because our answer to it was lost.
            self._greet = self._greeting is not None
            self._ack_now = True
            return []
        self._acknowledged(frame, now)
        events: list[Event] = []
        try:
            if kind is Kind.DATA:
                new = self.receiver.data(frame.offset, frame.payload)
                if new:
                    events.append(Received(new))
                elif frame.payload:
                    self._ack_now = True  # it came already: the peer does not know
            elif kind is Kind.FIN:
                if self.receiver.end(frame.offset):
                    events.append(Ended())
                self._ack_now = True
        except Gap:
            self._gap = frame.round
            self._ack_now = True
        if frame.flags & Flag.ASK or self.receiver.is_ack_due:
            self._ack_now = True
        elif self.receiver.owes_ack and self._ack_at is None:
            self._ack_at = now + self._settings.ack_delay
        if frame.flags & Flag.LINK:
            self._ask(now)
        return events

    def _acknowledged(self, frame: Frame, now: float) -> None:
        sender = self.sender
        progress = sender.acknowledge(frame.ack, frame.limit)
        if frame.kind is Kind.ACK and frame.flags & Flag.GAP:
            sender.gap(frame.ack, frame.round)
        if progress:
            self._ask_after = self._settings.ask_after
            self._ask_at = None
        if self._ask_at is None and (sender.has_outstanding or sender.is_blocked):
            self._ask_at = now + self._ask_after

    def _expect_answer(self, now: float) -> None:
        if self._ask_at is None:
            self._ask_at = now + self._ask_after

    def _ask(self, now: float) -> None:
        """Ask what has come, if there is anything to ask about."""
        if self.sender.has_outstanding or self.sender.is_blocked:
            self._ask_now = True
            self._ask_after = min(2 * self._ask_after, self._settings.ask_at_most)
            self._ask_at = now + self._ask_after
        else:
            self._ask_at = None
