"""STOW-RS: storing instances (PS3.18 10.5), streamed from the socket into the intake.

The body is read once, in pieces; each part goes into a reception of its own as it comes. When a part
is complete its reception is finished in the background, a bounded number at a time, so that many
instances share one fsync and one transaction; the answer waits for all of them. A part that fails
disturbs no other. If the body breaks off, the parts that were complete are stored all the same.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from imaging_ingestion.dicom.failure_reason import CANNOT_UNDERSTAND
from imaging_ingestion.dicom.xml_model import xml_of
from imaging_ingestion.dicomweb.multipart import (
    MultipartError,
    MultipartParser,
    PartBegin,
    PartData,
    PartEnd,
)
from imaging_ingestion.dicomweb.negotiation import MediaRange, Offer, parse_accept
from imaging_ingestion.dicomweb.problem import HttpProblemError, bad_request
from imaging_ingestion.dicomweb.service import DicomwebService, path_uids
from imaging_ingestion.dicomweb.store_response import PartOutcome, status_of, store_response
from imaging_ingestion.intake import IntakeRefused, Reception

log = structlog.get_logger(__name__)

DICOM = "application/dicom"
_OFFERS = (
    Offer("application/dicom+json"),
    Offer("application/json"),
    Offer("application/dicom+xml"),
)
_SUPPORTED = ['multipart/related; type="application/dicom"', DICOM]
#: After an error the rest of the body is read up to here, so that the client reads our answer
#: instead of a reset connection.
_DRAIN = 64 << 20  # bytes
_RETRY_AFTER = 30  # seconds
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Stow:
    """The Store transaction of one space."""

    def __init__(self, service: DicomwebService) -> None:
        self._service = service

    async def store(self, request: Request) -> Response:
        """POST /studies and /studies/{study}."""
        study = path_uids(request).get("study")
        try:
            offer = self._service.choose(request, *_OFFERS).offer
            base_url = self._service.base_url(request)
            content = _content_type(request)
            self._check_length(request)
        except HttpProblemError:
            await _drain(request)
            raise
        storing = _Storing(self._service, request, study)
        broken = None
        try:
            if content.type == DICOM:
                await storing.single(request.stream())
            else:
                await storing.multipart(content.parameters["boundary"], request.stream())
        except MultipartError as error:
            broken = str(error)
            await _drain(request)
        except ClientDisconnect:
            log.info("stow.disconnected", space=self._service.space_name)
            raise
        finally:
            outcomes = await storing.outcomes()
        if broken is not None and not any(outcome.stored for outcome in outcomes):
            raise bad_request(f"{broken}; {len(outcomes)} parts were complete before")
        if broken is not None:
            refused = IntakeRefused(CANNOT_UNDERSTAND, broken)
            outcomes.append(PartOutcome(len(outcomes) + 1, refused=refused))
        if not outcomes:
            raise bad_request("the body has no part: one application/dicom part for each instance")
        status = status_of(outcomes, broken=broken is not None)
        dataset = store_response(outcomes, base_url, study)
        return self._response(status, dataset, offer)

    def _response(self, status: int, dataset: dict[str, object], offer: Offer) -> Response:
        if offer.type == "application/dicom+xml":
            body = xml_of(dataset)  # type: ignore[arg-type]  # a data set is a mapping of elements
        else:
            body = msgspec.json.encode(dataset)
        answer = Response(body, status_code=status, media_type=offer.type)
        if status == 503:
            answer.headers["Retry-After"] = str(_RETRY_AFTER)
        return answer

    def _check_length(self, request: Request) -> None:
        length = request.headers.get("content-length", "")
        most = self._service.settings.max_body
        if length.isdigit() and int(length) > most:
            raise HttpProblemError(
                413, "Content Too Large", f"a request may have at most {most} bytes"
            )


class _Storing:
    """The parts of one request on their way in."""

    def __init__(self, service: DicomwebService, request: Request, study: str | None) -> None:
        self._service = service
        self._study = study
        self._source = f"stow:{request.client.host if request.client else '?'}"
        traceparent = request.headers.get("traceparent", "")
        self._traceparent = traceparent if _TRACEPARENT.fullmatch(traceparent) else None
        self._window = asyncio.Semaphore(service.settings.stow_window)
        self._finishing: list[asyncio.Task[PartOutcome]] = []
        self._by_uid: dict[str, asyncio.Task[PartOutcome]] = {}
        self._reception: Reception | None = None
        self._received = 0

    async def single(self, stream: AsyncIterator[bytes]) -> None:
        """Store a body that is one instance."""
        self._reception = self._receive()
        empty = True
        async for chunk in stream:
            empty = empty and not chunk
            self._count(len(chunk))
            await self._reception.write(chunk)
        if empty:
            await self._reception.abort()
            self._reception = None
            return
        await self._finish()

    async def multipart(self, boundary: str, stream: AsyncIterator[bytes]) -> None:
        """Store the parts of a body. Raises MultipartError after what was complete."""
        parser = MultipartParser(boundary)
        async for chunk in stream:
            self._count(len(chunk))
            for event in parser.receive_data(chunk):
                match event:
                    case PartData(data):
                        if self._reception is not None:
                            await self._reception.write(data)
                    case PartBegin(headers):
                        self._begin(headers.get("content-type"))
                    case PartEnd():
                        await self._finish()
        parser.finish()

    async def outcomes(self) -> list[PartOutcome]:
        """What became of the parts, in their order, once all is done; an unfinished one is dropped."""
        if self._reception is not None:
            await self._reception.abort()
            self._reception = None
        return list(await asyncio.gather(*self._finishing))

    def _receive(self) -> Reception:
        return self._service.intake.receive(
            source=self._source,
            provider=self._service.provider,
            study_instance_uid=self._study,
            traceparent=self._traceparent,
        )

    def _begin(self, content_type: str | None) -> None:
        if content_type is not None:
            media = parse_accept(content_type)
            if not media or media[0].type != DICOM:
                return  # _finish says so
        self._reception = self._receive()

    async def _finish(self) -> None:
        number = len(self._finishing) + 1
        reception, self._reception = self._reception, None
        if reception is None:
            refused = IntakeRefused(
                CANNOT_UNDERSTAND, f"the part's Content-Type is not {DICOM}, which this request has"
            )
            task = asyncio.create_task(_outcome_of_refusal(number, refused))
        else:
            uid = reception.sop_instance_uid
            before = self._by_uid.get(uid) if uid else None
            if before is not None:  # of two parts with one UID the later one is the later one
                await asyncio.wait({before})
            await self._window.acquire()
            task = asyncio.create_task(self._finish_reception(number, reception))
            if uid:
                self._by_uid[uid] = task
        self._finishing.append(task)

    async def _finish_reception(self, number: int, reception: Reception) -> PartOutcome:
        try:
            return PartOutcome(number, received=await reception.finish())
        except IntakeRefused as refused:
            return PartOutcome(number, refused=refused)
        finally:
            self._window.release()

    def _count(self, size: int) -> None:
        self._received += size
        if self._received > self._service.settings.max_body:
            raise MultipartError(
                f"the body is longer than the {self._service.settings.max_body} bytes allowed"
            )


async def _outcome_of_refusal(number: int, refused: IntakeRefused) -> PartOutcome:
    return PartOutcome(number, refused=refused)


def _content_type(request: Request) -> MediaRange:
    """The request's Content-Type, if it is one that can be stored. Raises 400 and 415."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HttpProblemError(
            415, "Unsupported Media Type", "a Content-Encoding is not supported; send it plain"
        )
    header = request.headers.get("content-type")
    if not header:
        raise bad_request("the Content-Type is missing", supported=_SUPPORTED)
    media = parse_accept(header)
    if len(media) != 1:
        raise bad_request("the Content-Type cannot be read", supported=_SUPPORTED)
    content = media[0]
    if content.type == DICOM:
        return content
    if content.type != "multipart/related" or content.root_type not in {DICOM, None}:
        raise HttpProblemError(
            415,
            "Unsupported Media Type",
            "instances are stored as application/dicom",
            supported=_SUPPORTED,
        )
    if not content.parameters.get("boundary"):
        raise bad_request("the Content-Type names no boundary", supported=_SUPPORTED)
    return content


async def _drain(request: Request) -> None:
    """Read on so that the client comes to reading; a client that sends more is cut off."""
    drained = 0
    try:
        async for chunk in request.stream():
            drained += len(chunk)
            if drained > _DRAIN:
                return
    except (ClientDisconnect, RuntimeError):  # gone, or the stream was read to its end already
        return
