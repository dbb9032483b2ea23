"""uvicorn, set up for large bodies and for living inside another program.

What a client may cost before the application sees its request is bounded here: the size of a
request's head and of the trailers behind a chunked body, and the time a head may take. How long a
body may take is for whoever reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from imaging_ingestion.workers.turns import Entrance, accept

log = structlog.get_logger(__name__)

GRACE = 20  # seconds for requests in hand when the server stops
BACKLOG = 2048
KEEP_ALIVE = 75  # seconds
#: Bytes of a request body that wait for the application before the socket is left alone. Less than
#: one read brings (256 KB): uvicorn joins what waits, and each join copies all of it.
HIGH_WATER = 1 << 16
#: Bytes of a request's head, or of anything else that is no body.
HEAD = 64 << 10
_SHORTAGE = 0.1  # seconds until a connection is accepted again when descriptors are short
HEAD_TIMEOUT = 30.0  # seconds from the first byte of a head, or from the connection, to its end

_TOO_LARGE = b"the head of a request may have at most %d bytes" % HEAD
_TOO_SLOW = b"the head of the request did not come in time"


class HttpServer:
    """Serves one application on one address. `port` 0 takes a free one.

    With an `entrance` it accepts there, as other processes do.
    """

    def __init__(
        self, app: ASGIApp, host: str, port: int, *, entrance: Entrance | None = None
    ) -> None:
        """Raises OSError."""
        self._sockets = [listening_socket(host, port)] if entrance is None else entrance.sockets
        self.port: int = self._sockets[0].getsockname()[1]
        httptools_impl.HIGH_WATER_LIMIT = HIGH_WATER  # type: ignore[attr-defined]
        config = uvicorn.Config(
            _Expectations(app),
            http=_Protocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,  # DicomwebSettings.trust_forwarded says whom to believe
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=GRACE,
        )
        self._server = _Server(config) if entrance is None else _SharingServer(config, entrance)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to answer. Raises RuntimeError if the server ends at once."""
        self._task = asyncio.create_task(self._server.serve(sockets=list(self._sockets)))
        while not self._server.started:
            done, _ = await asyncio.wait({self._task}, timeout=0.01)
            if done:
                raise RuntimeError("the HTTP server did not start") from self._task.exception()

    async def stop(self) -> None:
        """Take no more requests, finish those in hand (`GRACE` seconds at most), close."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        for listening in self._sockets:
            listening.close()


class _Server(uvicorn.Server):
    """Leaves signals to the program around it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _SharingServer(_Server):
    """Accepts when it is its turn."""

    def __init__(self, config: uvicorn.Config, entrance: Entrance) -> None:
        super().__init__(config)
        self._turn = entrance.turn
        self._accepting: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn.Server."""
        await super().startup([])
        for listening in sockets or []:
            self._accepting.append(asyncio.create_task(self._accept(listening)))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn.Server."""
        self._turn.leave()
        for task in self._accepting:
            task.cancel()
        if self._accepting:
            await asyncio.wait(self._accepting)
        await super().shutdown(sockets)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await accept(listening, self._turn)
                await loop.connect_accepted_socket(self._protocol, connection)
            except OSError as error:
                log.warning("http.not_accepted", error=str(error))
                await asyncio.sleep(_SHORTAGE)  # of descriptors or memory
            self._count()

    def _protocol(self) -> _Protocol:
        protocol = _Protocol(self.config, self.server_state, {})
        protocol.on_lost = self._count
        return protocol

    def _count(self) -> None:
        self._turn.have(len(self.server_state.connections))


class _Log(logging.Handler):
    """What uvicorn says of a connection, as an event; of an exception not the text.

    That may hold a patient's data.
    """

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            log.info("http.refused", why=record.getMessage())
        else:
            log.error(
                "http.failed",
                error=type(error).__name__,
                stack="".join(traceback.format_tb(error.__traceback__)[-4:]),
            )


class _Expectations:
    """Closes the connection of a client that was never asked for its body (RFC 9110 10.1.1).

    With `Expect: 100-continue` an answer that comes before the body was read leaves it open whether
    the client sends the body still: what follows could be either, the body or the next request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if any(name == b"expect" for name, _ in scope.get("headers", ())):
            asked = False

            async def receive_body() -> Message:
                nonlocal asked
                asked = True
                return await receive()

            async def send_answer(message: Message) -> None:
                if message["type"] == "http.response.start" and not asked:
                    headers = [*message.get("headers", ()), (b"connection", b"close")]
                    message = {**message, "headers": headers}
                await send(message)

            await self._app(scope, receive_body, send_answer)
        else:
            await self._app(scope, receive, send)


class _Protocol(HttpToolsProtocol):
    """Bounds what is read before there is a request, or behind one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _LOGGER
        self._no_body = 0  # bytes read since the last that was of a body
        self._head_timer: asyncio.TimerHandle | None = None
        self.on_lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()

    def data_received(self, data: bytes) -> None:
        self._no_body += len(data)
        super().data_received(data)
        if self._no_body > HEAD and not self.transport.is_closing():
            self._refuse(b"431 Request Header Fields Too Large", _TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        self._no_body = 0
        self._head_came()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._no_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._no_body = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(b"400 Bad Request", msg.encode())

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT, self._head_is_late)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._no_body:
            self._refuse(b"408 Request Timeout", _TOO_SLOW)
        else:
            self.transport.close()

    def _refuse(self, status: bytes, text: bytes) -> None:
        """Answer what is no request, and close; what was asked before it is answered still."""
        cycle = self.cycle
        is_busy = cycle is not None and not cycle.response_complete
        if is_busy and not cycle.more_body:
            cycle.keep_alive = False
            return
        if not is_busy or not (cycle.response_started or self.pipeline):
            self.transport.write(
                b"HTTP/1.1 %b\r\nContent-Type: text/plain; charset=utf-8\r\n"
                b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, len(text), text)
            )
        self.transport.close()


#: Nobody else's, and no child of the root logger: what it says goes to `_Log` only.
_LOGGER = logging.Logger("http", logging.WARNING)
_LOGGER.addHandler(_Log())


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises OSError with the address in its message."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol must be named: asyncio sends small pieces at once (TCP_NODELAY) only where it is,
    # and every streamed answer waits 40 ms for the client's delayed ACK otherwise.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    listener.setblocking(False)
    return listener
