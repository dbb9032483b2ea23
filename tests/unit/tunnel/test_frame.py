"""Frames: what is written is read again, and what is none is told so."""

from __future__ import annotations

import pytest

from imaging_ingestion.tunnel.frame import (
    HEADER_LENGTH,
    Flag,
    Frame,
    FrameError,
    Kind,
    NotAFrameError,
    OtherVersionError,
    Reason,
    decode,
    encode,
    explain,
    introduce,
    read_explanation,
    read_introduction,
)

ID = bytes(range(16))
FRAME = Frame(Kind.DATA, ID, 1 << 40, 2, 3, 65535, Flag.ASK | Flag.LINK, b"payload")


def test_a_frame_is_read_as_it_was_written() -> None:
    data = encode(FRAME)
    assert len(data) == HEADER_LENGTH + 7
    assert decode(data) == FRAME


def test_the_layout_is_the_documented_one() -> None:
    assert encode(FRAME).hex(" ", 1) == (
        "64 54 01 04 05 00 ff ff 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f "
        "00 00 01 00 00 00 00 00 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 03 "
        "70 61 79 6c 6f 61 64"
    )


@pytest.mark.parametrize("data", [b"", b"dT\x01\x04", b"hello, this is no frame at all", bytes(48)])
def test_something_else_is_no_frame(data: bytes) -> None:
    with pytest.raises(NotAFrameError):
        decode(data)


def test_a_frame_that_is_cut_is_malformed() -> None:
    with pytest.raises(FrameError, match="a frame of 47 bytes"):
        decode(encode(Frame(Kind.ACK, ID))[:-1])


def test_a_kind_that_is_not_known_is_malformed() -> None:
    data = bytearray(encode(FRAME))
    data[3] = 99
    with pytest.raises(FrameError, match="no frame is of kind 99"):
        decode(data)


def test_another_version_tells_its_stream() -> None:
    data = bytearray(encode(FRAME))
    data[2] = 7
    with pytest.raises(OtherVersionError, match="version 7") as raised:
        decode(data[:24])
    assert raised.value.stream_id == ID


def test_names_and_reasons_are_fit_for_a_log() -> None:
    assert read_introduction(introduce(ID, "proxy\n\x1b[31m")) == (ID, "proxy??[31m")
    assert read_explanation(explain(Reason.PROTOCOL, "why")) == (Reason.PROTOCOL, "why")
    assert read_explanation(b"\xc8") == (Reason.OTHER, "")  # of a later version


@pytest.mark.parametrize("payload", [b"", b"short", bytes(300)])
def test_an_introduction_has_a_process_and_a_short_name(payload: bytes) -> None:
    with pytest.raises(FrameError, match="an introduction of"):
        read_introduction(payload)


@pytest.mark.parametrize("payload", [b"", bytes(300)])
def test_an_explanation_has_a_reason_and_a_short_text(payload: bytes) -> None:
    with pytest.raises(FrameError, match="an explanation of"):
        read_explanation(payload)


def test_long_texts_are_cut() -> None:
    assert read_explanation(explain(Reason.OTHER, "x" * 1000))[1] == "x" * 240
