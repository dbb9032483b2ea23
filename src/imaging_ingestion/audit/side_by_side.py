"""Work on some of many things at once, with the results in their order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def side_by_side(
    work: Callable[[T], Awaitable[R]], things: Iterable[T], width: int
) -> AsyncGenerator[R, None]:
    """What `work` gives for each of `things`, `width` of them at a time.

    To be closed (`contextlib.aclosing`): then what is still under way is cancelled. Raises what
    `work` raises, at its turn.
    """

    async def one(thing: T) -> R:
        return await work(thing)

    under_way: deque[asyncio.Task[R]] = deque()
    try:
        for thing in things:
            if len(under_way) >= width:
                yield await under_way.popleft()
            under_way.append(asyncio.create_task(one(thing)))
        while under_way:
            yield await under_way.popleft()
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
