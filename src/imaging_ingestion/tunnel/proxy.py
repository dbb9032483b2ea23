"""A proxy: takes associations from local peers to the other side, and from there to its target."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog

from imaging_ingestion.association.tcp import TcpLink, listening_sockets
from imaging_ingestion.association.tcp import reason as in_words
from imaging_ingestion.association.tls import TlsContexts, TlsError, TlsFiles, tls_settings
from imaging_ingestion.dimse.error import RemoteProtocolError
from imaging_ingestion.dimse.pdu import (
    AssociateReject,
    AssociateRequest,
    decode_pdu,
    encode_pdu,
)
from imaging_ingestion.dimse.rejection import (
    CALLED_AE_TITLE_NOT_RECOGNIZED,
    LOCAL_LIMIT_EXCEEDED,
    NO_REASON_GIVEN_BY_ACSE,
    TEMPORARY_CONGESTION,
    describe_rejection,
)
from imaging_ingestion.nats_client.connection import NatsConnection
from imaging_ingestion.nats_client.settings import SettingsError
from imaging_ingestion.tunnel.arrival import Arrival
from imaging_ingestion.tunnel.endpoint import TunnelStream
from imaging_ingestion.tunnel.error import TunnelError
from imaging_ingestion.tunnel.frame import Reason
from imaging_ingestion.tunnel.metrics import TunnelMetrics
from imaging_ingestion.tunnel.relay import Relay, Side
from imaging_ingestion.tunnel.settings import ProxySettings, Target
from imaging_ingestion.tunnel.titles import Titles, is_same, rename
from imaging_ingestion.tunnel.tunnel import Tunnel
from imaging_ingestion.workers.turns import Entrance, accept

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from imaging_ingestion.tunnel.spool.far import FarEnd
    from imaging_ingestion.tunnel.spool.front import Front
    from imaging_ingestion.tunnel.spool.settings import SpoolSettings
    from imaging_ingestion.tunnel.spool.spool import Spool

log = structlog.get_logger(__name__)

#: Connections that have no association yet, at most.
_WAITING: Final = 200
#: Seconds until a connection is accepted again when descriptors or memory are short.
_SHORTAGE: Final = 0.1
_SHORTAGES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
#: Seconds for the last words to peers.
_PARTING: Final = 1.0

_REJECTIONS: Final = {
    Reason.TOO_MANY: LOCAL_LIMIT_EXCEEDED,
    Reason.VERSION: NO_REASON_GIVEN_BY_ACSE,  # it will not help to try again
}


class Proxy:
    """One proxy. `start` it, and `stop` it."""

    def __init__(
        self,
        settings: ProxySettings,
        metrics: TunnelMetrics,
        *,
        process_id: bytes | None = None,
        entrance: Entrance | None = None,
    ) -> None:
        """With an `entrance` it accepts there, as other processes do. Raises SettingsError."""
        self.settings = settings
        self._entrance = entrance
        self._turn = None if entrance is None else entrance.turn
        self.port = settings.port
        self._relays: set[Relay] = set()
        #: Those that have not asked for an association yet, in the order they came.
        self._waiting: dict[Relay, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._gone = asyncio.Event()
        self._server_tls, self._client_tls = _tls(settings)
        connection = NatsConnection(
            settings.nats,
            f"{settings.tunnel.name} {settings.subjects.channel}",
            settings.subjects.inbox,
        )
        self.tunnel = Tunnel(
            connection,
            settings.subjects,
            settings.tunnel,
            metrics,
            accept=None if settings.target is None else self._stream_came,
            process_id=process_id,
        )
        # Their modules are large: imported where they are needed.
        self._spool: Spool | None = None
        self._front: Front | None = None
        self._far_end: FarEnd | None = None
        if settings.spool is not None:
            self._make_spool(settings.spool, metrics.registry)

    @property
    def associations(self) -> int:
        """How many connections of peers there are."""
        return len(self._relays) + (0 if self._front is None else self._front.associations)

    def why_not_ready(self) -> str | None:
        """Why associations cannot come through now; None if they can."""
        if self.tunnel.is_stopping:
            return "it stops"
        if not self._sockets:
            return "it does not listen yet"
        if self._spool is not None:
            return None  # instances are taken whatever there is behind us
        return None if self.tunnel.is_up else "there is no connection to NATS"

    async def start(self) -> None:
        """Listen, and connect to NATS for as long as it takes. Raises OSError, TlsError."""
        if self._server_tls is not None:
            await self._server_tls.current()
        if self._spool is not None:
            await self._spool.start()
        if self._entrance is not None:
            self._sockets = list(self._entrance.sockets)
        else:
            self._sockets = await listening_sockets(
                self.settings.host, self.settings.port, reuse_port=False
            )
        self.port = int(self._sockets[0].getsockname()[1])
        self.tunnel.start()
        for listening in self._sockets:
            self._accepting.append(self._begin(self._accept(listening)))

    async def stop(self) -> None:
        """End in good order: what is new goes elsewhere; what is under way has `grace` seconds."""
        await self._stop_listening()
        await self.tunnel.stop_accepting()
        await asyncio.gather(self._stop_spools(self.settings.grace), self._drain())
        await self.end("the proxy stops")

    async def end(self, why: str) -> None:
        """End at once: every peer is told so."""
        await self._stop_listening()
        await self._stop_spools(0.0)
        for relay in list(self._relays):
            relay.abort(why)
        with suppress(TimeoutError):
            async with asyncio.timeout(_PARTING):
                await self._all_gone()
        await self.tunnel.stop(text=why)
        for relay in list(self._relays):
            relay.drop()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _stop_listening(self) -> None:
        if self._turn is not None:
            self._turn.leave()
        for task in self._accepting:
            task.cancel()
        if self._accepting:
            await asyncio.wait(self._accepting)
        self._accepting.clear()
        for listening in self._sockets:
            listening.close()
        self._sockets.clear()

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self.settings.grace):
                await self._all_gone()
        except TimeoutError:
            log.warning("proxy.stopped_in_the_middle", associations=self.associations)

    async def _all_gone(self) -> None:
        while self._relays or self.tunnel.streams:
            self._gone.clear()
            if self._relays:
                await self._gone.wait()
            else:
                await self.tunnel.all_gone()

    # ---- local peers call

    async def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, address = await accept(listening, self._turn)
            except OSError as error:
                if error.errno in _SHORTAGES:
                    log.warning("proxy.not_accepted", why=str(error))
                    await asyncio.sleep(_SHORTAGE)
                continue
            if len(self._waiting) >= _WAITING:
                # So a crowd that says nothing shuts nobody out.
                oldest = next(iter(self._waiting))
                log.warning("proxy.crowded_out", peer=oldest.peer)
                del self._waiting[oldest]
                oldest.drop()
            relay = Relay(
                Side.REQUESTOR,
                artim=self.settings.artim,
                on_end=self._ended,
                on_request=self._requested,
            )
            self._relays.add(relay)
            self._count()
            self._waiting[relay] = None
            self._begin(self._connect_accepted(relay, connection, f"{address[0]}:{address[1]}"))

    async def _connect_accepted(self, relay: Relay, connection: socket.socket, peer: str) -> None:
        """Make a connection the relay's, after the TLS handshake where there is TLS."""
        loop = asyncio.get_running_loop()
        is_made = False
        try:
            if self._server_tls is None:
                await loop.connect_accepted_socket(lambda: relay, connection)
            else:
                await loop.connect_accepted_socket(
                    lambda: relay,
                    connection,
                    ssl=await self._server_tls.current(),
                    ssl_handshake_timeout=self.settings.artim,
                    ssl_shutdown_timeout=self.settings.artim,
                )
            is_made = True
        except (OSError, TimeoutError, TlsError) as error:
            log.warning("proxy.no_connection", peer=peer, why=in_words(error))
        finally:
            if not is_made:
                connection.close()
                self._ended(relay)

    def _requested(self, relay: Relay, request: memoryview) -> None:
        self._waiting.pop(relay, None)
        self._begin(self._open(relay, bytes(request)))

    async def _open(self, relay: Relay, request: bytes) -> None:
        """Take a request to the other side."""
        titles = Titles.of(request)
        words = {"peer": relay.peer, "calling": titles.calling, "called": titles.called}
        try:
            asked = decode_pdu(request)
        except RemoteProtocolError as error:
            relay.refuse(error)
            return
        if (
            self._front is not None
            and isinstance(asked, AssociateRequest)
            and self._front.is_for_us(asked)
        ):
            if relay.is_connected:
                relay.hand_over(TcpLink(self._front.accept()), request)
            return
        ours = self.settings.ae_title
        if ours is not None and not is_same(titles.called, ours):
            self._reject(relay, CALLED_AE_TITLE_NOT_RECOGNIZED, words, "")
            return
        try:
            stream = await self.tunnel.open()
        except TunnelError as error:
            rejection = _REJECTIONS.get(error.reason, TEMPORARY_CONGESTION)
            self._reject(relay, rejection, words, str(error))
            return
        log.debug("proxy.opened", **words, other=stream.peer)
        relay.join(stream, request)

    def _reject(
        self, relay: Relay, rejection: AssociateReject, words: dict[str, str], why: str
    ) -> None:
        log.warning("proxy.rejected", **words, answer=describe_rejection(rejection), why=why)
        relay.reject(rejection)

    # ---- the other side calls

    def _stream_came(self, stream: TunnelStream) -> None:
        Arrival(stream, self._request_came, self.settings.artim)

    def _request_came(self, arrival: Arrival, request: bytes) -> None:
        self._begin(self._call_target(arrival, request))

    async def _call_target(self, arrival: Arrival, request: bytes) -> None:
        """Connect to the target, and give it the request."""
        target, stream = self.settings.target, arrival.stream
        assert target is not None
        if stream.is_spool:
            self._take_spool(arrival, request, target)
            return
        titles = Titles.of(request)
        where = f"{target.host}:{target.port}"
        relay = Relay(Side.ACCEPTOR, artim=self.settings.artim, on_end=self._ended, titles=titles)
        words = {"other": stream.peer, "calling": titles.calling, "called": titles.called}
        try:
            async with asyncio.timeout(self.settings.connect):
                await self._connect(relay)
        except (OSError, TimeoutError, TlsError, ValueError) as error:
            why = f"{where}: {in_words(error)}"
            log.warning("proxy.target_not_reached", **words, why=why)
            stream.write((encode_pdu(TEMPORARY_CONGESTION),))
            stream.close()
            stream.consumed(len(request))
            arrival.drop()
            return
        self._relays.add(relay)
        log.debug("proxy.called", **words, target=where)
        relay.join(stream, rename(request, target.ae_title, target.calling_ae_title))
        for data in arrival.hand_over():
            relay.stream_data(data)
        if arrival.is_ended:
            relay.stream_ended()

    async def _connect(self, relay: Relay) -> None:
        target = self.settings.target
        assert target is not None
        loop = asyncio.get_running_loop()
        if self._client_tls is None:
            await loop.create_connection(lambda: relay, target.host, target.port)
            return
        await loop.create_connection(
            lambda: relay,
            target.host,
            target.port,
            ssl=await self._client_tls.current(),
            server_hostname=target.host,
            ssl_handshake_timeout=self.settings.connect,
            ssl_shutdown_timeout=self.settings.artim,
        )

    # ---- instances that are kept (docs/spool.md)

    def _make_spool(self, settings: SpoolSettings, registry: CollectorRegistry) -> None:
        """Raises SettingsError."""
        from imaging_ingestion.association.listener import ListenerSettings
        from imaging_ingestion.tunnel.spool.front import Front
        from imaging_ingestion.tunnel.spool.metrics import SpoolMetrics
        from imaging_ingestion.tunnel.spool.spool import Spool, storage_contexts

        ours = self.settings
        self._spool = Spool(settings, self.tunnel, SpoolMetrics(registry))
        self._front = Front(
            self.tunnel,
            self._spool,
            storage_contexts(settings),
            ours.ae_title,
            ListenerSettings(ours.tunnel.max_streams, artim=ours.artim, grace=ours.grace),
        )

    def _take_spool(self, arrival: Arrival, request: bytes, target: Target) -> None:
        """The spool of the other side sends instances."""
        from imaging_ingestion.tunnel.spool.far import FarEnd

        if self._far_end is None:
            ours = self.settings
            self._far_end = FarEnd(target, self._client_tls, ours.artim, ours.grace)
        self._far_end.take(arrival, request)

    async def _stop_spools(self, grace: float) -> None:
        front, spool, far_end = self._front, self._spool, self._far_end
        self._spool = self._far_end = None
        if far_end is not None:
            await far_end.stop(grace=grace)
        if front is not None:
            await front.stop(grace=grace)
        if spool is not None:
            await spool.stop()

    # ---- both

    def _ended(self, relay: Relay) -> None:
        if relay.why:
            log.warning("proxy.ended_in_the_middle", peer=relay.peer, why=relay.why)
        self._relays.discard(relay)
        self._waiting.pop(relay, None)
        self._count()
        self._gone.set()

    def _count(self) -> None:
        if self._turn is not None:
            self._turn.have(self.associations)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(partial(_done, self._tasks))
        return task


def _done(tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
    tasks.discard(task)
    if not task.cancelled() and task.exception() is not None:
        log.error("proxy.failed", exc_info=task.exception())


def _tls(settings: ProxySettings) -> tuple[TlsContexts | None, TlsContexts | None]:
    """For local peers, and for the target. Raises SettingsError."""
    try:
        found = tls_settings(settings.tls)
        if found is None:
            return None, None
        return TlsFiles(found, is_server=True), TlsFiles(found, is_server=False)
    except TlsError as error:
        raise SettingsError([str(error)]) from error
