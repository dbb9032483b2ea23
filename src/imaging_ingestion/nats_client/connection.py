"""A connection to NATS: made, kept, and made again.

nats-py reconnects by itself as long as it understands what happened. What it does not (a server
that says that our credentials have expired, for one) ends its client; then there is a new one.
While there is no connection nothing is kept to be sent: those who use it know what has not arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, cast

import structlog
from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.transport import TcpTransport

from imaging_ingestion.nats_client.auth import credentials, tls_context
from imaging_ingestion.nats_client.settings import NatsSettings

log = structlog.get_logger(__name__)

#: Seconds: for one attempt; between two; until a silent server is given up (two pings unanswered).
_CONNECT: Final = 5
_WAIT: Final = 0.5
_PING: Final = 4
_PINGS: Final = 2
#: Bytes that may wait to be written before publishing waits, and of a subscription to be read.
_UNSENT: Final = 1 << 20
_UNREAD: Final = 128 << 20
#: Seconds in which the same trouble is told once.
_TELL_AGAIN: Final = 30.0
#: Seconds for the last words.
_PARTING: Final = 2.0

NO_RESPONDERS: Final = "503"


@dataclass(frozen=True, slots=True)
class Message:
    """What came on a subject. `status` is set where the server says it: nobody listens."""

    subject: str
    data: bytes
    reply: str
    status: str | None


Handler = Callable[[Message], None]


class Watcher(Protocol):
    """Who wants to know whether there is a connection."""

    def link_is_up(self) -> None:
        """There is one, and all subscriptions are made."""

    def link_is_down(self) -> None:
        """There is none."""

    def link_dropped(self) -> None:
        """A message was dropped, for too many waited."""


class NatsConnection:
    """A connection to NATS. Give `watcher` and subscriptions before `start`."""

    def __init__(
        self, settings: NatsSettings, name: str, inbox: str, *, events: str = "tunnel"
    ) -> None:
        """`events` is the first word of what it logs. Raises SettingsError for unusable files."""
        self.watcher: Watcher | None = None
        self.is_up = False
        self.reconnects = 0
        self._settings = settings
        self._options = credentials(settings)
        self._context = tls_context(settings)
        self._name = name
        self._events = events
        self._inbox = inbox
        self._subscriptions: list[tuple[str, str, Handler]] = []
        self._client: _Client | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._is_over = False
        self._told: dict[str, float] = {}

    @property
    def max_payload(self) -> int:
        """Bytes of a message, at most, as the server says."""
        return self._client.max_payload if self._client is not None else 1 << 20

    @property
    def client(self) -> Client | None:
        """The client of nats-py while there is a connection."""
        return self._client if self.is_up else None

    @property
    def server(self) -> str:
        """Where we are connected, for logs."""
        url = None if self._client is None else self._client.connected_url
        return "" if url is None else f"{url.hostname}:{url.port}"

    def on(self, subject: str, handler: Handler, *, queue: str = "") -> None:
        """Subscribe, at each connection."""
        self._subscriptions.append((subject, queue, handler))

    def start(self) -> None:
        """Begin to connect; it goes on until `close`."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def publish(self, subject: str, payload: bytes, reply: str = "") -> bool:
        """Publish; waits while much is unsent. False: it was not sent, and never will be."""
        client = self._client
        if client is None or not self.is_up:
            return False
        try:
            await client.publish(subject, payload, reply)
        except (errors.Error, OSError) as error:
            self._tell(f"{self._events}.not_published", error)
            return False
        return self.is_up

    async def leave(self, subject: str) -> None:
        """Unsubscribe: the server sends nothing more."""
        self._subscriptions = [one for one in self._subscriptions if one[0] != subject]
        client = self._client
        if client is not None:
            for subscription in client.subscriptions_of(subject):
                with contextlib.suppress(errors.Error, OSError):
                    await subscription.unsubscribe()

    async def flush(self) -> None:
        """Wait until the server has all that was published, or cannot be asked."""
        if self._client is not None and self.is_up:
            with contextlib.suppress(errors.Error, OSError, TimeoutError):
                async with asyncio.timeout(_PARTING):
                    await self._client.flush()

    async def close(self) -> None:
        """Send what was published, and end."""
        await self.flush()
        if self.is_up:
            self.is_up = False
            if self.watcher is not None:
                self.watcher.link_is_down()
        if self._task is not None:
            # The library swallows a cancellation that comes while it connects.
            self._is_over = True
            self._ended.set()
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._drop()

    # ---- its own

    async def _run(self) -> None:
        while not self._is_over:
            self._ended.clear()
            client = _Client(self._settings.tls)
            self._client = client
            try:
                await self._connect(client)
                await self._ended.wait()
                if self._is_over:
                    return
                self._went_down("the server ended the connection")
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, there must be a next time
                self._tell(f"{self._events}.nats_not_connected", error)
            await self._drop()
            await asyncio.sleep(_WAIT)

    async def _connect(self, client: _Client) -> None:
        await client.connect(
            servers=list(self._settings.servers),
            name=self._name,
            error_cb=self._error,
            disconnected_cb=self._disconnected,
            reconnected_cb=self._reconnected,
            closed_cb=self._closed,
            connect_timeout=_CONNECT,
            reconnect_time_wait=cast("int", _WAIT),  # it is only slept
            max_reconnect_attempts=-1,
            ping_interval=_PING,
            max_outstanding_pings=_PINGS,
            inbox_prefix=self._inbox,
            pending_size=_UNSENT,
            tls=self._context,
            **self._options,
        )
        for subject, queue, handler in self._subscriptions:
            await client.subscribe(
                subject,
                queue=queue,
                cb=partial(_handle, handler),
                pending_bytes_limit=_UNREAD,
            )
        await client.flush()
        self._came_up()

    async def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(errors.Error, OSError, TimeoutError):
                async with asyncio.timeout(_PARTING):
                    await client.close()

    def _came_up(self) -> None:
        self.is_up = True
        self._told.clear()
        log.info(f"{self._events}.nats_connected", server=self.server)
        if self.watcher is not None:
            self.watcher.link_is_up()

    def _went_down(self, why: str) -> None:
        if self.is_up:
            self.is_up = False
            log.warning(f"{self._events}.nats_lost", why=why)
            if self.watcher is not None:
                self.watcher.link_is_down()

    async def _error(self, error: Exception) -> None:
        if isinstance(error, errors.SlowConsumerError):
            if self.watcher is not None:
                self.watcher.link_dropped()
            self._tell(f"{self._events}.message_dropped", error)
        elif not isinstance(error, errors.UnexpectedEOF):  # `_went_down` tells it
            name = (
                f"{self._events}.nats_error" if self.is_up else f"{self._events}.nats_not_connected"
            )
            self._tell(name, error)

    async def _disconnected(self) -> None:
        self._went_down("the connection ended")

    async def _reconnected(self) -> None:
        self.reconnects += 1
        self._came_up()

    async def _closed(self) -> None:
        self._ended.set()

    def _tell(self, event: str, error: Exception) -> None:
        """Log a trouble, but not each time that it comes."""
        why = _in_words(error)
        now = asyncio.get_running_loop().time()
        if now >= self._told.get(why, 0.0):
            self._told[why] = now + _TELL_AGAIN
            log.warning(event, why=why, servers=list(self._settings.servers))


class _Client(Client):
    """nats-py's client, mended where it would be careless."""

    def __init__(self, needs_tls: bool) -> None:
        super().__init__()
        self._needs_tls = needs_tls
        self._transport = _Transport()  # type: ignore[no-untyped-call]

    def subscriptions_of(self, subject: str) -> list[Any]:
        """Those of a subject."""
        return [one for one in self._subs.values() if one.subject == subject]

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        # Whether there is TLS is for the user to say: a server in the middle that does not offer it
        # would be told our secrets otherwise.
        if self._needs_tls and initial_connection:
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)


class _Transport(TcpTransport):
    """Ends at once: a connection that takes nothing any more would never finish closing."""

    def close(self) -> None:
        if self._io_writer is not None:
            self._io_writer.transport.abort()


async def _handle(handler: Handler, message: Msg) -> None:
    status = message.headers.get("Status") if message.headers else None
    handler(Message(message.subject, message.data, message.reply, status))


def _in_words(error: Exception) -> str:
    text = str(error).removeprefix("nats: ").strip("'") or type(error).__name__
    return f"{type(error).__name__}: {text}" if isinstance(error, OSError) else text
