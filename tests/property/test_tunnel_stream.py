"""Whatever is lost, doubled or overtaken: a stream's bytes arrive once and in order."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from imaging_ingestion.tunnel.frame import FrameError, Reason, decode
from imaging_ingestion.tunnel.stream import Ended, Failed, Received, Stream, StreamSettings

ID = bytes(range(16))
SETTINGS = StreamSettings(window=64, patience=1000.0)
STEP = 0.25  # seconds of a turn
#: Turns until all must have arrived once nothing is lost any more: a question may have to wait for
#: `ask_at_most`, and then comes the rest.
TURNS = 400


@dataclass
class End:
    """One side: what it wants to send, and what it got."""

    stream: Stream
    script: list[bytes]
    is_reader: bool = True
    got: bytearray = field(default_factory=bytearray)
    unread: int = 0
    is_ended: bool = False
    failure: Failed | None = None
    most_kept: int = 0
    most_unread: int = 0

    def write(self) -> None:
        while self.script and self.stream.room > 0:
            self.stream.write(self.script.pop(0))
        if not self.script:
            self.stream.close()
        self.most_kept = max(self.most_kept, self.stream.sender.kept)

    def take(self, data: bytes, now: float) -> None:
        for event in self.stream.receive(decode(data), now):
            match event:
                case Received(piece):
                    self.got += piece
                    self.unread += len(piece)
                case Ended():
                    self.is_ended = True
                case Failed():
                    self.failure = event
        self.most_unread = max(self.most_unread, self.unread)

    def read(self, count: int) -> None:
        count = min(count, self.unread)
        self.unread -= count
        self.stream.consumed(count)


def ends(one: list[bytes], other: list[bytes]) -> tuple[End, End]:
    return tuple(  # type: ignore[return-value]
        End(Stream(ID, SETTINGS, 0.0, peer_limit=SETTINGS.window), list(script))
        for script in (one, other)
    )


scripts = st.lists(st.binary(min_size=1, max_size=40), max_size=20)


@settings(max_examples=300, deadline=None)
@given(scripts, scripts, st.data())
def test_what_is_lost_doubled_and_overtaken_arrives_once_and_in_order(
    one: list[bytes], other: list[bytes], data: st.DataObject
) -> None:
    a, b = ends(one, other)
    wanted = b"".join(one), b"".join(other)
    longest = data.draw(st.integers(1, 50))
    bad_turns = data.draw(st.integers(0, 25))
    random = data.draw(st.randoms(use_true_random=False))
    way: list[tuple[End, bytes]] = []
    now = 0.0
    for turn in range(TURNS):
        now += STEP
        is_bad = turn < bad_turns
        for here, there in ((a, b), (b, a)):
            here.write()
            here.stream.tick(now)
            if is_bad and random.random() < 0.1:
                here.stream.link_is_up(now)
            while (frame := here.stream.next_frame(longest, now)) is not None:
                fate = random.random() if is_bad else 1.0
                if fate > 0.3:
                    way.append((there, frame))
                if 0.3 < fate < 0.5:
                    way.append((there, frame))
        late = []
        if is_bad:
            random.shuffle(way)
            late = [way.pop() for _ in range(random.randrange(len(way) + 1))]
        for there, frame in way:
            there.take(frame, now)
            there.read(random.randrange(60) if is_bad else 1000)
        way = late
        for end in (a, b):
            end.read(1000)
        if a.stream.is_done and b.stream.is_done:
            break
    assert (a.failure, b.failure) == (None, None)
    assert (bytes(b.got), bytes(a.got)) == wanted
    assert a.is_ended
    assert b.is_ended
    for end in (a, b):
        assert end.most_unread <= SETTINGS.window
        assert end.most_kept < SETTINGS.window + 40
        assert end.stream.sender.kept == 0


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120), st.integers(0, 47), st.integers(0, 255))
def test_a_stream_survives_any_frame_or_ends_by_a_protocol_error(
    payload: bytes, position: int, value: int
) -> None:
    a, _ = ends([b"x" * 30], [])
    a.write()
    frame = a.stream.next_frame(10, 0.0)
    assert frame is not None
    damaged = bytearray(frame + payload)
    damaged[position] = value
    try:
        decoded = decode(bytes(damaged))
    except FrameError:
        return
    for event in a.stream.receive(decoded, 0.0):
        if isinstance(event, Failed) and not event.is_peers:
            assert event.reason is Reason.PROTOCOL
            assert a.stream.wants_to_send
    a.stream.next_frame(10, 0.0)
