"""How a core uses NATS JetStream."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from imaging_ingestion.brokers.jetstream_names import DEFAULT_ROOT
from imaging_ingestion.nats_client.settings import NatsSettings

MOST_REPLICAS: Final = 5


@dataclass(frozen=True, slots=True)
class JetStreamSettings:
    """Where the streams are and what they keep.

    `max_age`: how long events stay for others to read; our bindings need none of them twice. Dead
    letters stay until they are driven again. `duplicates`: how long the server knows what it has
    taken. `batch`: messages that a binding's consumer is given at once, `bytes_at_once` of them in
    bytes.
    """

    nats: NatsSettings = field(default_factory=NatsSettings)
    subject_root: str = DEFAULT_ROOT
    replicas: int = 1
    max_age: timedelta = timedelta(days=7)
    duplicates: timedelta = timedelta(minutes=2)
    batch: int = 256
    bytes_at_once: int = 16 << 20
    #: Until a message that was not acknowledged is sent again.
    ack_wait: timedelta = timedelta(seconds=30)
    #: Without messages, and between signs of life of the server.
    idle: timedelta = timedelta(seconds=20)
    heartbeat: timedelta = timedelta(seconds=5)
