"""The AE titles of A-ASSOCIATE PDUs, exchanged in place: all other bytes stay as they are.

They stand at the same place in the request and in its acceptance, which repeats them (PS3.8 9.3.2
and 9.3.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from imaging_ingestion.tunnel.frame import Buffer

_CALLED: Final = slice(10, 26)
_CALLING: Final = slice(26, 42)
_BOTH: Final = slice(10, 42)


@dataclass(frozen=True, slots=True)
class Titles:
    """The titles of one association, as they stand in its request: 32 bytes."""

    data: bytes

    @classmethod
    def of(cls, pdu: Buffer) -> Titles:
        """Those of a request or an acceptance."""
        return cls(bytes(pdu[_BOTH]))

    @property
    def called(self) -> str:
        """Without padding."""
        return _text(self.data[:16])

    @property
    def calling(self) -> str:
        """Without padding."""
        return _text(self.data[16:])

    def put(self, pdu: Buffer) -> bytes:
        """A request or acceptance with these titles."""
        changed = bytearray(pdu)
        changed[_BOTH] = self.data
        return bytes(changed)


def rename(pdu: Buffer, called: str | None, calling: str | None) -> bytes:
    """A request with other titles; None leaves one as it is."""
    changed = bytearray(pdu)
    for place, title in ((_CALLED, called), (_CALLING, calling)):
        if title is not None:
            changed[place] = title.encode("ascii").ljust(16)
    return bytes(changed)


def is_same(title: str, other: str) -> bool:
    """Whether they mean the same entity: case says nothing, as everywhere in this project."""
    return title.casefold() == other.casefold()


def _text(data: bytes) -> str:
    return data.decode("ascii", errors="replace").strip(" \0")
