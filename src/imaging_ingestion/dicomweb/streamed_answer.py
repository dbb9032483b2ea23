"""Answers whose bodies are made while they are sent.

The client reads as fast as it likes: nothing is made that has not been asked for. When it goes away,
or the server stops, the generator that makes the body is closed before the answer ends, so that
files and connections it holds are released at once (W35).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

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
    ) -> None:
        """`length` is the body's bytes; None if it is not known, then it is sent in chunks (H15)."""
        self._pieces = body
        self.status_code = status
        self.background = None
        all_headers = {**headers} if length is None else {**headers, "Content-Length": str(length)}
        self.raw_headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in all_headers.items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, as an ASGI application."""
        async with aclosing(self._pieces):
            if scope["method"] == "HEAD":
                await self._start(send)
                await send({"type": "http.response.body", "body": b""})
                return
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
        # Here too: cancelled between two pieces, what the generator holds is released by this task.
        async with aclosing(self._pieces) as pieces:
            await self._start(send)
            async for piece in pieces:
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
