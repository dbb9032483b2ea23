"""/metrics: what an operator watches, asked from the manifest when it is scraped.

The figures are of the whole core, whichever of its processes answers, and survive a restart; those
of DIMSE are of this process, since its start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import structlog
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from imaging_ingestion.manifest import changes, ledger, revision
from imaging_ingestion.manifest.database import Database, is_away

log = structlog.get_logger(__name__)


class Listens(Protocol):
    """What accepts associations."""

    @property
    def associations(self) -> int:
        """How many there are now."""


class _Components(Collector):
    """The metrics of components that keep their own, each with a label that names it."""

    def __init__(self) -> None:
        self.registries: dict[str, CollectorRegistry] = {}

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        families: dict[str, Metric] = {}
        for component, registry in self.registries.items():
            for found in registry.collect():
                family = families.setdefault(
                    found.name, Metric(found.name, found.documentation, found.type)
                )
                family.samples += [
                    sample._replace(labels={"component": component, **sample.labels})
                    for sample in found.samples
                ]
        yield from families.values()


class Metrics:
    """The metrics of a site's cores, and of what else it runs."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self, databases: Mapping[str, Database]) -> None:
        self._databases = databases
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._components = _Components()
        self._registry.register(self._components)
        self._up = Gauge(
            "imaging_ingestion_database_up",
            "Whether the manifest's database answers.",
            ["core"],
            registry=self._registry,
        )
        self._deliveries = Gauge(
            "imaging_ingestion_deliveries",
            "Deliveries in the ledger by state.",
            ["core", "binding", "state"],
            registry=self._registry,
        )
        self._log = Gauge(
            "imaging_ingestion_log_entries",
            "Number of the newest entry of the ordered log.",
            ["core"],
            registry=self._registry,
        )
        self._due = Gauge(
            "imaging_ingestion_next_revision_due_seconds",
            "When the next study is to be settled, Unix time; 0 if none is waiting.",
            ["core"],
            registry=self._registry,
        )
        self._associations = Gauge(
            "imaging_ingestion_dimse_associations",
            "Associations that there are now.",
            ["service"],
            registry=self._registry,
        )
        self._stores = Counter(
            "imaging_ingestion_dimse_stores",
            "C-STORE requests answered, by status (0000 is success).",
            ["service", "status"],
            registry=self._registry,
        )

    def watch_dimse(self, service: str, listener: Listens) -> None:
        """Show a DIMSE service, too."""
        self._associations.labels(service).set_function(lambda: listener.associations)

    def watch(self, component: str, registry: CollectorRegistry) -> None:
        """Show the metrics of a component's own registry, too."""
        self._components.registries[component] = registry

    def count_store(self, service: str, status: int) -> None:
        """One more C-STORE was answered."""
        self._stores.labels(service, f"{status:04X}").inc()

    async def text(self) -> bytes:
        """The exposition, freshly read; of a core whose database is away, only that it is."""
        for core, database in self._databases.items():
            try:
                await self._ask(core, database)
            except Exception as error:
                if not is_away(error):
                    raise
                log.warning("metrics.database_away", core=core, error=type(error).__name__)
                self._up.labels(core).set(0)
        return generate_latest(self._registry)

    async def _ask(self, core: str, database: Database) -> None:
        self._log.labels(core).set(await database.read(changes.last_seq))
        self._due.labels(core).set((await database.read(revision.next_due) or 0) / 1_000_000)
        for binding, states in (await database.read(ledger.summary)).items():
            for state, count in states.items():
                self._deliveries.labels(core, binding, state).set(count)
        self._up.labels(core).set(1)
