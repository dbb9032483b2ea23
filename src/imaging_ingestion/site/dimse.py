"""The DIMSE services of a site, each listening on its port for its storage space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from imaging_ingestion.api.metrics import Metrics
from imaging_ingestion.association.association import Association
from imaging_ingestion.association.listener import Listener
from imaging_ingestion.association.policy import IngestionServices, ingestion_policy
from imaging_ingestion.association.services.arrivals import Arrivals
from imaging_ingestion.association.services.commitment import CommitmentService
from imaging_ingestion.association.services.commitment_reporter import CommitmentReporter
from imaging_ingestion.association.services.destination import (
    Connector,
    Destination,
    Destinations,
)
from imaging_ingestion.association.services.find import FindService, FindSettings
from imaging_ingestion.association.services.get import GetService
from imaging_ingestion.association.services.move import MoveService, MoveSettings
from imaging_ingestion.association.services.storing import Storing
from imaging_ingestion.dimse.requestor import Proposal
from imaging_ingestion.resources.plan import DimsePlan
from imaging_ingestion.site.addresses import RunningEntity
from imaging_ingestion.site.core import RunningCore
from imaging_ingestion.site.dimse_parts import DimseParts
from imaging_ingestion.site.dimse_sources import told_of_associations
from imaging_ingestion.transcoding.transcoder import Transcoder
from imaging_ingestion.workers.turns import Entrance

if TYPE_CHECKING:
    from imaging_ingestion.tunnel.service import TunnelService


@dataclass(slots=True)
class ListeningEntity:
    """An application entity, and what answers for it: on TCP, over NATS, or both."""

    entity: RunningEntity
    listener: Listener
    tunnel: TunnelService | None = None

    async def stop(self) -> None:
        """Take nothing new; finish what is in hand."""
        if self.tunnel is not None:
            await self.tunnel.stop_accepting()
        await self.listener.stop()
        if self.tunnel is not None:
            await self.tunnel.stop()


async def start_dimse(
    stack: AsyncExitStack,
    cores: Sequence[RunningCore],
    parts: Mapping[str, DimseParts],
    host: str,
    metrics: Metrics,
    subjects: Mapping[str, str],
    entrances: Mapping[str, Entrance] | None = None,
) -> list[ListeningEntity]:
    """Start the services of all cores. Raises OSError if an address is taken.

    `subjects`: where those are reached over NATS that are to be; `entrances`: where they accept,
    if they share that with other processes.
    """
    transcoder = Transcoder()
    stack.push_async_callback(transcoder.close)
    entities = []
    for core in cores:
        reporters = _start_reporters(stack, core, parts)
        for plan in core.plan.dimse:
            part = parts[plan.name]
            arrivals = told_of_associations(stack, plan, part.connector, core.hints)
            reporter = reporters[plan.space]
            listener = _listener(core, plan, part, reporter, transcoder, metrics, arrivals)
            stack.push_async_callback(listener.stop)
            port = await _listen(listener, plan, part, host, entrances)
            metrics.watch_dimse(plan.name, listener)
            entity = RunningEntity(
                plan.name,
                plan.ae_title,
                host,
                port,
                part.tls is not None,
                subjects.get(plan.name),
            )
            entities.append(ListeningEntity(entity, listener))
    return entities


def _start_reporters(
    stack: AsyncExitStack, core: RunningCore, parts: Mapping[str, DimseParts]
) -> dict[str, CommitmentReporter]:
    """The reporter of each space: whichever service took a request, it is one of the space's."""
    reporters: dict[str, CommitmentReporter] = {}
    for space in {plan.space for plan in core.plan.dimse}:
        destinations: dict[str, Destination] = {}
        connectors: dict[str, Connector] = {}
        for plan in core.plan.dimse:
            if plan.space == space:
                for one in _destinations(plan):
                    destinations[one.ae_title] = one
                    connectors[one.ae_title] = parts[plan.name].connector
        reporter = CommitmentReporter(
            core.database,
            core.spaces[space],
            Destinations(destinations.values()),
            _Connectors(connectors),
        )
        reporter.start()
        stack.push_async_callback(reporter.stop)
        reporters[space] = reporter
    return reporters


class _Connectors:
    """Calls each destination as the service does that names it: a `Connect`."""

    def __init__(self, by_title: Mapping[str, Connector]) -> None:
        self._by_title = by_title

    async def __call__(
        self, destination: Destination, proposals: Sequence[Proposal], *, calling_ae_title: str
    ) -> Association:
        """See `Connect`."""
        connector = self._by_title[destination.ae_title]
        return await connector(destination, proposals, calling_ae_title=calling_ae_title)


def _listener(
    core: RunningCore,
    plan: DimsePlan,
    part: DimseParts,
    reporter: CommitmentReporter,
    transcoder: Transcoder,
    metrics: Metrics,
    arrivals: Arrivals,
) -> Listener:
    space = core.spaces[plan.space]
    storing = Storing(space, core.database, transcoder)
    services = IngestionServices(
        core.services[plan.space].intake,
        plan.provider,
        find=FindService(core.database, space.name, FindSettings(plan.ae_title)),
        move=MoveService(
            storing,
            Destinations(_destinations(plan)),
            part.connector,
            MoveSettings(plan.ae_title),
        ),
        get=GetService(storing),
        commitment=CommitmentService(reporter),
        on_stored=partial(metrics.count_store, plan.name),
        arrivals=arrivals,
    )
    identities = part.identities
    policy = ingestion_policy(
        services,
        plan.ae_title,
        storage=part.storage,
        calling_ae_titles=plan.calling_ae_titles,
        verified_identity_kinds=frozenset() if identities is None else identities.kinds,
        identity_required=plan.identities is not None and plan.identities.required,
    )
    return Listener(policy, services.performers(), verify=identities, on_ended=arrivals.ended)


def _destinations(plan: DimsePlan) -> list[Destination]:
    return [Destination(one.ae_title, one.host, one.port, one.tls) for one in plan.destinations]


async def _listen(
    listener: Listener,
    plan: DimsePlan,
    part: DimseParts,
    host: str,
    entrances: Mapping[str, Entrance] | None,
) -> int | None:
    """The port that it listens on now, if any. Raises OSError with the address in its message."""
    if plan.port is None:
        return None
    if entrances is not None:
        entrance = entrances[plan.name]
        listener.share(entrance, tls=part.tls)
        return entrance.port
    try:
        return await listener.listen(host, plan.port, tls=part.tls)
    except OSError as error:
        what = f"cannot listen on {host}:{plan.port} for DIMSE: {error.strerror}"
        raise OSError(error.errno, what) from error
