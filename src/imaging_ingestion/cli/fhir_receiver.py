"""A small FHIR R4 server for the demonstration and the tests: `fhir_store` over HTTP at /fhir.

It keeps everything in memory, and is no place for patients' data. Tests make it answer as real
servers do on bad days: see `Fault`.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from imaging_ingestion.cli.fhir_store import Done, FhirError, FhirStore, Resource, etag, location

ROOT = "/fhir"
_JSON = "application/fhir+json"
_KEPT_REQUESTS = 1000
_METHODS = ["GET", "POST", "PUT", "DELETE"]


@dataclass(slots=True)
class Fault:
    """How the next request (of that `method`, if given) goes wrong.

    First `delay` seconds pass, then `before` runs. Without `status` the request is then answered as
    ever; else with that status, `headers` and `body`.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    delay: float = 0.0
    before: Callable[[], Awaitable[None]] | None = None
    method: str | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came."""

    method: str
    path: str  # below /fhir, with the query
    headers: Mapping[str, str]


class FhirReceiver:
    """The server's state, at `app.state.receiver`."""

    def __init__(self, authorization: str | None, page_size: int) -> None:
        self.store = FhirStore()
        self.faults: deque[Fault] = deque()
        self.requests: deque[Received] = deque(maxlen=_KEPT_REQUESTS)
        self._authorization = authorization
        self._page_size = page_size

    async def answer(self, request: Request) -> Response:
        """Answer any request below /fhir. Raises FhirError."""
        path = request.url.path.removeprefix(ROOT).strip("/")
        query = request.url.query
        self.requests.append(
            Received(request.method, f"{path}?{query}" if query else path, dict(request.headers))
        )
        fault = self._fault(request.method)
        if fault is not None:
            await asyncio.sleep(fault.delay)
            if fault.before is not None:
                await fault.before()
            if fault.status is not None:
                return Response(fault.body, fault.status, dict(fault.headers))
        if self._authorization not in {None, request.headers.get("authorization")}:
            raise FhirError(401, "login", "the Authorization header is not the expected one")
        # Reading the body comes first: what follows has no await in it, so it is one transaction.
        body = await _body(request) if request.method in {"POST", "PUT"} else {}
        match [request.method, *path.split("/")]:
            case ["POST", ""]:
                return _answer(request, self.store.transaction(body))
            case ["GET", "metadata"]:
                return _answer(request, _capabilities())
            case ["GET", resource_type]:
                return _answer(request, self._page(request, resource_type))
            case ["POST", resource_type]:
                condition = request.headers.get("if-none-exist")
                return _done(request, self.store.create(resource_type, body, condition))
            case ["PUT", resource_type] if query:
                match = request.headers.get("if-match")
                return _done(
                    request, self.store.conditional_update(resource_type, query, body, match)
                )
            case [method, resource_type, key]:
                return self._instance(request, method, resource_type, key, body)
            case ["GET", resource_type, key, "_history"]:
                return _answer(request, _bundle("history", self.store.history(resource_type, key)))
            case ["GET", resource_type, key, "_history", version]:
                for resource in self.store.history(resource_type, key):
                    if resource["meta"]["versionId"] == version:
                        return _answer(request, resource)
                raise FhirError(404, "not-found", f"{resource_type}/{key} has no version {version}")
        raise FhirError(404, "not-found", f"nothing is done by {request.method} at {path!r}")

    def _instance(
        self, request: Request, method: str, resource_type: str, key: str, body: Resource
    ) -> Response:
        if method == "PUT":
            match = request.headers.get("if-match")
            return _done(request, self.store.update(resource_type, key, body, match))
        if method == "DELETE":
            self.store.delete(resource_type, key)
            return Response(status_code=204)
        if method != "GET":
            raise FhirError(405, "not-supported", f"{method} is not done to a resource")
        return _answer(request, self.store.read(resource_type, key))

    def _page(self, request: Request, resource_type: str) -> Resource:
        """One page of a search, with a link to the next."""
        strict = "handling=strict" in request.headers.get("prefer", "")
        query = request.url.query
        found = self.store.search(resource_type, query, strict=strict)
        parameters = parse_qs(query)
        offset = parameters.get("_offset", ["0"])[0]
        begin = int(offset) if offset.isdecimal() else 0
        end = begin + self._page_size
        bundle = _bundle("searchset", found[begin:end])
        bundle["total"] = len(found)
        bundle["link"] = [{"relation": "self", "url": str(request.url)}]
        if end < len(found):
            parameters["_offset"] = [str(end)]
            url = request.url.replace(query=urlencode(parameters, doseq=True))
            bundle["link"].append({"relation": "next", "url": str(url)})
        for entry in bundle.get("entry", ()):
            entry["search"] = {"mode": "match"}
            resource = entry["resource"]
            base = str(request.base_url).rstrip("/") + ROOT
            entry["fullUrl"] = f"{base}/{resource['resourceType']}/{resource['id']}"
        return bundle

    def _fault(self, method: str) -> Fault | None:
        """Take the next fault that is meant for such a request."""
        for fault in self.faults:
            if fault.method in {None, method}:
                self.faults.remove(fault)
                return fault
        return None


