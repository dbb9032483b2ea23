"""A network between a client and a server: it can be cut, stalled and slow.

The kernel's netem is not everywhere, so bytes pass through this process.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

_PIECE = 65536
#: Bytes under way in each direction, at most: what a network has in its buffers.
_UNDER_WAY = 4 << 20


@dataclass
class NetworkRelay:
    """Passes on what comes to `port`. `delay`: seconds one way."""

    server_port: int
    delay: float = 0.0
    port: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _is_cut: bool = False
    _flows: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        """HOST:PORT to connect to."""
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break all connections, and take none."""
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        """Take connections again, and let bytes flow."""
        self._is_cut = False
        self._flows.set()

    def stall(self) -> None:
        """Let nothing through, and tell nobody: a cable that is pulled."""
        self._flows.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            there_reader, there = await asyncio.open_connection("127.0.0.1", self.server_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(there)
        for source, sink in ((reader, there), (there_reader, writer)):
            task = asyncio.create_task(self._pass_on(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        under_way: deque[tuple[float, bytes]] = deque()
        came, went = asyncio.Event(), asyncio.Event()

        async def read() -> None:
            size = 0
            while True:
                try:
                    data = await source.read(_PIECE)
                except OSError:
                    data = b""
                under_way.append((loop.time() + self.delay, data))
                came.set()
                size = sum(len(piece) for _, piece in under_way)
                while size > _UNDER_WAY:
                    went.clear()
                    await went.wait()
                    size = sum(len(piece) for _, piece in under_way)
                if not data:
                    return

        async def write() -> None:
            while True:
                while not under_way:
                    came.clear()
                    await came.wait()
                due, data = under_way[0]
                await asyncio.sleep(max(0.0, due - loop.time()))
                await self._flows.wait()
                under_way.popleft()
                went.set()
                if not data:
                    sink.close()
                    return
                sink.write(data)
                with suppress(OSError):
                    await sink.drain()

        async with asyncio.TaskGroup() as both:
            both.create_task(read())
            both.create_task(write())


@asynccontextmanager
async def network_relay(server_port: int, *, delay: float = 0.0) -> AsyncIterator[NetworkRelay]:
    """A network that works, until it is told otherwise."""
    relay = NetworkRelay(server_port, delay)
    relay.mend()
    server = await asyncio.start_server(relay._connected, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        for task in list(relay._tasks):
            task.cancel()
        for writer in relay._writers:
            writer.transport.abort()
        if relay._tasks:
            await asyncio.wait(relay._tasks)
