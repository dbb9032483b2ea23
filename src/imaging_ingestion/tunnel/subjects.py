"""The subjects of one channel, and what a NATS user needs to be allowed.

Each side listens on its own channel and publishes to the other one, as in Alvearie:

    <root>.<channel>.open            an OPEN, taken by one of the proxies that listen there
    <root>.<channel>.gone            a process of the other side has ended: told to all
    <root>.<channel>.at.<process>.<stream>      frames to one process about one stream
    <root>._INBOX.>                  what the client library asks for (not used by the tunnel)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, cast

Channel = Literal["A", "B"]
CHANNELS: Final = ("A", "B")
#: Proxies of one side take turns in opening.
QUEUE: Final = "tunnel"

_ROOT: Final = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*")


@dataclass(frozen=True, slots=True)
class Subjects:
    """Where one side listens (`channel`) below a root."""

    root: str
    channel: Channel

    @property
    def other(self) -> Subjects:
        """The other side's."""
        return Subjects(self.root, "B" if self.channel == "A" else "A")

    @property
    def open(self) -> str:
        """Where streams are opened."""
        return f"{self.root}.{self.channel}.open"

    @property
    def gone(self) -> str:
        """Where it is told that a process of the other side has ended."""
        return f"{self.root}.{self.channel}.gone"

    @property
    def inbox(self) -> str:
        """Prefix of inboxes."""
        return f"{self.root}._INBOX"

    def process(self, process_id: bytes) -> str:
        """Prefix of one process's streams."""
        return f"{self.root}.{self.channel}.at.{process_id.hex()}"

    def owns(self, subject: str) -> bool:
        """Whether it is one of a process's streams here."""
        return subject.startswith(f"{self.root}.{self.channel}.at.")

    @property
    def publish(self) -> tuple[str, ...]:
        """What the side's user must be allowed to publish."""
        return (f"{self.root}.{self.other.channel}.>",)

    @property
    def subscribe(self) -> tuple[str, ...]:
        """What the side's user must be allowed to subscribe to."""
        return (f"{self.root}.{self.channel}.>", f"{self.inbox}.>")


def is_root(text: str) -> bool:
    """Whether subjects can begin so."""
    return _ROOT.fullmatch(text) is not None and len(text) <= 128


def as_channel(text: str) -> Channel | None:
    """A channel, or None."""
    return cast("Channel", text) if text in CHANNELS else None


def stream_half(subject: str) -> bytes:
    """The opener's half of the stream's id, which is the subject's last word; or nothing."""
    try:
        return bytes.fromhex(subject.rsplit(".", 1)[-1])
    except ValueError:
        return b""
