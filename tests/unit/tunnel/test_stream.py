"""Streams, frame by frame: windows, gaps, questions, silence, ends."""

from __future__ import annotations

from imaging_ingestion.tunnel.frame import Flag, Frame, Kind, Reason, decode, encode, explain
from imaging_ingestion.tunnel.stream import Ended, Failed, Received, Stream, StreamSettings

ID = bytes(range(16))
WINDOW = 100
SETTINGS = StreamSettings(window=WINDOW, patience=60.0, keep_alive=5.0)


def stream(peer_limit: int = WINDOW) -> Stream:
    return Stream(ID, SETTINGS, 0.0, peer_limit=peer_limit)


def sent(one: Stream, now: float = 0.0, longest: int = 1000) -> list[Frame]:
    frames = []
    while (data := one.next_frame(longest, now)) is not None:
        frames.append(decode(data))
    return frames


def give(one: Stream, *frames: Frame, now: float = 0.0) -> list[object]:
    return [event for frame in frames for event in one.receive(frame, now)]


def data(offset: int, payload: bytes, **fields: int) -> Frame:
    return Frame(Kind.DATA, ID, offset, limit=WINDOW, payload=payload, **fields)


def test_bytes_go_in_frames_no_longer_than_is_allowed() -> None:
    one = stream()
    one.write(b"abcdef")
    one.write(b"ghij")
    frames = sent(one, longest=4)
    assert [(frame.offset, bytes(frame.payload)) for frame in frames] == [
        (0, b"abcd"),
        (4, b"efgh"),
        (8, b"ij"),
    ]


def test_nothing_goes_beyond_what_the_peer_takes() -> None:
    one = stream(peer_limit=6)
    one.write(b"0123456789")
    assert [bytes(frame.payload) for frame in sent(one)] == [b"012345"]
    give(one, Frame(Kind.ACK, ID, ack=6, limit=9))
    assert [bytes(frame.payload) for frame in sent(one)] == [b"678"]


def test_what_is_not_acknowledged_is_kept_and_counts() -> None:
    one = stream()
    one.write(bytes(70))
    assert one.room == 30
    sent(one)
    assert one.room == 30
    give(one, Frame(Kind.ACK, ID, ack=50, limit=150))
    assert one.room == 80


def test_a_gap_is_filled_once_however_often_it_is_told() -> None:
    one = stream()
    one.write(b"0123456789")
    sent(one, longest=2)
    gap = Frame(Kind.ACK, ID, ack=4, limit=WINDOW, flags=Flag.GAP)
    give(one, gap, gap, gap)
    again = sent(one)
    assert [(frame.offset, bytes(frame.payload)) for frame in again] == [(4, b"456789")]
    assert again[0].round == 1
    give(one, gap)  # of the first round, and late
    assert sent(one) == []
    assert one.sender.resent == 6


def test_the_receiver_tells_a_gap_with_the_round_that_showed_it() -> None:
    one = stream()
    assert give(one, data(5, b"late", round=3)) == []
    (answer,) = sent(one)
    assert (answer.kind, answer.flags, answer.ack, answer.round) == (Kind.ACK, Flag.GAP, 0, 3)


def test_what_comes_twice_is_given_once() -> None:
    one = stream()
    events = give(one, data(0, b"abc"), data(0, b"abc"), data(1, b"bcde"))
    assert [bytes(event.data) for event in events if isinstance(event, Received)] == [b"abc", b"de"]


def test_what_is_consumed_lets_the_peer_go_on() -> None:
    one = stream()
    give(one, data(0, bytes(100)))
    assert [(frame.ack, frame.limit) for frame in sent(one)] == [(100, 100)]
    one.consumed(20)
    assert not one.wants_to_send  # too little to be told
    one.consumed(20)
    assert [frame.limit for frame in sent(one)] == [140]


def test_an_acknowledgement_waits_a_little_for_something_to_travel_with() -> None:
    one = stream()
    give(one, data(0, b"abc"))
    assert sent(one) == []
    one.tick(0.1)
    assert sent(one, 0.1) == []
    one.tick(0.2)
    assert [frame.ack for frame in sent(one, 0.2)] == [3]


def test_without_an_answer_it_asks_and_asks_less_and_less() -> None:
    one = stream()
    one.write(b"abc")
    sent(one)
    asked = []
    for step in range(1, 150):
        now = step / 10
        one.tick(now)
        asked += [now for frame in sent(one, now) if frame.flags & Flag.ASK]
    assert asked == [1.0, 3.0, 7.0, 11.0]


