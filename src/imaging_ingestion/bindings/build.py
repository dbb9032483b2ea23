"""Builds a binding from its plan: the subscription, and the handler that delivers.

Imported only where there is a binding: a site without one needs no HTTP client in its memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from imaging_ingestion.bindings.fhir.binding import FhirBinding, mapping_settings
from imaging_ingestion.bindings.http_target import Credentials, HttpTarget
from imaging_ingestion.bindings.selector import Selector
from imaging_ingestion.bindings.stow import StowBinding
from imaging_ingestion.events.broker import Handler, Subscription
from imaging_ingestion.events.model import DICOM_AVAILABLE, STUDY_REVISION
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.resources.plan import FhirPlan, StowPlan
from imaging_ingestion.storage.space import Space


@dataclass(frozen=True, slots=True)
class Binding:
    """A binding ready to be subscribed; `target` is to be closed at the end."""

    subscription: Subscription
    handler: Handler
    target: HttpTarget


def build_binding(
    plan: StowPlan | FhirPlan,
    selector: Selector,
    database: Database,
    spaces: Mapping[str, Space],
    base_url: str,
) -> Binding:
    """Build a binding; `base_url` is this server's root. Raises ValueError for a bad setting."""
    if isinstance(plan, StowPlan):
        event_type = DICOM_AVAILABLE
        target = _target(plan, None, None)
        endpoint = _absolute(plan.endpoint, base_url)
        handler: Handler = StowBinding(endpoint, target, database, spaces).deliver
    else:
        event_type = STUDY_REVISION
        password = plan.password.get_secret_value() if plan.password else None
        target = _target(plan, plan.username, password)
        handler = FhirBinding(
            target,
            database,
            endpoint=plan.endpoint and _absolute(plan.endpoint, base_url),
            imaging_study_endpoint=plan.imaging_study_endpoint
            and _absolute(plan.imaging_study_endpoint, base_url),
            mapping=mapping_settings(plan.time_zone, plan.patient_id_system),
        ).deliver
    subscription = Subscription(
        name=plan.name,
        event_type=event_type,
        concurrency=plan.concurrency,
        wants=lambda event: selector.wants(event.provider),
    )
    return Binding(subscription, handler, target)


def _target(plan: StowPlan | FhirPlan, username: str | None, password: str | None) -> HttpTarget:
    token = plan.token.get_secret_value() if plan.token else None
    return HttpTarget(Credentials(token, username, password), connections=plan.concurrency)


def _absolute(endpoint: str, base_url: str) -> str:
    """An endpoint given as a path is one of this server."""
    return base_url + endpoint if endpoint.startswith("/") else endpoint
