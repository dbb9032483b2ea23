"""A site from its start to its end."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from imaging_ingestion.api.metrics import Metrics
from imaging_ingestion.http_server import HttpServer
from imaging_ingestion.resources.plan import SitePlan
from imaging_ingestion.site.addresses import RunningProxy, RunningSite, base_url
from imaging_ingestion.site.application import Front, create_application
from imaging_ingestion.site.core import read_selectors, start_core
from imaging_ingestion.site.spaces import read_buckets

if TYPE_CHECKING:
    from imaging_ingestion.site.dimse import ListeningEntity
    from imaging_ingestion.site.dimse_parts import DimseParts
    from imaging_ingestion.site.tunnel_parts import TunnelParts
    from imaging_ingestion.tunnel.proxy import Proxy

log = structlog.get_logger(__name__)


async def run_site(
    plan: SitePlan,
    *,
    data: Path,
    host: str,
    http_port: int,
    ready: Callable[[RunningSite], None] | None = None,
) -> None:
    """Run until SIGINT or SIGTERM; `ready` is told when it answers. See `running_site`."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    async with running_site(plan, data=data, host=host, http_port=http_port) as site:
        if ready is not None:
            ready(site)
        await stopping.wait()


@asynccontextmanager
async def running_site(
    plan: SitePlan, *, data: Path, host: str, http_port: int
) -> AsyncIterator[RunningSite]:
    """A site that answers while the context lasts. `http_port` 0 takes a free one.

    Raises SiteError if the plan cannot be run, OSError if the address is taken or a folder cannot
    be used.
    """
    selectors = read_selectors(plan)
    buckets = read_buckets(plan)
    parts = await _read_dimse_parts(plan)
    tunnel_parts = _read_tunnel_parts(plan, host, data)
    _prepare(data)
    front = Front()
    async with AsyncExitStack() as stack:
        server = HttpServer(front, host, http_port)
        await server.start()
        stack.push_async_callback(server.stop)
        root = base_url(host, server.port)
        cores = {
            core.name: await start_core(stack, core, data, root, selectors, buckets)
            for core in plan.cores
        }
        metrics = Metrics({name: core.database for name, core in cores.items()})
        listening: list[ListeningEntity] = []
        if parts:
            from imaging_ingestion.site.dimse import start_dimse

            subjects = {} if tunnel_parts is None else tunnel_parts.subjects
            listening = await start_dimse(
                stack, tuple(cores.values()), parts, host, metrics, subjects
            )
        proxies: list[tuple[RunningProxy, Proxy]] = []
        if tunnel_parts is not None:
            from imaging_ingestion.site.tunnels import start_nats, start_proxies, start_services

            tunnel_parts = await start_nats(stack, tunnel_parts)
            proxies = await start_proxies(stack, plan, tunnel_parts, metrics)
            start_services(listening, tunnel_parts, metrics)
        site = RunningSite(
            host,
            server.port,
            tuple(one.entity for one in listening),
            tuple(told for told, _ in proxies),
        )
        # Before the cores, which are still needed for what is in hand; and all at once, or one
        # would go on taking in while another ends.
        stops = [server.stop, *(one.stop for one in listening), *(one.stop for _, one in proxies)]
        stack.push_async_callback(_stop, stops)
        front.app = create_application(cores, metrics, tuple(map(str, site.dimse)))
        stack.callback(front.app.state.api.state.stopping.set)
        log.info("site.ready", url=root, dimse=list(map(str, site.dimse)), cores=list(cores))
        yield site
        log.info("site.stopping")


async def _read_dimse_parts(plan: SitePlan) -> Mapping[str, DimseParts]:
    """What the files of the DIMSE services say, by service. Raises SiteError."""
    if not any(core.dimse for core in plan.cores):
        return {}
    from imaging_ingestion.site.dimse_parts import read_dimse_parts

    return await read_dimse_parts(plan)


def _read_tunnel_parts(plan: SitePlan, host: str, data: Path) -> TunnelParts | None:
    """What is to go over NATS, if anything is. Raises SiteError."""
    if not (plan.proxies or any(one.nats is not None for core in plan.cores for one in core.dimse)):
        return None
    from imaging_ingestion.site.tunnel_parts import read_tunnel_parts

    return read_tunnel_parts(plan, host, data)


async def _stop(stops: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Take nothing new; finish what is in hand."""
    await asyncio.gather(*(stop() for stop in stops))


def _prepare(data: Path) -> None:
    """Make the data folder. Raises OSError if it cannot be used."""
    if data.exists() and not data.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(data))
    data.mkdir(parents=True, exist_ok=True)
    if not os.access(data, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "cannot be written to", str(data))
