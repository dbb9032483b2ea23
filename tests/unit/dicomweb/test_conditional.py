"""Conditional and range requests (RFC 9110 sections 13 and 14)."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from imaging_ingestion.dicomweb.conditional import Slice, is_unchanged, requested_slice
from imaging_ingestion.dicomweb.problem import HttpProblemError

STRONG, WEAK = '"abc"', 'W/"abc"'


def headers(**values: str) -> Headers:
    return Headers({name.replace("_", "-"): value for name, value in values.items()})


@pytest.mark.parametrize(
    ("sent", "is_same"),
    [
        ('"abc"', True),
        ('W/"abc"', True),
        ('"x", "abc"', True),
        ('W/"x",W/"abc"', True),
        ("*", True),
        (" * ", True),
        ('"ab"', False),
        ("abc", False),
        ('"abcd"', False),
        ('"ABC"', False),
        ("", False),
        ('"', False),
    ],
)
def test_if_none_match_is_compared_weakly(sent: str, is_same: bool) -> None:
    # W33
    for etag in (STRONG, WEAK):
        assert is_unchanged(headers(if_none_match=sent), etag) is is_same


def test_without_the_header_nothing_is_unchanged() -> None:
    assert not is_unchanged(headers(), STRONG)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("bytes=0-0", Slice(0, 1, 100)),
        ("bytes=0-99", Slice(0, 100, 100)),
        ("bytes=10-", Slice(10, 90, 100)),
        ("bytes=99-", Slice(99, 1, 100)),
        ("bytes=-1", Slice(99, 1, 100)),
        ("bytes=-100", Slice(0, 100, 100)),
        ("bytes=-1000", Slice(0, 100, 100)),
        ("bytes=5-1000", Slice(5, 95, 100)),
        (" bytes = 5 - 6 ", Slice(5, 2, 100)),
    ],
)
def test_a_range_is_a_slice(sent: str, expected: Slice) -> None:
    # W32
    assert requested_slice(headers(range=sent), 100, STRONG) == expected


def test_a_slice_says_where_it_is() -> None:
    # W32
    assert Slice(5, 2, 100).content_range == "bytes 5-6/100"


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=6-5",
        "bytes=a-b",
        "bytes=1-2,3-4",
        "lines=1-2",
        "bytes=1",
        "bytes=0x1-2",
        "bytes=1-2-3",
        "bytes=" + "9" * 30 + "-",
        "bytes=\u0661-",
    ],
)
def test_what_is_no_single_range_is_ignored(sent: str) -> None:
    # W32
    assert requested_slice(Headers(raw=[(b"range", sent.encode())]), 100, STRONG) is None


@pytest.mark.parametrize("sent", ["bytes=100-", "bytes=1000-2000", "bytes=-0"])
def test_a_range_outside_is_refused_with_the_size(sent: str) -> None:
    # W32
    with pytest.raises(HttpProblemError) as caught:
        requested_slice(headers(range=sent), 100, STRONG)
    assert caught.value.status == 416
    assert caught.value.headers == {"Content-Range": "bytes */100"}


def test_an_empty_payload_has_no_range() -> None:
    with pytest.raises(HttpProblemError, match="416"):
        requested_slice(headers(range="bytes=0-"), 0, STRONG)


@pytest.mark.parametrize(
    ("if_range", "etag", "is_served"),
    [
        (STRONG, STRONG, True),
        (f" {STRONG} ", STRONG, True),
        ('"x"', STRONG, False),
        (WEAK, STRONG, False),
        (WEAK, WEAK, False),  # a weak validator is none for ranges (RFC 9110 13.1.5)
        ("Wed, 21 Oct 2015 07:28:00 GMT", STRONG, False),
    ],
)
def test_if_range_must_be_the_state_there_is(if_range: str, etag: str, is_served: bool) -> None:
    # W32, W33
    found = requested_slice(headers(range="bytes=0-1", if_range=if_range), 100, etag)
    assert (found is not None) is is_served


@given(st.text(max_size=40), st.integers(0, 1000))
def test_any_header_is_a_slice_inside_or_nothing(sent: str, size: int) -> None:
    raw = [(b"range", f"bytes={sent}".encode("utf-8", "replace"))]
    found = None
    with contextlib.suppress(HttpProblemError):  # 416
        found = requested_slice(Headers(raw=raw), size, STRONG)
    if found is not None:
        assert 0 <= found.offset < found.offset + found.length <= size
