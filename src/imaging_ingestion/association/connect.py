"""Asks a peer for an association."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.error import (
    AssociationAbortedError,
    AssociationError,
    AssociationRejectedError,
    NotConnectedError,
    PeerTimeoutError,
)
from imaging_ingestion.association.incoming import Service
from imaging_ingestion.association.limits import AssociationLimits
from imaging_ingestion.association.performing import Services
from imaging_ingestion.association.tcp import TcpLink, reason
from imaging_ingestion.association.tls import TlsContexts
from imaging_ingestion.association.wire import Wire
from imaging_ingestion.dimse.error import RemoteProtocolError
from imaging_ingestion.dimse.event import (
    Aborted,
    AssociateAccepted,
    AssociateRejected,
    ConnectionClosed,
    Event,
)
from imaging_ingestion.dimse.negotiation import DEFAULT_MAX_PDU_LENGTH
from imaging_ingestion.dimse.pdu import Abort, AssociateAccept, AssociateRequest
from imaging_ingestion.dimse.pdu_items import OperationsWindow, UserIdentity
from imaging_ingestion.dimse.requestor import Proposal, build_request, interpret
from imaging_ingestion.dimse.upper_layer import Role


@dataclass(frozen=True, slots=True)
class ConnectSettings:
    """How to call. Times are in seconds; `artim` also bounds the wait for the peer's answer.

    `connect` covers the TLS handshake. `tls_name`: the name the peer's certificate is to have;
    None: its host. `max_pdu_length`, of P-DATA-TF that we take, is in bytes.
    """

    connect: float = 10.0
    artim: float = 30.0
    max_pdu_length: int = DEFAULT_MAX_PDU_LENGTH
    tls: TlsContexts | None = None
    tls_name: str | None = None
    user_identity: UserIdentity | None = None
    operations_window: OperationsWindow | None = None
    limits: AssociationLimits = field(default_factory=AssociationLimits)


async def connect(
    host: str,
    port: int,
    proposals: Sequence[Proposal],
    *,
    called_ae_title: str,
    calling_ae_title: str,
    services: Services | Mapping[str, Service] | None = None,
    settings: ConnectSettings | None = None,
) -> Association:
    """An association with a peer; `services` perform what it asks of us on it.

    Raises NotConnectedError, AssociationRejectedError, AssociationAbortedError, PeerTimeoutError;
    LocalProtocolError where there is too much to propose.
    """
    chosen = settings or ConnectSettings()
    asking = Asking(
        build_request(
            proposals,
            called_ae_title=called_ae_title,
            calling_ae_title=calling_ae_title,
            max_pdu_length=chosen.max_pdu_length,
            operations_window=chosen.operations_window,
            user_identity=chosen.user_identity,
        ),
        services or {},
        chosen,
    )
    is_made = False
    try:
        async with asyncio.timeout(chosen.connect):
            await _open(asking.wire, host, port, chosen)
        is_made = True
    except TimeoutError:
        raise NotConnectedError(f"{host}:{port} does not answer") from None
    except (OSError, ValueError) as error:
        raise NotConnectedError(f"{host}:{port}: {reason(error)}") from error
    finally:
        if not is_made and asking.wire.is_open:
            asking.wire.link.abort()  # it was made in the moment that nobody waited any more
    return await asking.association()


async def _open(wire: Wire, host: str, port: int, settings: ConnectSettings) -> None:
    loop = asyncio.get_running_loop()
    if settings.tls is None:
        await loop.create_connection(lambda: TcpLink(wire), host, port)
        return
    context = await settings.tls.current()
    await loop.create_connection(
        lambda: TcpLink(wire),
        host,
        port,
        ssl=context,
        server_hostname=settings.tls_name or host,
        ssl_handshake_timeout=settings.connect,
        ssl_shutdown_timeout=settings.artim,
    )


class Asking:
    """A link of any kind until there is an association on it, or none: drive its `wire`."""

    def __init__(
        self,
        request: AssociateRequest,
        services: Services | Mapping[str, Service],
        settings: ConnectSettings,
    ) -> None:
        self.wire = Wire(Role.REQUESTOR, artim=settings.artim)
        self.wire.layer.send(request)
        self.wire.sink = self._event
        #: The peer's answer, if it accepted.
        self.accept: AssociateAccept | None = None
        self._request = request
        self._services = services
        self._settings = settings
        self._answered = asyncio.Event()
        self._outcome: Association | AssociationError | None = None

    async def association(self) -> Association:
        """The association, once the peer has accepted it. Raises AssociationError."""
        try:
            async with asyncio.timeout(self._settings.artim):
                await self._answered.wait()
        except TimeoutError:
            self._give_up()
            if self._outcome is None:
                raise PeerTimeoutError("the peer did not answer the request in time") from None
        except BaseException:
            self._give_up()
            if isinstance(self._outcome, Association):
                self._outcome.fail(AssociationAbortedError("nobody waits for it any more"))
            raise
        if isinstance(self._outcome, Association):
            return self._outcome
        assert self._outcome is not None
        raise self._outcome

    def _give_up(self) -> None:
        if self._outcome is None and self.wire.is_open:
            self.wire.sink = _ignore
            self.wire.send(Abort())
            self.wire.link.close()

    def _event(self, event: Event) -> None:
        match event:
            case AssociateAccepted(accept):
                self.accept = accept
                try:
                    agreement = interpret(self._request, accept)
                except RemoteProtocolError as error:
                    self._end(AssociationAbortedError(f"the peer's answer: {error}"))
                    self.wire.send(Abort.because_of(error))
                    return
                self._end(Association(self.wire, agreement, self._services, self._settings.limits))
            case AssociateRejected(reject):
                self._end(AssociationRejectedError(reject))
            case Aborted():
                self._end(AssociationAbortedError.of(event, self.wire.loss))
            case ConnectionClosed():
                self._end(NotConnectedError("the peer closed the connection"))
            case _:
                raise AssertionError(f"{type(event).__name__} before there is an association")

    def _end(self, outcome: Association | AssociationError) -> None:
        if self._outcome is None:
            self._outcome = outcome
            self._answered.set()


def _ignore(_event: Event) -> None:
    return
