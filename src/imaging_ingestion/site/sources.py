"""The senders of STOW-RS that can be asked how many instances a study has."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from imaging_ingestion.brokers.settle_hints import SettleHints
from imaging_ingestion.resources.plan import CorePlan, QidoSourcePlan

if TYPE_CHECKING:
    from imaging_ingestion.dicomweb.qido_source import QidoSource


def told_of_stow(
    stack: AsyncExitStack, plan: CorePlan, space: str, hints: SettleHints
) -> Callable[[Collection[str]], None] | None:
    """What to tell the studies of each STOW request of a space, if anybody is asked then."""
    declared = plan.stow_sources.get(space)
    if declared is None:
        return None
    source = qido_source(stack, declared)
    return lambda studies: hints.stored(space, studies, source)


def qido_source(stack: AsyncExitStack, plan: QidoSourcePlan) -> QidoSource:
    """A sender with a DICOMweb root; it is closed with the site."""
    from imaging_ingestion.dicomweb.qido_source import QidoSource

    source = QidoSource(plan.url, None if plan.token is None else plan.token.get_secret_value())
    stack.push_async_callback(source.close)
    return source
