"""Who of several processes accepts a connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from imaging_ingestion.workers.turns import Turn, Turns, accept


class Process:
    """Stands for a process: it accepts at a listening socket of its own for the same address."""

    def __init__(self, listening: socket.socket, turn: Turn, accepted: asyncio.Event) -> None:
        self.turn = turn
        self.connections: list[socket.socket] = []
        self._accepted = accepted
        self._listening = listening.dup()
        self._listening.setblocking(False)

    async def run(self) -> None:
        with self._listening:
            while True:
                connection, _ = await accept(self._listening, self.turn)
                self.connections.append(connection)
                self.turn.have(len(self.connections))
                self._accepted.set()

    def hang_up(self, number: int) -> None:
        for _ in range(number):
            self.connections.pop().close()
        self.turn.have(len(self.connections))


class Site:
    """Two processes at one address."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.turns = Turns(2)
        self.changed = asyncio.Event()
        self.processes = [
            Process(self.listening, self.turns.turn(n), self.changed) for n in range(2)
        ]
        self.clients: list[socket.socket] = []

    async def call(self, times: int) -> None:
        """Connect so often, at once, and wait until all are accepted."""
        before = sum(self.counts)
        for _ in range(times):
            self.clients.append(socket.create_connection(self.listening.getsockname()))
        async with asyncio.timeout(10):
            while sum(self.counts) < before + times:
                self.changed.clear()
                await self.changed.wait()

    @property
    def counts(self) -> list[int]:
        return [len(one.connections) for one in self.processes]


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    tasks = [asyncio.create_task(one.run()) for one in site.processes]
    yield site
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    for one in [site.listening, *site.clients, *(c for p in site.processes for c in p.connections)]:
        one.close()


@pytest.mark.parametrize("times", [2, 4, 16])
async def test_a_burst_of_connections_is_shared_evenly(site: Site, times: int) -> None:
    await site.call(times)
    assert site.counts == [times // 2, times // 2]


async def test_who_has_fewer_goes_first(site: Site) -> None:
    await site.call(8)
    site.processes[1].hang_up(3)
    await site.call(3)
    assert site.counts == [4, 4]


async def test_nobody_waits_for_a_process_that_is_gone(site: Site) -> None:
    site.turns.leave(1)
    site.processes[0].turn.have(5)
    assert site.processes[0].turn.is_ours


async def test_who_left_accepts_only_what_no_other_takes(site: Site) -> None:
    site.processes[0].turn.leave()
    await site.call(6)
    assert site.counts == [0, 6]
    site.processes[1].turn.leave()
    assert site.processes[0].turn.is_ours


async def test_a_process_that_is_too_busy_is_passed_over() -> None:
    turns = Turns(2)
    turns.turn(1).come()  # it has none, and does not accept
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        turn = turns.turn(0)
        turn.have(3)
        with socket.create_connection(listening.getsockname()):
            async with asyncio.timeout(5):
                connection, _ = await accept(listening, turn)
            connection.close()
