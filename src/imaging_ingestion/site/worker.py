"""One of the processes that are a site together: what it shares with the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from imaging_ingestion.site.nats_server import NatsAddress
from imaging_ingestion.workers.colleagues import Colleague
from imaging_ingestion.workers.turns import Entrance


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker by its number, from 1, and where it accepts; services and proxies by their names.

    A proxy that is not there is another worker's. `nats` is the site's own NATS server, if it needs
    one.
    """

    number: int
    http: Entrance
    dimse: Mapping[str, Entrance]
    proxies: Mapping[str, Entrance]
    colleague: Colleague
    nats: NatsAddress | None = field(default=None, repr=False)
