"""The context attributes of a CloudEvent: what they may be, and the event that they make.

CloudEvents 1.0.2 section 3. Every transport brings attributes by name; here they are checked once,
whichever it was. What is unknown is kept as it came (E8).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from imaging_ingestion.events.model import LOG_NUMBER, Event

#: Characters of one attribute's value, and attributes of one event, at most.
LONGEST_VALUE: Final = 4096
MOST_ATTRIBUTES: Final = 64

_NAME = re.compile(r"[a-z0-9]{1,64}")
#: Control characters, surrogates and non-characters (section 3, type system: String).
_FORBIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(
        f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 0x10000)
    )
    + "]"
)
_URI_REFERENCE = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d):(\d\d)(?:\.\d{1,12})?([Zz]|[+\-]\d\d:\d\d)", re.ASCII
)
_TOKEN = r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+"  # noqa: S105 - RFC 9110's word for it
_MEDIA_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}\s*(?:;.*)?", re.ASCII)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_JSON_TYPE = re.compile(r"[^/]+/(?:json|[^;]*\+json)\s*(?:;.*)?", re.IGNORECASE)

#: Attributes that have a place of their own in an event; `partitionkey` is its study.
_READ = frozenset(
    {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataref"}
)


class MalformedEventError(ValueError):
    """What came is no CloudEvent 1.0; the message names the attribute and what is expected."""


def is_json(content_type: str | None) -> bool:
    """Whether data of this media type is JSON text; an event that names none has such data."""
    return content_type is None or _JSON_TYPE.fullmatch(content_type) is not None


def event_from(attributes: Mapping[str, str], data: bytes | None) -> Event:
    """The event of these context attributes, which came from outside.

    Routing fields but the study are left empty: they are the business of whoever knows the type.
    Raises MalformedEventError.
    """
    _check(attributes)
    number = attributes.get(LOG_NUMBER, "")
    traceparent = attributes.get("traceparent", "")
    read = {name: attributes[name] for name in _READ & attributes.keys()}
    extensions = {name: value for name, value in attributes.items() if name not in _READ}
    seq = traced = None
    if _NUMBER.fullmatch(number):
        seq = int(extensions.pop(LOG_NUMBER))
    if _TRACEPARENT.fullmatch(traceparent):
        traced = extensions.pop("traceparent")
    return Event(
        id=read["id"],
        source=read["source"],
        type=read["type"],
        subject=read.get("subject", ""),
        time=read.get("time", ""),
        data=data,
        dataref=read.get("dataref"),
        traceparent=traced,
        seq=seq,
        content_type=read.get("datacontenttype"),
        extensions=extensions,
    )


def check_extensions(extensions: Mapping[str, str]) -> None:
    """Whether these can be set on any event as its extensions. Raises MalformedEventError."""
    _check({"specversion": "1.0", "id": "1", "source": "/", "type": "t"} | dict(extensions))


def _check(attributes: Mapping[str, str]) -> None:
    if "specversion" not in attributes:
        raise MalformedEventError("the attribute specversion is missing")
    if attributes["specversion"] != "1.0":
        raise MalformedEventError(
            f"specversion: only 1.0 is known, found {shown(attributes['specversion'])}"
        )
    for name in ("id", "source", "type"):
        if name not in attributes:
            raise MalformedEventError(f"the attribute {name} is missing")
    if len(attributes) > MOST_ATTRIBUTES:
        raise MalformedEventError(f"an event may have at most {MOST_ATTRIBUTES} attributes")
    for name, value in attributes.items():
        if not _NAME.fullmatch(name):
            raise MalformedEventError(
                f"{shown(name)} is no name of an attribute: it has lower-case letters and digits"
            )
        if len(value) > LONGEST_VALUE:
            raise MalformedEventError(f"{name}: at most {LONGEST_VALUE} characters are taken")
        if _FORBIDDEN.search(value):
            raise MalformedEventError(f"{name}: it holds a control character or a non-character")
        expected = _EXPECTED.get(name)
        if expected is not None and not expected[0](value):
            raise MalformedEventError(f"{name}: {expected[1]} was expected, found {shown(value)}")


def shown(value: str) -> str:
    """A value for a message, in short and printable."""
    return ascii(value[:100])


def _is_time(value: str) -> bool:
    """RFC 3339; a leap second counts as the one before it."""
    found = _TIME.fullmatch(value)
    if found is None:
        return False
    day, minute, second, zone = found.groups()
    second = "59" if second == "60" else second
    try:
        datetime.fromisoformat(f"{day}T{minute}:{second}{zone.upper()}")
    except ValueError:
        return False
    return True


def _is_uri_reference(value: str) -> bool:
    return _URI_REFERENCE.fullmatch(value) is not None


def _is_uri(value: str) -> bool:
    return _is_uri_reference(value) and _SCHEME.match(value) is not None


_EXPECTED: Final[Mapping[str, tuple[Callable[[str], bool], str]]] = {
    "id": (bool, "a non-empty string"),
    "source": (_is_uri_reference, "a URI-reference"),
    "type": (bool, "a non-empty string"),
    "subject": (bool, "a non-empty string"),
    "time": (_is_time, "a time of RFC 3339"),
    "datacontenttype": (lambda value: _MEDIA_TYPE.fullmatch(value) is not None, "a media type"),
    "dataschema": (_is_uri, "a URI"),
    "dataref": (_is_uri_reference, "a URI-reference"),
    "partitionkey": (bool, "a non-empty string"),
}
