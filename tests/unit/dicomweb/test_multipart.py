"""The multipart parser: bytes in, events out."""

from __future__ import annotations

import pytest

from imaging_ingestion.dicomweb.multipart import (
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_PADDING,
    BoundaryMissingError,
    DelimiterError,
    End,
    InvalidBoundaryError,
    MultipartError,
    MultipartParser,
    NotClosedError,
    PartBegin,
    PartData,
    PartEnd,
)

Part = tuple[dict[str, str], str | None, bytes]


def parse(data: bytes, boundary: str = "b", *, piece: int = 1 << 20) -> list[Part]:
    """The parts of a whole body: headers, what is wrong with them, and content."""
    parser = MultipartParser(boundary)
    parts: list[Part] = []
    ended = 0
    for at in range(0, len(data), piece):
        for event in parser.receive_data(data[at : at + piece]):
            match event:
                case PartBegin(headers, error):
                    parts.append((headers, None if error is None else str(error), b""))
                case PartData(content):
                    headers, why, before = parts[-1]
                    parts[-1] = headers, why, before + bytes(content)
                case PartEnd():
                    ended += 1
                case End():
                    assert parser.ended
    parser.finish()
    assert ended == len(parts)
    return parts


PIECES = pytest.mark.parametrize("piece", [1, 2, 3, 7, 1 << 20])


@PIECES
def test_parts_have_headers_and_content(piece: int) -> None:
    data = (
        b"--b\r\nContent-Type: application/dicom\r\nX-Y:  z \r\n\r\none\r\n"
        b"--b\r\n\r\ntwo\r\n--b--\r\n"
    )
    assert parse(data, piece=piece) == [
        ({"content-type": "application/dicom", "x-y": "z"}, None, b"one"),
        ({}, None, b"two"),
    ]


@PIECES
def test_what_stands_before_and_behind_is_no_part(piece: int) -> None:
    data = b"preamble with --b inside\r\n--b\r\n\r\nx\r\n--b--\r\n--b\r\n\r\nepilogue\r\n--b--"
    assert parse(data, piece=piece) == [({}, None, b"x")]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\r\n",
        b"\r\n\r\n",
        b"\r",
        b"\n--b\n",
        b"x--b",
        b"\r\n--",
        b"\r\n--a",
        b"\r\n-\r\n--\r\n--a\r",
        b"\r\r\n",
        bytes(range(256)) * 3,
    ],
)
@PIECES
def test_content_may_be_anything_but_a_delimiter(content: bytes, piece: int) -> None:
    data = b"--b\r\n\r\n" + content + b"\r\n--b\r\n\r\nnext\r\n--b--"
    assert parse(data, piece=piece) == [({}, None, content), ({}, None, b"next")]


@PIECES
def test_a_part_may_have_no_body_at_all(piece: int) -> None:
    data = b"--b\r\nA: b\r\n\r\n--b\r\n\r\n--b--"
    assert parse(data, piece=piece) == [({"a": "b"}, None, b""), ({}, None, b"")]


@PIECES
def test_white_space_behind_a_boundary_is_padding(piece: int) -> None:
    data = b"--b \t \r\n\r\nx\r\n--b" + b" " * (MAX_PADDING - 10) + b"\r\n\r\ny\r\n--b--  \r\n"
    assert [content for _, _, content in parse(data, piece=piece)] == [b"x", b"y"]


@pytest.mark.parametrize(
    "boundary",
    ["b", "0" * 70, "'()+_,-./:=?", "a b", "=_[{}]*!", "--", "x" * 200, "a.b+c?d*"],
)
def test_boundaries_of_the_rfc_and_of_real_clients_are_taken(boundary: str) -> None:
    delimiter = b"--" + boundary.encode()
    data = delimiter + b"\r\n\r\nx\r\n" + delimiter + b"--"
    assert parse(data, boundary) == [({}, None, b"x")]


@pytest.mark.parametrize("boundary", ["", " ", "a ", "\u00e4", "a\r\nb", "a\0", "x" * 201, "a\tb"])
def test_what_cannot_be_a_boundary_is_refused(boundary: str) -> None:
    with pytest.raises(InvalidBoundaryError):
        MultipartParser(boundary)


