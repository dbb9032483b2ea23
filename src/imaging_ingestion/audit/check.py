"""Comparing a space with its manifest, in both directions, beside a site that goes on working.

What the two lists of the inventory say is looked at once more before it is told, for the site may
have stored, replaced or removed it since. What is never told:

- an object younger than the grace: whoever takes it in may not have come to recording it,
- an object that is to be removed (the table `object_removal`), or whose instance is in quarantine.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from imaging_ingestion.audit.content import content_of, size_of
from imaging_ingestion.audit.finding import NO_OBJECT, Finding, FindingKind
from imaging_ingestion.audit.inventory import Expected, Inventory, inventory, youngest
from imaging_ingestion.audit.side_by_side import side_by_side
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.object_names import (
    LiveObject,
    ended_at,
    is_held,
    live_object,
    live_object_of,
)
from imaging_ingestion.manifest.plan import Place
from imaging_ingestion.storage.object_name import ObjectName, parse_object_name
from imaging_ingestion.storage.space import ListedObject, Space

#: Objects looked at, or read, at once.
WIDTH: Final = 8


@dataclass(frozen=True, slots=True)
class Check:
    """How a space is compared with its manifest. With `deep` every object is read."""

    grace: timedelta
    deep: bool = False
    clock: Callable[[], int] = time.time_ns

    async def run(
        self,
        space: Space,
        database: Database,
        *,
        listed: Callable[[int], None],
        progress: Callable[[int, int], None],
    ) -> AsyncGenerator[Finding, None]:
        """What differs: orphans first, so that whoever repairs has them when objects are missing.

        To be closed (`contextlib.aclosing`). `listed` is told how many objects were listed so far,
        `progress` how many of how many there are to look at were. Raises OSError if the space
        cannot be used, and what SQLAlchemy raises.
        """
        until = youngest(self.clock() // 1000, self.grace)
        async with inventory(space, database, listed) as both:
            look = _Look(space, database, deep=self.deep)
            unknown = both.number_of_unknown(until)
            total = unknown + both.number_of_expected(only_doubtful=not self.deep)
            done = 0
            progress(done, total)
            async with aclosing(side_by_side(look.at_unknown, both.unknown(until), WIDTH)) as found:
                async for one in found:
                    done += 1
                    progress(done, total)
                    if one is not None:
                        yield one
            expected = both.expected(only_doubtful=not self.deep)
            async with aclosing(side_by_side(look.at_expected, expected, WIDTH)) as found:
                async for one in found:
                    done += 1
                    progress(done, total)
                    if one is not None:
                        yield one
            async for one in _others(look, both, until):
                yield one


async def _others(look: _Look, both: Inventory, until: int) -> AsyncGenerator[Finding, None]:
    for name in both.of_ended(until):
        one = await look.at_ended(name)
        if one is not None:
            yield one
    for name in both.held_and_missing():
        one = await look.at_held(name)
        if one is not None:
            yield one


class _Look:
    """A second look at what the lists say."""

    def __init__(self, space: Space, database: Database, *, deep: bool) -> None:
        self._space = space
        self._database = database
        self._deep = deep

    async def at_unknown(self, listed: ListedObject) -> Finding | None:
        """An object that the manifest did not know."""
        told = parse_object_name(listed.name)
        detail = "its name is none of ours"
        if told is not None:
            uid = told.sop_instance_uid
            live = await self._database.read(live_object_of, self._space.name, uid)
            if live is not None and live.object_name == listed.name:
                return None  # it has been recorded since
            if await self._database.read(is_held, self._space.name, uid, listed.name):
                return None
            ended = await self._database.read(ended_at, self._space.name, uid)
            detail = _what_it_may_be(told, live, is_ended=ended is not None)
        try:
            if await size_of(self._space, listed.name) is None:
                return None  # it has been removed since
        except ValueError:
            detail = NO_OBJECT
        place = None if told is None else Place(*told.uids)
        return Finding(
            FindingKind.ORPHAN, self._space.name, listed.name, place, listed.modified, detail
        )

    async def at_expected(self, expected: Expected) -> Finding | None:
        """The object of a live instance."""
        kind: FindingKind | None = None
        detail = None
        try:
            size = expected.found_size
            if size is None:  # it may have come after the space was listed
                size = await size_of(self._space, expected.name)
            if size is None:
                kind = FindingKind.MISSING
            elif size != expected.size:
                kind, detail = FindingKind.WRONG_SIZE, f"{size} bytes, {expected.size} expected"
            elif self._deep:
                content = await content_of(self._space, expected.name)
                if content is None:
                    kind = FindingKind.MISSING
                elif content.sha256 != expected.sha256:
                    kind = FindingKind.WRONG_DIGEST
                    detail = f"{content.sha256.hex()}, {expected.sha256.hex()} expected"
        except OSError as error:
            kind, detail = FindingKind.UNREADABLE, error.strerror or str(error)
        if kind is None:
            return None
        live = await self._database.read(live_object, expected.pk)
        if live is None or live.object_name != expected.name:
            return None  # replaced, or deleted, since
        return Finding(kind, self._space.name, expected.name, live.place, detail=detail)

    async def at_ended(self, name: str) -> Finding | None:
        """The object of a deleted instance."""
        told = parse_object_name(name)
        if await size_of(self._space, name) is None:
            return None
        place = None if told is None else Place(*told.uids)
        return Finding(FindingKind.LEFTOVER, self._space.name, name, place)

    async def at_held(self, name: str) -> Finding | None:
        """The object of an instance in quarantine, which was not listed."""
        told = parse_object_name(name)
        if await size_of(self._space, name) is not None:
            return None
        if told is not None and not await self._database.read(
            is_held, self._space.name, told.sop_instance_uid, name
        ):
            return None  # the case was closed since
        place = None if told is None else Place(*told.uids)
        return Finding(
            FindingKind.MISSING, self._space.name, name, place, detail="it waits in quarantine"
        )


def _what_it_may_be(told: ObjectName, live: LiveObject | None, *, is_ended: bool) -> str:
    """What the name of an orphan tells, beside what is live."""
    if live is not None:
        same = told.is_of(live.sha256)
        return f"the instance is in another object, of {'the same' if same else 'other'} content"
    return "the instance was deleted" if is_ended else "the manifest does not have the instance"
