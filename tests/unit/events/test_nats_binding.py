"""CloudEvents over NATS (E9): what goes out comes back, and what is none is told."""

from __future__ import annotations

import msgspec
import pytest
from event_core import published

from imaging_ingestion.events.attributes import MalformedEventError
from imaging_ingestion.events.model import Event
from imaging_ingestion.events.nats_binding import event_of_message, message_of


def test_an_event_is_the_same_after_a_journey_in_binary_mode() -> None:
    event = published(
        7,
        subject='a "b" 100 % ü',
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        extensions={"lot": "x y"},
        seq=41,
    )
    message = message_of(event)
    assert message.headers["ce-datacontenttype"] == "application/json"
    assert message.headers["ce-lognumber"] == "41"
    assert message.headers["ce-subject"] == "a%20%22b%22%20100%20%25%20%C3%BC"
    assert "Content-Type" not in message.headers
    found = event_of_message(message.headers, message.body)
    assert found.context() == event.context()
    assert found.data == event.data


def test_an_event_without_data_has_no_media_type() -> None:
    event = published(1, data=None, dataref="http://here/1")
    message = message_of(event)
    assert "ce-datacontenttype" not in message.headers
    assert event_of_message(message.headers, b"").dataref == "http://here/1"


@pytest.mark.parametrize(
    "headers", [{}, {"Content-Type": "application/cloudevents+json"}, {"Other": "x"}]
)
def test_structured_mode_is_read(headers: dict[str, str]) -> None:
    event = published(7)
    body = msgspec.json.encode({**event.context(), "data": event.json()})
    found = event_of_message(headers, body)
    assert (found.context(), found.json()) == (event.context(), event.json())


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b"\xff"),
        ({}, b""),
        ({}, b"[]"),
        ({"ce-id": "1"}, b""),
        ({"Content-Type": "application/cloudevents-batch+json"}, b"[]"),
        ({"ce-specversion": "1.0", "ce-id": "%FF", "ce-source": "/a", "ce-type": "T"}, b""),
        ({"ce-specversion": "1.0", "ce-id": "\udcff", "ce-source": "/a", "ce-type": "T"}, b""),
    ],
)
def test_what_is_no_event_is_told(headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(MalformedEventError):
        event_of_message(headers, body)


def test_a_header_of_nats_is_no_attribute() -> None:
    event: Event = published(7)
    message = message_of(event)
    found = event_of_message(message.headers | {"Nats-Msg-Id": "x"}, message.body)
    assert found.extensions == {}
