"""A DIMSE ingestion service on its NATS subject.

service = TunnelService(nats, subjects, settings, listener, "INGESTION", metrics)
service.start()
…
await service.stop_accepting()      # new associations go to other processes
await listener.stop()               # those that there are end in good order
await service.stop()
"""

from __future__ import annotations

from imaging_ingestion.association.listener import Listener
from imaging_ingestion.nats_client.connection import NatsConnection
from imaging_ingestion.nats_client.settings import NatsSettings
from imaging_ingestion.tunnel.arrival import Arrival
from imaging_ingestion.tunnel.endpoint import TunnelStream
from imaging_ingestion.tunnel.link import TunnelLink
from imaging_ingestion.tunnel.metrics import TunnelMetrics
from imaging_ingestion.tunnel.settings import TunnelSettings
from imaging_ingestion.tunnel.subjects import Subjects
from imaging_ingestion.tunnel.titles import Titles, rename
from imaging_ingestion.tunnel.tunnel import Tunnel


class TunnelService:
    """Gives the streams that the other side opens to a listener."""

    def __init__(
        self,
        nats: NatsSettings,
        subjects: Subjects,
        settings: TunnelSettings,
        listener: Listener,
        ae_title: str,
        metrics: TunnelMetrics,
    ) -> None:
        """`ae_title`: the listener's; it is called so whatever title the far peer called.

        Raises SettingsError.
        """
        self._listener = listener
        self._ae_title = ae_title
        connection = NatsConnection(nats, f"{ae_title} {subjects.channel}", subjects.inbox)
        self._tunnel = Tunnel(connection, subjects, settings, metrics, accept=self._stream_came)

    @property
    def is_up(self) -> bool:
        """Whether there is a connection to NATS."""
        return self._tunnel.is_up

    def start(self) -> None:
        """Begin to connect, for as long as it takes."""
        self._tunnel.start()

    async def stop_accepting(self) -> None:
        """Leave new associations to other processes."""
        await self._tunnel.stop_accepting()

    async def stop(self) -> None:
        """End what is left, after the listener has stopped."""
        await self._tunnel.stop(text="the service stops")

    def _stream_came(self, stream: TunnelStream) -> None:
        Arrival(stream, self._request_came, self._listener.settings.artim)

    def _request_came(self, arrival: Arrival, request: bytes) -> None:
        link = TunnelLink(self._listener.accept(), arrival.stream, Titles.of(request))
        link.begin(rename(request, self._ae_title, None), arrival.hand_over())
