"""What a STOW-RS target's answer means for the instance that was sent (PS3.18 10.5.3, annex I)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from scripted_target import failed_response, item, stored_response

from imaging_ingestion.bindings.http_target import Answer
from imaging_ingestion.bindings.stow import judge
from imaging_ingestion.dicom.xml_model import xml_of
from imaging_ingestion.events.broker import RefusedError, TryAgainError

SOP = "1.2.3.4"
JSON = "application/dicom+json"


def answer(
    status: int, body: object = b"", content_type: str | None = JSON, **headers: str
) -> Answer:
    sent = {name.replace("_", "-"): text for name, text in headers.items()}
    if content_type is not None:
        sent["content-type"] = content_type
    return Answer(status, sent, body if isinstance(body, bytes) else json.dumps(body).encode())


def others(reason: int) -> dict[str, Any]:
    failure = {"00081197": {"vr": "US", "Value": [reason]}}
    return {"0008119A": {"vr": "SQ", "Value": [failure]}}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (answer(200, stored_response(SOP)), "200"),
        (answer(200, [stored_response(SOP)]), "200"),  # some wrap it
        (answer(202, stored_response(SOP)), "202"),
        (answer(202, stored_response(SOP, x00081196=0xB000)), "202: with warning reason B000H"),
        (answer(200, stored_response(f"{SOP}\0")), "200"),
        (answer(200, b"", None), "200"),
        (answer(204, b"", None), "204"),
        (answer(200, b"OK", "text/plain"), "200"),
        (answer(200, xml_of(stored_response(SOP)), "application/dicom+xml"), "200"),
        (answer(200, {"title": "x", "status": 200}, "application/json"), "200"),
    ],
)
def test_stored_is_delivered(given: Answer, told: str) -> None:
    assert judge(given, SOP).answer == told


@pytest.mark.parametrize(
    "given",
    [
        answer(409, failed_response(SOP, 0xA700)),
        answer(409, failed_response(SOP, 0xA7FF)),
        answer(409, failed_response(SOP, 0x0110)),
        answer(409, others(0xA700)),
        answer(202, failed_response(SOP, 0xA700)),
        answer(409, xml_of(failed_response(SOP, 0xA700)), "application/dicom+xml"),
        answer(500, failed_response(SOP, 0xC000)),
        answer(503, failed_response(SOP, 0x0111)),
        answer(503, b"<html>", "text/html"),
        answer(429),
    ],
)
def test_what_may_pass_is_tried_again(given: Answer) -> None:
    with pytest.raises(TryAgainError) as later:
        judge(given, SOP)
    assert str(given.status) in later.value.answer


def test_what_may_pass_is_tried_again_when_the_target_says() -> None:
    with pytest.raises(TryAgainError) as later:
        judge(answer(409, failed_response(SOP, 0xA700), Retry_After="9"), SOP)
    assert later.value.retry_after == 9.0
    with pytest.raises(TryAgainError) as later:
        judge(answer(503, failed_response(SOP, 0xA700), Retry_After="9"), SOP)
    assert later.value.retry_after == 9.0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            answer(409, failed_response(SOP, 0x0111)),
            "failure reason 0111H: 409",
        ),  # it keeps its own
        (answer(409, failed_response(SOP, 0xC122)), "failure reason C122H: 409"),
        (answer(409, others(0xC000)), "failure reason C000H: 409"),
        (answer(202, failed_response(SOP, 0xA900)), "failure reason A900H: 202"),
        (answer(200, failed_response(SOP, 0xA900)), "failure reason A900H: 200"),
        (
            answer(200, xml_of(failed_response(SOP, 0xC000)), "application/dicom+xml"),
            "failure reason C000H: 200",
        ),
        (answer(200, stored_response("9.9.9")), "does not name the instance as stored"),
        (answer(200, {"00081190": {"vr": "UR"}}), "does not name the instance as stored"),
        (answer(200, b"<html>log in", "text/html; charset=utf-8"), "a web page"),
        (answer(401, b"who are you?", "text/plain"), "401: who are you?"),
        (answer(302, b"", None, Location="/login"), "302: it is to be sent to /login instead."),
    ],
)
def test_what_will_not_pass_is_refused_with_the_answer(given: Answer, told: str) -> None:
    with pytest.raises(RefusedError) as refused:
        judge(given, SOP)
    assert told in refused.value.answer


def test_a_failure_without_a_reason_is_one() -> None:
    nameless: dict[str, Any] = {"00081198": {"vr": "SQ", "Value": [item(SOP)]}}
    with pytest.raises(RefusedError, match="C000H"):
        judge(answer(409, nameless), SOP)


@pytest.mark.parametrize(
    "body",
    [
        {"00081199": None},
        {"00081199": {"vr": "SQ"}},
        {"00081199": {"vr": "SQ", "Value": None}},
        {"00081199": {"vr": "SQ", "Value": [None, 1, "x", []]}},
        {"00081199": {"vr": "SQ", "Value": [{"00081155": None}]}},
        {"00081199": {"vr": "SQ", "Value": [{"00081155": {"Value": []}}]}},
        {"00081198": {"Value": "x"}, "0008119A": [1]},
    ],
)
def test_a_crooked_response_names_nothing(body: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match="does not name the instance"):
        judge(answer(200, body), SOP)


@pytest.mark.parametrize(
    "body", [b"[]", b"[1]", b"1", b"null", b'"x"', b"{", b"\xff", b"[" * 100_000]
)
def test_what_is_no_store_response_is_judged_by_its_status(body: bytes) -> None:
    assert judge(answer(200, body), SOP).answer == "200"
    with pytest.raises(RefusedError):
        judge(answer(400, body), SOP)
