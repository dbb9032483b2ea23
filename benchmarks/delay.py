"""A network that takes its time: passes TCP connections on, each byte after a delay.

python benchmarks/delay.py LISTEN_PORT SERVER_PORT SECONDS_ONE_WAY
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from contextlib import suppress
from typing import cast

#: Bytes under way in each direction, at most: the bandwidth is this in each delay.
UNDER_WAY = 64 << 20


class Direction(asyncio.Protocol):
    """One end; what comes is written to the `other` end later."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.transport: asyncio.Transport | None = None
        self.other: Direction | None = None
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.size = 0
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.waiting.append((loop.time() + self.delay, data))
        self.size += len(data)
        if self.size > UNDER_WAY and self.transport is not None:
            self.transport.pause_reading()
        if self.timer is None:
            self.timer = loop.call_later(self.delay, self.pass_on)

    def pass_on(self) -> None:
        loop = asyncio.get_running_loop()
        self.timer = None
        now = loop.time()
        out = self.other.transport if self.other is not None else None
        while self.waiting and self.waiting[0][0] <= now + 1e-4:
            _, data = self.waiting.popleft()
            self.size -= len(data)
            if out is not None and not out.is_closing():
                out.write(data)
        if (
            self.transport is not None
            and self.size <= UNDER_WAY
            and not self.transport.is_closing()
        ):
            self.transport.resume_reading()
        if self.waiting:
            self.timer = loop.call_later(max(0.0, self.waiting[0][0] - now), self.pass_on)

    def connection_lost(self, exc: Exception | None) -> None:
        loop = asyncio.get_running_loop()
        if self.other is not None and self.other.transport is not None:
            loop.call_later(self.delay + 0.01, self.other.transport.close)


async def main(listen: int, server: int, delay: float) -> None:
    """Pass on until the process is ended."""
    loop = asyncio.get_running_loop()

    class Accepted(Direction):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            assert self.transport is not None
            self.transport.pause_reading()
            tasks.append(loop.create_task(self.connect()))

        async def connect(self) -> None:
            with suppress(OSError):
                _, other = await loop.create_connection(
                    lambda: Direction(delay), "127.0.0.1", server
                )
                self.other, other.other = other, self
                assert self.transport is not None
                self.transport.resume_reading()
                return
            assert self.transport is not None
            self.transport.abort()

    tasks: list[asyncio.Task[None]] = []
    listening = await loop.create_server(lambda: Accepted(delay), "127.0.0.1", listen)
    await listening.serve_forever()


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.install()
    except ImportError:
        pass
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
