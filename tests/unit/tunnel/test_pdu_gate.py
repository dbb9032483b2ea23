"""The gate lets PDUs through as they are, and nothing else."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging_ingestion.dimse.error import (
    InvalidParameterError,
    RemoteProtocolError,
    UnexpectedPduError,
    UnrecognizedPduError,
)
from imaging_ingestion.tunnel.pdu_gate import ACCEPTOR_BEGINS, REQUESTOR_BEGINS, PduGate

HOLD = 50


def pdu(kind: int, size: int) -> bytes:
    return struct.pack(">BxL", kind, size) + bytes(range(256)) * (size // 256) + bytes(size % 256)


REQUEST = pdu(1, 100)
DATA, LONG_DATA = pdu(4, 40), pdu(4, 500)
RELEASE = pdu(5, 4)


def passed(gate: PduGate, *pieces: bytes) -> list[tuple[int, bytes]]:
    found = [one for piece in pieces for one in gate.receive(memoryview(piece))]
    return [(kind, bytes(part)) for kind, part in found]


def test_pdus_pass_whole_and_data_as_it_comes() -> None:
    gate = PduGate(REQUESTOR_BEGINS)
    assert passed(gate, REQUEST + DATA + DATA + RELEASE) == [
        (1, REQUEST),
        (4, DATA + DATA),
        (5, RELEASE),
    ]
    assert gate.is_between


def test_data_is_not_held_back() -> None:
    gate = PduGate(REQUESTOR_BEGINS)
    assert passed(gate, REQUEST, DATA[:20]) == [(1, REQUEST), (4, DATA[:20])]
    assert not gate.is_between


def test_data_that_is_held_passes_when_all_of_it_is_there() -> None:
    gate = PduGate(REQUESTOR_BEGINS, hold=HOLD)
    assert passed(gate, REQUEST, DATA[:20]) == [(1, REQUEST)]
    assert (gate.is_between, gate.kept) == (True, 20)
    assert passed(gate, DATA[20:]) == [(4, DATA)]


def test_data_that_is_too_long_to_be_held_passes_as_it_comes() -> None:
    gate = PduGate(REQUESTOR_BEGINS, hold=HOLD)
    assert passed(gate, REQUEST, LONG_DATA[:100]) == [(1, REQUEST), (4, LONG_DATA[:100])]
    assert not gate.is_between


@given(st.lists(st.integers(1, 300), max_size=30), st.sampled_from([0, HOLD, 1000]))
def test_however_it_is_cut_the_same_bytes_pass(cuts: list[int], hold: int) -> None:
    whole = REQUEST + DATA + LONG_DATA + DATA + RELEASE
    gate, found, position = PduGate(REQUESTOR_BEGINS, hold=hold), b"", 0
    for cut in [*cuts, len(whole)]:
        for _, part in passed(gate, whole[position : position + cut]):
            found += part
        position += cut
        assert whole.startswith(found)
    assert found == whole
    assert gate.kept == 0


@pytest.mark.parametrize(
    ("begins", "data", "error"),
    [
        (REQUESTOR_BEGINS, b"\x99", UnrecognizedPduError),
        (REQUESTOR_BEGINS, DATA, UnexpectedPduError),
        (ACCEPTOR_BEGINS, REQUEST, UnexpectedPduError),
        (REQUESTOR_BEGINS, REQUEST + REQUEST, UnexpectedPduError),
        (REQUESTOR_BEGINS, struct.pack(">BxL", 1, 67), InvalidParameterError),
        (REQUESTOR_BEGINS, struct.pack(">BxL", 1, 1 << 30), InvalidParameterError),
        (REQUESTOR_BEGINS, REQUEST + struct.pack(">BxL", 4, 5), InvalidParameterError),
        (REQUESTOR_BEGINS, REQUEST + struct.pack(">BxL", 7, 5), InvalidParameterError),
    ],
)
def test_what_is_no_pdu_does_not_pass(
    begins: frozenset[int], data: bytes, error: type[RemoteProtocolError]
) -> None:
    with pytest.raises(error):
        PduGate(begins).receive(memoryview(data))


def test_what_is_kept_grows_with_what_has_come_and_not_with_what_was_announced() -> None:
    gate = PduGate(REQUESTOR_BEGINS)
    passed(gate, struct.pack(">BxL", 1, 500_000))
    assert gate.kept == 6
