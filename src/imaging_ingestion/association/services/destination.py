"""Peers that we call ourselves: destinations of C-MOVE, requesters of storage commitment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.connect import ConnectSettings, connect
from imaging_ingestion.association.error import NotConnectedError
from imaging_ingestion.dimse.requestor import Proposal


@dataclass(frozen=True, slots=True)
class Destination:
    """Where an application entity listens."""

    ae_title: str
    host: str
    port: int
    tls: bool = False


class Destinations:
    """The peers that a site names, by AE title; found without regard to case, as callers are."""

    def __init__(self, destinations: Iterable[Destination] = ()) -> None:
        self._by_title = {one.ae_title.strip().lower(): one for one in destinations}

    def find(self, ae_title: str) -> Destination | None:
        """The peer of that title; None if the site names none."""
        return self._by_title.get(ae_title.strip().lower())


class Connect(Protocol):
    """Asks a peer for an association. Raises AssociationError."""

    async def __call__(
        self, destination: Destination, proposals: Sequence[Proposal], *, calling_ae_title: str
    ) -> Association:
        """The association, once it is accepted; the caller releases or aborts it."""


class Connector:
    """Calls destinations over TCP, over TLS where they are so declared."""

    def __init__(
        self, plain: ConnectSettings | None = None, tls: ConnectSettings | None = None
    ) -> None:
        """`tls` are the settings for peers with TLS: without them these cannot be called."""
        self._plain = plain or ConnectSettings()
        self._tls = tls

    async def __call__(
        self, destination: Destination, proposals: Sequence[Proposal], *, calling_ae_title: str
    ) -> Association:
        """See `Connect`."""
        settings = self._tls if destination.tls else self._plain
        if settings is None:
            raise NotConnectedError(f"{destination.ae_title} wants TLS, which is not configured")
        return await connect(
            destination.host,
            destination.port,
            proposals,
            called_ae_title=destination.ae_title,
            calling_ae_title=calling_ae_title,
            settings=settings,
        )
