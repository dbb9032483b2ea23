"""Both event loops that the platform runs on: asyncio's own, and uvloop.

A module that has `pytestmark = BOTH_LOOPS` runs each of its tests on each of them. The hook is to
be in the conftest of its folder.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

BOTH_LOOPS = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """See pytest-asyncio; whoever does not ask for both has asyncio's."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "asyncio": asyncio.new_event_loop
    }
    if any("loop_factories" in mark.kwargs for mark in item.iter_markers("asyncio")):
        factories["uvloop"] = uvloop.new_event_loop
    return factories
