"""The API over real HTTP, on each of the two databases."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from api_site import ApiSite, api_site

from imaging_ingestion.manifest.database import Database


@pytest.fixture
async def site(database: Database) -> AsyncIterator[ApiSite]:
    """A site of one core, called `core`."""
    async with api_site(core=database) as running:
        yield running
