"""CloudEvents in: what `/events` does with them, and what it answers.

    ImageStoredEvent                        recorded, if it is another writer's
                                            (`intake.announced`); the answer is the
                                            DicomAvailableEvent that follows
    it, if it is ours; DicomAvailableEvent, given to the bindings that are subscribed to the type
    StudyRevisionEvent
    any other                               taken into the log, for whoever reads it there

A success is told only after all of that is durable. Whatever comes again changes nothing, and gets
the same answer. A batch is taken whole, or not at all: every event is looked at before anything of
it is written. Only what writing alone can tell comes too late for that: the database fails, or a
space keeps what it has. To send all of it again is harmless.

What is refused is told so that Knative does the right thing: it sends again after 404 (an object
that may come yet), 408, 409, 429 and 5xx, and gives up after any other 4xx.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from imaging_ingestion.api.schemas import PROBLEM
from imaging_ingestion.brokers.group_commit import ManifestFullError, NotAcceptedError
from imaging_ingestion.dicomweb.problem import HttpProblemError, bad_request
from imaging_ingestion.events.attributes import MalformedEventError
from imaging_ingestion.events.http_binding import (
    LARGEST_BODY,
    UnknownFormatError,
    binary_message,
    read_message,
)
from imaging_ingestion.events.model import IMAGE_STORED, Event
from imaging_ingestion.events.routing import routed
from imaging_ingestion.intake.announced import AnnouncedInstances, NotRecordedError, Seen
from imaging_ingestion.manifest.database_error import is_away

log = structlog.get_logger(__name__)

#: Seconds that a body has to arrive.
BODY_TIMEOUT: Final = 60.0
#: A body above this many bytes is one of only so many at a time; their senders wait.
LARGE_BODY: Final = 1 << 20
LARGE_BODIES: Final = 4
#: Bytes that the event loop reads itself: a thread costs more than that.
_READ_HERE: Final = 1 << 18
_RETRY_AFTER: Final = 5  # seconds

_EVENT: Final = {"type": "object", "description": "A CloudEvent 1.0 in the JSON event format."}
_TEXT: Final = {"type": "string"}
#: For the OpenAPI document. They are at the server's root: Knative's triggers name `/events`.
PATHS: Final[Mapping[str, Mapping[str, Any]]] = {
    path: {
        "post": {
            "summary": f"CloudEvents in, for {whose}",
            "description": (
                f"At the server's root, not below the API: {path}. Binary mode (ce- headers and "
                "the data), structured, or a batch, which is taken whole or not at all. Answered "
                "after it is durable; whatever comes again changes nothing. An ImageStoredEvent is "
                "answered with the DicomAvailableEvent that follows, in binary mode."
            ),
            "servers": [{"url": "/"}],
            "parameters": parameters,
            "requestBody": {
                "required": True,
                "content": {
                    "application/cloudevents+json": {"schema": _EVENT},
                    "application/cloudevents-batch+json": {
                        "schema": {"type": "array", "items": _EVENT}
                    },
                    "*/*": {"schema": {"description": "The data of an event in binary mode."}},
                },
            },
            "responses": {
                "200": {
                    "description": "Taken; the answer is the event that follows.",
                    "headers": {"ce-id": {"schema": _TEXT}, "ce-type": {"schema": _TEXT}},
                },
                "202": {"description": "Taken."},
                "4XX": PROBLEM,
                "5XX": PROBLEM,
            },
        }
    }
    for path, whose, parameters in (
        ("/events", "the first core", []),
        (
            "/cores/{core}/events",
            "one core",
            [
                {
                    "name": "core",
                    "in": "path",
                    "required": True,
                    "schema": _TEXT,
                    "description": "Name of a core.",
                }
            ],
        ),
    )
}


class Inbox(Protocol):
    """Takes events that arrived for the bindings of a core."""

    async def take(self, events: Sequence[Event]) -> None:
        """Give them to the bindings, durably when this returns; what is known changes nothing."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What takes the events of one core. `spaces` are their names by their DICOMweb roots."""

    instances: AnnouncedInstances
    inbox: Inbox
    spaces: Mapping[str, str]

    async def take(self, events: Sequence[Event]) -> list[Event | None]:
        """Take all of them, or (see above) none: for each the event that follows, if any.

        Raises MalformedEventError, NotRecordedError, NotAcceptedError, and what a database raises.
        """
        seen: dict[int, Seen] = {}
        others: list[Event] = []
        for number, event in enumerate(events):
            if event.type == IMAGE_STORED:
                seen[number] = found = await self.instances.look(event)
                if found.is_own:  # of another's, ours follows when it is recorded
                    others.append(event)
            else:
                others.append(await self._routed(event))
        answers: list[Event | None] = [None] * len(events)
        for number, one in seen.items():
            answers[number] = await self.instances.record(one)
        if others:
            await self.inbox.take(others)
        return answers

    async def _routed(self, event: Event) -> Event:
        """With its routing fields. Of an event of our own the log has them, whatever it says."""
        try:
            return routed(event, self.spaces)
        except MalformedEventError:
            if await self.instances.is_own(event):
                return event
            raise


