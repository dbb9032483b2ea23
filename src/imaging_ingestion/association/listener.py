"""Accepts associations: whom, what and how many; and ends them in good order.

A connection costs little until it has asked for an association, and it has to ask within the ARTIM
time. Beyond `max_associations` a request is answered by A-ASSOCIATE-RJ (transient, local limit
exceeded); beyond `max_connections` a connection is closed before anything is read.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from imaging_ingestion.association.association import Association, AssociationLimits
from imaging_ingestion.association.incoming import Service
from imaging_ingestion.association.tcp import TcpLink
from imaging_ingestion.association.wire import Wire
from imaging_ingestion.dimse.acceptor import (
    AcceptorPolicy,
    IdentityVerdict,
    identity_to_verify,
    negotiate,
)
from imaging_ingestion.dimse.error import AssociationOverError
from imaging_ingestion.dimse.event import (
    Aborted,
    AssociateRequested,
    ConnectionClosed,
    Event,
)
from imaging_ingestion.dimse.pdu import AssociateReject, AssociateRequest
from imaging_ingestion.dimse.pdu_items import UserIdentity
from imaging_ingestion.dimse.rejection import TEMPORARY_CONGESTION, describe_rejection
from imaging_ingestion.dimse.upper_layer import Role

log = structlog.get_logger(__name__)

BACKLOG: Final = 2048

#: Judges a user identity; may wait.
Verifier = Callable[[UserIdentity], Awaitable[IdentityVerdict]]


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """How many and how long. `artim` and `grace` are in seconds."""

    max_associations: int = 200
    max_connections: int = 1000
    artim: float = 30.0
    grace: float = 20.0
    limits: AssociationLimits = field(default_factory=AssociationLimits)


class Listener:
    """One application entity that others call. `services` are by abstract syntax."""

    def __init__(
        self,
        policy: AcceptorPolicy,
        services: Mapping[str, Service],
        settings: ListenerSettings | None = None,
        *,
        verify: Verifier | None = None,
    ) -> None:
        self._policy = policy
        self._services = services
        self._settings = settings or ListenerSettings()
        self._verify = verify
        self._servers: list[asyncio.Server] = []
        self._connections: set[_Connection] = set()
        self._gone = asyncio.Event()
        self._stopping = False

    @property
    def associations(self) -> int:
        """How many there are now."""
        return sum(connection.association is not None for connection in self._connections)

    async def listen(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> int:
        """Listen on one more address; its port (`port` 0 takes a free one). Raises OSError."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            self.make_link, host, port, ssl=tls, backlog=BACKLOG, reuse_address=True
        )
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def make_link(self) -> TcpLink:
        """What serves one more connection."""
        connection = _Connection(self, self._settings)
        return connection.link

    async def stop(self) -> None:
        """Accept nothing more; let running operations end, `grace` seconds at most; then abort."""
        self._stopping = True
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            if connection.association is None:
                connection.link.abort()
        try:
            async with asyncio.timeout(self._settings.grace):
                for connection in list(self._connections):
                    await connection.idle()
        except TimeoutError:
            log.warning("dimse.stopped_in_the_middle", associations=self.associations)
        for connection in list(self._connections):
            if connection.association is not None:
                await connection.association.abort()
            connection.link.abort()
        while self._connections:
            self._gone.clear()
            await self._gone.wait()

    # ---- for its connections

    def came(self, connection: _Connection) -> None:
        """One more connection."""
        if self._stopping or len(self._connections) >= self._settings.max_connections:
            connection.link.abort()
            return
        self._connections.add(connection)

    def went(self, connection: _Connection) -> None:
        """One less."""
        self._connections.discard(connection)
        self._gone.set()

    async def decide(self, connection: _Connection, request: AssociateRequest) -> None:
        """Answer a request for an association."""
        wire = connection.link.wire
        peer = connection.link.peer
        verdict = None
        identity = identity_to_verify(request, self._policy)
        if identity is not None and self._verify is not None:
            verdict = await self._verify(identity)
        elif identity is not None:
            verdict = IdentityVerdict(accepted=False)
        decision = negotiate(
            request,
            self._policy,
            at_limit=self.associations >= self._settings.max_associations,
            identity=verdict,
        )
        if self._stopping:
            decision = TEMPORARY_CONGESTION
        titles = {"peer": peer, "calling": request.calling_ae_title}
        try:
            if isinstance(decision, AssociateReject):
                log.warning(
                    "dimse.rejected",
                    **titles,
                    called=request.called_ae_title,
                    why=describe_rejection(decision),
                )
                wire.send(decision)
                return
            # Before anything else is read: what comes next belongs to the association.
            connection.association = Association(
                wire, decision.agreement, self._services, self._settings.limits
            )
            wire.send(decision.accept)
            connection.link.resume_reading()
        except AssociationOverError:
            log.info("dimse.gone_before_the_answer", **titles)
            return
        log.debug("dimse.accepted", **titles, contexts=len(decision.agreement.contexts))
        await connection.association.closed()
        log.debug("dimse.ended", **titles, why=str(connection.association.end))


class _Connection:
    """One connection, before, during and after its association."""

    def __init__(self, listener: Listener, settings: ListenerSettings) -> None:
        self._listener = listener
        self.association: Association | None = None
        self._deciding: asyncio.Task[None] | None = None
        self._is_lost = False
        wire = Wire(Role.ACCEPTOR, artim=settings.artim)
        wire.sink = self._event
        self.link = TcpLink(wire, on_made=self._made, on_lost=self._lost)

    async def idle(self) -> None:
        """Wait until nothing is under way on it."""
        if self.association is not None:
            await self.association.quiet()

    def _made(self, _link: TcpLink) -> None:
        self._listener.came(self)

    def _lost(self, _link: TcpLink) -> None:
        self._is_lost = True
        if self._deciding is None or self._deciding.done():
            self._listener.went(self)
        elif self.association is None:
            self._deciding.cancel()

    def _event(self, event: Event) -> None:
        match event:
            case AssociateRequested(request):
                # Nothing may follow before the answer; what does is read after it.
                self.link.pause_reading()
                self._deciding = asyncio.create_task(self._listener.decide(self, request))
                self._deciding.add_done_callback(self._decided)
            case Aborted() | ConnectionClosed():
                if isinstance(event, Aborted) and event.error is not None:
                    log.warning("dimse.no_association", peer=self.link.peer, why=str(event.error))
            case _:
                raise AssertionError(f"{type(event).__name__} before there is an association")

    def _decided(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error("dimse.connection_failed", peer=self.link.peer, exc_info=task.exception())
            self.link.abort()
        if self._is_lost:
            self._listener.went(self)
        elif self.association is None:
            self.link.resume_reading()  # to see it close
