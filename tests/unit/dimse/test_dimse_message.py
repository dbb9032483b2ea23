"""Messages over P-DATA, both ways."""

from __future__ import annotations

import pytest
from associations import CT_IMAGE_STORAGE, VERIFICATION, joined

from imaging_ingestion.dimse.command import CEchoRequest, CStoreRequest
from imaging_ingestion.dimse.command_codec import encode_command
from imaging_ingestion.dimse.error import (
    EncodingError,
    LocalProtocolError,
    MessageError,
    UnexpectedParameterError,
)
from imaging_ingestion.dimse.message import (
    CommandReceived,
    DataSetFragment,
    MessageReader,
    MessageWriter,
)
from imaging_ingestion.dimse.p_data import PDataReceived
from imaging_ingestion.dimse.pdu_reader import PduReader

ECHO = CEchoRequest(message_id=1, affected_sop_class_uid=VERIFICATION)
STORE = CStoreRequest(
    message_id=2, affected_sop_class_uid=CT_IMAGE_STORAGE, affected_sop_instance_uid="1.2.3"
)
ECHO_SET = encode_command(ECHO)
STORE_SET = encode_command(STORE, has_data_set=True)


def command(data: bytes, context_id: int = 1, *, is_last: bool = True) -> PDataReceived:
    return PDataReceived(context_id, True, is_last, memoryview(data))


def data(content: bytes, context_id: int = 1, *, is_last: bool = False) -> PDataReceived:
    return PDataReceived(context_id, False, is_last, memoryview(content))


def reader(*parts: PDataReceived) -> MessageReader:
    """A reader that has taken some parts already."""
    made = MessageReader({1, 3})
    for part in parts:
        made.receive(part)
    return made


def test_a_command_alone_is_a_message() -> None:
    messages = reader()
    assert messages.receive(command(ECHO_SET)) == CommandReceived(1, ECHO, False)
    assert not messages.in_message
    assert messages.receive(command(ECHO_SET, 3)) == CommandReceived(3, ECHO, False)


def test_a_data_set_follows_its_command_piece_by_piece() -> None:
    messages = reader()
    assert messages.receive(command(STORE_SET)) == CommandReceived(1, STORE, True)
    assert messages.in_message
    part = data(b"ab")
    got = messages.receive(part)
    assert got == DataSetFragment(1, memoryview(b"ab"), False)
    assert isinstance(got, DataSetFragment)
    assert got.data is part.data
    assert messages.receive(data(b"", is_last=True)) == DataSetFragment(1, memoryview(b""), True)
    assert not messages.in_message


# A8
def test_a_command_may_come_in_pieces_of_any_length() -> None:
    messages = reader()
    for byte in STORE_SET[:-1]:
        assert messages.receive(command(bytes((byte,)), is_last=False)) is None
        assert messages.in_message
    assert messages.receive(command(b"", is_last=False)) is None
    assert messages.receive(command(STORE_SET[-1:])) == CommandReceived(1, STORE, True)


@pytest.mark.parametrize(
    ("before", "part", "words"),
    [
        ([], command(ECHO_SET, 5), "not accepted"),
        ([], command(ECHO_SET[:9], 5, is_last=False), "not accepted"),
        ([], data(b"ab"), "where there is none"),
        ([], data(b"ab", 5), "not accepted"),
        ([command(ECHO_SET)], data(b"ab"), "where there is none"),
        ([command(STORE_SET), data(b"ab", is_last=True)], data(b"cd"), "where there is none"),
        ([command(STORE_SET)], command(ECHO_SET), "inside the data set"),
        ([command(STORE_SET)], command(ECHO_SET, 3), "inside the data set"),
        ([command(STORE_SET)], data(b"ab", 3), "inside the data set on 1"),
        ([command(ECHO_SET[:9], is_last=False)], data(b"ab"), "inside the command"),
        ([command(ECHO_SET[:9], is_last=False)], command(ECHO_SET, 3), "inside the command on 1"),
        ([command(b"", is_last=False)], command(ECHO_SET, 3), "inside the command on 1"),
    ],
)
def test_what_does_not_belong_there_is_an_unexpected_parameter(
    before: list[PDataReceived], part: PDataReceived, words: str
) -> None:
    messages = reader(*before)
    with pytest.raises(UnexpectedParameterError, match=words) as caught:
        messages.receive(part)
    assert (caught.value.abort_source, caught.value.abort_reason) == (2, 5)


