"""What an operator watches of a spool."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge

if TYPE_CHECKING:
    from imaging_ingestion.manifest.spooled import Backlog
    from imaging_ingestion.tunnel.spool.quota import Quota


class SpoolMetrics:
    """The metrics of one spool, in a registry of their owner's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, what: str) -> Gauge:
            return Gauge(f"imaging_ingestion_spool_{name}", what, registry=registry)

        self._instances = gauge("instances", "Instances that wait to be sent.")
        self._dead = gauge("dead_letters", "Instances that the target refused for good.")
        self._delivered = gauge("delivered", "Instances sent in the time that is kept.")
        self._bytes = gauge("bytes", "Bytes of all instances that are kept.")
        self._oldest = gauge("oldest_seconds", "How long the first of them has waited.")
        self._open = gauge("way_open", "Whether instances go through, as far as is known.")
        self._refusals = gauge("full_refusals", "Writes refused for quota or free space.")
        self._answers = Counter(
            "imaging_ingestion_spool_received",
            "C-STORE requests answered, by status.",
            ["status"],
            registry=registry,
        )

    def answered(self, code: int) -> None:
        """A C-STORE was answered."""
        self._answers.labels(f"{code:04X}").inc()

    def show(self, backlog: Backlog, quota: Quota, *, is_open: bool) -> None:
        """What there is now."""
        self._instances.set(backlog.waiting)
        self._dead.set(backlog.dead)
        self._delivered.set(backlog.delivered)
        self._bytes.set(quota.used)
        oldest = backlog.oldest
        self._oldest.set(0 if oldest is None else max(0.0, time.time() - oldest / 1e6))
        self._open.set(is_open)
        self._refusals.set(quota.refusals)
