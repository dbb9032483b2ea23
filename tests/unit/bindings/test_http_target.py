"""What an answer means for a delivery, and what is kept of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging_ingestion.bindings.http_target import (
    QUOTED,
    Answer,
    Credentials,
    HttpTarget,
    classify,
    is_for_now,
    retry_after,
)
from imaging_ingestion.events.broker import RefusedError, TryAgainError

NOW = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    return Answer(status, {name.replace("_", "-"): text for name, text in headers.items()}, body)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_taken(status: int) -> None:
    classify(answer(status))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 507, 599])
def test_what_may_pass_is_tried_again(status: int) -> None:
    with pytest.raises(TryAgainError) as later:
        classify(answer(status, b"why", Retry_After="7"))
    assert (later.value.answer, later.value.retry_after) == (f"{status}: why", 7.0)
    assert is_for_now(answer(status))


@pytest.mark.parametrize(
    "status", [300, 301, 302, 304, 308, 400, 401, 403, 404, 409, 410, 413, 451]
)
def test_everything_else_is_refused(status: int) -> None:
    with pytest.raises(RefusedError) as refused:
        classify(answer(status, b" why \n"))
    assert refused.value.answer == f"{status}: why"
    assert not is_for_now(answer(status))


def test_of_an_answer_so_much_is_kept() -> None:
    assert answer(400).quoted() == "400"
    assert answer(400, b"x" * 10_000).quoted() == "400: " + "x" * QUOTED
    assert answer(400, "ä".encode() * 10_000).quoted() == "400: " + "ä" * QUOTED
    assert answer(400, b"\xff\xfe").quoted() == "400: \ufffd\ufffd"
    moved = answer(307, b"moved", location="https://elsewhere.example.org/x")
    assert (
        moved.quoted() == "307: it is to be sent to https://elsewhere.example.org/x instead. moved"
    )
    assert answer(201, b"made", location="https://here").quoted() == "201: made"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("9" * 400, 999999999999999.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0.0),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("\u00b2", None),
        ("Thu, 29 Feb 2024 12:00:00 -0000", None),
        ("Thu, 99 Feb 2024 12:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, seconds: float | None) -> None:
    assert retry_after(answer(503, retry_after=header), NOW) == seconds
    assert retry_after(answer(503, Retry_After=header), NOW) == seconds


@given(st.text(max_size=60) | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ [\d:]+ .{0,6}"))
def test_no_retry_after_is_an_error_of_ours(header: str) -> None:
    seconds = retry_after(answer(503, Retry_After=header), NOW)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("credentials", "headers"),
    [
        (Credentials(), {}),
        (Credentials("t"), {"Authorization": "Bearer t"}),
        (Credentials("t", "u", "p"), {"Authorization": "Bearer t"}),
        (Credentials(None, "u", "p"), {"Authorization": "Basic dTpw"}),
        (Credentials(None, "u"), {"Authorization": "Basic dTo="}),
        (Credentials("", "ü", "p"), {"Authorization": "Basic w7w6cA=="}),
    ],
)
def test_credentials_make_the_authorization_header(
    credentials: Credentials, headers: dict[str, str]
) -> None:
    assert credentials.headers() == headers


async def test_a_target_that_was_never_asked_can_be_closed() -> None:
    await HttpTarget(Credentials()).close()
