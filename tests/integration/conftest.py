"""Fixtures of the tests over real servers."""

from __future__ import annotations

from loops import pytest_asyncio_loop_factories  # noqa: F401 - a hook
from object_stores import azurite, object_store, swift  # noqa: F401 - fixtures
from search_site import search_site  # noqa: F401 - a fixture
