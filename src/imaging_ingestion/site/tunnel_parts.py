"""What proxies and services over NATS say: read, and found usable, before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from imaging_ingestion.nats_client.settings import NatsSettings, SettingsError
from imaging_ingestion.resources.plan import DimsePlan, SitePlan
from imaging_ingestion.resources.site_file import SiteError
from imaging_ingestion.site.nats_server import NatsAddress
from imaging_ingestion.tunnel.settings import (
    ProxySettings,
    TunnelSettings,
    proxy_settings,
    service_settings,
)
from imaging_ingestion.tunnel.subjects import Subjects

_URL: Final = "DIMSE_NATS_URL"
#: Beginnings of the keys that say something to a server that is not the site's own.
_TO_ANOTHER: Final = (
    "DIMSE_NATS_TLS_",
    "DIMSE_NATS_AUTH_",
    "DIMSE_NATS_USER",
    "DIMSE_NATS_PASSWORD",
    "DIMSE_NATS_NKEY_SEED",
    "DIMSE_NATS_CREDS",
)
#: Stands for the site's own server until that runs.
_OWN: Final = "127.0.0.1:4222"


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """How a service is reached over NATS."""

    nats: NatsSettings
    subjects: Subjects
    tunnel: TunnelSettings


@dataclass(frozen=True, slots=True)
class TunnelParts:
    """The settings of proxies and of services, by name; `on_own_server` have no URL."""

    proxies: Mapping[str, ProxySettings] = field(default_factory=dict)
    services: Mapping[str, ServiceSettings] = field(default_factory=dict)
    on_own_server: frozenset[tuple[str, str]] = frozenset()  # kind and name

    @property
    def subjects(self) -> dict[str, str]:
        """Where each service is called."""
        return {
            name: f"{one.subjects.root}.{one.subjects.channel}"
            for name, one in self.services.items()
        }

    def over(self, server: NatsAddress) -> TunnelParts:
        """With the site's own server for those that name none."""
        own = NatsSettings((server.url,), token=server.token)
        return replace(
            self,
            proxies={
                name: replace(one, nats=own) if ("proxy", name) in self.on_own_server else one
                for name, one in self.proxies.items()
            },
            services={
                name: replace(one, nats=own) if ("service", name) in self.on_own_server else one
                for name, one in self.services.items()
            },
        )


def read_tunnel_parts(plan: SitePlan, host: str, data: Path) -> TunnelParts:
    """The settings of all that goes over NATS. Raises SiteError.

    Proxies listen at `host`, and keep what waits under `data`, unless they say otherwise.
    """
    proxies: dict[str, ProxySettings] = {}
    services: dict[str, ServiceSettings] = {}
    own: set[tuple[str, str]] = set()
    problems: list[str] = []
    for proxy in plan.proxies:
        values = _plain(proxy.values) | {"DIMSE_PORT": str(proxy.port)}
        values.setdefault("DIMSE_HOST", host)
        spool = data / (values.get("DIMSE_SPOOL_DIRECTORY") or f"spools/{proxy.name}")
        values["DIMSE_SPOOL_DIRECTORY"] = str(spool)
        if _needs_own(values, proxy.place, problems):
            own.add(("proxy", proxy.name))
        try:
            settings = proxy_settings(values)
            proxies[proxy.name] = replace(
                settings, tunnel=replace(settings.tunnel, name=proxy.name)
            )
        except SettingsError as error:
            problems += [f"{proxy.place}: {problem}" for problem in error.problems]
    for service in _services(plan):
        values = _plain(service.nats or {}) | {"DIMSE_AE": service.ae_title}
        if _needs_own(values, service.place, problems):
            own.add(("service", service.name))
        try:
            services[service.name] = ServiceSettings(*service_settings(values))
        except SettingsError as error:
            problems += [f"{service.place}: {problem}" for problem in error.problems]
    if problems:
        raise SiteError(problems)
    return TunnelParts(proxies, services, frozenset(own))


def _services(plan: SitePlan) -> Iterator[DimsePlan]:
    return (one for core in plan.cores for one in core.dimse if one.nats is not None)


def _needs_own(values: dict[str, str], place: str, problems: list[str]) -> bool:
    """Whether they name no server; a place for it is held then.

    Who says how a server is to be trusted, or who we are to it, means another one than ours.
    """
    if values.get(_URL):
        return False
    problems += [
        f"{place}: {name}: {_URL} (spec.natsUrl) was expected beside it"
        for name in sorted(values)
        if name.startswith(_TO_ANOTHER) and values[name] != "false"
    ]
    values[_URL] = _OWN
    return True


def _plain(values: Mapping[str, SecretStr]) -> dict[str, str]:
    return {name: value.get_secret_value() for name, value in values.items()}
