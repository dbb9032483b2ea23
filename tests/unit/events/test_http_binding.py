"""The HTTP protocol binding of CloudEvents, by itself and against another implementation of it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cloudevents.core.bindings import http as theirs
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from imaging_ingestion.events.attributes import (
    LONGEST_VALUE,
    MOST_ATTRIBUTES,
    MalformedEventError,
    is_json,
)
from imaging_ingestion.events.http_binding import (
    UnknownFormatError,
    binary_message,
    read_message,
)
from imaging_ingestion.events.json_format import LARGEST_BATCH
from imaging_ingestion.events.model import Event

UPSTREAM_REVISION = (
    Path(__file__).parents[2] / "data/upstream/study-revision-event.json"
).read_bytes()
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
MINIMAL = {"specversion": "1.0", "id": "1", "source": "/s", "type": "T"}


def headers_of(message: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin_1")) for name, value in message.items()]


def received(headers: dict[str, str], body: bytes = b"") -> Event:
    (event,), is_batch = read_message(headers_of(headers), body)
    assert not is_batch
    return event


def binary(**attributes: str) -> Event:
    return received({f"ce-{name}": value for name, value in {**MINIMAL, **attributes}.items()})


def structured(body: Any, content_type: str = "application/cloudevents+json") -> Event:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return received({"Content-Type": content_type}, text)


def json_of(event: Event) -> bytes:
    """An event as a JSON object."""
    members: dict[str, Any] = {**event.context()}
    if event.data is not None:
        if is_json(event.content_type):
            members["data"] = msgspec.Raw(event.data)
        else:
            members["data_base64"] = base64.b64encode(event.data).decode()
    return msgspec.json.encode(members)


def refusal(headers: dict[str, str], body: bytes = b"") -> str:
    with pytest.raises(MalformedEventError) as caught:
        read_message(headers_of(headers), body)
    return str(caught.value)


FULL = Event(
    id="revised/1.2/3",
    source="/imaging-ingestion/core/default",
    type="StudyRevisionEvent",
    subject="studies/1.2",
    time="2026-01-01T00:00:00+00:00",
    data=b'{"revision": 3}',
    traceparent=TRACE,
    seq=41,
    study_instance_uid="1.2",
    extensions={"anything": 'M\N{LATIN SMALL LETTER U WITH DIAERESIS}ller "50 %"'},
)


def test_in_binary_mode_attributes_are_headers_and_the_data_is_the_body() -> None:
    """E3, E7."""
    message = binary_message(FULL)
    assert message.body == b'{"revision": 3}'
    assert message.headers == {
        "ce-specversion": "1.0",
        "ce-id": "revised/1.2/3",
        "ce-source": "/imaging-ingestion/core/default",
        "ce-type": "StudyRevisionEvent",
        "ce-subject": "studies/1.2",
        "ce-time": "2026-01-01T00:00:00+00:00",
        "ce-partitionkey": "1.2",
        "ce-traceparent": TRACE,
        "ce-lognumber": "41",
        "ce-anything": "M%C3%BCller%20%2250%20%25%22",
        "Content-Type": "application/json",
    }


def test_an_event_without_data_has_no_body_and_no_content_type() -> None:
    event = Event(
        id="1", source="/s", type="T", subject="", time="", dataref="http://x/revisions/1"
    )
    message = binary_message(event)
    assert message.body == b""
    assert set(message.headers) == {
        "ce-specversion", "ce-id", "ce-source", "ce-type", "ce-dataref"
    }  # fmt: skip
    assert received(message.headers) == event


def test_what_was_sent_is_received() -> None:
    message = binary_message(FULL)
    event = received(message.headers, message.body)
    assert event.context() == FULL.context()
    assert (event.data, event.seq, event.traceparent) == (FULL.data, 41, TRACE)
    assert event.extensions == {"partitionkey": "1.2", **FULL.extensions}


@pytest.mark.parametrize(
    ("content_type", "batched"),
    [
        ("application/cloudevents+json", False),
        ("Application/CloudEvents+JSON; charset=UTF-8", False),
        ("application/cloudevents-batch+json", True),
        ("APPLICATION/CLOUDEVENTS-BATCH+JSON;charset=utf-8", True),
    ],
)
def test_the_mode_is_told_by_the_beginning_of_the_content_type(
    content_type: str, batched: bool
) -> None:
    """E6."""
    one = json_of(FULL)
    body = b"[" + one + b"]" if batched else one
    (event,), is_batch = read_message([(b"content-TYPE", content_type.encode())], body)
    assert (event.id, is_batch) == (FULL.id, batched)


def test_a_batch_may_be_empty() -> None:
    """E5."""
    headers = [(b"content-type", b"application/cloudevents-batch+json")]
    assert read_message(headers, b" [ ] ") == ([], True)


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro \N{EURO SIGN} \N{GRINNING FACE}"),
        ("%2520", "%20"),  # decoded once
        ('"quoted \\"string\\" \\\\"', 'quoted "string" \\'),
        ('"50%25"', "50%"),
        ("100%", "100%"),
        ("%zz", "%zz"),
        ("%c3%bc", "\N{LATIN SMALL LETTER U WITH DIAERESIS}"),
        ("  padded ", "padded"),
    ],
)
def test_a_header_is_unescaped_and_then_percent_decoded_once(told: str, meant: str) -> None:
    """E7."""
    assert binary(subject=told).subject == meant


@pytest.mark.parametrize("told", ["%FF", "%C3", "%ED%A0%80", "%C0%80", "\xff"])
def test_a_header_that_is_no_utf8_is_refused(told: str) -> None:
    """E7."""
    headers = {f"ce-{name}": value for name, value in {**MINIMAL, "subject": told}.items()}
    assert refusal(headers) == "ce-subject: it is no UTF-8 when decoded"


@pytest.mark.parametrize("missing", ["specversion", "id", "source", "type"])
def test_what_is_required_is_missed_by_its_name(missing: str) -> None:
    """E1, E8."""
    told = {name: value for name, value in MINIMAL.items() if name != missing}
    assert f"the attribute {missing} is missing" in refusal(
        {f"ce-{name}": value for name, value in told.items()}
    )
    unset = {**MINIMAL, missing: None}
    assert f"the attribute {missing} is missing" in refusal(
        {"Content-Type": "application/cloudevents+json"}, json.dumps(unset).encode()
    )


@pytest.mark.parametrize(
    ("attribute", "value", "why"),
    [
        ("specversion", "0.3", "specversion: only 1.0 is known, found '0.3'"),
        ("id", "", "id: a non-empty string was expected"),
        ("source", "two words", "source: a URI-reference was expected"),
        ("source", "", "source: a URI-reference was expected"),
        ("type", "", "type: a non-empty string was expected"),
        ("subject", "", "subject: a non-empty string was expected"),
        ("time", "yesterday", "time: a time of RFC 3339 was expected, found 'yesterday'"),
        ("time", "2026-02-30T00:00:00Z", "time: a time of RFC 3339"),
        ("time", "2026-02-20T00:00:00", "time: a time of RFC 3339"),
        ("dataschema", "no-scheme", "dataschema: a URI was expected"),
        ("dataref", "a b", "dataref: a URI-reference was expected"),
        ("datacontenttype", "json", "datacontenttype: a media type was expected"),
        ("partitionkey", "", "partitionkey: a non-empty string was expected"),
        ("subject", "a\0b", "subject: it holds a control character"),
        ("subject", "a\n", "subject: it holds a control character"),
        ("subject", "\ufdd0", "subject: it holds a control character or a non-character"),
        ("Upper", "x", "'Upper' is no name of an attribute"),
        ("with-dash", "x", "'with-dash' is no name of an attribute"),
        ("", "x", "'' is no name of an attribute"),
        ("long", "x" * (LONGEST_VALUE + 1), f"long: at most {LONGEST_VALUE} characters"),
        ("id", 1.5, "'id': an attribute is a string, a boolean or an integer of 32 bits"),
        ("extension", {"a": 1}, "'extension': an attribute is a string"),
        ("extension", [1], "'extension': an attribute is a string"),
        ("extension", 1 << 31, "'extension': an attribute is a string"),
    ],
)
def test_an_attribute_of_the_wrong_kind_is_refused_by_its_name(
    attribute: str, value: object, why: str
) -> None:
    """E2, E8."""
    body = json.dumps({**MINIMAL, attribute: value}).encode()
    assert why in refusal({"Content-Type": "application/cloudevents+json"}, body)


@pytest.mark.parametrize(
    "time",
    ["2026-01-01T00:00:00Z", "2026-01-01t00:00:00.123456789z", "2016-12-31T23:59:60+01:00"],
)
def test_every_time_of_rfc_3339_is_taken(time: str) -> None:
    """E2."""
    assert binary(time=time).time == time


def test_unknown_extensions_are_kept_in_their_canonical_form() -> None:
    """E8."""
    event = structured({**MINIMAL, "flag": True, "number": -7, "text": "x", "unset": None})
    assert event.extensions == {"flag": "true", "number": "-7", "text": "x"}
    assert binary_message(event).headers["ce-number"] == "-7"


@pytest.mark.parametrize("number", ["x", "0", "-1", "01", "9" * 30])
def test_a_log_number_that_is_none_is_an_extension_like_any_other(number: str) -> None:
    event = binary(lognumber=number, traceparent="what")
    assert (event.seq, event.traceparent) == (None, None)
    assert event.extensions == {"lognumber": number, "traceparent": "what"}
    assert binary_message(event).headers["ce-lognumber"] == number


@pytest.mark.parametrize(
    ("members", "data"),
    [
        ({"data": {"a": [1, None]}}, b'{"a": [1, null]}'),
        ({"data": "text"}, b'"text"'),
        ({"data": "text", "datacontenttype": "text/plain"}, b"text"),
        ({"data": {"a": 1}, "datacontenttype": "application/dicom+json"}, b'{"a": 1}'),
        ({"data": {"a": 1}, "datacontenttype": "text/plain"}, b'{"a": 1}'),
        ({"data_base64": "AAEC", "datacontenttype": "application/dicom"}, b"\0\1\2"),
        ({"data_base64": "eyJhIjoxfQ=="}, b'{"a":1}'),
        ({"data": None}, None),
        ({"data_base64": None}, None),
        ({}, None),
    ],
)
def test_data_is_json_text_or_base64(members: dict[str, Any], data: bytes | None) -> None:
    """E4."""
    event = structured({**MINIMAL, **members})
    assert event.data == data
    assert structured(json_of(event)).data == data


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "a CloudEvent as a JSON object was expected"),
        (b"[]", "a CloudEvent as a JSON object was expected"),
        (b'{"id":', "a CloudEvent as a JSON object was expected"),
        (b"{}\xff", "a CloudEvent as a JSON object was expected"),
        (b'{"a":' * 100_000, "a CloudEvent as a JSON object was expected"),
        (json.dumps({**MINIMAL, "data": 1, "data_base64": ""}).encode(), "not both"),
        (json.dumps({**MINIMAL, "data_base64": "?"}).encode(), "the data cannot be read"),
        (json.dumps({**MINIMAL, "data_base64": "\xfc"}).encode(), "the data cannot be read"),
        (json.dumps({**MINIMAL, "data_base64": 1}).encode(), "the data cannot be read"),
        (b'{"specversion":"1.0","id":"\\ud800","source":"/","type":"T"}', "malformed"),
        (b'{"specversion":"1.0","id":"\xff","source":"/","type":"T"}', ""),
    ],
)
def test_what_is_no_event_in_json_is_refused(body: bytes, why: str) -> None:
    """E8."""
    assert why in refusal({"Content-Type": "application/cloudevents+json"}, body)


def test_a_batch_with_one_bad_event_is_refused_and_the_event_named() -> None:
    body = json.dumps([MINIMAL, {**MINIMAL, "specversion": "2.0"}]).encode()
    told = refusal({"Content-Type": "application/cloudevents-batch+json"}, body)
    assert told == "event 1 of the batch: specversion: only 1.0 is known, found '2.0'"


def test_a_batch_and_an_events_attributes_have_limits() -> None:
    batch = json.dumps([MINIMAL] * (LARGEST_BATCH + 1)).encode()
    assert f"at most {LARGEST_BATCH} events" in refusal(
        {"Content-Type": "application/cloudevents-batch+json"}, batch
    )
    many = {f"x{number}": "1" for number in range(MOST_ATTRIBUTES)}
    assert f"at most {MOST_ATTRIBUTES} attributes" in refusal(
        {f"ce-{name}": value for name, value in {**MINIMAL, **many}.items()}
    )


def test_what_is_no_cloudevent_at_all_is_told_so() -> None:
    assert "no CloudEvent" in refusal({"Content-Type": "application/json"}, b"{}")
    assert "no CloudEvent" in refusal({}, b"")


def test_a_header_that_is_there_twice_is_refused() -> None:
    headers = [*headers_of({f"ce-{name}": value for name, value in MINIMAL.items()})]
    with pytest.raises(MalformedEventError, match="more than one ce-id header"):
        read_message([*headers, (b"CE-ID", b"2")], b"")
    with pytest.raises(MalformedEventError, match="more than one Content-Type"):
        read_message([*headers, (b"content-type", b"a/b"), (b"Content-Type", b"c/d")], b"")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/cloudevents+avro",
        "application/cloudevents-batch+xml",
        "application/cloudevents",
        "application/cloudevents+json; charset=iso-8859-1",
    ],
)
def test_another_format_or_character_set_is_told_apart_from_a_bad_event(content_type: str) -> None:
    with pytest.raises(UnknownFormatError):
        read_message([(b"content-type", content_type.encode())], json_of(FULL))


def test_in_binary_mode_the_content_type_is_the_datas() -> None:
    """E3: there is no ce-datacontenttype header."""
    headers = {f"ce-{name}": value for name, value in MINIMAL.items()}
    event = received({**headers, "Content-Type": "text/xml", "ce-datacontenttype": "a/b"}, b"<a/>")
    assert (event.content_type, event.data) == ("text/xml", b"<a/>")
    assert "ce-datacontenttype" not in binary_message(event).headers


def test_upstreams_event_arrives_byte_for_byte_in_every_mode() -> None:
    event = Event(
        id="1", source="imaging-ingestion", type="StudyRevisionEvent", subject="", time="",
        data=UPSTREAM_REVISION,
    )  # fmt: skip
    sent = binary_message(event)
    assert received(sent.headers, sent.body).data == UPSTREAM_REVISION
    found = structured(json_of(event)).data
    assert found is not None
    assert json.loads(found) == json.loads(UPSTREAM_REVISION)


# Another implementation reads what we write, and the other way round.


def no_surrogates(low: int) -> st.SearchStrategy[str]:
    forbidden = [
        chr(plane + end) for plane in range(0, 0x110000, 0x10000) for end in (0xFFFE, 0xFFFF)
    ]
    letters = st.characters(
        min_codepoint=low,
        exclude_categories=("Cs", "Cc"),
        exclude_characters=[*forbidden, *map(chr, range(0xFDD0, 0xFDF0))],
    )
    return st.text(letters, min_size=1, max_size=40)


EXTENSION_NAMES = st.from_regex(r"x[a-z0-9]{1,18}", fullmatch=True)
EVENTS = st.builds(
    Event,
    id=no_surrogates(0x21),
    source=st.from_regex(r"[a-z:/?#.%]{0,3}[a-z/]{1,30}", fullmatch=True).filter(
        lambda text: "%" not in text
    ),
    type=no_surrogates(0x21),
    subject=no_surrogates(0x21),
    time=st.just("2026-01-01T12:00:00.5+01:00"),
    data=st.none() | st.recursive(
        st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | no_surrogates(0x20),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(no_surrogates(0x20), inner, max_size=3),
        max_leaves=8,
    ).filter(lambda value: value is not None).map(lambda value: json.dumps(value).encode()),
    dataref=st.none() | st.just("https://example.org/data?x=1%202"),
    traceparent=st.none() | st.just(TRACE),
    seq=st.none() | st.integers(1, (1 << 59)),
    extensions=st.dictionaries(EXTENSION_NAMES, no_surrogates(0x21), max_size=4),
)  # fmt: skip


@settings(max_examples=50)
@given(EVENTS)
def test_every_event_survives_each_mode(event: Event) -> None:
    message = binary_message(event)
    for found in (received(message.headers, message.body), structured(json_of(event))):
        assert found.context() == event.context()
        assert json.loads(found.data or b"null") == json.loads(event.data or b"null")


@settings(max_examples=50)
@given(EVENTS)
def test_another_implementation_reads_what_we_write(event: Event) -> None:
    message = binary_message(event)
    found = [
        theirs.from_binary(theirs.HTTPMessage(message.headers, message.body), JSONFormat()),
        theirs.from_structured(
            theirs.HTTPMessage({"content-type": "application/cloudevents+json"}, json_of(event)),
            JSONFormat(),
        ),
    ]
    for one in found:
        told = {**one.get_attributes(), "time": event.time}
        assert told == event.context()
        assert (one.get_data() or None) == (json.loads(event.data or b"null") or None)


@settings(max_examples=50)
@given(EVENTS.filter(lambda event: (event.data or b"{")[:1] == b"{"))  # else theirs is not JSON
def test_we_read_what_another_implementation_writes(event: Event) -> None:
    attributes: dict[str, Any] = {**event.context()}
    attributes.pop("time")
    data = json.loads(event.data or b"null")
    their_event = CloudEvent(attributes, data)
    for message in (
        theirs.to_binary(their_event, JSONFormat()),
        theirs.to_structured(their_event, JSONFormat()),
    ):
        found = received(message.headers, message.body)
        assert {**found.context(), "time": event.time} == {
            **event.context(),
            **({"datacontenttype": "application/json"} if found.data is not None else {}),
        }
        assert json.loads(found.data or b"null") == data


@given(st.binary(max_size=200), st.sampled_from(["", "-batch"]))
def test_any_body_is_an_event_or_refused(body: bytes, mode: str) -> None:
    try:
        read_message([(b"content-type", f"application/cloudevents{mode}+json".encode())], body)
    except MalformedEventError:
        return


@given(
    st.lists(st.tuples(st.binary(max_size=12).map(lambda n: b"ce-" + n), st.binary(max_size=20)))
)
def test_any_headers_are_an_event_or_refused(headers: list[tuple[bytes, bytes]]) -> None:
    known = headers_of({f"ce-{name}": value for name, value in MINIMAL.items()})
    try:
        read_message([*known, *headers], b"{}")
    except MalformedEventError:
        return
