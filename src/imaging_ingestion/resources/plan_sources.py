"""Senders that can be asked how many instances a study has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from imaging_ingestion.resources.models import (
    DicomwebIngestionService,
    DimseIngestionServiceSpec,
)
from imaging_ingestion.resources.parts import QidoSource
from imaging_ingestion.resources.plan import (
    DEFAULT_SPACE,
    DestinationPlan,
    QidoSourcePlan,
    SourcePlan,
)
from imaging_ingestion.resources.setting_values import is_url, read_settings
from imaging_ingestion.resources.site_file import Site


def stow_sources(
    site: Site, services: Iterable[tuple[DicomwebIngestionService, str]], problems: list[str]
) -> Mapping[str, QidoSourcePlan]:
    """The senders of STOW-RS, by space."""
    found: dict[str, QidoSourcePlan] = {}
    for service, place in services:
        declared = service.spec.source
        if declared is None:
            continue
        space = service.spec.bucketConfigName or DEFAULT_SPACE
        plan = _qido(site, declared, place, "spec.source", problems)
        if found.setdefault(space, plan) != plan:
            problems.append(f"{place}: spec.source: another service of the space has another one")
    return found


def dimse_sources(
    site: Site, spec: DimseIngestionServiceSpec, place: str, problems: list[str]
) -> tuple[SourcePlan, ...]:
    """The callers that can be asked; titles are compared without regard to case."""
    found: dict[str, SourcePlan] = {}
    for number, one in enumerate(spec.sources):
        field = f"spec.sources[{number}]"
        title = one.applicationEntityTitle
        if (one.host is None) == (one.qido is None):
            problems.append(f"{place}: {field}: one of host and qido was expected")
        if title.lower() in found:
            problems.append(f"{place}: {field}.applicationEntityTitle: {title} stands there twice")
        entity = None if one.host is None else DestinationPlan(title, one.host, one.port, one.tls)
        qido = None if one.qido is None else _qido(site, one.qido, place, f"{field}.qido", problems)
        found.setdefault(title.lower(), SourcePlan(title, entity, qido))
    return tuple(found.values())


def _qido(
    site: Site, declared: QidoSource, place: str, field: str, problems: list[str]
) -> QidoSourcePlan:
    if not is_url(declared.url):
        problems.append(f"{place}: {field}.url: http://HOST… or https://HOST… was expected")
    secret = (f"{field}.secretName", declared.secretName)
    settings = read_settings(site, place, ("", None), secret, problems.append)
    return QidoSourcePlan(declared.url, settings.secret("QIDO_AUTH_TOKEN"))
