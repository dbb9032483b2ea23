"""/metrics: what an operator watches, asked from the manifest when it is scraped.

The figures of a core are of all of it, whichever of its processes answers, and survive a restart;
the others are of a process, since its start. Where several processes are a site, the one that is
asked asks the others, and each figure of a process has the label `worker` (workers.figures).
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
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from imaging_ingestion.brokers.carried import CarriedBroker
from imaging_ingestion.manifest import changes, held, ledger, outbox, revision
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.database_error import is_away
from imaging_ingestion.manifest.usage import all_usage
from imaging_ingestion.workers.colleagues import Colleague
from imaging_ingestion.workers.figures import Figures

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


class _Carried(Collector):
    """What brokers have been given by this process."""

    def __init__(self) -> None:
        self.brokers: dict[str, CarriedBroker] = {}

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        up = GaugeMetricFamily(
            "imaging_ingestion_broker_up",
            "Whether the broker takes events, as far as this process knows.",
            labels=["core"],
        )
        carried = CounterMetricFamily(
            "imaging_ingestion_outbox_carried",
            "Events that the broker has taken from this process.",
            labels=["core"],
        )
        refused = CounterMetricFamily(
            "imaging_ingestion_outbox_refused",
            "Events that the broker will not take; the log (outbox.event_refused) names each.",
            labels=["core"],
        )
        for core, broker in self.brokers.items():
            up.add_metric([core], float(broker.is_connected))
            carried.add_metric([core], broker.outbox.state.carried)
            refused.add_metric([core], broker.outbox.state.refused)
        yield from (up, carried, refused)


class Metrics:
    """The metrics of a site's cores, and of what else it runs."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(
        self, databases: Mapping[str, Database], colleague: Colleague | None = None
    ) -> None:
        """`colleague`: there are other processes beside this one."""
        self._databases = databases
        self._registry = self._own = CollectorRegistry()
        self._figures: Figures | None = None
        if colleague is not None:
            self._own = CollectorRegistry()  # what is of this process only
            self._figures = Figures(self._own, colleague)
            self._registry.register(self._figures)
            colleague.answer_with(self._figures.packed)
        ProcessCollector(registry=self._own)
        GCCollector(registry=self._own)
        self._components = _Components()
        self._own.register(self._components)
        self._carried = _Carried()
        self._own.register(self._carried)
        self._lag = Gauge(
            "imaging_ingestion_outbox_lag_entries",
            "Entries of the log that the outbox has not looked at.",
            ["core"],
            registry=self._registry,
        )
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
        self._space: dict[str, Gauge] = {
            name: Gauge(
                f"imaging_ingestion_space_{name}", text, ["core", "space"], registry=self._registry
            )
            for name, text in {
                "instances": "Live instances of a storage space.",
                "bytes": "Bytes of the objects of a space's live instances.",
                "quarantined": "Instances of a space that are kept aside and wait.",
            }.items()
        }
        self._associations = Gauge(
            "imaging_ingestion_dimse_associations",
            "Associations that there are now.",
            ["service"],
            registry=self._own,
        )
        self._stores = Counter(
            "imaging_ingestion_dimse_stores",
            "C-STORE requests answered, by status (0000 is success).",
            ["service", "status"],
            registry=self._own,
        )

    def watch_broker(self, core: str, broker: CarriedBroker) -> None:
        """Show what a core's broker has been given, too."""
        self._carried.brokers[core] = broker

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
        if self._figures is not None:
            await self._figures.ask()
        return generate_latest(self._registry)

    async def _ask(self, core: str, database: Database) -> None:
        self._log.labels(core).set(await database.read(changes.last_seq))
        if core in self._carried.brokers:
            self._lag.labels(core).set(await database.read(outbox.lag))
        self._due.labels(core).set((await database.read(revision.next_due) or 0) / 1_000_000)
        waiting = await database.read(held.number_waiting)
        for space, usage in (await database.read(all_usage)).items():
            self._space["instances"].labels(core, space).set(usage.instances)
            self._space["bytes"].labels(core, space).set(usage.bytes)
            self._space["quarantined"].labels(core, space).set(waiting.get(space, 0))
        for binding, states in (await database.read(ledger.summary)).items():
            for state, count in states.items():
                self._deliveries.labels(core, binding, state).set(count)
        self._up.labels(core).set(1)
