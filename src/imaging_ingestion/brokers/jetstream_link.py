"""A core's connection to NATS JetStream, and its two streams: made, kept as configured, made again.

Everything that talks to JetStream goes through one connection. It may be away for as long as it
likes: whoever uses it is told by `NotConnectedError`, and when it is back by `on_change`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext, api
from nats.js.errors import BadRequestError, NotFoundError

from imaging_ingestion.brokers.jetstream_names import Names
from imaging_ingestion.brokers.jetstream_settings import JetStreamSettings
from imaging_ingestion.nats_client.connection import NatsConnection

log = structlog.get_logger(__name__)

#: Seconds for a request to JetStream.
TIMEOUT: Final = 5.0
#: Seconds that the first connection has before work begins without it.
_FIRST_CONNECTION: Final = 2.0
#: Publications that wait for their acknowledgement, at most.
_MOST_PENDING: Final = 4096
_NAME_IN_USE: Final = 10058


class NotConnectedError(Exception):
    """There is no connection to NATS now."""

    def __init__(self) -> None:
        super().__init__("there is no connection to NATS")


class JetStreamLink:
    """Both streams of a core, over one connection."""

    def __init__(
        self,
        core: str,
        settings: JetStreamSettings,
        on_new_events: Callable[[], Awaitable[None]],
    ) -> None:
        """`on_new_events` is awaited before the stream of events is made.

        Raises SettingsError if files cannot be used.
        """
        self.names = Names(settings.subject_root, core)
        self.settings = settings
        self._core = core
        self._on_new_events = on_new_events
        self._connection = NatsConnection(
            settings.nats, f"imaging-ingestion {core}", self.names.inbox, events="jetstream"
        )
        self._connection.watcher = self
        self._context: tuple[Client, JetStreamContext] | None = None
        self._on_change: list[Callable[[], None]] = []
        # Each time that the streams may be gone has a number; those of this one are there.
        self._doubt = 1
        self._checked = 0
        self._checking = asyncio.Lock()
        self._was_up = asyncio.Event()

    @property
    def is_up(self) -> bool:
        """Whether there is a connection."""
        return self._connection.is_up

    @property
    def max_payload(self) -> int:
        """Bytes of a message, headers included, that the server takes."""
        return self._connection.max_payload

    def on_change(self, told: Callable[[], None]) -> None:
        """Call `told` when the connection comes or goes."""
        self._on_change.append(told)

    async def start(self) -> None:
        """Begin to connect. Returns when there is a connection, or soon."""
        self._connection.start()
        try:
            async with asyncio.timeout(_FIRST_CONNECTION):
                await self._was_up.wait()
        except TimeoutError:
            log.warning("jetstream.not_connected_yet", core=self._core)

    async def stop(self) -> None:
        """Send what was published, and end."""
        await self._connection.close()

    def link_is_up(self) -> None:
        """See Watcher."""
        self._doubt += 1  # it may be another server, or one that was wiped
        self._was_up.set()
        self._tell()

    def link_is_down(self) -> None:
        """See Watcher."""
        self._tell()

    def link_dropped(self) -> None:
        """See Watcher: what was dropped is sent again when it is not acknowledged."""

    def _tell(self) -> None:
        for told in self._on_change:
            told()

    def client(self) -> Client:
        """The connected client. Raises NotConnectedError."""
        client = self._connection.client
        if client is None:
            raise NotConnectedError
        return client

    def context(self) -> JetStreamContext:
        """JetStream on the connected client. Raises NotConnectedError."""
        client = self.client()
        if self._context is None or self._context[0] is not client:
            context = client.jetstream(timeout=TIMEOUT, publish_async_max_pending=_MOST_PENDING)
            self._context = client, context
        return self._context[1]

    def streams_are_gone(self) -> None:
        """Somebody has found one of them missing."""
        self._doubt += 1

    async def ready(self) -> JetStreamContext:
        """JetStream with both streams there. Raises NotConnectedError, or what nats-py raises."""
        context = self.context()
        if self._checked != self._doubt:
            async with self._checking:
                doubt = self._doubt
                if self._checked != doubt:
                    await self._have(context, self._events(), self._on_new_events)
                    await self._have(context, self._dead(), None)
                    self._checked = doubt
        return context

    async def _have(
        self,
        context: JetStreamContext,
        wanted: api.StreamConfig,
        on_new: Callable[[], Awaitable[None]] | None,
    ) -> None:
        """Make a stream, or what it is configured to be."""
        assert wanted.name is not None
        try:
            info = await context.stream_info(wanted.name)
        except NotFoundError:
            # First this: if we end in between, the worst is that events are carried twice.
            if on_new is not None:
                await on_new()
            try:
                await context.add_stream(wanted)
            except BadRequestError as error:
                if error.err_code != _NAME_IN_USE:
                    raise
            else:
                log.info("jetstream.stream_made", core=self._core, stream=wanted.name)
            return
        changed = {
            name: value
            for name in _MANAGED
            if (value := getattr(wanted, name)) != getattr(info.config, name)
        }
        if changed:
            await context.update_stream(replace(info.config, **changed))
            log.info(
                "jetstream.stream_changed",
                core=self._core,
                stream=wanted.name,
                fields=sorted(changed),
            )

    def _events(self) -> api.StreamConfig:
        settings = self.settings
        return api.StreamConfig(
            name=self.names.events,
            description=f"Events of the core {self._core}",
            subjects=[self.names.all_events],
            max_age=settings.max_age.total_seconds(),
            duplicate_window=min(settings.duplicates, settings.max_age).total_seconds(),
            **_ALIKE,
            num_replicas=settings.replicas,
        )

    def _dead(self) -> api.StreamConfig:
        return api.StreamConfig(
            name=self.names.dead,
            description=f"Dead letters of the core {self._core}",
            subjects=[self.names.all_dead],
            max_age=0,
            max_msgs_per_subject=1,
            duplicate_window=self.settings.duplicates.total_seconds(),
            **_ALIKE,
            num_replicas=self.settings.replicas,
        )


_ALIKE: Final[dict[str, Any]] = {
    "retention": api.RetentionPolicy.LIMITS,
    "storage": api.StorageType.FILE,
    "discard": api.DiscardPolicy.OLD,
    "allow_direct": True,
}
#: What is ours to say of a stream; the rest is the operator's.
_MANAGED: Final = (
    "subjects",
    "max_age",
    "duplicate_window",
    "num_replicas",
    "max_msgs_per_subject",
)
