"""A Store request before its parts are looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from starlette.requests import ClientDisconnect, Request

from imaging_ingestion.dicomweb import store_request
from imaging_ingestion.dicomweb.problem import HttpProblemError
from imaging_ingestion.dicomweb.store_request import RequestBody, content_type_of

Message = dict[str, object]


def request(headers: Iterable[tuple[str, str]] = (), messages: Iterable[Message] = ()) -> Request:
    """A request whose body comes in these messages, and then never goes on."""
    left = list(messages)

    async def receive() -> Message:
        if left:
            return left.pop(0)
        return await asyncio.get_running_loop().create_future()

    raw = [(name.encode(), text.encode("latin-1")) for name, text in headers]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, receive)


def chunk(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def body(*messages: Message, most: int = 1000, patience: float = 60.0) -> RequestBody:
    return RequestBody(request(messages=messages), most, patience)


async def read(source: RequestBody) -> list[bytes]:
    return [piece async for piece in source]


@pytest.mark.parametrize(
    ("header", "type_", "boundary"),
    [
        ("application/dicom", "application/dicom", None),
        ("Application/DICOM; transfer-syntax=1.2", "application/dicom", None),
        ('multipart/related; type="application/dicom"; boundary=b', "multipart/related", "b"),
        ("multipart/related; type=application/dicom; boundary=b", "multipart/related", "b"),
        ('multipart/related; boundary="a b"; type=APPLICATION/dicom', "multipart/related", "a b"),
        ("multipart/related; boundary=b", "multipart/related", "b"),
        (
            'multipart/related;type="application/dicom";boundary="--=_x?y"',
            "multipart/related",
            "--=_x?y",
        ),
    ],
)  # S1 S11 H8
def test_what_can_be_stored_is_told(header: str, type_: str, boundary: str | None) -> None:
    content = content_type_of(request([("content-type", header)]))
    assert (content.type, content.parameters.get("boundary")) == (type_, boundary)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 400),
        ([("content-type", "")], 400),
        ([("content-type", "  ")], 400),
        ([("content-type", "nonsense")], 400),
        ([("content-type", "a/b, c/d")], 400),
        ([("content-type", "application/dicom"), ("content-type", "application/dicom")], 400),
        ([("content-type", "multipart/related")], 400),
        ([("content-type", "multipart/related; boundary=")], 400),
        ([("content-type", 'multipart/related; type="application/dicom+json"; boundary=b')], 415),
        ([("content-type", 'multipart/related; type="application/dicom+xml"; boundary=b')], 415),
        ([("content-type", "multipart/form-data; boundary=b")], 415),
        ([("content-type", "application/dicom+json")], 415),
        ([("content-type", "application/dicom"), ("content-encoding", "gzip")], 415),
        ([("content-type", "application/dicom"), ("content-encoding", " GZIP ")], 415),
    ],
)  # S12 S13 S32
def test_what_cannot_be_stored_is_told_why(headers: list[tuple[str, str]], status: int) -> None:
    with pytest.raises(HttpProblemError) as refused:
        content_type_of(request(headers))
    assert refused.value.status == status
    assert refused.value.detail


async def test_a_body_comes_in_its_pieces_without_empty_ones() -> None:
    source = body(chunk(b"ab"), chunk(b""), chunk(b"c"), chunk(b"", more=False))
    assert await read(source) == [b"ab", b"c"]
    assert await read(source) == []


@pytest.mark.parametrize("pieces", [[10], [4, 4, 4], [12], [9, 0, 2]])
async def test_beyond_the_limit_what_fits_is_given_and_then_413(pieces: list[int]) -> None:  # S33
    source = body(*[chunk(b"x" * size) for size in pieces], chunk(b"", more=False), most=9)
    received: list[bytes] = []

    async def read_on() -> None:
        async for piece in source:
            received.append(piece)

    with pytest.raises(HttpProblemError) as refused:
        await read_on()
    assert refused.value.status == 413
    assert b"".join(received) == b"x" * 9


async def test_a_body_of_just_the_limit_is_taken() -> None:
    assert await read(body(chunk(b"x" * 9, more=False), most=9)) == [b"x" * 9]


@pytest.mark.parametrize(("length", "fits"), [("9", True), ("10", False), ("9" * 40, False)])
def test_a_content_length_over_the_limit_is_413_at_once(length: str, fits: bool) -> None:
    source = RequestBody(request([("content-length", length)]), 9, 60.0)
    if fits:
        source.check_length()
    else:
        with pytest.raises(HttpProblemError, match="413"):
            source.check_length()


async def test_a_client_that_goes_away_is_told() -> None:
    with pytest.raises(ClientDisconnect):
        await read(body(chunk(b"x"), {"type": "http.disconnect"}))


async def test_a_pause_longer_than_the_patience_is_408_and_ends_the_body() -> None:
    source = body(chunk(b"abc"), patience=0.01)
    with pytest.raises(HttpProblemError) as refused:
        await read(source)
    assert (refused.value.status, refused.value.headers) == (408, {"Connection": "close"})
    assert "3 bytes" in refused.value.detail
    await asyncio.wait_for(source.drain(), 1)  # nothing follows


async def test_the_cancellation_of_the_reader_is_no_timeout() -> None:
    reading = asyncio.create_task(read(body(chunk(b"abc"))))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_the_rest_is_drained_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_request, "DRAIN", 10)
    source = body(*[chunk(b"x" * 4)] * 100)
    await asyncio.wait_for(source.drain(), 1)
    short = body(chunk(b"x"), chunk(b"y", more=False))
    await asyncio.wait_for(short.drain(), 1)
    assert await read(short) == []
    gone = body({"type": "http.disconnect"})
    await asyncio.wait_for(gone.drain(), 1)


async def test_a_client_that_waits_for_a_word_is_not_drained() -> None:  # S32
    source = RequestBody(request([("expect", "100-Continue")]), 9, 60.0)
    await asyncio.wait_for(source.drain(), 1)
