"""However a multipart body is cut, the parser says the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging_ingestion.dicomweb.multipart import (
    MAX_HEADER_BYTES,
    End,
    MultipartError,
    MultipartParser,
    PartBegin,
    PartData,
    PartEnd,
)

BOUNDARY = "b-1"
NASTY = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"--", b"--b-1", b"\r\n--b-", b"\r\n-", b"x", b"\0"]),
    max_size=12,
).map(b"".join)


def parse(pieces: list[bytes], boundary: str = BOUNDARY) -> tuple[list[tuple[dict, bytes]], bool]:
    parser = MultipartParser(boundary)
    parts: list[tuple[dict, bytes]] = []
    whole = []
    for piece in pieces:
        for event in parser.receive_data(piece):
            match event:
                case PartBegin(headers):
                    parts.append((headers, b""))
                case PartData(data):
                    parts[-1] = (parts[-1][0], parts[-1][1] + bytes(data))
                case PartEnd():
                    whole.append(len(parts))
                case End():
                    pass
    assert len(whole) in {len(parts), len(parts) - 1}
    return parts, parser.ended


def cut(data: bytes, places: list[int]) -> list[bytes]:
    at = sorted({p % (len(data) + 1) for p in places})
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


@given(
    st.lists(NASTY.filter(lambda b: b"\r\n--b-1" not in b"\r\n" + b), max_size=4),
    st.binary(max_size=5).filter(lambda b: b"--" not in b),
    st.lists(st.integers(0, 10_000), max_size=30),
)
def test_any_chunking_gives_the_same_parts(
    bodies: list[bytes], epilogue: bytes, places: list[int]
) -> None:
    data = b"preamble\r\n" if bodies else b""
    for body in bodies:
        data += b"--b-1 \r\nContent-Type: application/dicom\r\n\r\n" + body + b"\r\n"
    data += b"--b-1--" + epilogue
    parts, ended = parse(cut(data, places))
    assert ended
    assert [body for _, body in parts] == bodies
    assert all(headers == {"content-type": "application/dicom"} for headers, _ in parts)
    assert parse([data[i : i + 1] for i in range(len(data))]) == (parts, ended)


def test_a_part_without_body_is_empty() -> None:
    data = b"--b-1\r\nContent-Type: a/b\r\n\r\n--b-1\r\n\r\nx\r\n--b-1--"
    assert parse([data])[0] == [({"content-type": "a/b"}, b""), ({}, b"x")]
    assert parse([data[i : i + 1] for i in range(len(data))]) == parse([data])


def test_line_feeds_alone_end_header_lines() -> None:
    data = b"--b-1\nA: b\n\nbody\r\n--b-1--"
    assert parse([data])[0] == [({"a": "b"}, b"body")]


# S13
@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "does not contain the boundary"),
        (b"--other\r\n\r\nx\r\n--other--", "does not contain the boundary"),
        (b"--b-1\r\n\r\nx", "before its closing delimiter"),
        (b"--b-1\r\n\r\nx\r\n--b-1\r\n", "before its closing delimiter"),
    ],
)
def test_a_body_without_its_delimiters_is_an_error_at_the_end(data: bytes, what: str) -> None:
    parser = MultipartParser(BOUNDARY)
    list(parser.receive_data(data))
    with pytest.raises(MultipartError, match=what):
        parser.finish()


@pytest.mark.parametrize("boundary", ["", "ä", "x" * 201, "a\r\nb"])
def test_boundaries_that_cannot_be_are_refused(boundary: str) -> None:
    with pytest.raises(MultipartError):
        MultipartParser(boundary)


@pytest.mark.parametrize("data", [b"--b-1 trailing words\r\n", b"--b-1" + b" " * 300])
def test_what_cannot_follow_a_boundary_is_an_error(data: bytes) -> None:
    parser = MultipartParser(BOUNDARY)
    with pytest.raises(MultipartError):
        list(parser.receive_data(data))


@given(
    st.sampled_from([b"no colon here", b"A: " + b"x" * MAX_HEADER_BYTES, b": b", b"x" * 20_000]),
    st.lists(st.integers(0, 50_000), max_size=30),
)
def test_bad_part_headers_disturb_no_other_part_however_they_are_cut(
    headers: bytes, places: list[int]
) -> None:
    fine = b"--b-1\r\nA: b\r\n\r\nfine\r\n"
    data = fine + b"--b-1\r\n" + headers + b"\r\n\r\nx\r\n" + fine + b"--b-1--"
    parts, ended = parse(cut(data, places))
    assert ended
    assert [parts[0], parts[2]] == [({"a": "b"}, b"fine")] * 2
    assert parts[1][0] == {}


@given(st.binary(max_size=400), st.text("b-1\r\n", max_size=30), st.integers(1, 9))
def test_whatever_comes_the_parser_says_the_same_or_the_same_error(
    noise: bytes, nasty: str, size: int
) -> None:
    data = b"--b-1\r\n" + noise + nasty.encode() + noise + b"\r\n--b-1"

    def outcome(pieces: list[bytes]) -> object:
        try:
            return parse(pieces)
        except MultipartError as error:
            return type(error)

    assert outcome([data]) == outcome([data[i : i + size] for i in range(0, len(data), size)])


def test_memory_stays_small_whatever_the_part_is() -> None:
    parser = MultipartParser(BOUNDARY)
    list(parser.receive_data(b"--b-1\r\n\r\n"))
    for _ in range(100):
        list(parser.receive_data(b"\r" * 65536))
        assert parser.held < len(BOUNDARY) + 4
