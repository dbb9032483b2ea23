"""Runs a site's resources on one machine: the composition root of `up`.

Everything is built here from a `SitePlan`, handed down explicitly, started in the order of the flow
and stopped against it: first nothing new comes in, then what is in hand is finished, then the
database closes.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import DBAPIError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from imaging_ingestion.api.app import CoreHandle, create_api
from imaging_ingestion.api.landing import landing_page
from imaging_ingestion.api.metrics import Metrics
from imaging_ingestion.bindings.selector import Selector, SelectorError, parse_selector
from imaging_ingestion.brokers.embedded import BrokerSettings, EmbeddedBroker
from imaging_ingestion.brokers.settling import Settling
from imaging_ingestion.dicomweb.app import create_dicomweb
from imaging_ingestion.dicomweb.service import DicomwebService, DicomwebSettings
from imaging_ingestion.events.stored import ConflictPolicy
from imaging_ingestion.http_server import HttpServer
from imaging_ingestion.intake import Intake, IntakeSettings
from imaging_ingestion.manifest.database import Database, is_away, open_database
from imaging_ingestion.manifest.event_data import RootsOf, SpaceRoots
from imaging_ingestion.manifest.migrate import NewerSchemaError, migrate
from imaging_ingestion.resources.plan import CorePlan, SitePlan, SpacePlan
from imaging_ingestion.resources.site_file import SiteError
from imaging_ingestion.storage.directory import DirectorySpace
from imaging_ingestion.storage.space import Space

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RunningSite:
    """A site that answers."""

    host: str
    http_port: int

    @property
    def base_url(self) -> str:
        """The server's root URL."""
        return _base_url(self.host, self.http_port)


@dataclass(slots=True)
class _Core:
    """A core at work."""

    plan: CorePlan
    database: Database
    broker: EmbeddedBroker
    spaces: dict[str, Space]
    services: dict[str, DicomwebService]
    roots_of: RootsOf

    def handle(self) -> CoreHandle:
        return CoreHandle(
            name=self.plan.name,
            database=self.database,
            broker=self.broker,
            bindings=tuple(binding.name for binding in self.plan.bindings),
            spaces=tuple(self.spaces),
            next_commit=self.broker.next_commit,
            roots_of=self.roots_of,
        )


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
    selectors = _selectors(plan)
    _prepare(data)
    front = _Front()
    async with AsyncExitStack() as stack:
        server = HttpServer(front, host, http_port)
        await server.start()
        stack.push_async_callback(server.stop)
        base_url = _base_url(host, server.port)
        cores = {
            core.name: await _start_core(stack, core, data, base_url, selectors)
            for core in plan.cores
        }
        # Stopped before the cores, which are still needed for what is in hand.
        stack.push_async_callback(server.stop)
        front.app = _application(cores)
        stack.callback(front.app.state.api.state.stopping.set)
        log.info("site.ready", url=base_url, cores=list(cores))
        yield RunningSite(host, server.port)
        log.info("site.stopping")


def _prepare(data: Path) -> None:
    """Make the data folder. Raises OSError if it cannot be used."""
    if data.exists() and not data.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(data))
    data.mkdir(parents=True, exist_ok=True)
    if not os.access(data, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "cannot be written to", str(data))


def _selectors(plan: SitePlan) -> dict[str, Selector]:
    """The selector of each binding, by its name. Raises SiteError."""
    selectors: dict[str, Selector] = {}
    problems = []
    for binding in (binding for core in plan.cores for binding in core.bindings):
        try:
            selectors[binding.name] = parse_selector(binding.selector)
        except SelectorError as error:
            problems.append(f"binding {binding.name}: {error}")
    if problems:
        raise SiteError(problems)
    return selectors


class _Front:
    """Answers 503 until the site is up: the port is known before what answers on it."""

    def __init__(self) -> None:
        self.app: Starlette | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self.app or Response("starting", status_code=503, headers={"Retry-After": "1"})
        await answer(scope, receive, send)


