"""PDUs and messages come back as they were sent, however the bytes are cut."""

from __future__ import annotations

from associations import ACCEPT, REQUEST, established, joined
from dimse_values import AE_TITLES, COMMAND_VALUES, PDUS, UIDS
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imaging_ingestion.dimse.command import Command
from imaging_ingestion.dimse.command_codec import decode_command, encode_command
from imaging_ingestion.dimse.event import Event
from imaging_ingestion.dimse.message import (
    CommandReceived,
    DataSetFragment,
    MessageReader,
    MessageWriter,
)
from imaging_ingestion.dimse.p_data import PDataReceived, fragment
from imaging_ingestion.dimse.pdu import (
    Abort,
    Pdu,
    ReleaseRequest,
    check_ae_title,
    decode_pdu,
    encode_pdu,
)
from imaging_ingestion.dimse.pdu_reader import PduReader
from imaging_ingestion.dimse.upper_layer import Role, UpperLayer


@settings(deadline=None)
@given(PDUS)
def test_every_pdu_comes_back_as_it_was(pdu: Pdu) -> None:
    encoded = encode_pdu(pdu)
    assert decode_pdu(encoded) == pdu
    assert PduReader().receive(encoded) == [pdu]


@settings(deadline=None)
@given(AE_TITLES, UIDS)
def test_the_strategies_make_what_may_be_sent(title: str, uid: str) -> None:
    check_ae_title(title)
    assert len(uid) <= 64


@settings(deadline=None)
@given(COMMAND_VALUES, st.booleans())
def test_every_command_comes_back_as_it_was(command: Command, has_data_set: bool) -> None:
    needs = getattr(command, "NEEDS_DATA_SET", None)
    encoded = encode_command(command, has_data_set=has_data_set or bool(needs))
    decoded, follows = decode_command(encoded)
    assert follows is (has_data_set or bool(needs))
    assert type(decoded) is type(command)
    assert encode_command(decoded, has_data_set=follows) == encoded


CUTS = st.lists(st.integers(0, 100_000), max_size=20)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    at = sorted({place % (len(data) + 1) for place in places})
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


def merged(items: list[object]) -> list[object]:
    """Pieces of one presentation data value as one, for that is what they mean."""
    out: list[object] = []
    open_ = False
    for item in items:
        if not isinstance(item, PDataReceived):
            out.append(item)
            open_ = False
            continue
        key = (item.context_id, item.is_command)
        if open_ and isinstance(out[-1], list) and out[-1][0] == key:
            out[-1][1] += bytes(item.data)
            out[-1][2] = item.is_last
        else:
            out.append([key, bytes(item.data), item.is_last])
        open_ = not item.is_last
    return out


VALUES = st.tuples(st.sampled_from([1, 3]), st.binary(max_size=60), st.booleans(), st.booleans())


def p_data_pdu(values: list[tuple[int, bytes, bool, bool]]) -> bytes:
    body = b"".join(
        (len(data) + 2).to_bytes(4, "big") + bytes((context_id, is_command | 2 * is_last)) + data
        for context_id, data, is_command, is_last in values
    )
    return b"\4\0" + len(body).to_bytes(4, "big") + body


STREAMS = st.lists(
    st.one_of(PDUS.map(encode_pdu), st.lists(VALUES, min_size=1, max_size=4).map(p_data_pdu)),
    max_size=5,
).map(b"".join)


@settings(deadline=None)
@given(STREAMS, CUTS)
def test_the_reader_says_the_same_however_the_bytes_are_cut(data: bytes, places: list[int]) -> None:
    whole = merged(PduReader().receive(data))
    reader = PduReader()
    pieces = [item for piece in cut(data, places) for item in reader.receive(piece)]
    assert merged(pieces) == whole
    one_by_one = PduReader()
    bytes_ = [item for i in range(len(data)) for item in one_by_one.receive(data[i : i + 1])]
    assert merged(bytes_) == whole
    assert one_by_one.held == reader.held == 0


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(COMMAND_VALUES, st.lists(st.binary(max_size=700), min_size=1, max_size=4)),
        min_size=1,
        max_size=4,
    ),
    st.integers(128, 1000) | st.just(0),
    CUTS,
)
def test_messages_come_through_whole_at_any_pdu_length_and_cut(
    messages: list[tuple[Command, list[bytes]]], max_pdu_length: int, places: list[int]
) -> None:
    writer = MessageWriter(max_pdu_length)
    wire = b""
    for command, chunks in messages:
        wire += joined(writer.command(1, command, has_data_set=True).buffers)
        for number, chunk in enumerate(chunks, 1):
            wire += joined(writer.data_set(chunk, is_last=number == len(chunks)).buffers)
    reader, pdus = MessageReader({1}), PduReader()
    pdus.max_pdu_length = max_pdu_length
    got: list[tuple[object, bytes]] = []
    ends = 0
    for piece in cut(wire, places):
        for part in pdus.receive(piece):
            assert isinstance(part, PDataReceived), part
            match reader.receive(part):
                case CommandReceived(context_id=1, command=command, has_data_set=True):
                    got.append((command, b""))
                case DataSetFragment(data=data, is_last=is_last):
                    got[-1] = (got[-1][0], got[-1][1] + bytes(data))
                    ends += is_last
    assert ends == len(messages)
    assert not reader.in_message
    expected = [
        (decode_command(encode_command(command, has_data_set=True))[0], b"".join(chunks))
        for command, chunks in messages
    ]
    assert got == expected


@settings(deadline=None)
@given(st.binary(max_size=3000), CUTS)
@example(b"", [])
def test_an_association_says_the_same_cut_at_every_byte(content: bytes, places: list[int]) -> None:
    data = fragment(1, content, is_command=False, is_last=True, max_pdu_length=256)
    wire = encode_pdu(REQUEST), joined(data.buffers) + encode_pdu(ReleaseRequest())

    def run(pieces: list[list[bytes]]) -> tuple[list[object], bytes]:
        layer = UpperLayer(Role.ACCEPTOR)
        layer.connection_made()
        events: list[Event] = []
        out = b""
        for piece in pieces[0]:
            events += layer.receive_data(piece)
        out += joined(layer.send(ACCEPT))
        for piece in pieces[1]:
            events += layer.receive_data(piece)
        return merged([*events, *layer.receive_eof()]), out

    whole = run([[wire[0]], [wire[1]]])
    assert run([cut(part, places) for part in wire]) == whole
    assert run([[part[i : i + 1] for i in range(len(part))] for part in wire]) == whole


@settings(deadline=None)
@given(st.lists(st.sampled_from([1, 3]), max_size=3))
def test_an_abort_is_understood_wherever_a_value_ends(contexts: list[int]) -> None:
    layer = established()
    wire = b"".join(p_data_pdu([(context_id, b"ab", False, False)]) for context_id in contexts)
    events = layer.receive_data(wire + encode_pdu(Abort()))
    assert len(events) == len(contexts) + 1
    assert layer.must_close
