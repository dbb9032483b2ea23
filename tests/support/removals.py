"""Removing at once what a space removes some time later."""

from __future__ import annotations

import time

from imaging_ingestion.brokers.removal import Removing
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.storage.space import Space

HOUR = 3600 * 10**9  # nanoseconds


async def remove_unneeded(database: Database, space: Space) -> int:
    """Remove every object that is to go, as an hour later; how many went."""
    removing = Removing(database, {space.name: space}, clock=lambda: time.time_ns() + HOUR)
    return await removing.remove_due()
