"""The JSON event format of CloudEvents 1.0, of one event and of a batch.

Attributes are read into their canonical strings, whatever JSON type they had; the data stays the
text it was, byte by byte.
"""

from __future__ import annotations

import base64
from typing import Final

import msgspec

from imaging_ingestion.events.attributes import MalformedEventError, event_from, is_json, shown
from imaging_ingestion.events.model import Event

#: Events of one batch at most.
LARGEST_BATCH: Final = 1000

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_INTEGERS = range(-(1 << 31), 1 << 31)


def event_of_json(text: bytes | memoryview) -> Event:
    """The event of a JSON object. Raises MalformedEventError."""
    try:
        members = _OBJECT.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedEventError(f"a CloudEvent as a JSON object was expected: {error}") from error
    given = members.pop("data", None)
    encoded = members.pop("data_base64", None)
    attributes = {
        name: value
        for name, raw in members.items()
        if (value := _attribute(name, raw)) is not None  # null: it is unset
    }
    return event_from(attributes, _data(given, encoded, attributes.get("datacontenttype")))


def batch_of_json(text: bytes) -> list[Event]:
    """The events of a JSON array, which may be empty. Raises MalformedEventError."""
    try:
        members = _ARRAY.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedEventError(f"a JSON array of CloudEvents was expected: {error}") from error
    if len(members) > LARGEST_BATCH:
        raise MalformedEventError(f"a batch may have at most {LARGEST_BATCH} events")
    events = []
    for number, member in enumerate(members):
        try:
            events.append(event_of_json(memoryview(member)))
        except MalformedEventError as error:
            raise MalformedEventError(f"event {number} of the batch: {error}") from error
    return events


def _attribute(name: str, raw: msgspec.Raw) -> str | None:
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedEventError(f"{shown(name)}: no JSON value: {error}") from error
    match value:
        case None | str():
            return value
        case bool():
            return "true" if value else "false"
        case int() if value in _INTEGERS:
            return str(value)
        case _:
            raise MalformedEventError(
                f"{shown(name)}: an attribute is a string, a boolean or an integer of 32 bits"
            )


def _data(
    given: msgspec.Raw | None, encoded: msgspec.Raw | None, content_type: str | None
) -> bytes | None:
    """Section 3.1: `data` is JSON, or text as a string; `data_base64` is anything."""
    if given is not None and encoded is not None:
        raise MalformedEventError("an event has data or data_base64, not both")
    try:
        if encoded is not None:
            text = msgspec.json.decode(encoded, type=str | None)
            return None if text is None else base64.b64decode(text, validate=True)
        if given is None:
            return None
        if is_json(content_type):
            data = bytes(given)
            return None if data == b"null" else data
        value = msgspec.json.decode(given)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise MalformedEventError(f"the data cannot be read: {error}") from error
    return value.encode() if isinstance(value, str) else bytes(given)