def test_a_question_is_answered_at_once() -> None:
    one = stream()
    give(one, Frame(Kind.DATA, ID, 0, limit=WINDOW, flags=Flag.ASK))
    assert [frame.kind for frame in sent(one)] == [Kind.ACK]


def test_after_the_link_was_down_it_asks_and_says_so() -> None:
    one = stream()
    one.write(b"abc")
    sent(one)
    one.link_is_up(0.5)
    (asked,) = sent(one, 0.5)
    assert (asked.kind, asked.offset, bytes(asked.payload)) == (Kind.DATA, 3, b"")
    assert asked.flags == Flag.ASK | Flag.LINK


def test_a_peer_whose_link_was_down_is_asked() -> None:
    one = stream()
    one.write(b"abc")
    sent(one)
    give(one, Frame(Kind.ACK, ID, limit=WINDOW, flags=Flag.LINK))
    assert [frame.flags for frame in sent(one)] == [Flag.ASK]


def test_it_says_something_now_and_then() -> None:
    one = stream()
    one.tick(4.9)
    assert sent(one, 4.9) == []
    one.tick(5.0)
    assert [frame.kind for frame in sent(one, 5.0)] == [Kind.ACK]


def test_a_peer_that_is_silent_for_too_long_is_gone() -> None:
    one = stream()
    give(one, Frame(Kind.ACK, ID, limit=WINDOW), now=10.0)
    assert one.tick(69.9) == []
    (failed,) = one.tick(70.0)
    assert failed == Failed(Reason.PEER_GONE, "nothing was heard of it for 60 s", False)
    (abort,) = sent(one, 70.0)
    assert abort.kind is Kind.ABORT
    assert one.is_done


def test_the_end_comes_after_all_bytes_and_both_sides_know_it() -> None:
    one, other = stream(), stream()
    one.write(b"abc")
    one.close()
    other.close()
    events: list[object] = []
    for _ in range(3):
        events += give(other, *sent(one))
        events += give(one, *sent(other))
    assert [type(event) for event in events] == [Received, Ended, Ended]
    assert one.is_done
    assert other.is_done


def test_nothing_is_written_after_the_end() -> None:
    one = stream()
    one.close()
    one.write(b"abc")
    assert [frame.kind for frame in sent(one)] == [Kind.FIN]


def test_an_abort_is_told_with_its_reason() -> None:
    one, other = stream(), stream()
    one.write(b"lost")
    one.abort(Reason.ABORTED, "in the middle")
    (abort,) = sent(one)
    assert give(other, abort) == [Failed(Reason.ABORTED, "in the middle", True)]
    assert one.is_done
    assert other.is_done


def test_a_peer_that_has_forgotten_a_finished_stream_is_no_failure() -> None:
    one = stream()
    one.close()
    sent(one)
    give(one, Frame(Kind.FIN, ID, 0, limit=WINDOW))
    unknown = Frame(Kind.ABORT, ID, payload=explain(Reason.UNKNOWN_STREAM))
    assert give(one, unknown) == []
    assert one.is_done


def test_a_peer_that_sends_more_than_it_may_is_aborted() -> None:
    for bad in (
        data(60, bytes(41)),
        Frame(Kind.ACK, ID, ack=1),
        Frame(Kind.FIN, ID, WINDOW + 1),
        Frame(Kind.ABORT, ID),
    ):
        one = stream()
        (failed,) = give(one, bad)
        assert isinstance(failed, Failed)
        assert failed.reason is Reason.PROTOCOL
        assert [frame.kind for frame in sent(one)] == [Kind.ABORT]


def test_after_the_end_nothing_more_may_come() -> None:
    one = stream()
    assert give(one, data(0, b"abc"), Frame(Kind.FIN, ID, 3, limit=WINDOW))
    assert (
        give(one, data(1, b"bc"), Frame(Kind.DATA, ID, 4, limit=WINDOW)) == []
    )  # again, and asked
    (failed,) = give(one, data(3, b"d"))
    assert isinstance(failed, Failed)


def test_an_acceptor_greets_first_and_again_when_asked_again() -> None:
    one = Stream(ID, SETTINGS, 0.0, greeting=b"hello", peer_limit=WINDOW)
    (accept,) = sent(one)
    assert (accept.kind, bytes(accept.payload), accept.limit) == (Kind.ACCEPT, b"hello", WINDOW)
    give(one, Frame(Kind.OPEN, ID))
    assert [frame.kind for frame in sent(one)] == [Kind.ACCEPT]


def test_frames_are_what_is_sent() -> None:
    one = stream()
    one.write(b"x")
    assert one.next_frame(10, 0.0) == encode(data(0, b"x"))