def test_a_command_set_has_a_largest_length() -> None:
    messages = MessageReader({1}, max_command_set_length=100)
    messages.receive(command(bytes(60), is_last=False))
    messages.receive(command(bytes(40), is_last=False))
    with pytest.raises(MessageError, match="100"):
        messages.receive(command(b"x", is_last=False))
    with pytest.raises(MessageError, match="65536"):
        MessageReader({1}).receive(command(bytes(65537), is_last=False))


def test_what_is_written_is_read() -> None:
    writer, messages = MessageWriter(128), MessageReader({1})
    content = bytes(range(256)) * 5
    wire = joined(writer.command(1, STORE, has_data_set=True).buffers)
    wire += joined(writer.data_set(content[:700], is_last=False).buffers)
    wire += joined(writer.data_set(content[700:], is_last=True).buffers)
    wire += joined(writer.command(1, ECHO).buffers)
    got = [messages.receive(part) for part in PduReader().receive(wire)]
    events = [event for event in got if event is not None]
    assert events[0] == CommandReceived(1, STORE, True)
    assert b"".join(bytes(f.data) for f in events[1:-1]) == content
    assert [f.is_last for f in events[1:-1]] == [False] * (len(events) - 3) + [True]
    assert events[-1] == CommandReceived(1, ECHO, False)


def test_odd_chunks_make_even_fragments_and_lose_nothing() -> None:
    writer = MessageWriter(0)
    writer.command(1, STORE, has_data_set=True)
    chunks = [b"a", b"bcd", b"", b"efg", b"hi", b"jklmn"]
    wires = [joined(writer.data_set(chunk, is_last=False).buffers) for chunk in chunks]
    wires.append(joined(writer.data_set(b"o", is_last=True).buffers))
    parts = PduReader().receive(b"".join(wires))
    assert b"".join(bytes(part.data) for part in parts) == b"abcdefghijklmno"
    assert all(len(part.data) % 2 == 0 for part in parts[:-1])
    assert [part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]


def test_the_end_may_come_without_bytes() -> None:
    writer = MessageWriter(16384)
    writer.command(1, STORE, has_data_set=True)
    writer.data_set(b"ab", is_last=False)
    (part,) = PduReader().receive(joined(writer.data_set(b"", is_last=True).buffers))
    assert part == PDataReceived(1, False, True, memoryview(b""))
    assert not writer.in_message


def test_even_chunks_are_not_copied() -> None:
    writer = MessageWriter(16384)
    writer.command(1, STORE, has_data_set=True)
    chunk = bytearray(100_000)
    buffers = writer.data_set(chunk, is_last=False).buffers
    assert all(b.obj is chunk for b in buffers if isinstance(b, memoryview))


def test_messages_are_not_mixed() -> None:
    writer = MessageWriter(16384)
    with pytest.raises(LocalProtocolError):
        writer.data_set(b"ab", is_last=True)
    writer.command(1, STORE, has_data_set=True)
    assert writer.in_message
    with pytest.raises(LocalProtocolError):
        writer.command(1, ECHO)
    writer.data_set(b"ab", is_last=True)
    writer.command(1, ECHO)
    with pytest.raises(LocalProtocolError):
        writer.data_set(b"ab", is_last=True)


def test_a_command_that_cannot_be_encoded_changes_nothing() -> None:
    writer = MessageWriter(16384)
    with pytest.raises(EncodingError):
        writer.command(1, CEchoRequest(message_id=1, affected_sop_class_uid=""), has_data_set=True)
    assert not writer.in_message
