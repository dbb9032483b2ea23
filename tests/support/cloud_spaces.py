"""Spaces in the real object stores, for tests of what may go wrong on the way there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from spaces import settings_of

from imaging_ingestion.storage.cloud import CloudSpace
from imaging_ingestion.storage.cloud_store import Patience, cloud_store

#: Gives up soon, so that tests need not wait.
IMPATIENT = Patience(
    connect=timedelta(seconds=2),
    answer=timedelta(seconds=5),
    retries=2,
    retry=timedelta(seconds=5),
    longest_pause=timedelta(milliseconds=200),
)


@asynccontextmanager
async def cloud_space(
    values: dict[str, str], scratch: Path, patience: Patience = IMPATIENT
) -> AsyncIterator[CloudSpace]:
    """The space that the values declare."""
    settings = settings_of(values)
    space = CloudSpace("clinical", cloud_store(settings, patience), settings.place, scratch)
    try:
        yield space
    finally:
        await space.close()
