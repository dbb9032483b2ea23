"""What lies in a space, and what its manifest knows, side by side in a scratch database.

A space may have millions of objects, so neither list is held in memory: SQLite keeps both in a file
of its own that has no name and is gone at the end (in the folder that SQLITE_TMPDIR or TMPDIR
names), with names of 190 characters some 270 bytes an object, and as many an instance.

The space is listed first, the manifest is read after it. So an object that arrives meanwhile is
not taken for an orphan; an instance that does may look as if its object were missing, and whoever
reports that looks again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final, NamedTuple

from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.object_names import Standing, known_objects
from imaging_ingestion.manifest.record_found import age_of
from imaging_ingestion.storage.space import ListedObject, Space

#: Later than any time.
FOREVER: Final = (1 << 63) - 1
_PAGE: Final = 1000
_SCHEMA = """
    PRAGMA journal_mode=OFF;
    PRAGMA synchronous=OFF;
    PRAGMA cache_size=-32768;
    CREATE TABLE object (
        name BLOB PRIMARY KEY, size INTEGER NOT NULL, modified INTEGER NOT NULL,
        process TEXT NOT NULL, arrival INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE known (
        name BLOB PRIMARY KEY, standing INTEGER NOT NULL, pk INTEGER NOT NULL, size INTEGER,
        sha256 BLOB
    ) WITHOUT ROWID;
"""
_UNKNOWN = """
    FROM object LEFT JOIN known USING (name)
    WHERE known.name IS NULL AND object.modified <= ?
"""
_EXPECTED = """
    FROM known LEFT JOIN object USING (name)
    WHERE known.standing = ? AND (NOT ? OR object.size IS NOT known.size)
"""


def youngest(now: int, grace: timedelta) -> int:
    """The time after which an object was written that is too young to be looked at.

    Without a grace none is, not even one from a store whose clock is ahead of `now` (microseconds
    since the epoch).
    """
    return now - grace // timedelta(microseconds=1) if grace else FOREVER


class Expected(NamedTuple):
    """A live instance's object as the manifest has it, and its size in the space."""

    pk: int
    name: str
    size: int  # bytes
    sha256: bytes
    found_size: int | None  # bytes; None if it was not listed


class Inventory:
    """Both lists of one space. Made by `inventory`."""

    def __init__(self, scratch: sqlite3.Connection) -> None:
        self._scratch = scratch

    @property
    def objects(self) -> int:
        """How many objects were listed."""
        return self._number("SELECT count(*) FROM object")

    def unknown(self, until: int) -> Iterator[ListedObject]:
        """The objects that the manifest does not know, written `until` a time, the oldest first.

        The order is that of `age_of`; times are microseconds since the epoch.
        """
        rows = self._scratch.execute(
            f"SELECT object.name, object.size, object.modified {_UNKNOWN} "
            "ORDER BY object.modified, object.process, object.arrival, object.name",
            (until,),
        )
        return (ListedObject(_name(key), *row) for key, *row in rows)

    def number_of_unknown(self, until: int) -> int:
        """How many `unknown` gives."""
        return self._number(f"SELECT count(*) {_UNKNOWN}", until)

    def expected(self, *, only_doubtful: bool = False) -> Iterator[Expected]:
        """Every live instance by the name of its object, or those that the listing is against."""
        rows = self._scratch.execute(
            f"SELECT known.pk, known.name, known.size, known.sha256, object.size {_EXPECTED} "
            "ORDER BY name",
            (Standing.LIVE, only_doubtful),
        )
        return (Expected(pk, _name(key), *row) for pk, key, *row in rows)

    def number_of_expected(self, *, only_doubtful: bool = False) -> int:
        """How many `expected` gives."""
        return self._number(f"SELECT count(*) {_EXPECTED}", Standing.LIVE, only_doubtful)

    def of_ended(self, until: int) -> Iterator[str]:
        """The names of objects of deleted instances that are still there and nobody removes."""
        rows = self._scratch.execute(
            "SELECT name FROM object JOIN known USING (name) WHERE standing = ? AND modified <= ?",
            (Standing.ENDED, until),
        )
        return (_name(key) for (key,) in rows)

    def held_and_missing(self) -> Iterator[str]:
        """The names of objects of instances in quarantine that were not listed."""
        rows = self._scratch.execute(
            "SELECT known.name FROM known LEFT JOIN object USING (name) "
            "WHERE standing = ? AND object.name IS NULL",
            (Standing.HELD,),
        )
        return (_name(key) for (key,) in rows)

    def add_objects(self, listed: Sequence[ListedObject]) -> None:
        """Add objects of the space."""
        rows = [(_key(name), size, *age_of(name, modified)) for name, size, modified in listed]
        self._scratch.executemany(
            "INSERT OR REPLACE INTO object (name, size, modified, process, arrival) "
            "VALUES (?, ?, ?, ?, ?)",
            rows,
        )

    def add_known(self, rows: Sequence[tuple[str, int, int, int | None, bytes | None]]) -> None:
        """Add what the manifest knows; an object that has a standing already keeps it."""
        self._scratch.executemany(
            "INSERT OR IGNORE INTO known VALUES (?, ?, ?, ?, ?)",
            [(_key(name), *row) for name, *row in rows],
        )

    def _number(self, statement: str, *parameters: object) -> int:
        (number,) = self._scratch.execute(statement, parameters).fetchone()
        return int(number)


def _key(name: str) -> bytes:
    """A name as it is kept: in a folder there may be some that are no UTF-8."""
    return name.encode("utf-8", "surrogateescape")


def _name(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")


@asynccontextmanager
async def inventory(
    space: Space, database: Database, listed: Callable[[int], None]
) -> AsyncIterator[Inventory]:
    """List a space and read its manifest; `listed` is told how many objects there are so far.

    Raises OSError if the space cannot be listed, and what SQLAlchemy raises.
    """
    scratch = sqlite3.connect("", isolation_level=None)
    try:
        scratch.executescript(_SCHEMA)
        scratch.execute("BEGIN")  # nothing is ever to be kept
        both = Inventory(scratch)
        page: list[ListedObject] = []
        number = 0
        async for one in space.objects():
            page.append(one)
            if len(page) == _PAGE:
                number += len(page)
                both.add_objects(page)
                listed(number)
                page = []
        both.add_objects(page)
        listed(number + len(page))
        # In the order of their precedence: what a live instance is in is not to be removed.
        for standing in Standing:
            await _read_known(space.name, database, standing, both)
        yield both
    finally:
        scratch.close()


async def _read_known(space: str, database: Database, standing: Standing, both: Inventory) -> None:
    after = 0
    while rows := await database.read(known_objects, space, standing, after, _PAGE):
        both.add_known(
            [(row.object_name, standing, row.pk, row.object_size, row.sha256) for row in rows]
        )
        after = rows[-1].pk
