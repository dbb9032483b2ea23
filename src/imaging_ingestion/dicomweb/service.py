"""What the DICOMweb resources of one space work with."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from starlette.requests import Request

from imaging_ingestion.brokers.deletion import Deletion
from imaging_ingestion.dicom.uid import is_uid
from imaging_ingestion.dicomweb.negotiation import (
    Choice,
    MediaRange,
    MixedMediaTypesError,
    Offer,
    accepted,
    negotiate,
)
from imaging_ingestion.dicomweb.problem import bad_request, not_acceptable
from imaging_ingestion.intake import Intake
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.storage.space import Space

_HOST = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class DicomwebSettings:
    """What a site may say about DICOMweb.

    `external_url` is the absolute DICOMweb root that clients see, if it is not what they ask for;
    `trust_forwarded` says that a reverse proxy in front sets X-Forwarded-Proto and -Host.
    """

    external_url: str | None = None
    trust_forwarded: bool = False
    strict_accept: bool = False  # 406 instead of the default type without an Accept header (H1)
    empty_search_is_200: bool = False  # `[]` instead of 204 (Q4)
    max_results: int = 5000
    max_body: int = 1 << 40  # bytes of one STOW request
    max_parts: int = 50_000  # of one STOW request
    stow_window: int = 16  # instances of one request being made durable at once
    patience: float = 60.0  # seconds that a STOW request's body may pause


@dataclass(frozen=True, slots=True)
class DicomwebService:
    """One space as its DICOMweb resources see it."""

    space_name: str
    space: Space
    database: Database
    intake: Intake
    provider: str = ""
    settings: DicomwebSettings = field(default_factory=DicomwebSettings)
    #: Told the studies of which a request has stored instances.
    on_stored: Callable[[Collection[str]], None] | None = None
    deletion: Deletion | None = None

    def base_url(self, request: Request) -> str:
        """The absolute DICOMweb root for Retrieve URLs, without a slash at the end (Q38)."""
        if self.settings.external_url:
            return self.settings.external_url.rstrip("/")
        scheme = request.url.scheme
        host = _with_port(request.headers.get("host", ""), scheme, request)
        if self.settings.trust_forwarded:
            scheme = request.headers.get("x-forwarded-proto", scheme).split(",")[0].strip()
            host = request.headers.get("x-forwarded-host", host).split(",")[0].strip()
        if scheme not in {"http", "https"} or not _HOST.fullmatch(host):
            raise bad_request(
                "the host of the request cannot be used in a URL: "
                "Host is to be a host name or address with an optional port"
            )
        return f"{scheme}://{host}{request.scope.get('root_path', '')}".rstrip("/")

    def accepts(self, request: Request) -> tuple[MediaRange, ...]:
        """What the client accepts. Raises 400 for DICOM and rendered types at once (H3).

        Without any Accept header a site may be strict: 406 (H1).
        """
        headers = request.headers.getlist("accept")
        query = _accept_parameters(request)
        if self.settings.strict_accept and not headers and not query:
            raise not_acceptable("an Accept header is required (PS3.18 8.7.5)")
        try:
            return accepted(",".join(headers) if headers else None, query)
        except MixedMediaTypesError as error:
            raise bad_request(str(error)) from error

    def choose(self, request: Request, *offers: Offer) -> Choice:
        """The representation to answer with. Raises 406."""
        choice = negotiate(self.accepts(request), offers)
        if choice is None:
            raise not_acceptable([str(offer) for offer in offers])
        return choice


def _with_port(host: str, scheme: str, request: Request) -> str:
    """The host as the client names it, with the port if it is our own address without one.

    dicomweb-client, for one, leaves the port out of the Host header.
    """
    address, port = request.scope.get("server") or ("", None)
    own = {address, f"[{address}]"}
    if address in {"127.0.0.1", "::1"}:
        own.add("localhost")
    is_default = port == {"http": 80, "https": 443}.get(scheme)
    return f"{host}:{port}" if host in own and port and not is_default else host


def _accept_parameters(request: Request) -> list[str]:
    """The `accept` query parameters, in which a plus sign is one: `application/dicom+json`.

    Strictly it would have to be sent as %2B; hardly anybody does. Between two parameters of a media
    type it is a space.
    """
    query: bytes = request.scope["query_string"]
    return [
        re.sub(r"(?<=[;,])\+", " ", unquote(value))
        for name, _, value in (pair.partition("=") for pair in query.decode("latin_1").split("&"))
        if name == "accept"
    ]


def path_uids(request: Request) -> Mapping[str, str]:
    """The UIDs in the path by name; a malformed one is 400 (W30)."""
    for name in ("study", "series", "instance"):
        value = request.path_params.get(name)
        if value is not None and not is_uid(value):
            raise bad_request(
                f"the {name} in the path is no UID: digits and single dots, at most 64 characters"
            )
    return request.path_params
