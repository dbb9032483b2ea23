"""Waiting for something that may not happen."""

from __future__ import annotations

import asyncio


async def pause(until: asyncio.Event, seconds: float) -> bool:
    """Wait until an event is set, `seconds` at most; whether it is set."""
    try:
        async with asyncio.timeout(seconds):
            return await until.wait()
    except TimeoutError:
        return False
