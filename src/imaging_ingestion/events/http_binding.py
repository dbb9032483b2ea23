"""The HTTP protocol binding of CloudEvents 1.0: binary, structured and batched (E3 to E7).

No I/O: headers and a body in, events out, and the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from imaging_ingestion.events.attributes import MalformedEventError, event_from
from imaging_ingestion.events.json_format import batch_of_json, event_of_json
from imaging_ingestion.events.model import Event

#: Bytes of a body at most, whether it is one event's data or a batch.
LARGEST_BODY: Final = 8 << 20

_CLOUDEVENTS = "application/cloudevents"
_BATCH = "application/cloudevents-batch"
_PREFIX = "ce-"
#: What is not percent-encoded: U+0021 to U+007E but the quotation mark and the percent sign.
_PLAIN = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"%')
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\s\";]+)", re.IGNORECASE)


class UnknownFormatError(ValueError):
    """Events in a format or a character set that is not read here: 415 in HTTP."""


@dataclass(frozen=True, slots=True)
class Message:
    """What HTTP carries: headers, and a body."""

    headers: dict[str, str]
    body: bytes


def binary_message(event: Event) -> Message:
    """An event in binary mode. Its data, if it has any, is the body."""
    headers = {
        _PREFIX + name: quote(value, safe=_PLAIN)
        for name, value in event.context().items()
        if name != "datacontenttype"
    }
    if event.data is None:
        return Message(headers, b"")
    headers["Content-Type"] = event.context()["datacontenttype"]
    return Message(headers, event.data)


def read_message(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> tuple[list[Event], bool]:
    """The events of a message, and whether it is a batch.

    Raises MalformedEventError, or UnknownFormatError.
    """
    given = list(headers)
    content_type = _content_type(given)
    mode = (content_type or "").lower()
    if mode.startswith(_BATCH):
        _check_format(mode, _BATCH)
        return batch_of_json(body), True
    if mode.startswith(_CLOUDEVENTS):
        _check_format(mode, _CLOUDEVENTS)
        return [event_of_json(body)], False
    return [_binary(given, content_type, body)], False


def _content_type(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    values = [value for name, value in headers if name.lower() == b"content-type"]
    if len(values) > 1:
        raise MalformedEventError("there is more than one Content-Type header")
    return values[0].decode("latin_1").strip() or None if values else None


def _check_format(content_type: str, prefix: str) -> None:
    media_type = content_type.partition(";")[0].strip()
    if media_type != f"{prefix}+json":
        raise UnknownFormatError(f"events are taken as {prefix}+json, found {media_type[:100]!r}")
    charset = _CHARSET.search(content_type)
    if charset is not None and charset[1] not in {"utf-8", "utf8", "us-ascii"}:
        raise UnknownFormatError(f"JSON is UTF-8, found charset {charset[1][:100]!r}")


def _binary(headers: Iterable[tuple[bytes, bytes]], content_type: str | None, body: bytes) -> Event:
    attributes: dict[str, str] = {}
    for raw_name, raw_value in headers:
        header = raw_name.decode("latin_1").lower()
        name = header.removeprefix(_PREFIX)
        if name in {header, "datacontenttype"}:  # that is Content-Type's to say (3.1.1)
            continue
        if name in attributes:
            raise MalformedEventError(f"there is more than one {header} header")
        try:
            attributes[name] = _unescaped(raw_value.strip(b" \t")).decode()
        except UnicodeDecodeError as error:
            raise MalformedEventError(f"{header}: it is no UTF-8 when decoded") from error
    if not attributes:
        raise MalformedEventError(
            "no CloudEvent: there are no ce- headers, and the Content-Type is not "
            f"{_CLOUDEVENTS}+json"
        )
    if content_type is not None and body:
        attributes["datacontenttype"] = content_type
    return event_from(attributes, body or None)


def _unescaped(value: bytes) -> bytes:
    """A header's value: quoted strings unescaped, then percent-decoded once (3.1.3.2)."""
    value = _QUOTED.sub(lambda found: _ESCAPED.sub(rb"\1", found[0][1:-1]), value)
    return unquote_to_bytes(value)
