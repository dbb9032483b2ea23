"""What a server's answer says of each file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaging_ingestion.cli.collect import DicomFile
from imaging_ingestion.cli.store_result import Answer, State, read_results

UIDS = ("1.1", "1.2", None)
BATCH = [DicomFile(Path(f"f{n}"), 1, 0, uid) for n, uid in enumerate(UIDS)]
SILENCE = "the server's answer does not mention it"


def item(uid: str | None = None, reason: int | None = None, **private: object) -> dict:
    made: dict[str, object] = {}
    if uid:
        made["00081155"] = {"vr": "UI", "Value": [uid]}
    if reason is not None:
        made["00081197"] = {"vr": "US", "Value": [reason]}
    if private:
        made["00090010"] = {"vr": "LO", "Value": ["IMAGING-INGESTION"]}
    tags = {"result": "00091001", "message": "00091002", "part": "00091003", "remarks": "00091004"}
    for name, value in private.items():
        made[tags[name]] = {"vr": "UT", "Value": value if isinstance(value, list) else [value]}
    return made


def answer(status: int = 200, stored=(), failed=(), others=(), media="application/dicom+json"):
    sequences = {"00081199": stored, "00081198": failed, "0008119A": others}
    body = {tag: {"vr": "SQ", "Value": list(v)} for tag, v in sequences.items() if v}
    return Answer(status, media, json.dumps(body).encode())


def outcomes(given: Answer) -> list[tuple[State, str | None]] | None:
    results = read_results(given, BATCH)
    if results is None:
        return None
    assert [one.file for one in results] == BATCH
    return [(one.state, one.reason) for one in results]


def test_our_servers_name_the_part():
    given = answer(
        202,
        stored=[item("9.9", result="STORED", part=2, remarks=["a", "b"])],
        failed=[item("1.1", 0x0111, result="KEPT", part=1, message="part 1: other bytes")],
        others=[item(None, 0xC000, result="FAILED", part=3, message="part 3: cut off")],
    )
    assert outcomes(given) == [
        (State.FAILED, "other bytes (failure reason 0111H)"),
        (State.STORED, "a; b"),
        (State.FAILED, "cut off (failure reason C000H)"),
    ]


def test_what_was_there_already_is_not_stored_anew():
    given = answer(stored=[item("1.1", result="UNCHANGED", part=1), item("1.2"), item("1.3")])
    assert outcomes(given) == [
        (State.ALREADY_THERE, None),
        (State.STORED, None),
        (State.STORED, None),
    ]


def test_other_servers_name_the_instance():
    given = answer(202, stored=[item("1.2")], failed=[item("1.1", 272)])
    assert outcomes(given) == [
        (State.FAILED, "the server gives no reason (failure reason 0110H)"),
        (State.STORED, None),
        (State.FAILED, SILENCE),
    ]


def test_what_an_answer_does_not_mention_has_failed():
    assert outcomes(answer(stored=[item("1.1")])) == [
        (State.STORED, None),
        (State.FAILED, SILENCE),
        (State.FAILED, SILENCE),
    ]


def test_parts_that_were_not_sent_are_not_taken_for_others():
    given = answer(stored=[item("1.1", part=0), item("1.1", part=4), item("1.1", part=-1)])
    assert outcomes(given) == [(State.FAILED, SILENCE)] * 3


def test_an_answer_in_an_array_is_read():
    inner = answer(stored=[item(uid) for uid in ("1.1", "1.2", "1.3")])
    given = Answer(200, inner.media_type, b"[" + inner.body + b"]")
    assert outcomes(given) == [(State.STORED, None)] * 3


@pytest.mark.parametrize(
    ("media", "body"), [("", b""), ("text/plain", b" \n"), ("application/dicom+xml", b"<x/>")]
)
def test_200_says_that_all_were_stored(media, body):  # table 10.5.3-1
    assert outcomes(Answer(200, media, body)) == [(State.STORED, None)] * 3


@pytest.mark.parametrize(
    ("status", "media", "body"),
    [
        (200, "text/html", b"<html>please log in</html>"),
        (200, "application/json", b'[{"0020000D": {"vr": "UI"}}]'),
        (200, "application/json", b"[]"),
        (202, "application/dicom+xml", b"<x/>"),
        (202, "", b""),
        (409, "", b""),
        (500, "application/json", b'{"detail": "broken"}'),
    ],
)
def test_an_answer_that_is_no_store_response_proves_nothing(status, media, body):
    assert outcomes(Answer(status, media, body)) is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Answer(500, "", b""), "HTTP 500"),
        (Answer(415, "", b'{"detail": "no  such\\n type"}'), "HTTP 415: no such type"),
        (Answer(502, "text/html", b"<h1>\nBad\n</h1>"), "HTTP 502: <h1> Bad </h1>"),
        (
            Answer(307, "", b"moved", "https://there/studies"),
            "HTTP 307: the server says to use https://there/studies",
        ),
    ],
)
def test_any_answer_can_be_said_in_words(given, words):
    assert given.in_words() == words


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["00081198", "00081199", "0008119A", "Value", "00081155", "00081197"])
            | st.sampled_from(["00090010", "00091001", "00091002", "00091003", "00091004"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@given(JSON, st.sampled_from([200, 202, 409]))
@settings(max_examples=300, deadline=None)
def test_whatever_comes_every_file_gets_one_result_or_none_does(value, status):
    outcomes(Answer(status, "application/dicom+json", json.dumps(value).encode()))
