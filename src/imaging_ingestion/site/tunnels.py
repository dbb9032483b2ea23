"""The proxies of a site, and its DIMSE services on their NATS subjects."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

from prometheus_client import CollectorRegistry

from imaging_ingestion.api.metrics import Metrics
from imaging_ingestion.association.tls import TlsError
from imaging_ingestion.nats_client.settings import SettingsError
from imaging_ingestion.resources.plan import SitePlan
from imaging_ingestion.resources.site_file import SiteError
from imaging_ingestion.site.addresses import RunningProxy
from imaging_ingestion.site.dimse import ListeningEntity
from imaging_ingestion.site.nats_server import NatsAddress, NatsServer
from imaging_ingestion.site.tunnel_parts import TunnelParts
from imaging_ingestion.site.worker import Worker
from imaging_ingestion.tunnel.metrics import TunnelMetrics
from imaging_ingestion.tunnel.proxy import Proxy
from imaging_ingestion.tunnel.service import TunnelService


async def start_nats(
    stack: AsyncExitStack, parts: TunnelParts, running: NatsAddress | None
) -> TunnelParts:
    """The parts, with the site's own server running for those that name none. Raises SiteError.

    `running`: it runs already, in another process.
    """
    if not parts.on_own_server:
        return parts
    if running is None:
        server = NatsServer()
        stack.push_async_callback(server.stop)
        await server.start()
        running = server.address
    return parts.over(running)


def start_services(
    entities: Sequence[ListeningEntity], parts: TunnelParts, metrics: Metrics
) -> None:
    """Let the services that have a subject be called there, too."""
    for one in entities:
        settings = parts.services.get(one.entity.name)
        if settings is None:
            continue
        registry = CollectorRegistry()
        one.tunnel = TunnelService(
            settings.nats,
            settings.subjects,
            settings.tunnel,
            one.listener,
            one.entity.ae_title,
            TunnelMetrics(registry),
        )
        one.tunnel.start()
        metrics.watch(one.entity.name, registry)


async def start_proxies(
    stack: AsyncExitStack,
    plan: SitePlan,
    parts: TunnelParts,
    metrics: Metrics,
    worker: Worker | None,
) -> list[tuple[RunningProxy, Proxy]]:
    """Start the proxies. Raises SiteError, OSError if an address is taken.

    A `worker` starts those that it has.
    """
    running = []
    for name in (proxy.name for proxy in plan.proxies):
        settings = parts.proxies[name]
        entrance = None
        if worker is not None:
            if name not in worker.proxies:
                continue
            entrance = worker.proxies[name]
        registry = CollectorRegistry()
        try:
            proxy = Proxy(settings, TunnelMetrics(registry), entrance=entrance)
            stack.push_async_callback(proxy.stop)
            await proxy.start()
        except (TlsError, SettingsError) as error:
            raise SiteError([f"DimseProxy {name}: {error}"]) from error
        except OSError as error:
            if error.filename is not None:  # of the folder where instances wait
                raise
            what = f"cannot listen on {settings.host}:{settings.port} for DimseProxy {name}: "
            raise OSError(error.errno, what + str(error.strerror)) from error
        metrics.watch(name, registry)
        target = settings.target
        told = RunningProxy(
            name,
            settings.ae_title or "*",
            settings.host,
            proxy.port,
            f"{settings.subjects.root}.{settings.subjects.channel}",
            None if target is None else f"{target.ae_title or '*'}@{target.host}:{target.port}",
            None if settings.spool is None else str(settings.spool.directory),
        )
        running.append((told, proxy))
    return running
