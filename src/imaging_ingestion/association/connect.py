"""Asks a peer for an association."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from imaging_ingestion.association.association import Association, AssociationLimits
from imaging_ingestion.association.error import (
    AssociationAbortedError,
    AssociationError,
    AssociationRejectedError,
    NotConnectedError,
    PeerTimeoutError,
)
from imaging_ingestion.association.incoming import Service
from imaging_ingestion.association.tcp import TcpLink
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
from imaging_ingestion.dimse.pdu import Abort, AssociateRequest
from imaging_ingestion.dimse.pdu_items import OperationsWindow, UserIdentity
from imaging_ingestion.dimse.requestor import Proposal, build_request, interpret
from imaging_ingestion.dimse.upper_layer import Role


@dataclass(frozen=True, slots=True)
class ConnectSettings:
    """How to call. Times are in seconds; `artim` also bounds the wait for the peer's answer.

    `tls_name`: the name the peer's certificate is to have; None: its host.
    """

    connect: float = 10.0
    artim: float = 30.0
    max_pdu_length: int = DEFAULT_MAX_PDU_LENGTH
    tls: ssl.SSLContext | None = None
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
    services: Mapping[str, Service] | None = None,
    settings: ConnectSettings | None = None,
) -> Association:
    """An association with a peer; `services` perform what it asks of us on it.

    Raises NotConnectedError, AssociationRejectedError, AssociationAbortedError, PeerTimeoutError;
    LocalProtocolError where there is too much to propose.
    """
    chosen = settings or ConnectSettings()
    request = build_request(
        proposals,
        called_ae_title=called_ae_title,
        calling_ae_title=calling_ae_title,
        max_pdu_length=chosen.max_pdu_length,
        operations_window=chosen.operations_window,
        user_identity=chosen.user_identity,
    )
    asking = _Asking(request, services or {}, chosen)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(chosen.connect):
            await loop.create_connection(
                lambda: asking.link,
                host,
                port,
                ssl=chosen.tls,
                server_hostname=(chosen.tls_name or host) if chosen.tls else None,
            )
    except TimeoutError:
        raise NotConnectedError(f"{host}:{port} does not answer") from None
    except ssl.SSLError as error:
        raise NotConnectedError(f"TLS with {host}:{port}: {error.reason or error}") from error
    except OSError as error:
        raise NotConnectedError(f"{host}:{port}: {error.strerror or error}") from error
    try:
        async with asyncio.timeout(chosen.artim):
            return await asking.answered
    except TimeoutError:
        raise PeerTimeoutError("the peer did not answer the association request") from None
    except AssociationError:
        raise
    finally:
        if not asking.is_associated:
            asking.link.abort()


class _Asking:
    """A connection until there is an association, or none."""

    def __init__(
        self, request: AssociateRequest, services: Mapping[str, Service], settings: ConnectSettings
    ) -> None:
        self._request = request
        self._services = services
        self._settings = settings
        self.answered: asyncio.Future[Association] = asyncio.get_running_loop().create_future()
        self.is_associated = False
        wire = Wire(Role.REQUESTOR, artim=settings.artim)
        wire.layer.send(request)
        wire.sink = self._event
        self.link = TcpLink(wire)

    def _event(self, event: Event) -> None:
        if self.answered.done():
            return
        match event:
            case AssociateAccepted(accept):
                try:
                    agreement = interpret(self._request, accept)
                except RemoteProtocolError as error:
                    self.link.wire.send(Abort.because_of(error))
                    self._failed(AssociationAbortedError(f"the peer's answer: {error}"))
                    return
                association = Association(
                    self.link.wire, agreement, self._services, self._settings.limits
                )
                self.is_associated = True
                self.answered.set_result(association)
            case AssociateRejected(reject):
                self._failed(AssociationRejectedError(reject))
            case Aborted():
                self._failed(AssociationAbortedError.of(event))
            case ConnectionClosed():
                self._failed(NotConnectedError("the peer closed the connection"))
            case _:
                raise AssertionError(f"{type(event).__name__} before there is an association")

    def _failed(self, error: AssociationError) -> None:
        if not self.answered.done():
            self.answered.set_exception(error)
