"""The port of a storage space: objects are put whole or not at all, and never change.

A put has three steps so that its costs can be shared by many instances: bytes stream into an
`ObjectWriter`; `seal` ends them and tells their digest (from which the object's name is made);
`publish` gives any number of sealed objects their names in one go. What is published is durable and
visible; whatever was not published is not there after a crash. A directory makes the bytes durable
at `seal` already, an object store at `publish`: only `publish` is a promise.

Failures are OSErrors, so that whoever does not care for the cause need not know it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class ObjectMissingError(LookupError):
    """No object of that name is in the space."""


class SpaceFullError(OSError):
    """The space cannot take more bytes (disk or quota full)."""


class SpaceDeniedError(OSError):
    """The space does not let us do it: wrong credentials, or too few permissions."""


class SpaceMissingError(OSError):
    """There is no such space: the bucket or the container does not exist."""


class SpaceUnavailableError(OSError):
    """The space cannot be reached or is too busy, for as long as we tried; it may work later."""


@dataclass(frozen=True, slots=True)
class SealedObject:
    """An object whose bytes the space has whole, without a name yet.

    `token` is the adapter's own.
    """

    sha256: bytes
    size: int  # bytes
    token: str


class ListedObject(NamedTuple):
    """An object as a listing tells of it.

    `modified` is when it was last written (microseconds since the epoch): the clock is that of the
    machine or of the store, which may count in whole seconds.
    """

    name: str
    size: int  # bytes
    modified: int


class ObjectWriter(Protocol):
    """Takes one object's bytes. `write` waits when the space is slower than the sender."""

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data`, which the caller may reuse once this returns."""

    async def seal(self) -> SealedObject:
        """End the object. The writer is spent afterwards."""

    async def abort(self) -> None:
        """Forget everything written. Harmless after `seal`, `abort`, or a failed `write`."""


class ObjectReader(Protocol):
    """One object opened for reading; what is read is of that object or there is an OSError.

    In a directory it stays readable even if the object is deleted meanwhile; of an object in a
    store only what has been asked for does.
    """

    @property
    def size(self) -> int:
        """Length in bytes."""

    async def read(self, offset: int, length: int) -> bytes:
        """Bytes [offset, offset + length), fewer only at the end of the object."""

    def stream(self, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `offset` in pieces of at most 1 MiB."""

    async def close(self) -> None:
        """Release what is held. Harmless twice."""


class Space(Protocol):
    """A storage space."""

    @property
    def name(self) -> str:
        """The space's name in the site, the manifest and the URLs."""

    def writer(self) -> ObjectWriter:
        """Begin a new object."""

    async def publish(self, objects: Sequence[tuple[SealedObject, str]]) -> None:
        """Give sealed objects their names, durably. An object already of that name is replaced."""

    async def discard(self, sealed: SealedObject) -> None:
        """Forget a sealed object that will not be published."""

    async def open(self, name: str) -> ObjectReader:
        """Open an object for reading. Raises ObjectMissingError."""

    async def delete(self, name: str) -> None:
        """Remove an object; nothing happens if it is not there."""

    def names(self) -> AsyncIterator[str]:
        """Every object's name, in any order."""

    def objects(self) -> AsyncIterator[ListedObject]:
        """Every object with its size and time, in any order; at the cost of `names` in a store.

        One that comes or goes meanwhile is listed or not, and none twice.
        """
