"""The names of a core's streams, subjects and consumers.

    <root>.<core>.events.<type>.<space>         an event
    <root>.<core>.dead.<binding>.<number>       a dead letter; the number is the event's in the log

A part that is a name from elsewhere becomes one token: letters, digits and '-' stand for
themselves, all else is written as %XX of its UTF-8; nothing at all is '_'. So two names never
become one, and no name reaches into another's subjects.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from imaging_ingestion.events.model import Event

DEFAULT_ROOT: Final = "imaging"

_OTHER: Final = re.compile(rb"[^A-Za-z0-9-]")


def token(text: str) -> str:
    """A name as one token of a subject, or of the name of a stream."""
    raw = text.encode("utf-8", "surrogatepass")
    return _OTHER.sub(lambda found: b"%%%02X" % found[0][0], raw).decode() or "_"


def text_of(name: str) -> str:
    """The name of a token."""
    return "" if name == "_" else unquote(name)


@dataclass(frozen=True, slots=True)
class Names:
    """Those of one core below a root, which is one or more words separated by dots."""

    root: str
    core: str

    @property
    def events(self) -> str:
        """The stream of events."""
        return f"{token(self.root)}_{token(self.core)}_events"

    @property
    def dead(self) -> str:
        """The stream of dead letters."""
        return f"{token(self.root)}_{token(self.core)}_dead"

    @property
    def all_events(self) -> str:
        """The subjects of all events."""
        return f"{self._prefix}.events.>"

    @property
    def all_dead(self) -> str:
        """The subjects of all dead letters."""
        return f"{self._prefix}.dead.>"

    def event(self, event: Event) -> str:
        """The subject of an event. It names nothing of a patient."""
        return f"{self._prefix}.events.{token(event.type)}.{token(event.space)}"

    def of_type(self, event_type: str) -> str:
        """The subjects of a type's events."""
        return f"{self._prefix}.events.{token(event_type)}.>"

    def dead_letter(self, binding: str, number: int | str) -> str:
        """The subject of a dead letter; what could not be read has the number of its stream."""
        return f"{self._prefix}.dead.{token(binding)}.{number}"

    def consumer(self, binding: str) -> str:
        """The durable consumer of a binding."""
        return token(binding)

    @property
    def inbox(self) -> str:
        """Prefix of what is sent to us alone."""
        return f"{self._prefix}._INBOX"

    @property
    def _prefix(self) -> str:
        return f"{self.root}.{token(self.core)}"
