"""The callers of DIMSE services that can be asked how many instances a study has."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AsyncExitStack

from imaging_ingestion.association.services.arrivals import Arrivals
from imaging_ingestion.association.services.destination import Connector, Destination
from imaging_ingestion.association.services.source import DimseSource
from imaging_ingestion.brokers.settle_hints import SettleHints, Source
from imaging_ingestion.resources.plan import DimsePlan
from imaging_ingestion.site.sources import qido_source


def told_of_associations(
    stack: AsyncExitStack, plan: DimsePlan, connector: Connector, hints: SettleHints
) -> Arrivals:
    """What a service tells of the studies that its callers have brought."""
    sources: dict[str, Source] = {}
    for one in plan.sources:
        title = one.ae_title.lower()
        if one.qido is not None:
            sources[title] = qido_source(stack, one.qido)
        elif one.entity is not None:
            entity = Destination(one.ae_title, one.entity.host, one.entity.port, one.entity.tls)
            sources[title] = DimseSource(entity, connector, plan.ae_title)

    def released(calling_ae_title: str, studies: Collection[str]) -> None:
        hints.released(plan.space, studies, sources.get(calling_ae_title.strip().lower()))

    return Arrivals(released)
