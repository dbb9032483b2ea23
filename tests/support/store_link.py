"""A relay between a space and its store, to be cut and slowed down."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

PIECE = 1 << 16


@dataclass
class StoreLink:
    """The relay's port, and what it does to the bytes that go to the store."""

    port: int = 0
    #: Cut every connection when so many bytes have gone to the store, then once more each time.
    cut_after: int | None = None
    #: Refuse everything from then on.
    is_down: bool = False
    #: Bytes a second to the store, of all connections together.
    rate: float | None = None
    carried: int = 0
    cuts: int = 0
    connections: set[asyncio.StreamWriter] = field(default_factory=set)
    #: Cleared, nothing goes to the store.
    flows: asyncio.Event = field(default_factory=asyncio.Event)
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, size: int) -> bool:
        """Let so many bytes through in due time; False to cut the line."""
        self.carried += size
        self._moved.set()
        await self.flows.wait()
        if self.rate is not None:
            await asyncio.sleep(size / self.rate)
        if self.cut_after is not None and self.carried >= self.cut_after:
            self.cuts += 1
            self.cut_after = None
            return False
        return not self.is_down

    async def until(self, size: int) -> None:
        """Wait until so many bytes have gone to the store."""
        while self.carried < size:
            self._moved.clear()
            await self._moved.wait()

    def cut(self) -> None:
        """Cut all connections now."""
        self.cuts += 1
        for connection in self.connections:
            connection.transport.abort()


@asynccontextmanager
async def store_link(
    store_port: int, tls: ssl.SSLContext | None = None
) -> AsyncIterator[StoreLink]:
    """A relay to a store on this machine; with `tls`, it is where TLS ends."""
    link = StoreLink()
    link.flows.set()
    turn = asyncio.Lock()  # one line for all connections, where it is slow

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up: bool) -> None:
        while data := await reader.read(PIECE):
            if up:
                async with turn:
                    if not await link.take(len(data)):
                        break
            writer.write(data)
            await writer.drain()

    serving: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        link.connections.add(writer)
        try:
            if link.is_down:
                return
            store_reader, store_writer = await asyncio.open_connection("127.0.0.1", store_port)
            ends.append(store_writer)
            ways = [
                asyncio.create_task(carry(reader, store_writer, True)),
                asyncio.create_task(carry(store_reader, writer, False)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # either end is gone, and with it the line
        finally:
            link.connections.discard(writer)
            for end in ends:
                end.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    link.port = server.sockets[0].getsockname()[1]
    try:
        yield link
    finally:
        server.close()
        link.is_down = True
        link.flows.set()
        link.cut()
        await asyncio.gather(*serving)
        await server.wait_closed()
