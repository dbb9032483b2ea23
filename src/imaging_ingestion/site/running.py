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
from imaging_ingestion.brokers.carried import CarriedBroker
from imaging_ingestion.http_server import HttpServer
from imaging_ingestion.resources.plan import SitePlan
from imaging_ingestion.site.addresses import RunningProxy, RunningSite, base_url
from imaging_ingestion.site.application import Front, create_application
from imaging_ingestion.site.brokers import nats_store
from imaging_ingestion.site.core import RunningCore, read_selectors, start_core
from imaging_ingestion.site.nats_server import NatsAddress, NatsServer
from imaging_ingestion.site.spaces import read_buckets

if TYPE_CHECKING:
    from imaging_ingestion.site.dimse import ListeningEntity
    from imaging_ingestion.site.dimse_parts import DimseParts
    from imaging_ingestion.site.tunnel_parts import TunnelParts
    from imaging_ingestion.site.worker import Worker
    from imaging_ingestion.tunnel.proxy import Proxy
    from imaging_ingestion.workers.colleagues import Colleague

log = structlog.get_logger(__name__)


async def run_site(
    plan: SitePlan,
    *,
    data: Path,
    host: str,
    http_port: int,
    ready: Callable[[RunningSite], None] | None = None,
    worker: Worker | None = None,
    alive: int | None = None,
) -> None:
    """Run until SIGINT or SIGTERM; `ready` is told when it answers. See `running_site`.

    `alive` is a file descriptor whose end says that nobody supervises this process any more: it
    stops then.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    if alive is not None:

        def abandoned(descriptor: int = alive) -> None:
            loop.remove_reader(descriptor)
            log.error("site.abandoned", help="the process that supervises this one has ended")
            stopping.set()

        loop.add_reader(alive, abandoned)
    async with running_site(plan, data=data, host=host, http_port=http_port, worker=worker) as site:
        if ready is not None:
            ready(site)
        await stopping.wait()


@asynccontextmanager
async def running_site(
    plan: SitePlan, *, data: Path, host: str, http_port: int, worker: Worker | None = None
) -> AsyncIterator[RunningSite]:
    """A site that answers while the context lasts. `http_port` 0 takes a free one.

    `worker`: it is one of several processes that are the site.

    Raises SiteError if the plan cannot be run, OSError if the address is taken or a folder cannot
    be used.
    """
    selectors = read_selectors(plan)
    buckets = read_buckets(plan)
    parts = await _read_dimse_parts(plan)
    tunnel_parts = _read_tunnel_parts(plan, host, data)
    _prepare(data)
    store = nats_store(plan, data)
    front = Front()
    async with AsyncExitStack() as stack:
        entrance = None if worker is None else worker.http
        server = HttpServer(front, host, http_port, entrance=entrance)
        if worker is None:
            await server.start()  # the port is taken, and whoever calls hears that it starts
        stack.push_async_callback(server.stop)
        root = base_url(host, server.port)
        own_nats = None if worker is None else worker.nats
        if worker is None and store is not None:
            own_nats = await _start_own_nats(stack, store)
        cores = {
            core.name: await start_core(stack, core, data, root, selectors, buckets, own_nats)
            for core in plan.cores
        }
        metrics = Metrics(
            {name: core.database for name, core in cores.items()},
            None if worker is None else worker.colleague,
        )
        for name, core in cores.items():
            if isinstance(core.broker, CarriedBroker):
                metrics.watch_broker(name, core.broker)
        if worker is not None:
            _work_together(stack, worker.colleague, tuple(cores.values()))
        listening: list[ListeningEntity] = []
        if parts:
            from imaging_ingestion.site.dimse import start_dimse

            subjects = {} if tunnel_parts is None else tunnel_parts.subjects
            listening = await start_dimse(
                stack,
                tuple(cores.values()),
                parts,
                host,
                metrics,
                subjects,
                None if worker is None else worker.dimse,
            )
        proxies: list[tuple[RunningProxy, Proxy]] = []
        if tunnel_parts is not None:
            from imaging_ingestion.site.tunnels import start_nats, start_proxies, start_services

            tunnel_parts = await start_nats(stack, tunnel_parts, own_nats)
            proxies = await start_proxies(stack, plan, tunnel_parts, metrics, worker)
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
        if worker is not None:
            await server.start()  # only now: until then the others answer
        log.info("site.ready", url=root, dimse=list(map(str, site.dimse)), cores=list(cores))
        yield site
        log.info("site.stopping")


async def _start_own_nats(stack: AsyncExitStack, store: Path) -> NatsAddress:
    """Where the site's own NATS server answers. Raises SiteError."""
    server = NatsServer(store=store)
    stack.push_async_callback(server.stop)
    await server.start()
    return server.address


def _work_together(
    stack: AsyncExitStack, colleague: Colleague, cores: Sequence[RunningCore]
) -> None:
    """Tell the other processes of what this one commits, and hear of what they do."""
    for core in cores:
        core.broker.on_commit(colleague.committed)

    def heard() -> None:
        for core in cores:
            core.broker.others_committed()

    colleague.follow(heard)
    stack.push_async_callback(colleague.stop)


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