def create_fhir_receiver(*, authorization: str | None = None, page_size: int = 50) -> Starlette:
    """An application that is a FHIR R4 server at /fhir, empty and in memory.

    `authorization` is the Authorization header that every request must have; `page_size` the number
    of resources in one answer to a search. `app.state.receiver` is its `FhirReceiver`.
    """
    receiver = FhirReceiver(authorization, page_size)
    app = Starlette(
        routes=[
            Route(ROOT, receiver.answer, methods=_METHODS),
            Route(ROOT + "/{path:path}", receiver.answer, methods=_METHODS),
        ],
        exception_handlers={FhirError: _refuse, HTTPException: _refuse_http},
    )
    app.state.receiver = receiver
    return app


async def _body(request: Request) -> Resource:
    if request.headers.get("content-type", "").partition(";")[0] not in {_JSON, "application/json"}:
        raise FhirError(415, "not-supported", f"{_JSON} was expected")
    try:
        body = json.loads(await request.body())
    except ValueError as error:
        raise FhirError(400, "structure", f"the body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise FhirError(400, "structure", "the body is no resource")
    return body


def _answer(
    request: Request,
    resource: Resource,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    sent = dict(headers or {})
    if "meta" in resource:
        sent["ETag"] = etag(resource)
    # A browser shows application/json, and saves what it does not know.
    browser = "text/html" in request.headers.get("accept", "")
    content = json.dumps(resource, ensure_ascii=False, indent=2).encode()
    return Response(content, status, sent, media_type="application/json" if browser else _JSON)


def _done(request: Request, done: Done) -> Response:
    place = f"{str(request.base_url).rstrip('/')}{ROOT}/{location(done.resource)}"
    headers = {"Location": place} if done.status == 201 else {"Content-Location": place}
    if "return=minimal" in request.headers.get("prefer", ""):
        return Response(status_code=done.status, headers={**headers, "ETag": etag(done.resource)})
    return _answer(request, done.resource, done.status, headers)


def _bundle(kind: str, resources: list[Resource]) -> Resource:
    bundle: Resource = {"resourceType": "Bundle", "type": kind, "total": len(resources)}
    if resources:
        bundle["entry"] = [{"resource": resource} for resource in resources]
    return bundle


def _capabilities() -> Resource:
    interactions = (
        "read",
        "vread",
        "update",
        "delete",
        "history-instance",
        "create",
        "search-type",
    )
    resource: dict[str, Any] = {
        "interaction": [{"code": code} for code in interactions],
        "versioning": "versioned-update",
        "conditionalCreate": True,
        "conditionalUpdate": True,
        "searchParam": [{"name": "identifier", "type": "token"}],
    }
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": "2025-01-01",
        "kind": "instance",
        "implementation": {"description": "imaging-ingestion's FHIR receiver, in memory"},
        "fhirVersion": "4.0.1",
        "format": ["json"],
        "rest": [
            {
                "mode": "server",
                "resource": [{"type": t, **resource} for t in ("ImagingStudy", "Patient")],
                "interaction": [{"code": "transaction"}],
            }
        ],
    }


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, FhirError)
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
    return _answer(request, error.outcome(), error.status, headers)


async def _refuse_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    outcome = FhirError(error.status_code, "not-supported", error.detail).outcome()
    return _answer(request, outcome, error.status_code, error.headers)
