"""What a FHIR server's answers mean for a delivery, in words that an operator can use (F14)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from imaging_ingestion.bindings.fhir.outcome import (
    created_id,
    explanation,
    resource_of,
    taken,
    version_of,
)
from imaging_ingestion.bindings.http_target import Answer
from imaging_ingestion.events.broker import RefusedError, TryAgainError

OUTCOME = {
    "resourceType": "OperationOutcome",
    "issue": [
        {
            "severity": "error",
            "code": "processing",
            "details": {"text": "Constraint failed"},
            "diagnostics": "ele-1",
            "expression": ["ImagingStudy.series[0]"],
        },
        {"severity": "warning", "code": "informational"},
    ],
}


def answer(status: int, body: Any = b"", **headers: str) -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {k.replace("_", "-"): v for k, v in headers.items()}, content)


@pytest.mark.parametrize("status", [200, 201, 204])
def test_success_is_taken(status: int) -> None:
    taken(answer(status))


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again_when_the_server_says(status: int) -> None:
    # F14
    with pytest.raises(TryAgainError) as error:
        taken(answer(status, OUTCOME, Retry_After="7"))
    assert error.value.retry_after == 7
    assert error.value.answer.startswith(f"{status}: processing: Constraint failed")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 412, 422])
def test_a_refusal_keeps_the_words_of_the_server(status: int) -> None:
    # F14
    with pytest.raises(RefusedError) as error:
        taken(answer(status, OUTCOME))
    assert error.value.answer == (
        f"{status}: processing: Constraint failed ele-1 (ImagingStudy.series[0])"
    )


def test_a_redirect_names_the_address_to_use() -> None:
    with pytest.raises(RefusedError, match=r"307: .* redirects to https://new\.example/fhir; give"):
        taken(answer(307, location="https://new.example/fhir"))


def test_a_web_page_is_told_in_its_words() -> None:
    page = b"<!doctype html><html><head><title>Sign in &amp; go</title></head><body>x</body></html>"
    with pytest.raises(RefusedError, match="no FHIR JSON but text/html: HTML page: Sign in & go"):
        resource_of(answer(200, page, Content_Type="text/html"))
    body = b"<html><style>h1{}</style><h1>Bad Gateway</h1><hr>nginx</html>"
    with pytest.raises(TryAgainError, match="502: HTML page: Bad Gateway nginx"):
        taken(answer(502, body, Content_Type="text/html"))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"resourceType": 1}', b"\xff\xfe", b"ok"])
def test_what_is_no_resource_is_refused(body: bytes) -> None:
    with pytest.raises(RefusedError, match="no FHIR JSON"):
        resource_of(answer(200, body))


@pytest.mark.parametrize(
    "outcome",
    [
        {"resourceType": "OperationOutcome"},
        {"resourceType": "OperationOutcome", "issue": "x"},
        {"resourceType": "OperationOutcome", "issue": ["x", {"details": "y", "expression": 1}]},
    ],
)
def test_an_outcome_out_of_shape_is_no_stumbling_block(outcome: Any) -> None:
    assert isinstance(explanation(answer(400, outcome)), str)


def test_a_long_answer_is_told_in_short() -> None:
    with pytest.raises(RefusedError) as error:
        taken(answer(400, b"x" * 100_000))
    assert len(error.value.answer) < 1100


@pytest.mark.parametrize(
    ("location", "key"),
    [
        ("http://h/fhir/ImagingStudy/a-1.B/_history/3", "a-1.B"),
        ("ImagingStudy/7", "7"),
        ("/fhir/ImagingStudy/7?x", "7"),
        ("http://h/fhir/Patient/7", None),
        ("http://h/MyImagingStudy/7", None),
        (None, None),
        (7, None),
    ],
)
def test_the_id_is_read_from_a_location(location: Any, key: str | None) -> None:
    assert created_id(location, "ImagingStudy") == key


@pytest.mark.parametrize("resource", [{}, {"meta": 1}, {"meta": {}}, {"meta": {"versionId": ""}}])
def test_a_resource_may_have_no_version(resource: dict[str, Any]) -> None:
    assert version_of(resource) is None