@PIECES
@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", BoundaryMissingError),
        (b"x" * 1000, BoundaryMissingError),
        (b"--c\r\n\r\nx\r\n--c--", BoundaryMissingError),
        (b"x--b\r\n", BoundaryMissingError),
        (b"--b", NotClosedError),
        (b"--b\r\n", NotClosedError),
        (b"--b\r\nA: b", NotClosedError),
        (b"--b\r\nA: b\r\n\r\n", NotClosedError),
        (b"--b\r\n\r\nx\r\n--b", NotClosedError),
        (b"--b\r\n\r\nx\r\n--b-", NotClosedError),
        (b"--b\r\n\r\nx\n--b--", NotClosedError),
        (b"--bx\r\n\r\n", DelimiterError),
        (b"--b--b\r\n\r\nx\r\n--bb\r\n", None),
        (b"--b\r\n\r\nx\r\n--b text\r\n", DelimiterError),
        (b"--b" + b" " * (MAX_PADDING + 1) + b"\r\n", DelimiterError),
    ],
)
def test_broken_framing_is_an_error_of_the_body(
    data: bytes, error: type[MultipartError] | None, piece: int
) -> None:
    if error is None:
        assert parse(data, piece=piece) == []
        return
    with pytest.raises(error):
        parse(data, piece=piece)


@PIECES
@pytest.mark.parametrize(
    ("headers", "why"),
    [
        (b"no colon\r\n", "no name and colon"),
        (b": no name\r\n", "no name and colon"),
        (b" \t: no name\r\n", "no name and colon"),
        (b"A: " + b"x" * MAX_HEADER_BYTES + b"\r\n", "longer than 16384 bytes"),
        (b"x" * MAX_HEADER_BYTES, "longer than 16384 bytes"),
        (b"".join(b"X%d: y\r\n" % n for n in range(MAX_HEADERS + 1)), "more than 64 headers"),
    ],
)
def test_bad_headers_are_the_parts_own_fault(headers: bytes, why: str, piece: int) -> None:
    fine = b"--b\r\nA: b\r\n\r\nfine\r\n"
    parts = parse(fine + b"--b\r\n" + headers + b"\r\nx\r\n" + fine + b"--b--", piece=piece)
    assert [parts[0], parts[2]] == [({"a": "b"}, None, b"fine")] * 2
    assert parts[1][0] == {}
    assert why in (parts[1][1] or "")


def test_as_many_and_as_long_headers_as_are_allowed_are_read() -> None:
    lines = b"".join(b"X%d: y\r\n" % n for n in range(MAX_HEADERS - 1))
    lines += b"Z: " + b"z" * (MAX_HEADER_BYTES - len(lines) - 7) + b"\r\n"
    ((headers, why, content),) = parse(b"--b\r\n" + lines + b"\r\nx\r\n--b--")
    assert (len(headers), why, content) == (MAX_HEADERS, None, b"x")


def test_content_is_handed_out_as_views_of_what_came() -> None:
    parser = MultipartParser("b")
    list(parser.receive_data(b"--b\r\n\r\n"))
    data = b"x" * 100_000
    (event,) = parser.receive_data(data)
    assert isinstance(event, PartData)
    assert event.data.obj is data


@pytest.mark.parametrize("content", [b"\r", b"\r\n-", b"\r\n--", b"x\r\n--", b"\n", b"--b"])
def test_what_is_kept_is_no_longer_than_a_delimiter(content: bytes) -> None:
    parser = MultipartParser("b")
    list(parser.receive_data(b"--b\r\n\r\n"))
    for _ in range(50):
        list(parser.receive_data(content * 1000))
        assert parser.held < len(b"\r\n--b")


def test_an_endless_head_is_not_kept() -> None:
    parser = MultipartParser("b")
    list(parser.receive_data(b"--b\r\n"))
    for _ in range(100):
        list(parser.receive_data(b"x" * 1000))
        assert parser.held <= MAX_HEADER_BYTES
