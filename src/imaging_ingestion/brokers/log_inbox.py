"""Events that arrive from outside, where the log itself hands out events: they go into the log.

What the log has already (our own events, come round) is left alone; the rest is published, and from
there reaches the bindings, and the broker if there is one, like everything else in the log.
"""

from __future__ import annotations

from collections.abc import Sequence

from imaging_ingestion.events.broker import Broker
from imaging_ingestion.events.model import Event
from imaging_ingestion.manifest import outbox
from imaging_ingestion.manifest.database import Database


class LogInbox:
    """Takes events into the log of one core."""

    def __init__(self, core: str, database: Database, broker: Broker) -> None:
        self._core = core
        self._database = database
        self._broker = broker

    async def take(self, events: Sequence[Event]) -> None:
        """Take events, durably when this returns. Raises what the database raises."""
        owned = await self._database.read(outbox.owned, events, self._core)
        foreign = [event for event, ours in zip(events, owned, strict=True) if not ours]
        if foreign:
            await self._broker.publish(foreign)
