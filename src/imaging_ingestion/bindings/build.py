"""Builds a binding from its plan: the subscription, and the handler that delivers.

Imported only where there is a binding: a site without one needs no HTTP client in its memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from imaging_ingestion.bindings.fhir.binding import FhirBinding, mapping_settings
from imaging_ingestion.bindings.http_target import Credentials, HttpTarget
from imaging_ingestion.bindings.selector import Selector
from imaging_ingestion.bindings.stow import StowBinding
from imaging_ingestion.events.broker import Handler, Subscription
from imaging_ingestion.events.model import DICOM_AVAILABLE, STUDY_REVISION
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.event_data import SpaceRoots
from imaging_ingestion.resources.plan import BindingPlan, CStorePlan, FhirPlan, StowPlan
from imaging_ingestion.storage.space import Space


class Target(Protocol):
    """What a binding keeps open."""

    async def close(self) -> None:
        """Let go of it."""


@dataclass(frozen=True, slots=True)
class Binding:
    """A binding ready to be subscribed; `target` is to be closed at the end."""

    subscription: Subscription
    handler: Handler
    target: Target


def build_binding(
    plan: BindingPlan,
    selector: Selector,
    database: Database,
    spaces: Mapping[str, Space],
    base_url: str,
    roots: Iterable[SpaceRoots] = (),
) -> Binding:
    """Build a binding; `base_url` is this server's root, `roots` those of the spaces' DICOMweb.

    Raises ValueError for a bad setting.
    """
    target: Target
    if isinstance(plan, StowPlan):
        event_type = DICOM_AVAILABLE
        target = http = _http_target(plan, None, None)
        endpoint = _absolute(plan.endpoint, base_url)
        handler: Handler = StowBinding(endpoint, http, database, spaces).deliver
    elif isinstance(plan, CStorePlan):
        from imaging_ingestion.bindings.build_cstore import build_cstore

        event_type = DICOM_AVAILABLE
        target, handler = build_cstore(plan, database, spaces)
    else:
        event_type = STUDY_REVISION
        password = plan.password.get_secret_value() if plan.password else None
        target = http = _http_target(plan, plan.username, password)
        handler = FhirBinding(
            http,
            database,
            endpoint=plan.endpoint and _absolute(plan.endpoint, base_url),
            imaging_study_endpoint=plan.imaging_study_endpoint
            and _absolute(plan.imaging_study_endpoint, base_url),
            mapping=mapping_settings(
                plan.time_zone,
                plan.patient_id_system,
                {one.internal: one.external for one in roots},
            ),
        ).deliver
    subscription = Subscription(
        name=plan.name,
        event_type=event_type,
        concurrency=plan.concurrency,
        wants=lambda event: selector.wants(event.provider),
    )
    return Binding(subscription, handler, target)


def _http_target(
    plan: StowPlan | FhirPlan, username: str | None, password: str | None
) -> HttpTarget:
    token = plan.token.get_secret_value() if plan.token else None
    return HttpTarget(Credentials(token, username, password), connections=plan.concurrency)


def _absolute(endpoint: str, base_url: str) -> str:
    """An endpoint given as a path is one of this server."""
    return base_url + endpoint if endpoint.startswith("/") else endpoint
