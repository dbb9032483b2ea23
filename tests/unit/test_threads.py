"""The threads that do what would block."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest
from event_core import until

from imaging_ingestion.threads import Threads


async def test_what_a_function_returns_or_raises_reaches_its_caller() -> None:
    threads = Threads(2, "test")

    def fail() -> None:
        raise KeyError("gone")

    assert await threads.run(threading.current_thread) is not threading.current_thread()
    with pytest.raises(KeyError, match="gone"):
        await threads.run(fail)
    assert await asyncio.gather(*(threads.run(lambda n=n: n) for n in range(50))) == [*range(50)]
    await asyncio.to_thread(threads.shutdown)


async def test_no_more_run_at_a_time_than_there_are_threads_and_no_fewer() -> None:
    threads = Threads(3, "test")
    together = threading.Barrier(3, timeout=30)
    running, most = 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait()  # only three at once get past it
        with lock:
            running -= 1

    await asyncio.gather(*(threads.run(work) for _ in range(12)))
    assert most == 3
    await asyncio.to_thread(threads.shutdown)


async def test_one_after_the_other_they_share_one_thread() -> None:
    threads = Threads(4, "test")
    used = set()
    for _ in range(20):
        used.add(await threads.run(threading.get_ident))
        # It says that it is idle after its answer; what comes in between may begin another one.
        await until(lambda: threads._idle._value)
    assert len(used) == 1
    await asyncio.to_thread(threads.shutdown)


async def test_what_was_cancelled_before_it_began_is_left_out() -> None:
    threads = Threads(1, "test")
    go_on = threading.Event()
    ran: list[str] = []

    first = asyncio.create_task(threads.run(lambda: go_on.wait(30)))
    begun = asyncio.create_task(threads.run(lambda: ran.append("left out")))
    await asyncio.sleep(0)
    begun.cancel()
    with pytest.raises(asyncio.CancelledError):
        await begun
    go_on.set()
    assert await first
    assert await threads.run(lambda: ran.append("last")) is None
    assert ran == ["last"]
    await asyncio.to_thread(threads.shutdown)


async def test_what_has_begun_goes_on_when_its_caller_is_cancelled() -> None:
    threads = Threads(1, "test")
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(30)
        ended.set()

    task = asyncio.create_task(threads.run(work))
    await asyncio.to_thread(begun.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await asyncio.to_thread(threads.shutdown)  # waits for it
    assert ended.is_set()


async def test_after_the_end_nothing_is_taken_and_what_was_asked_for_is_done() -> None:
    threads = Threads(1, "test")
    go_on = threading.Event()
    done = [asyncio.create_task(threads.run(lambda: go_on.wait(30)))]
    done += [asyncio.create_task(threads.run(lambda: True)) for _ in range(5)]
    await asyncio.sleep(0)
    over = asyncio.create_task(asyncio.to_thread(threads.shutdown))
    go_on.set()
    await over
    assert all(await asyncio.gather(*done))
    threads.shutdown()  # harmless
    with pytest.raises(RuntimeError, match="shut down"):
        await threads.run(lambda: True)


async def test_nothing_is_kept_while_there_is_nothing_to_do() -> None:
    class Large:
        pass

    threads = Threads(1, "test")
    large = Large()
    gone = weakref.ref(large)
    await threads.run(lambda kept=large: None)
    await threads.run(lambda: None)  # the one before has been put away
    del large
    gc.collect()
    assert gone() is None
    await asyncio.to_thread(threads.shutdown)


def test_a_loop_that_has_gone_ends_no_thread() -> None:
    threads = Threads(1, "test")
    go_on, begun = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(30)

    async def leave() -> None:
        task = asyncio.create_task(threads.run(work))
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()

    asyncio.run(leave())
    go_on.set()
    assert asyncio.run(threads.run(lambda: "still there")) == "still there"
    threads.shutdown()
