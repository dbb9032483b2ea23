"""Answers whose bodies are made while they are sent.

Nothing is made faster than the client reads. When it goes away, or the server stops, the generator
that makes the body is closed before the answer ends, so that the files it holds are released at
once (W35).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class StreamedAnswer(Response):
    """An answer that sends what `body` yields. An exception in it cuts the connection."""

    def __init__(
        self,
        body: AsyncGenerator[bytes, None],
        *,
        headers: Mapping[str, str],
        length: int | None = None,
        status: int = 200,
        release: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`length` is the body's bytes; if it is not known, they are sent in chunks (H15).

        `release` frees what the body uses and was opened before; it is called once in any case.
        """
        self._pieces = body
        self._release = release
        self.status_code = status
        self.background = None
        all_headers = {**headers} if length is None else {**headers, "Content-Length": str(length)}
        self.raw_headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in all_headers.items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, as an ASGI application."""
        try:
            if scope["method"] == "HEAD":
                await self._start(send)
                await send({"type": "http.response.body", "body": b""})
            else:
                await self._send_while_wanted(receive, send)
        finally:
            await self._pieces.aclose()
            if self._release is not None:
                await self._release()

    async def _send_while_wanted(self, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            # A task that ended on its own keeps its result; the other one is told to stop.
            sending.cancel()
            leaving.cancel()
            await asyncio.wait((sending, leaving))
        if not sending.cancelled():
            sending.result()

    async def _send(self, send: Send) -> None:
        await self._start(send)
        async for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _start(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )


async def _left(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
