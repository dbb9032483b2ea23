"""Fixtures of the tests over real servers."""

from __future__ import annotations

from search_site import search_site  # noqa: F401 - a fixture
