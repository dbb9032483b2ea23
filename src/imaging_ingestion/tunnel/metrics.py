"""What an operator watches of a tunnel."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class TunnelMetrics:
    """The metrics of one tunnel, in a registry of their owner's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"imaging_ingestion_tunnel_{name}", what, labels, registry=registry)

        self.registry = registry
        self.nats_up = Gauge(
            "imaging_ingestion_tunnel_nats_up",
            "Whether there is a connection to NATS.",
            registry=registry,
        )
        self.streams = Gauge(
            "imaging_ingestion_tunnel_streams", "Streams that there are now.", registry=registry
        )
        self.opened = counter("streams_opened", "Streams opened, by whom: us or peer.", "by")
        self.refused = counter(
            "streams_refused", "Streams not opened, by whom and why.", "by", "why"
        )
        self.failed = counter("streams_failed", "Streams that ended in the middle, and why.", "why")
        self.sent = counter("sent_bytes", "Bytes of associations sent, those sent again included.")
        self.resent = counter("resent_bytes", "Bytes sent again, for they had been lost.")
        self.received = counter("received_bytes", "Bytes of associations received.")
        self.bad_frames = counter(
            "bad_frames", "Messages that were no frames of ours, by fault.", "why"
        )
        self.links = counter("nats_connections", "Connections to NATS that were made.")
