"""QIDO-RS: the six search resources (PS3.18 10.6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence

from starlette.requests import Request
from starlette.responses import Response

from imaging_ingestion.dicom.xml_model import xml_of_json
from imaging_ingestion.dicomweb.multipart_writer import MultipartWriter
from imaging_ingestion.dicomweb.negotiation import Offer
from imaging_ingestion.dicomweb.problem import HttpProblemError
from imaging_ingestion.dicomweb.qido_parameters import Resource, SearchParameters, parse_search
from imaging_ingestion.dicomweb.qido_result import ResultWriter
from imaging_ingestion.dicomweb.service import DicomwebService
from imaging_ingestion.dicomweb.streamed_answer import StreamedAnswer
from imaging_ingestion.manifest.attribute_levels import Level
from imaging_ingestion.manifest.query import Page, Search, TooBroadError, search
from imaging_ingestion.manifest.query_match import Match, metadata_of, unpacked

JSON = "application/dicom+json"
XML = "application/dicom+xml"
_OFFERS = (Offer(JSON), Offer("multipart/related", XML), Offer("application/json"))

#: Results that are made at once; more are streamed, so that nobody else waits for them.
PIECE = 1000
#: Results whose data sets are read at once.
METADATA_PIECE = 50
#: Results that become XML at once.
XML_PIECE = 50
PIECE_BYTES = 1 << 20

_NOT_FUZZY = (  # PS3.18 8.3.4.2
    "The fuzzymatching parameter is not supported. Only literal matching has been performed."
)

Handler = Callable[[Request], Awaitable[Response]]


class Qido:
    """The search resources of one space."""

    def __init__(self, service: DicomwebService) -> None:
        self._service = service

    def handlers(self) -> Iterable[tuple[str, Handler]]:
        """Paths below the DICOMweb root, and what answers GET there (table 10.6.1-1)."""
        return (
            ("/studies", self.search_studies),
            ("/series", self.search_series),
            ("/instances", self.search_instances),
            ("/studies/{study}/series", self.search_series),
            ("/studies/{study}/instances", self.search_instances),
            ("/studies/{study}/series/{series}/instances", self.search_instances),
        )

    async def search_studies(self, request: Request) -> Response:
        """GET /studies."""
        return await self._search(request, Level.STUDY)

    async def search_series(self, request: Request) -> Response:
        """GET /series, and within a study."""
        return await self._search(request, Level.SERIES)

    async def search_instances(self, request: Request) -> Response:
        """GET /instances, and within a study or series."""
        return await self._search(request, Level.INSTANCE)

    async def _search(self, request: Request, level: Level) -> Response:
        offer = self._service.choose(request, *_OFFERS).offer
        study, series = request.path_params.get("study"), request.path_params.get("series")
        within = Level.SERIES if series else Level.STUDY if study else None
        resource = Resource(level, within)
        parameters = parse_search(request.scope["query_string"], resource)
        most = self._service.settings.max_results
        limit = most if parameters.limit is None else min(parameters.limit, most)
        wanted = Search(
            self._service.space_name,
            level,
            parameters.identifier,
            study,
            series,
            offset=parameters.offset,
            limit=limit,
        )
        try:
            page = await search(self._service.database, wanted)
        except TooBroadError as error:
            raise HttpProblemError(
                413,
                "Content Too Large",
                f"the search has to look at more than {error.scan_limit} data sets: add a key that"
                " is kept in an index (PatientID, StudyDate, StudyInstanceUID, …)",
            ) from error
        base_url = self._service.base_url(request)
        writer = ResultWriter(resource, parameters, base_url)
        answer = await self._answer(page.matches, writer, offer)
        for warning in _warnings(parameters, page):
            # The form of PS3.18 8.3.4.2, with the service's base URL for its name.
            text = f"299 {base_url}: {warning}".encode("latin-1", "replace")
            answer.raw_headers.append((b"warning", text))
        return answer

    async def _answer(
        self, matches: Sequence[Match], writer: ResultWriter, offer: Offer
    ) -> Response:
        vary = {"Vary": "Accept, Host"}
        as_xml = offer.part_type == XML
        if not matches:
            if self._service.settings.empty_search_is_200 and not as_xml:
                return Response(b"[]", media_type=offer.type, headers=vary)
            return Response(status_code=204, headers=vary)
        if as_xml:
            multipart = MultipartWriter(XML)
            return StreamedAnswer(
                self._xml_body(matches, writer, multipart),
                headers={**vary, "Content-Type": multipart.content_type},
            )
        if len(matches) <= PIECE and not writer.needs_metadata:
            body = b"[" + b",".join([writer.write(match) for match in matches]) + b"]"
            return Response(body, headers={**vary, "Content-Type": offer.type})
        return StreamedAnswer(
            self._json_body(matches, writer), headers={**vary, "Content-Type": offer.type}
        )

    async def _json_body(
        self, matches: Sequence[Match], writer: ResultWriter
    ) -> AsyncGenerator[bytes, None]:
        separator = b"["
        async for results in self._results(matches, writer):
            yield separator + b",".join([text for _, text in results])
            separator = b","
        yield b"[]" if separator == b"[" else b"]"

    async def _xml_body(
        self, matches: Sequence[Match], writer: ResultWriter, multipart: MultipartWriter
    ) -> AsyncGenerator[bytes, None]:
        """A part with one Native DICOM Model document for each result (Q3)."""
        async for results in self._results(matches, writer):
            for start in range(0, len(results), XML_PIECE):
                part = results[start : start + XML_PIECE]
                # In a thread: thousands of documents would keep everybody else waiting.
                documents = await asyncio.to_thread(_documents, [text for _, text in part])
                for (match, _), document in zip(part, documents, strict=True):
                    yield multipart.head(XML, writer.url_of(match), len(document)) + document
        yield multipart.end()

    async def _results(
        self, matches: Sequence[Match], writer: ResultWriter
    ) -> AsyncGenerator[list[tuple[Match, bytes]], None]:
        """The results some at a time, with their data sets where these are needed.

        An instance that has been deleted since it was found is left out then.
        """
        if not writer.needs_metadata:
            for start in range(0, len(matches), PIECE):
                part = matches[start : start + PIECE]
                yield [(match, writer.write(match)) for match in part]
            return
        for start in range(0, len(matches), METADATA_PIECE):
            part = matches[start : start + METADATA_PIECE]
            pks = [match.own.id for match in part]
            found = await self._service.database.read(metadata_of, pks)
            results: list[tuple[Match, bytes]] = []
            size = 0
            for match in part:
                if match.own.id in found:
                    text = writer.write(match, unpacked(found[match.own.id]))
                    results.append((match, text))
                    size += len(text)
                if size > PIECE_BYTES:
                    yield results
                    results, size = [], 0
            if results:
                yield results


def _documents(texts: Sequence[bytes]) -> list[bytes]:
    return [xml_of_json(text) for text in texts]


def _warnings(parameters: SearchParameters, page: Page) -> Iterable[str]:
    """What the client should know, in the words of the standard where it has some."""
    if parameters.fuzzy:
        yield _NOT_FUZZY
    if parameters.ignored:
        names = ", ".join(parameters.ignored[:20])
        yield f"The following parameters are not supported here and have been ignored: {names}"
    if not page.remaining_is_exact and not page.remaining:
        yield "There may be additional results that can be requested"
    elif page.remaining:
        least = "" if page.remaining_is_exact else "at least "
        yield f"There are {least}{page.remaining} additional results that can be requested"
