"""The DICOMweb application of one space: its resources, methods and errors."""

from __future__ import annotations

import traceback
import uuid
from collections.abc import Awaitable, Callable, Iterable

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from imaging_ingestion.dicomweb.delete import Delete
from imaging_ingestion.dicomweb.problem import (
    HttpProblemError,
    answer_problem,
    not_implemented,
    problem,
)
from imaging_ingestion.dicomweb.qido import Qido
from imaging_ingestion.dicomweb.service import DicomwebService, path_uids
from imaging_ingestion.dicomweb.stow import Stow
from imaging_ingestion.dicomweb.wado import Wado

log = structlog.get_logger(__name__)

Handler = Callable[[Request], Awaitable[Response]]

_LEVELS = (
    "/studies/{study}",
    "/studies/{study}/series/{series}",
    "/studies/{study}/series/{series}/instances/{instance}",
)


def create_dicomweb(service: DicomwebService) -> Starlette:
    """STOW-RS, QIDO-RS, WADO-RS and DELETE of one space, to be mounted at its DICOMweb root."""
    stow = Stow(service)
    routes: dict[str, dict[str, Handler]] = {}
    _add(routes, "POST", (("/studies", stow.store), ("/studies/{study}", stow.store)))
    _add(routes, "GET", Qido(service).handlers())
    _add(routes, "GET", Wado(service).handlers())
    for level in (*_LEVELS, _LEVELS[2] + "/frames/{frames}"):
        _add(routes, "GET", ((f"{level}/rendered", _later), (f"{level}/thumbnail", _later)))
    delete = Delete(service).delete
    _add(routes, "DELETE", ((level, delete) for level in _LEVELS))
    resources = [_resource(path, methods) for path, methods in routes.items()]
    resources.append(Route("/", _Capabilities(routes), methods=["OPTIONS", "GET"]))
    return Starlette(
        routes=resources,
        exception_handlers={
            HttpProblemError: answer_problem,
            HTTPException: _answer_http_exception,
            ClientDisconnect: _answer_disconnect,
            Exception: _answer_unexpected,
        },
    )


def _add(
    routes: dict[str, dict[str, Handler]], method: str, handlers: Iterable[tuple[str, Handler]]
) -> None:
    for path, handler in handlers:
        routes.setdefault(path, {})[method] = handler


def _resource(path: str, methods: dict[str, Handler]) -> Route:
    """One path with all its methods, so that 405 and its Allow header come out right (H12)."""

    async def answer(request: Request) -> Response:
        path_uids(request)
        method = "GET" if request.method == "HEAD" else request.method
        return await methods[method](request)

    allowed = [*methods, "HEAD"] if "GET" in methods else [*methods]
    return Route(path, answer, methods=allowed)


async def _later(_request: Request) -> Response:
    raise not_implemented("rendered images, thumbnails and transcoding come in a later version")


class _Capabilities:
    """OPTIONS on the base URI: what this server has (PS3.18 8.9, annex H), as JSON."""

    def __init__(self, routes: dict[str, dict[str, Handler]]) -> None:
        self._resources = [
            {"path": path, "methods": sorted(methods)} for path, methods in sorted(routes.items())
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = msgspec.json.encode({"application": "DICOMweb", "resources": self._resources})
        answer = Response(body, media_type="application/json")
        await answer(scope, receive, send)


async def _answer_http_exception(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    details = {
        404: "there is no such resource in DICOMweb",
        405: "the resource does not have this method; the Allow header lists those it has",
    }
    answer = problem(error.status_code, error.detail, details.get(error.status_code, error.detail))
    answer.headers.update(error.headers or {})
    return answer


async def _answer_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _answer_unexpected(request: Request, error: Exception) -> Response:
    """500 with an id that the log has too.

    The log has no patient data: not the query, and not the error's text.
    """
    identifier = str(uuid.uuid4())
    log.error(
        "dicomweb.failed",
        id=identifier,
        method=request.method,
        route=getattr(request.scope.get("route"), "path", "?"),
        error=type(error).__name__,
        stack="".join(traceback.format_tb(error.__traceback__)[-6:]),
    )
    return problem(
        500, "Internal Server Error", f"something went wrong; the log tells under {identifier}"
    )
