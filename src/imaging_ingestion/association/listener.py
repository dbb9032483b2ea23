"""Accepts associations: whom, what and how many; and ends them in good order.

A connection costs little until it has an association, and it has to ask for one within the ARTIM
time. Beyond `max_associations` a request is answered by A-ASSOCIATE-RJ (transient, local limit
exceeded). Beyond `max_waiting` connections without an association the one that has waited longest
is closed: so a flood of them shuts nobody out who comes with a request.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import structlog

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.caller import Caller
from imaging_ingestion.association.incoming import Service
from imaging_ingestion.association.limits import AssociationLimits
from imaging_ingestion.association.performing import Services
from imaging_ingestion.association.tcp import TcpLink, listening_sockets, reason
from imaging_ingestion.association.tls import TlsContexts, TlsError
from imaging_ingestion.association.wire import Wire
from imaging_ingestion.dimse.acceptor import (
    Acceptance,
    AcceptorPolicy,
    IdentityVerdict,
    identity_to_verify,
    negotiate,
)
from imaging_ingestion.dimse.pdu import AssociateReject, AssociateRequest
from imaging_ingestion.dimse.pdu_items import UserIdentity
from imaging_ingestion.dimse.rejection import TEMPORARY_CONGESTION
from imaging_ingestion.workers.turns import Entrance, Turn, accept

log = structlog.get_logger(__name__)

#: Seconds without a request after which an association is idle, when we stop.
PAUSE: Final = 0.5
#: Seconds that a peer has to close the connection after the A-ABORT of a listener that stops.
PARTING: Final = 1.0
#: What says that there are no descriptors or no memory for one more connection; how many that have
#: no association are ended then, and how many seconds that is given.
_SHORTAGES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_MAKE_ROOM: Final = 16
_SHORTAGE: Final = 0.1
#: Seconds in which a flood is told of once.
_FLOOD: Final = 10.0

#: Judges a user identity; may wait.
Verifier = Callable[[UserIdentity], Awaitable[IdentityVerdict]]


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """How many and how long. `artim` and `grace` are in seconds.

    `artim` bounds a TLS handshake and the verification of a user identity, too. `grace` is how long
    associations in use may go on when the listener stops.
    """

    max_associations: int = 600
    max_waiting: int = 200
    artim: float = 30.0
    grace: float = 20.0
    limits: AssociationLimits = field(default_factory=AssociationLimits)


class Listener:
    """One application entity that others call."""

    def __init__(
        self,
        policy: AcceptorPolicy,
        services: Services | Mapping[str, Service],
        settings: ListenerSettings | None = None,
        *,
        verify: Verifier | None = None,
        on_ended: Callable[[Association], None] | None = None,
    ) -> None:
        """`services` are by abstract syntax; `verify` judges the identities the policy names.

        `on_ended` is told each association that has ended, with all that was under way on it.
        """
        self.settings = settings or ListenerSettings()
        self._policy = policy
        self._services = services if isinstance(services, Services) else Services(services)
        self._verify = verify
        self._on_ended = on_ended
        self._sockets: list[socket.socket] = []
        self._turn: Turn | None = None
        self._accepting: set[asyncio.Task[None]] = set()
        self._opening: set[asyncio.Task[None]] = set()
        #: Without an association, in the order they came, or theirs ended; and how to end them.
        self._waiting: dict[Caller, Callable[[str], None]] = {}
        self._associated: set[Caller] = set()
        self._gone = asyncio.Event()
        self._is_stopping = False
        self._crowded_out = 0  # since that was told
        self._tell_again = 0.0

    @property
    def associations(self) -> int:
        """How many there are now."""
        return len(self._associated)

    async def listen(
        self, host: str, port: int, *, tls: TlsContexts | None = None, reuse_port: bool = False
    ) -> int:
        """Listen on one more address; its port (`port` 0 takes a free one). Raises OSError.

        `reuse_port`: other processes may listen on it, too.
        """
        sockets = await listening_sockets(host, port, reuse_port=reuse_port)
        self._accept_on(sockets, tls)
        return int(sockets[0].getsockname()[1])

    def share(self, entrance: Entrance, *, tls: TlsContexts | None = None) -> None:
        """Accept where other processes do, too: at one such address at most."""
        self._turn = entrance.turn
        self._accept_on(entrance.sockets, tls)

    def accept(self) -> Wire:
        """A connection of another kind than TCP: call `made`, `receive` and `lost` of the wire."""
        caller = Caller(self)
        self._came(caller, caller.end)
        return caller.wire

    async def stop(self, *, grace: float | None = None) -> None:
        """End in good order: reject what is new, let what is under way end, then abort.

        An association in use goes on until it is released, or idle for a moment, or for `grace`
        seconds (None: those of the settings). Until then requests for others are rejected
        (transient, temporary congestion).
        """
        self._is_stopping = True
        if self._turn is not None:
            self._turn.leave()
        if grace is None:
            grace = self.settings.grace
        try:
            async with asyncio.timeout(grace), asyncio.TaskGroup() as group:
                for association in self._open():
                    group.create_task(association.drained(PAUSE))
        except TimeoutError:
            log.warning("dimse.stopped_in_the_middle", associations=self.associations)
        for task in self._accepting:
            task.cancel()
        if self._accepting:
            await asyncio.wait(self._accepting)
        for listening in self._sockets:
            listening.close()
        self._sockets.clear()
        # The first word is A-ABORT; to peers that do not close then, there is no second.
        for parting in (PARTING, None):
            for caller in [*self._associated, *self._waiting]:
                caller.end("the listener stops")
            try:
                async with asyncio.timeout(parting):
                    await self._all_gone()
            except TimeoutError:
                continue

    # ---- for its callers

    async def decide(self, request: AssociateRequest, peer: str) -> Acceptance | AssociateReject:
        """The answer to a request for an association."""
        verdict = None
        policy = self.policy_for(request)
        identity = identity_to_verify(request, policy)
        if identity is not None:
            verdict = await self._judge(identity, peer)
        if self._is_stopping:
            return TEMPORARY_CONGESTION
        at_limit = self.associations >= self.settings.max_associations
        return negotiate(request, policy, at_limit=at_limit, identity=verdict)

    def policy_for(self, request: AssociateRequest) -> AcceptorPolicy:
        """Whom and what to accept; another listener may decide it by the request."""
        return self._policy

    def services_for(self, acceptance: Acceptance) -> Services:
        """Who performs what is asked on an association; another listener may have its own."""
        return self._services

    def associate(self, caller: Caller, acceptance: Acceptance) -> Association:
        """The association that was accepted; it takes over the caller's wire."""
        self._waiting.pop(caller, None)
        self._associated.add(caller)
        services = self.services_for(acceptance)
        return Association(caller.wire, acceptance.agreement, services, self.settings.limits)

    def released(self, caller: Caller) -> None:
        """Its association has ended; the peer may not have closed the connection yet."""
        self._associated.discard(caller)
        if self._on_ended is not None and caller.association is not None:
            self._on_ended(caller.association)
        if caller.wire.is_open:
            self._came(caller, caller.end)

    def went(self, caller: Caller) -> None:
        """Its connection has ended, and all that was under way on it."""
        self._waiting.pop(caller, None)
        self._associated.discard(caller)
        self._count()
        self._gone.set()

    # ---- its own

    def _accept_on(self, sockets: Sequence[socket.socket], tls: TlsContexts | None) -> None:
        self._sockets += sockets
        for listening in sockets:
            self._begin(self._accept(listening, tls), self._accepting)

    def _count(self) -> None:
        if self._turn is not None:
            self._turn.have(len(self._waiting) + len(self._associated))

    async def _all_gone(self) -> None:
        while self._associated or self._waiting:
            self._gone.clear()
            await self._gone.wait()

    def _open(self) -> list[Association]:
        return [caller.association for caller in self._associated if caller.association is not None]

    async def _judge(self, identity: UserIdentity, peer: str) -> IdentityVerdict:
        if self._verify is not None:
            try:
                async with asyncio.timeout(self.settings.artim):
                    return await self._verify(identity)
            except TimeoutError:
                log.warning("dimse.identity_not_verified_in_time", peer=peer)
        return IdentityVerdict(accepted=False)

    def _came(self, caller: Caller, end: Callable[[str], None]) -> None:
        """One more without an association."""
        self._waiting[caller] = end
        self._count()
        if len(self._waiting) > self.settings.max_waiting:
            self._crowd_out()

    def _crowd_out(self) -> None:
        """End the connection that has waited longest, if there is one."""
        oldest, end_oldest = next(iter(self._waiting.items()), (None, None))
        if oldest is None or end_oldest is None:
            return
        del self._waiting[oldest]
        end_oldest("crowded out")
        self._crowded_out += 1
        now = asyncio.get_running_loop().time()
        if now >= self._tell_again:
            log.warning("dimse.crowded_out", connections=self._crowded_out)
            self._crowded_out, self._tell_again = 0, now + _FLOOD

    def _begin(
        self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]
    ) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            if not task.cancelled() and task.exception() is not None:
                log.error("dimse.listener_failed", exc_info=task.exception())

        task.add_done_callback(ended)
        return task

    async def _accept(self, listening: socket.socket, tls: TlsContexts | None) -> None:
        while True:
            try:
                connection, address = await accept(listening, self._turn)
            except OSError as error:
                if error.errno in _SHORTAGES:
                    log.warning("dimse.not_accepted", error=str(error))
                    for _ in range(_MAKE_ROOM):
                        self._crowd_out()
                    await asyncio.sleep(_SHORTAGE)
                continue  # or it has gone already
            caller = Caller(self)
            peer = f"{address[0]}:{address[1]}"
            opening = self._begin(self._open_link(caller, connection, peer, tls), self._opening)
            opening.add_done_callback(partial(self._opened, caller, connection))

            def end(why: str, caller: Caller = caller, opening: Any = opening) -> None:
                # What takes no time is not cancelled: uvloop would make the link after that, and
                # never tell its end.
                if tls is not None:
                    opening.cancel()
                caller.end(why)

            self._came(caller, end)

    async def _open_link(
        self, caller: Caller, connection: socket.socket, peer: str, tls: TlsContexts | None
    ) -> None:
        """Make a connection a link, after the TLS handshake where there is TLS."""
        loop = asyncio.get_running_loop()
        try:
            if tls is None:
                await loop.connect_accepted_socket(lambda: TcpLink(caller.wire), connection)
                if caller.is_ended:
                    caller.wire.link.abort()
            else:
                await loop.connect_accepted_socket(
                    lambda: TcpLink(caller.wire),
                    connection,
                    ssl=await tls.current(),
                    ssl_handshake_timeout=self.settings.artim,
                    ssl_shutdown_timeout=self.settings.artim,
                )
        except (OSError, TimeoutError, TlsError) as error:
            log.warning("dimse.no_connection", peer=peer, why=reason(error))

    def _opened(
        self, caller: Caller, connection: socket.socket, _opening: asyncio.Task[None]
    ) -> None:
        """It is a link now, or will never be one: cancelled, perhaps, before it began."""
        if not caller.wire.was_made:
            connection.close()
            self.went(caller)
