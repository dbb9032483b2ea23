"""An HTTP endpoint that is no store: it writes down what it is asked, and may pass it on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from yarl import URL


@dataclass
class Recorded:
    """One request."""

    method: str
    target: str  # as it stood in the request's first line
    headers: dict[str, str]  # by names in lower case
    body: bytes


@dataclass
class Answer:
    """What it is answered."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"e"'})


@dataclass
class Recorder:
    """What was asked, and where."""

    port: int = 0
    requests: list[Recorded] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its root."""
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def http_recorder(
    answer: Callable[[Recorded], Answer] = lambda _: Answer(), forward_to: int | None = None
) -> AsyncIterator[Recorder]:
    """Answers each request; as a proxy, it has a server on this machine answer it."""
    recorder = Recorder()

    async def handle(request: web.BaseRequest) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = await request.content.read()  # `request.read` has a limit
        recorded = Recorded(request.method, request.raw_path, headers, body)
        recorder.requests.append(recorded)
        if forward_to is None:
            given = answer(recorded)
            return web.Response(status=given.status, body=given.body, headers=given.headers)
        asked = URL(request.raw_path, encoded=True)
        url = URL(f"http://127.0.0.1:{forward_to}{asked.raw_path_qs}", encoded=True)
        async with session.request(
            request.method,
            url,
            headers=request.headers,
            data=recorded.body,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        ) as got:
            kept = {k: v for k, v in got.headers.items() if k.lower() != "transfer-encoding"}
            return web.Response(status=got.status, body=await got.read(), headers=kept)

    runner = web.ServerRunner(web.Server(handle))
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        recorder.port = runner.addresses[0][1]
        try:
            yield recorder
        finally:
            await runner.cleanup()
