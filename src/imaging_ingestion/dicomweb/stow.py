"""STOW-RS: storing instances (PS3.18 10.5), streamed from the socket into the intake.

The body is read once, in pieces; each part goes into a reception of its own as it comes. When a
part is complete its reception is finished in the background, a bounded number at a time, so that
many instances share one fsync and one transaction; the answer waits for all of them. A part that
fails disturbs no other. If the body breaks off, the parts that were complete are stored all the
same.
"""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
import uuid

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from imaging_ingestion.dicom.failure_reason import CANNOT_UNDERSTAND, PROCESSING_FAILURE
from imaging_ingestion.dicom.xml_model import xml_of
from imaging_ingestion.dicomweb.multipart import (
    MultipartError,
    MultipartParser,
    PartBegin,
    PartData,
    PartEnd,
)
from imaging_ingestion.dicomweb.negotiation import Offer, parse_accept
from imaging_ingestion.dicomweb.problem import HttpProblemError, bad_request
from imaging_ingestion.dicomweb.service import DicomwebService, path_uids
from imaging_ingestion.dicomweb.store_request import DICOM, RequestBody, content_type_of
from imaging_ingestion.dicomweb.store_response import (
    PartOutcome,
    encoded_store_response,
    retrieve_url,
    status_of,
    store_response,
)
from imaging_ingestion.intake import IntakeRefused, Reception

log = structlog.get_logger(__name__)

_XML = Offer("application/dicom+xml")
_OFFERS = (Offer("application/dicom+json"), Offer("application/json"), _XML)
_RETRY_AFTER = 30  # seconds
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Stow:
    """The Store transaction of one space."""

    def __init__(self, service: DicomwebService) -> None:
        self._service = service

    async def store(self, request: Request) -> Response:
        """POST /studies and /studies/{study}.

        Raises HttpProblemError for requests of which nothing was stored: 400, 406, 413, 415; and
        408 and 413 for a body that stopped or turned out too long, which say what was stored of it.
        """
        settings = self._service.settings
        body = RequestBody(request, settings.max_body, settings.patience)
        try:
            study = path_uids(request).get("study")
            offer = self._service.choose(request, *_OFFERS).offer
            base_url = self._service.base_url(request)
            content = content_type_of(request)
            body.check_length()
        except HttpProblemError:
            await body.drain()
            raise
        storing = _Storing(self._service, request, study)
        broken: HttpProblemError | None = None
        try:
            if content.type == DICOM:
                await storing.single(body)
            else:
                await storing.multipart(content.parameters["boundary"], body)
        except MultipartError as error:
            broken = bad_request(f"{error}; {storing.complete} parts were complete before")
        except HttpProblemError as error:
            broken = error
        except ClientDisconnect:
            log.info("stow.disconnected", space=self._service.space_name, parts=storing.complete)
            raise
        finally:
            outcomes = await storing.outcomes()
            if self._service.on_stored is not None:
                received = (one.received for one in outcomes)
                self._service.on_stored({one.study_instance_uid for one in received if one})
        if broken is not None:
            await body.drain()
        return self._answer(outcomes, broken, base_url, offer)

    def _answer(
        self,
        outcomes: list[PartOutcome],
        broken: HttpProblemError | None,
        base_url: str,
        offer: Offer,
    ) -> Response:
        stored = sum(outcome.received is not None for outcome in outcomes)
        if broken is not None:
            if broken.status != 400 or not stored:
                if outcomes:
                    response = encoded_store_response(outcomes, base_url)
                    broken.members["response"] = msgspec.Raw(response)
                raise broken
            refused = IntakeRefused(CANNOT_UNDERSTAND, broken.detail)
            outcomes.append(PartOutcome(len(outcomes) + 1, refused=refused))
        if not outcomes:
            raise bad_request("the body has no part: one application/dicom part for each instance")
        status = status_of(outcomes)
        log.log(
            logging.INFO if stored < len(outcomes) else logging.DEBUG,
            "stow.answered",
            space=self._service.space_name,
            status=status,
            stored=stored,
            failed=len(outcomes) - stored,
        )
        if offer is _XML:
            payload = xml_of(store_response(outcomes, base_url))
        else:
            payload = encoded_store_response(outcomes, base_url)
        answer = Response(payload, status_code=status, media_type=offer.type)
        url = retrieve_url(outcomes, base_url)
        if url is not None:  # table 10.5.3-2
            answer.headers["Content-Location"] = answer.headers["Location"] = url
        if status == 503:
            answer.headers["Retry-After"] = str(_RETRY_AFTER)
        return answer


