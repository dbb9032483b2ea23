"""Three pages for whoever looks after a small process: is it alive, is it ready, what does it do.

A web framework would cost more memory than the whole proxy.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

if TYPE_CHECKING:
    from imaging_ingestion.workers.figures import Figures

_HEAD: Final = 8 << 10  # bytes
_TIME: Final = 5.0  # seconds for a request
_TEXT: Final = "text/plain; charset=utf-8"


class HealthServer:
    """The pages on one address. `ready` says why it is not, or None."""

    def __init__(
        self,
        ready: Callable[[], str | None],
        registry: CollectorRegistry,
        figures: Figures | None = None,
    ) -> None:
        """`figures`, if it is of several processes, are in the registry."""
        self.port = 0
        self._ready = ready
        self._registry = registry
        self._figures = figures
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> None:
        """Begin to answer; `port` 0 takes a free one. Raises OSError."""
        self._server = await asyncio.start_server(self._answer, host, port, limit=_HEAD)
        self.port = self._server.sockets[0].getsockname()[1]

    async def share(self, listening: socket.socket) -> None:
        """Begin to answer where other processes do, too."""
        self._server = await asyncio.start_server(self._answer, sock=listening, limit=_HEAD)
        self.port = listening.getsockname()[1]

    async def stop(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(
            OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
        ):
            async with asyncio.timeout(_TIME):
                head = await reader.readuntil(b"\r\n\r\n")
                method, _, rest = head.partition(b" ")
                status, kind, body = await self._page(rest.split(b" ", 1)[0].split(b"?")[0])
                if method not in (b"GET", b"HEAD"):
                    status, kind, body = "405 Method Not Allowed", _TEXT, b"GET is allowed\n"
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                )
                if method != b"HEAD":
                    writer.write(body)
                await writer.drain()
        writer.close()

    async def _page(self, path: bytes) -> tuple[str, str, bytes]:
        match path:
            case b"/healthz/live":
                return "200 OK", _TEXT, b"ok\n"
            case b"/healthz/ready":
                why_not = self._ready()
                if why_not is None:
                    return "200 OK", _TEXT, b"ok\n"
                return "503 Service Unavailable", _TEXT, f"{why_not}\n".encode()
            case b"/metrics":
                if self._figures is not None:
                    await self._figures.ask()
                return "200 OK", CONTENT_TYPE_LATEST, generate_latest(self._registry)
            case _:
                return "404 Not Found", _TEXT, b"/healthz/live, /healthz/ready, /metrics\n"
