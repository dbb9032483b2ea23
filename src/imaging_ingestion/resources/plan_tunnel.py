"""What goes over NATS: proxies, and the services that have a subject there."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import SecretStr

from imaging_ingestion.resources.models import (
    DimseIngestionServiceSpec,
    DimseProxy,
    DimseProxySpec,
)
from imaging_ingestion.resources.nats_values import nats_values, proxy_values
from imaging_ingestion.resources.plan import DIMSE_PORT, ProxyPlan
from imaging_ingestion.resources.setting_values import Settings, read_settings
from imaging_ingestion.resources.site_file import Site

#: The key of the Secret that `spec.natsTokenSecret` names.
TOKEN_KEY = "token"  # noqa: S105 - its name


def proxy_plan(site: Site, proxy: DimseProxy, place: str, problems: list[str]) -> ProxyPlan:
    """What a proxy is to be; `problems` says whether it can be that."""
    spec = proxy.spec
    settings = read_settings(
        site,
        place,
        ("spec.dimseConfigName", spec.dimseConfigName),
        ("spec.dimseSecretName", spec.dimseSecretName),
        problems.append,
    )
    port = settings.number("DIMSE_PORT", DIMSE_PORT, 65535, least=0)
    said = proxy_values(spec, nats_token(site, spec, place, problems))
    return ProxyPlan(
        proxy.name, port if spec.port is None else spec.port, _values(settings, said), place
    )


def service_nats(
    site: Site,
    spec: DimseIngestionServiceSpec,
    settings: Settings,
    place: str,
    problems: list[str],
) -> Mapping[str, SecretStr] | None:
    """How a service is reached over NATS; None: it is not."""
    keys = ("DIMSE_NATS_URL", "DIMSE_NATS_SUBJECT_ROOT")
    if not (spec.natsUrl or spec.natsSubjectRoot or settings.any_of(keys)):
        return None
    said = nats_values(spec, nats_token(site, spec, place, problems))
    return _values(settings, said)


def nats_token(
    site: Site,
    spec: DimseIngestionServiceSpec | DimseProxySpec,
    place: str,
    problems: list[str],
) -> str | None:
    """The token of the Secret that a resource names."""
    if spec.natsTokenSecret is None:
        return None
    named = ("spec.natsTokenSecret", spec.natsTokenSecret)
    before = len(problems)
    token = read_settings(site, place, ("", None), named, problems.append).text(TOKEN_KEY)
    if token is None and len(problems) == before:
        problems.append(f"{place}: {named[0]}: {named[1]} has no key named {TOKEN_KEY}")
    return token


def _values(settings: Settings, said: Mapping[str, str]) -> Mapping[str, SecretStr]:
    """The resource's fields count, then the keys."""
    return settings.secrets("DIMSE_") | {name: SecretStr(text) for name, text in said.items()}
