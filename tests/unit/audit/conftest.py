"""Fixtures of the tests of spaces held against manifests."""

from __future__ import annotations

from audited_site import folder_site, site  # noqa: F401 - fixtures
from object_stores import azurite, swift  # noqa: F401 - fixtures