async def _start_core(
    stack: AsyncExitStack,
    plan: CorePlan,
    data: Path,
    base_url: str,
    selectors: Mapping[str, Selector],
) -> _Core:
    database = await _open_manifest(stack, plan, data)
    plans = {space.name: space for space in plan.spaces}

    def roots_of(space: str) -> SpaceRoots:
        own = f"{base_url}/spaces/{space}/dicom-web"
        declared = plans.get(space)
        if declared is None:
            return SpaceRoots(own, own)
        internal = (declared.internal_url or own).rstrip("/")
        return SpaceRoots(internal, (declared.external_url or internal).rstrip("/"))

    settings = BrokerSettings(
        core=plan.name,
        revisioning_delay=plan.revisioning_delay,
        roots_of=roots_of,
        api_url=f"{base_url}/api",
    )
    broker = EmbeddedBroker(database, settings)
    spaces: dict[str, Space] = {}
    services: dict[str, DicomwebService] = {}
    intakes = []
    for space_plan in plan.spaces:
        service = await _start_space(stack, space_plan, data, database, broker)
        spaces[space_plan.name] = service.space
        services[space_plan.name] = service
        intakes.append(service.intake)
    _subscribe(stack, plan, broker, database, spaces, base_url, selectors)
    await broker.start()
    stack.push_async_callback(broker.stop)
    for intake in intakes:
        stack.push_async_callback(intake.close)
    settling = Settling(
        database,
        lambda space, study, series: f"{roots_of(space).internal}/studies/{study}/series/{series}",
        broker.committed,
    )
    settling.start()
    stack.push_async_callback(settling.stop)
    return _Core(plan, database, broker, spaces, services, roots_of)


async def _open_manifest(stack: AsyncExitStack, plan: CorePlan, data: Path) -> Database:
    """The core's database, in the newest version. Raises SiteError."""
    url = plan.database.url
    if url is None:
        file = data / (plan.database.file or f"{plan.name}.db")
        url = URL.create("sqlite", database=str(file))
    database = open_database(url, max_size=plan.database.max_size)
    stack.push_async_callback(database.close)
    try:
        await migrate(database)
    except (OSError, DBAPIError, NewerSchemaError) as error:
        reason = str(getattr(error, "orig", None) or getattr(error, "strerror", None) or error)
        raise SiteError(
            [f"core {plan.name}: the database {url} cannot be used: {reason}"]
        ) from error
    return database


async def _start_space(
    stack: AsyncExitStack,
    plan: SpacePlan,
    data: Path,
    database: Database,
    broker: EmbeddedBroker,
) -> DicomwebService:
    space = DirectorySpace(plan.name, data / plan.directory)
    stack.push_async_callback(space.close)
    intake = Intake(
        space, broker, IntakeSettings(conflict_policy=ConflictPolicy(plan.conflict_policy))
    )
    return DicomwebService(
        space_name=plan.name,
        space=space,
        database=database,
        intake=intake,
        provider=plan.provider,
        settings=DicomwebSettings(external_url=plan.external_url),
    )


def _subscribe(
    stack: AsyncExitStack,
    plan: CorePlan,
    broker: EmbeddedBroker,
    database: Database,
    spaces: Mapping[str, Space],
    base_url: str,
    selectors: Mapping[str, Selector],
) -> None:
    """Build the bindings of a core and hand them their events. Raises SiteError."""
    if not plan.bindings:
        return
    from imaging_ingestion.bindings.build import build_binding

    for binding_plan in plan.bindings:
        selector = selectors[binding_plan.name]
        try:
            binding = build_binding(binding_plan, selector, database, spaces, base_url)
        except ValueError as error:
            raise SiteError([f"binding {binding_plan.name}: {error}"]) from error
        stack.push_async_callback(binding.target.close)
        broker.subscribe(binding.subscription, binding.handler)


def _application(cores: Mapping[str, _Core]) -> Starlette:
    services = {name: s for core in cores.values() for name, s in core.services.items()}
    default = next(iter(services.values()))
    api = create_api({name: core.handle() for name, core in cores.items()})
    metrics = Metrics({name: core.database for name, core in cores.items()})

    async def live(_request: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def is_ready(_request: Request) -> Response:
        try:
            await asyncio.gather(*(core.database.read(_answers) for core in cores.values()))
        except Exception as error:
            if not is_away(error):
                raise
            return JSONResponse({"status": "the database does not answer"}, status_code=503)
        return JSONResponse({"status": "ready"})

    async def landing(_request: Request) -> Response:
        return HTMLResponse(landing_page(tuple(services)))

    async def show_metrics(_request: Request) -> Response:
        return Response(await metrics.text(), media_type=metrics.media_type)

    mounts = [
        Mount(f"/spaces/{name}/dicom-web", create_dicomweb(service))
        for name, service in services.items()
    ]
    roots = ["/dicom-web"]
    if len(services) == 1:
        roots += ["/stow-rs", "/wado-rs"]  # upstream's
    mounts += [Mount(root, create_dicomweb(default)) for root in roots]
    app = Starlette(
        routes=[
            Route("/", landing),
            Route("/healthz/live", live),
            Route("/healthz/ready", is_ready),
            Route("/metrics", show_metrics),
            Mount("/api", api),
            *mounts,
        ]
    )
    app.state.api = api
    return app


def _answers(connection: Connection) -> None:
    connection.exec_driver_sql("SELECT 1")


def _base_url(host: str, port: int) -> str:
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - we are asked to listen there; clients use loopback
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
