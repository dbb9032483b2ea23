"""Fixtures of the tests of the intake."""

from __future__ import annotations

from object_stores import azurite, swift  # noqa: F401 - fixtures
from spaces import new_space, space  # noqa: F401 - fixtures
