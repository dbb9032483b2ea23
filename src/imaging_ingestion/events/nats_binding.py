"""The NATS protocol binding of CloudEvents 1.0: binary mode out, binary and structured in (E9).

It differs from HTTP's in little: the media type of the data is an attribute like all others, and
there are no batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from imaging_ingestion.events.attributes import MalformedEventError
from imaging_ingestion.events.http_binding import Message, binary_message, read_message
from imaging_ingestion.events.model import Event

_MEDIA_TYPE: Final = "ce-datacontenttype"
_STRUCTURED: Final = "application/cloudevents+json"


def message_of(event: Event) -> Message:
    """An event in binary mode."""
    message = binary_message(event)
    media_type = message.headers.pop("Content-Type", None)
    if media_type is not None:
        message.headers[_MEDIA_TYPE] = media_type
    return message


def event_of_message(headers: Mapping[str, str], body: bytes) -> Event:
    """The event of a message.

    One without any attribute in its headers is structured: before version 2.2 of NATS there were no
    headers. Raises MalformedEventError, or UnknownFormatError.
    """
    read: list[tuple[bytes, bytes]] = []
    names = {name.lower() for name in headers}
    is_binary = any(name.startswith("ce-") for name in names)
    for name, value in headers.items():
        lower = name.lower()
        if lower == _MEDIA_TYPE:
            lower = "content-type"
        elif lower == "content-type" and is_binary:
            continue
        read.append((lower.encode(), value.encode("utf-8", "surrogateescape")))
    if not is_binary and "content-type" not in names:
        read.append((b"content-type", _STRUCTURED.encode()))
    events, is_batch = read_message(read, body)
    if is_batch:
        raise MalformedEventError("a batch of events is not taken over NATS")
    return events[0]
