"""Everything that a site answers over HTTP, as one application."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from sqlalchemy.engine import Connection
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from imaging_ingestion.api.app import create_api
from imaging_ingestion.api.arrivals import EventsEndpoint
from imaging_ingestion.api.landing import landing_page
from imaging_ingestion.api.metrics import Metrics
from imaging_ingestion.dicomweb.app import create_dicomweb
from imaging_ingestion.manifest.database_error import is_away
from imaging_ingestion.site.arrivals import arrivals_of
from imaging_ingestion.site.core import RunningCore


class Front:
    """Answers 503 until the site is up: the port is known before what answers on it."""

    def __init__(self) -> None:
        self.app: Starlette | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self.app or Response("starting", status_code=503, headers={"Retry-After": "1"})
        await answer(scope, receive, send)


def create_application(
    cores: Mapping[str, RunningCore], metrics: Metrics, entities: Sequence[str]
) -> Starlette:
    """The application; `entities` are those that answer DIMSE, as `TITLE@host:port`."""
    services = {name: s for core in cores.values() for name, s in core.services.items()}
    default = next(iter(services.values()))
    api = create_api({name: core.handle() for name, core in cores.items()})

    async def live(_request: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def is_ready(_request: Request) -> Response:
        try:
            await asyncio.gather(*(core.database.read(_answers) for core in cores.values()))
        except Exception as error:
            if not is_away(error):
                raise
            return JSONResponse({"status": "the database does not answer"}, status_code=503)
        brokers = {name: core.broker.standing() for name, core in cores.items()}
        return JSONResponse({"status": "ready", "brokers": brokers})

    async def landing(_request: Request) -> Response:
        return HTMLResponse(landing_page(tuple(services), entities))

    async def show_metrics(_request: Request) -> Response:
        return Response(await metrics.text(), media_type=metrics.media_type)

    events = {name: EventsEndpoint(arrivals_of(core)) for name, core in cores.items()}
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
            Route("/events", next(iter(events.values()))),
            *(Route(f"/cores/{name}/events", endpoint) for name, endpoint in events.items()),
            *mounts,
        ]
    )
    app.state.api = api
    return app


def _answers(connection: Connection) -> None:
    connection.exec_driver_sql("SELECT 1")