class EventsEndpoint:
    """The resource `/events` of one core, as an ASGI application."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._large = asyncio.Semaphore(LARGE_BODIES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            answer = await self._answer(request)
        except ClientDisconnect:
            return
        except HttpProblemError as error:
            answer = error.response()
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        """Raises HttpProblemError."""
        if request.method != "POST":
            raise HttpProblemError(
                405, "Method Not Allowed", "events are POSTed", headers={"Allow": "POST"}
            )
        body = bytearray()
        is_large = False
        try:
            async with asyncio.timeout(BODY_TIMEOUT) as deadline:
                async for piece in request.stream():
                    body += piece
                    if len(body) > LARGEST_BODY:
                        raise HttpProblemError(
                            413,
                            "Content Too Large",
                            f"a body may have at most {LARGEST_BODY >> 20} MiB",
                            headers={"Connection": "close"},
                        )
                    if len(body) > LARGE_BODY and not is_large:
                        deadline.reschedule(None)  # the waiting is not the sender's fault
                        await self._large.acquire()
                        is_large = True
                        deadline.reschedule(asyncio.get_running_loop().time() + BODY_TIMEOUT)
            return await self._taken(request.headers.raw, bytes(body))
        except TimeoutError as error:
            raise HttpProblemError(
                408, "Request Timeout", f"the body did not come within {BODY_TIMEOUT:.0f} s"
            ) from error
        finally:
            if is_large:
                self._large.release()

    async def _taken(self, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> Response:
        try:
            if len(body) > _READ_HERE:
                events, is_batch = await asyncio.to_thread(read_message, headers, body)
            else:
                events, is_batch = read_message(headers, body)
            followed = await self._arrivals.take(events)
        except (UnknownFormatError, MalformedEventError, NotRecordedError) as error:
            refusal = _refusal(error)
            # Why is told to the sender only: names of others' objects may name the patient.
            log.info("events.refused", status=refusal.status, error=type(error).__name__)
            raise refusal from error
        except (NotAcceptedError, SQLAlchemyError, OSError) as error:
            log.error("events.failed", error=type(error).__name__)  # noqa: TRY400 - no patient data
            raise _failure(error) from error
        follows = None if is_batch else followed[0]
        if follows is None:
            return Response(status_code=202)
        message = binary_message(follows)
        return Response(message.body, headers=message.headers)


def _refusal(
    error: UnknownFormatError | MalformedEventError | NotRecordedError,
) -> HttpProblemError:
    """What is wrong with the events, in HTTP's terms."""
    match error:
        case UnknownFormatError():
            return HttpProblemError(415, "Unsupported Media Type", str(error))
        case MalformedEventError():
            return bad_request(str(error))
        case NotRecordedError(is_ours=True):
            return _unavailable(error.reason)
        case NotRecordedError(may_come=True):
            return HttpProblemError(404, "Not Found", error.reason)
        case _:
            return HttpProblemError(422, "Unprocessable Content", str(error))


def _failure(error: Exception) -> HttpProblemError:
    """What is wrong with us; it is no use to tell the sender more."""
    if isinstance(error, ManifestFullError):
        return _unavailable("the manifest's disk is full")
    if isinstance(error, NotAcceptedError) or is_away(error):
        return _unavailable("the database does not answer")
    return HttpProblemError(
        500, "Internal Server Error", "the events could not be taken; the log says why"
    )


def _unavailable(detail: str) -> HttpProblemError:
    return HttpProblemError(
        503, "Service Unavailable", detail, headers={"Retry-After": str(_RETRY_AFTER)}
    )
