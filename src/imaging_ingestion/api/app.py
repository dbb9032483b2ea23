"""Our own REST API: log, ledger, revisions, lists, deletion, quarantine; described at /api/docs.

Every list is read in pages by key. Whatever is wrong is answered by a problem document (RFC 9457),
as DICOMweb does it. Nothing here makes a browser ask another host: hospitals keep theirs inside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from imaging_ingestion import __version__
from imaging_ingestion.api import arrivals, deletion, ledger, lists, log, quarantine
from imaging_ingestion.api.core import CoreHandle
from imaging_ingestion.api.docs_page import docs_page
from imaging_ingestion.api.schemas import PROBLEM, describe
from imaging_ingestion.dicomweb.problem import HttpProblemError, answer_problem, problem
from imaging_ingestion.manifest.database_error import is_away

__all__ = ["CoreHandle", "create_api"]

_log = structlog.get_logger(__name__)
_RETRY_AFTER = 5  # seconds
#: The page has a style of its own and nothing else: no script, no picture, no font.
_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


def create_api(cores: Mapping[str, CoreHandle]) -> FastAPI:
    """The API of a site's cores, to be mounted at /api; without `core` the first one is meant.

    Once `state.stopping` is set, streams end and nobody is kept waiting.
    """
    api = FastAPI(
        title="imaging-ingestion",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        responses={"4XX": PROBLEM},
        exception_handlers={
            HttpProblemError: answer_problem,
            RequestValidationError: _answer_invalid,
            HTTPException: _answer_http,
            SQLAlchemyError: _answer_failure,
            OSError: _answer_failure,
        },
    )
    api.state.cores = cores
    api.state.stopping = asyncio.Event()
    modules = (log, ledger, lists, deletion, quarantine)
    for module in modules:
        api.include_router(module.router)
    describe(api, [one for module in modules for one in module.ANSWERS], beside=arrivals.PATHS)

    @api.get("/docs", include_in_schema=False)
    async def get_docs() -> HTMLResponse:
        return HTMLResponse(
            docs_page(api.openapi()), headers={"Content-Security-Policy": _PAGE_POLICY}
        )

    return api


async def _answer_invalid(_request: Request, error: Exception) -> Response:
    """422: which parameter is wrong, why, and what it was."""
    assert isinstance(error, RequestValidationError)
    errors = [
        {"where": ".".join(map(str, one["loc"])), "message": str(one["msg"])}
        for one in error.errors()
    ]
    detail = "; ".join(f"{one['where']}: {one['message']}" for one in errors)
    return problem(422, "Unprocessable Content", detail, errors=errors)


async def _answer_http(_request: Request, error: Exception) -> Response:
    """404 and 405 of the router."""
    assert isinstance(error, HTTPException)
    answer = problem(error.status_code, str(error.detail), str(error.detail))
    answer.headers.update(error.headers or {})
    return answer


async def _answer_failure(request: Request, error: Exception) -> Response:
    """503 while the database is away, else 500; the error's text stays here."""
    _log.error("api.failed", path=request.url.path, error=type(error).__name__)
    if is_away(error):
        answer = problem(503, "Service Unavailable", "the database does not answer")
        answer.headers["Retry-After"] = str(_RETRY_AFTER)
        return answer
    return problem(500, "Internal Server Error", "the request failed; the log says why")
