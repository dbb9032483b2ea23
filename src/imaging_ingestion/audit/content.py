"""Whether an object is there, and what its bytes are."""

from __future__ import annotations

import asyncio
import hashlib
from typing import NamedTuple

from imaging_ingestion.manifest.object_names import LiveObject
from imaging_ingestion.storage.space import ObjectMissingError, Space


class Content(NamedTuple):
    """The bytes of an object."""

    size: int
    sha256: bytes


async def size_of(space: Space, object_name: str) -> int | None:
    """Bytes of an object; None if it is not there. Raises OSError."""
    try:
        reader = await space.open(object_name)
    except ObjectMissingError:
        return None
    await reader.close()
    return reader.size


async def content_of(space: Space, object_name: str) -> Content | None:
    """What an object is, read from its first byte to its last; None if it is not there.

    Raises OSError.
    """
    try:
        reader = await space.open(object_name)
    except ObjectMissingError:
        return None
    digest = hashlib.sha256()
    try:
        async for piece in reader.stream():
            await asyncio.to_thread(digest.update, piece)
    finally:
        await reader.close()
    return Content(reader.size, digest.digest())


async def is_whole(space: Space, live: LiveObject) -> bool:
    """Whether a live instance's object is there with all its bytes. Raises OSError."""
    content = await content_of(space, live.object_name)
    return content == Content(live.object_size, live.sha256)
