"""A budget of bytes: never more than there is, in the order of asking, nothing lost."""

from __future__ import annotations

import asyncio
import random

import pytest

from imaging_ingestion.storage.budget import Budget


async def test_what_is_held_is_never_more_than_there_is_and_comes_back() -> None:
    budget = Budget(100)
    held = most = 0

    async def work(size: int) -> None:
        nonlocal held, most
        async with budget.hold(size):
            held += min(size, 100)
            most = max(most, held)
            await asyncio.sleep(0)
            held -= min(size, 100)

    sizes = random.Random(1)
    await asyncio.gather(*(work(sizes.randrange(1, 150)) for _ in range(300)))
    assert (most <= 100, held, budget.left) == (True, 0, 100)


async def test_who_wants_much_is_not_passed_for_ever_by_who_wants_little() -> None:
    budget = Budget(10)
    order: list[str] = []

    async def work(name: str, size: int) -> None:
        async with budget.hold(size):
            order.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(work("a", 6), work("all", 10), work("b", 1), work("c", 1))
    assert order == ["a", "all", "b", "c"]


@pytest.mark.parametrize("came", [False, True])
async def test_a_wait_that_is_cancelled_takes_nothing_and_holds_up_nobody(*, came: bool) -> None:
    budget = Budget(10)
    first, second, third = budget.hold(8), budget.hold(10), budget.hold(2)
    await first.__aenter__()
    waiting = asyncio.create_task(second.__aenter__())
    behind = asyncio.create_task(third.__aenter__())
    await asyncio.sleep(0)
    assert not behind.done()
    if came:  # its turn and its cancellation come together
        await first.__aexit__(None, None, None)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wait_for(behind, 1)
    assert budget.left == (8 if came else 0)
