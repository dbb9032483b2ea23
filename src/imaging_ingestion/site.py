"""Runs a site's resources on one machine: the composition root of `up`.

Everything is built here from a `SitePlan`, handed down explicitly, started in the order of the flow
and stopped against it: first nothing new comes in, then what is in hand is finished, then the
database closes.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy.engine import URL, Connection
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from imaging_ingestion.api.app import CoreHandle, create_api
from imaging_ingestion.api.landing import landing_page
from imaging_ingestion.api.metrics import Metrics
from imaging_ingestion.bindings.fhir.binding import FhirBinding
from imaging_ingestion.bindings.http_target import Credentials, HttpTarget
from imaging_ingestion.bindings.selector import SelectorError, parse_selector
from imaging_ingestion.bindings.stow import StowBinding
from imaging_ingestion.brokers.embedded import BrokerSettings, EmbeddedBroker
from imaging_ingestion.brokers.settling import Settling
from imaging_ingestion.dicomweb.app import create_dicomweb
from imaging_ingestion.dicomweb.service import DicomwebService, DicomwebSettings
from imaging_ingestion.events.broker import Handler, Subscription
from imaging_ingestion.events.model import DICOM_AVAILABLE, STUDY_REVISION
from imaging_ingestion.events.stored import ConflictPolicy
from imaging_ingestion.http_server import HttpServer
from imaging_ingestion.intake import Intake, IntakeSettings
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.migrate import migrate
from imaging_ingestion.resources.plan import CorePlan, FhirPlan, SitePlan, SpacePlan, StowPlan
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

    def handle(self) -> CoreHandle:
        return CoreHandle(
            name=self.plan.name,
            database=self.database,
            broker=self.broker,
            bindings=tuple(binding.name for binding in self.plan.bindings),
            spaces=tuple(self.spaces),
            wait_for_commit=_Commits(self.broker).wait,
        )


class _Commits:
    """Lets any number of readers wait for the next commit of this process."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self._next: asyncio.Event = asyncio.Event()
        broker.on_commit(self._happened)

    async def wait(self, timeout: float) -> None:
        waiting = self._next
        try:
            async with asyncio.timeout(timeout):
                await waiting.wait()
        except TimeoutError:
            return

    def _happened(self) -> None:
        happened, self._next = self._next, asyncio.Event()
        happened.set()


async def run_site(
    plan: SitePlan,
    *,
    data: Path,
    host: str,
    http_port: int,
    ready: Callable[[RunningSite], None] | None = None,
) -> None:
    """Run until SIGINT or SIGTERM. `http_port` 0 takes a free one; `ready` is told when it answers.

    Raises SiteError if the plan cannot be run, OSError if the address is taken.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    data.mkdir(parents=True, exist_ok=True)
    front = _Front()
    async with AsyncExitStack() as stack:
        server = HttpServer(front, host, http_port)
        await server.start()
        base_url = _base_url(host, server.port)
        cores = {core.name: await _start_core(stack, core, data, base_url) for core in plan.cores}
        # Stopped first: nothing new comes in while the rest finishes.
        stack.push_async_callback(server.stop)
        front.app = _application(cores)
        stack.callback(front.app.state.api.state.stopping.set)
        log.info("site.ready", url=base_url, cores=list(cores))
        if ready is not None:
            ready(RunningSite(host, server.port))
        await stopping.wait()
        log.info("site.stopping")


class _Front:
    """Answers 503 until the site is up: the port is known before what answers on it."""

    def __init__(self) -> None:
        self.app: Starlette | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self.app or Response("starting", status_code=503, headers={"Retry-After": "1"})
        await answer(scope, receive, send)


async def _start_core(stack: AsyncExitStack, plan: CorePlan, data: Path, base_url: str) -> _Core:
    url = plan.database.url or URL.create("sqlite", database=str(data / f"{plan.name}.db"))
    database = open_database(url, max_size=plan.database.max_size)
    stack.push_async_callback(database.close)
    await migrate(database)
    space_urls = {
        space.name: (space.internal_url or f"{base_url}/spaces/{space.name}/dicom-web").rstrip("/")
        for space in plan.spaces
    }

    def space_url(space: str) -> str:
        return space_urls.get(space, f"{base_url}/spaces/{space}/dicom-web")

    settings = BrokerSettings(
        core=plan.name,
        revisioning_delay=plan.revisioning_delay,
        space_url=space_url,
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
    for binding in plan.bindings:
        _subscribe(stack, binding, broker, database, spaces, base_url)
    await broker.start()
    stack.push_async_callback(broker.stop)
    for intake in intakes:
        stack.push_async_callback(intake.close)
    settling = Settling(
        database,
        lambda space, study, series: f"{space_url(space)}/studies/{study}/series/{series}",
        broker.committed,
    )
    settling.start()
    stack.push_async_callback(settling.stop)
    return _Core(plan, database, broker, spaces, services)


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
    plan: StowPlan | FhirPlan,
    broker: EmbeddedBroker,
    database: Database,
    spaces: Mapping[str, Space],
    base_url: str,
) -> None:
    """Build a binding and hand it its events."""
    try:
        selector = parse_selector(plan.selector)
    except SelectorError as error:
        raise SiteError([f"binding {plan.name}: {error}"]) from error
    token = plan.token.get_secret_value() if plan.token else None
    if isinstance(plan, StowPlan):
        target = HttpTarget(Credentials(token), connections=plan.concurrency)
        endpoint = _absolute(plan.endpoint, base_url)
        handler: Handler = StowBinding(endpoint, target, database, spaces).deliver
        event_type = DICOM_AVAILABLE
    else:
        password = plan.password.get_secret_value() if plan.password else None
        target = HttpTarget(
            Credentials(token, plan.username, password), connections=plan.concurrency
        )
        handler = FhirBinding(
            target,
            database,
            endpoint=plan.endpoint and _absolute(plan.endpoint, base_url),
            imaging_study_endpoint=plan.imaging_study_endpoint
            and _absolute(plan.imaging_study_endpoint, base_url),
        ).deliver
        event_type = STUDY_REVISION
    stack.push_async_callback(target.close)
    broker.subscribe(
        Subscription(
            name=plan.name,
            event_type=event_type,
            concurrency=plan.concurrency,
            wants=lambda event: selector.wants(event.provider),
        ),
        handler,
    )


def _application(cores: Mapping[str, _Core]) -> Starlette:
    services = {name: s for core in cores.values() for name, s in core.services.items()}
    default = next(iter(services.values()))
    api = create_api({name: core.handle() for name, core in cores.items()})
    metrics = Metrics({name: core.database for name, core in cores.items()})

    async def live(_request: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def is_ready(_request: Request) -> Response:
        await asyncio.gather(*(core.database.read(_answers) for core in cores.values()))
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


def _absolute(endpoint: str, base_url: str) -> str:
    """An endpoint given as a path is one of this server."""
    return base_url + endpoint if endpoint.startswith("/") else endpoint


def _base_url(host: str, port: int) -> str:
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - we are asked to listen there; clients use loopback
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
