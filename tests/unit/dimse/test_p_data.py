"""P-DATA-TF: reading it in place, and laying data into it."""

from __future__ import annotations

import struct

import pytest
from associations import joined, p_data

from imaging_ingestion.dimse.error import EncodingError, InvalidParameterError
from imaging_ingestion.dimse.p_data import LONGEST_SENT_PDU, PDataReceived, fragment
from imaging_ingestion.dimse.pdu import ReleaseRequest, encode_pdu
from imaging_ingestion.dimse.pdu_reader import InvalidPdu, PduReader


def value(data: bytes, control: int, context_id: int = 1) -> bytes:
    return struct.pack(">LBB", len(data) + 2, context_id, control) + data


def pdu(*values: bytes) -> bytes:
    body = b"".join(values)
    return struct.pack(">BBL", 4, 0, len(body)) + body


def lengths(wire: bytes) -> list[int]:
    """The length of each P-DATA-TF, checked against that of its only value."""
    found, position = [], 0
    while position < len(wire):
        kind, length, value_length = struct.unpack_from(">BxLL", wire, position)
        assert kind == 4
        assert value_length == length - 4
        found.append(length)
        position += 6 + length
    assert position == len(wire)
    return found


# A8
def test_several_values_in_one_pdu_are_several_fragments() -> None:
    wire = pdu(value(b"command", 3), value(b"data", 0, 3), value(b"end", 2, 3))
    assert PduReader().receive(wire) == [
        PDataReceived(1, True, True, memoryview(b"command")),
        PDataReceived(3, False, False, memoryview(b"data")),
        PDataReceived(3, False, True, memoryview(b"end")),
    ]


def test_fragments_are_views_of_what_was_received() -> None:
    wire = bytearray(p_data(b"abcd"))
    (item,) = PduReader().receive(wire)
    assert isinstance(item, PDataReceived)
    assert item.data.obj is wire
    wire[-1] = ord("z")
    assert bytes(item.data) == b"abcz"


def test_a_value_is_handed_out_as_it_comes_and_its_last_bytes_are_the_last() -> None:
    reader = PduReader()
    wire = p_data(b"0123456789")
    assert reader.receive(wire[:15]) == [PDataReceived(1, False, False, memoryview(b"012"))]
    assert reader.held == 0
    assert reader.receive(wire[15:21]) == [PDataReceived(1, False, False, memoryview(b"345678"))]
    assert reader.receive(wire[21:]) == [PDataReceived(1, False, True, memoryview(b"9"))]


def test_a_value_without_bytes_can_be_the_last() -> None:
    assert PduReader().receive(pdu(value(b"", 2)) + pdu(value(b"", 0))) == [
        PDataReceived(1, False, True, memoryview(b"")),
        PDataReceived(1, False, False, memoryview(b"")),
    ]


def test_the_reserved_bits_of_the_control_byte_are_not_tested() -> None:
    (item,) = PduReader().receive(pdu(value(b"x", 0xFE)))
    assert item == PDataReceived(1, False, True, memoryview(b"x"))


@pytest.mark.parametrize(
    "wire",
    [
        b"\4\0\0\0\0\5",
        b"\4\0\0\0\0\6\0\0\0\1\1\3",  # a value too short for its header
        b"\4\0\0\0\0\6\0\0\0\0\1\3",
        b"\4\0\0\0\0\6\0\0\0\3\1\3",  # a value that exceeds its PDU
        b"\4\0\0\0\0\6\xff\xff\xff\xff\1\3",
        b"\4\0\0\0\0\x08\0\0\0\2\1\3ab",  # bytes behind the last value
        pdu(value(b"ab", 3), value(b"cd", 3)[:-1]),
        pdu(value(b"ab", 3), b"\0\0\0\xff\1\3ab"),
    ],
)
def test_a_value_that_does_not_fit_its_pdu_is_an_invalid_parameter(wire: bytes) -> None:
    *_, last = PduReader().receive(wire)
    assert isinstance(last, InvalidPdu)
    assert isinstance(last.error, InvalidParameterError)


def test_at_most_a_header_is_held_during_an_association() -> None:
    reader = PduReader()
    wire = pdu(value(b"ab", 1), value(bytes(100), 3)) + encode_pdu(ReleaseRequest())
    for byte in range(len(wire)):
        reader.receive(wire[byte : byte + 1])
        assert reader.held < 12
    assert reader.held == 0


def test_nothing_is_read_behind_garbage() -> None:
    reader = PduReader()
    (item,) = reader.receive(b"\x08" + p_data())
    assert isinstance(item, InvalidPdu)
    assert reader.receive(p_data()) == []


# A7
@pytest.mark.parametrize("limit", [128, 129, 4096, 4097, 16384, 131072])
@pytest.mark.parametrize("size", [0, 1, 121, 122, 123, 244, 245, 100_000, 300_001])
def test_no_pdu_is_longer_than_allowed_and_fragments_are_even(limit: int, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    request = fragment(5, data, is_command=False, is_last=True, max_pdu_length=limit)
    wire = joined(request.buffers)
    sizes = lengths(wire)
    assert max(sizes) <= limit
    assert max(sizes) == request.longest
    assert all(length % 2 == 0 for length in sizes[:-1])
    parts = PduReader().receive(wire)
    assert b"".join(bytes(p.data) for p in parts) == data
    assert [p.is_last for p in parts] == [False] * (len(parts) - 1) + [True]
    assert {(p.context_id, p.is_command) for p in parts} == {(5, False)}


# A7
def test_without_a_limit_pdus_are_as_long_as_we_like() -> None:
    data = bytes(3 * LONGEST_SENT_PDU)
    wire = joined(fragment(1, data, is_command=False, is_last=True, max_pdu_length=0).buffers)
    assert max(lengths(wire)) == LONGEST_SENT_PDU
    assert len(lengths(wire)) == 4


def test_a_huge_limit_of_the_peer_is_not_used_up() -> None:
    data = bytes(2 * LONGEST_SENT_PDU)
    request = fragment(1, data, is_command=False, is_last=True, max_pdu_length=0xFFFFFFFF)
    assert request.longest == LONGEST_SENT_PDU


def test_what_is_sent_are_views_of_the_data() -> None:
    data = bytearray(100_000)
    request = fragment(1, data, is_command=False, is_last=False, max_pdu_length=16384)
    views = [b for b in request.buffers if isinstance(b, memoryview)]
    assert all(view.obj is data for view in views)
    assert sum(map(len, views)) == len(data)


def test_nothing_to_say_is_not_said() -> None:
    request = fragment(1, b"", is_command=False, is_last=False, max_pdu_length=16384)
    assert (request.buffers, request.longest) == ([], 0)


def test_a_limit_into_which_nothing_fits_is_an_error() -> None:
    with pytest.raises(EncodingError):
        fragment(1, b"ab", is_command=False, is_last=True, max_pdu_length=7)