class _Storing:
    """The parts of one request on their way in."""

    def __init__(self, service: DicomwebService, request: Request, study: str | None) -> None:
        self._service = service
        self._study = study
        self._source = f"stow:{request.client.host if request.client else '?'}"
        traceparent = request.headers.get("traceparent", "")
        self._traceparent = traceparent if _TRACEPARENT.fullmatch(traceparent) else None
        self._window = asyncio.Semaphore(service.settings.stow_window)
        #: Of the parts received to their end; None for those still being made durable.
        self._outcomes: list[PartOutcome | None] = []
        self._storing: set[asyncio.Task[None]] = set()
        self._by_uid: dict[str, asyncio.Task[None]] = {}
        #: Of the part that is being received: one of the two.
        self._reception: Reception | None = None
        self._refused: IntakeRefused | None = None

    @property
    def complete(self) -> int:
        """How many parts have been received to their end."""
        return len(self._outcomes)

    async def single(self, body: RequestBody) -> None:
        """Store a body that is one instance (S11). Raises ClientDisconnect, HttpProblemError."""
        begun = False
        async for chunk in body:
            if not begun:
                begun = True
                self._reception = self._receive()
            await self._write(chunk)
        if begun:
            await self._finish()

    async def multipart(self, boundary: str, body: RequestBody) -> None:
        """Store the parts of a body.

        Raises MultipartError, ClientDisconnect and HttpProblemError after what was complete.
        """
        parser = MultipartParser(boundary)
        async for chunk in body:
            for event in parser.receive_data(chunk):
                match event:
                    case PartData(data):
                        await self._write(data)
                    case PartBegin():
                        self._begin(event)
                    case PartEnd():
                        await self._finish()
        parser.finish()

    async def outcomes(self) -> list[PartOutcome]:
        """What became of the parts, in order, once all is done; an unfinished one is dropped."""
        if self._reception is not None:
            await self._reception.abort()
            self._reception = None
        if self._storing:
            try:
                await asyncio.wait(self._storing)
            except asyncio.CancelledError:  # they wait for the disk and the manifest only
                await asyncio.wait(self._storing)
                raise
        return [outcome for outcome in self._outcomes if outcome is not None]

    def _receive(self) -> Reception:
        return self._service.intake.receive(
            source=self._source,
            provider=self._service.provider,
            study_instance_uid=self._study,
            traceparent=self._traceparent,
        )

    def _begin(self, part: PartBegin) -> None:
        if self.complete == self._service.settings.max_parts:
            raise HttpProblemError(
                413,
                "Content Too Large",
                f"a request may have at most {self._service.settings.max_parts} parts",
            )
        fault = _fault_of(part)
        if fault is None:
            self._reception = self._receive()
        else:
            self._refused = IntakeRefused(CANNOT_UNDERSTAND, fault)

    async def _write(self, data: bytes | memoryview) -> None:
        if self._reception is None:
            return  # the part is refused: its bytes do not matter
        try:
            await self._reception.write(data)
        except Exception as error:  # noqa: BLE001 - logged; the others must not pay for it
            await self._give_up(self._reception, error)

    async def _finish(self) -> None:
        """The part is complete: go on with it in the background."""
        number = self.complete + 1
        uid = None
        if self._reception is not None:
            try:
                uid = self._reception.sop_instance_uid
            except Exception as error:  # noqa: BLE001 - as above
                await self._give_up(self._reception, error)
        if self._reception is None:
            self._outcomes.append(PartOutcome(number, refused=self._refused))
            return
        before = self._by_uid.get(uid) if uid else None
        if before is not None:  # of two parts with one UID the later one is the later one
            await asyncio.wait({before})
        await self._window.acquire()
        reception, self._reception = self._reception, None
        self._outcomes.append(None)
        task = asyncio.create_task(self._store(number, uid, reception))
        self._storing.add(task)
        task.add_done_callback(self._storing.discard)
        if uid:
            self._by_uid[uid] = task

    async def _store(self, number: int, uid: str | None, reception: Reception) -> None:
        try:
            outcome = PartOutcome(number, received=await reception.finish())
        except IntakeRefused as refused:
            outcome = PartOutcome(number, refused=refused.plain())
        except Exception as error:  # noqa: BLE001 - as above
            outcome = PartOutcome(number, refused=self._fault_of_ours(number, error))
        finally:
            self._window.release()
            if uid:
                del self._by_uid[uid]
        self._outcomes[number - 1] = outcome

    async def _give_up(self, reception: Reception, error: Exception) -> None:
        """Refuse the part that is being received, for a fault of ours."""
        self._refused = self._fault_of_ours(self.complete + 1, error)
        self._reception = None
        await reception.abort()

    def _fault_of_ours(self, number: int, error: Exception) -> IntakeRefused:
        """The refusal of a part because of an exception that nobody expected."""
        identifier = str(uuid.uuid4())
        log.error(  # without the error's text: that may hold a patient's data
            "stow.part_failed",
            id=identifier,
            space=self._service.space_name,
            part=number,
            error=type(error).__name__,
            stack="".join(traceback.format_tb(error.__traceback__)[-6:]),
        )
        return IntakeRefused(
            PROCESSING_FAILURE, f"something went wrong; the log tells under {identifier}"
        )


def _fault_of(part: PartBegin) -> str | None:
    """What is wrong with the headers of a part; None if it may hold an instance."""
    if part.error is not None:
        return f"the part cannot be read: {part.error}"
    content_type = part.headers.get("content-type")
    if content_type is None:
        return None  # that of the root, RFC 2387 3.1
    media = parse_accept(content_type)
    if len(media) == 1 and media[0].type == DICOM:
        return None
    named = f"is {media[0].type[:80]}" if len(media) == 1 else "cannot be read"
    return f"the part's Content-Type {named}; this request stores {DICOM}"
