"""The quarantine of a core's spaces: looked into, and decided about."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta

import structlog

from imaging_ingestion.manifest import held, resolving
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.held import Quarantined
from imaging_ingestion.manifest.resolving import UnknownQuarantinedError
from imaging_ingestion.storage.space import ObjectMissingError, ObjectReader, Space

log = structlog.get_logger(__name__)


class Quarantine:
    """What is kept aside in one core."""

    def __init__(
        self,
        database: Database,
        spaces: Mapping[str, Space],
        revisioning_delay: timedelta,
        on_commit: Callable[[], None],
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """`on_commit` is called after each decision; `clock` gives nanoseconds since the epoch."""
        self._database = database
        self._spaces = spaces
        self._delay_us = revisioning_delay // timedelta(microseconds=1)
        self._on_commit = on_commit
        self._clock = clock

    async def accept(self, pk: int) -> Quarantined:
        """Record an instance after all. Raises as `resolving.accept`."""
        now = self._clock() // 1000
        decided = await self._database.write(resolving.accept, pk, now, self._delay_us)
        return self._told(*decided)

    async def discard(self, pk: int) -> Quarantined:
        """Give an instance up. Raises as `resolving.discard`."""
        return self._told(*await self._database.write(resolving.discard, pk, self._clock() // 1000))

    async def open(self, pk: int) -> ObjectReader:
        """The object of an instance that waits, to be closed.

        Raises UnknownQuarantinedError for any other, OSError if the space fails.
        """
        found = await self._database.read(held.object_of, pk)
        if found is None or found[0] not in self._spaces:
            raise UnknownQuarantinedError(pk)
        try:
            return await self._spaces[found[0]].open(found[1])
        except ObjectMissingError:  # somebody has decided meanwhile
            raise UnknownQuarantinedError(pk) from None

    def _told(self, found: Quarantined, is_new: bool) -> Quarantined:
        if is_new:
            log.info(
                "quarantine.resolved",
                space=found.space,
                number=found.id,
                resolution=found.resolution,
            )
            self._on_commit()
        return found
