"""What the peer asked us for on one association: a task for each, until it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final

import structlog

from imaging_ingestion.association.error import AssociationError
from imaging_ingestion.association.incoming import DataSetStream, IncomingRequest, Service
from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.command import (
    NEventReportRequest,
    RefusedRequest,
    Request,
    Response,
    respond,
)
from imaging_ingestion.dimse.error import LocalProtocolError
from imaging_ingestion.dimse.negotiation import AcceptedContext
from imaging_ingestion.dimse.operations import PerformedOperations

if TYPE_CHECKING:
    from imaging_ingestion.association.association import Association

log = structlog.get_logger(__name__)

#: Requests that are worked on at once where no window limits them, and how many more than a window
#: allows are read before a peer that does not keep to it has to wait.
_UNLIMITED: Final = 64
_SLACK: Final = 8


class Services:
    """Who performs what is asked on a presentation context.

    `unnamed` does where `by_class` does not know the abstract syntax: private and newer storage SOP
    classes that the acceptor's policy lets in.
    """

    def __init__(self, by_class: Mapping[str, Service], unnamed: Service | None = None) -> None:
        self._by_class = by_class
        self._unnamed = unnamed

    def find(self, abstract_syntax: str) -> Service | None:
        """The service of an abstract syntax."""
        return self._by_class.get(abstract_syntax) or self._unnamed


class Performances:
    """All of them. `on_held` counts bytes of data sets that wait; `on_change`: one began or ended.

    `limit` is the agreed number of operations at a time; 0: any number.
    """

    def __init__(
        self,
        association: Association,
        services: Services,
        limit: int,
        *,
        on_held: Callable[[int], None],
        on_change: Callable[[], None],
    ) -> None:
        self._association = association
        self._services = services
        self._on_held = on_held
        self._on_change = on_change
        self._operations = PerformedOperations(limit)
        self._most = (limit or _UNLIMITED) + _SLACK
        self._requests: dict[int, IncomingRequest] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def are_too_many(self) -> bool:
        """Whether the peer asks for more than it may, so that reading from it can wait."""
        return len(self._tasks) > self._most

    def begin(
        self, context: AcceptedContext, command: Request | RefusedRequest, *, has_data_set: bool
    ) -> DataSetStream | None:
        """A request came; where its data set goes, if it has one."""
        stream = DataSetStream(self._on_held) if has_data_set else None
        message_id = command.message_id
        is_duplicate = self._operations.begin(message_id) is not None
        work: Coroutine[Any, Any, None]
        if isinstance(command, RefusedRequest):
            work = self._refuse(context, command.response(), stream)
        elif is_duplicate:
            work = self._refuse(context, respond(command, status.DUPLICATE_INVOCATION), stream)
        else:
            request = IncomingRequest(self._association, context, command, stream)
            self._requests[message_id] = request
            work = self._serve(request)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not is_duplicate:
                self._operations.end(message_id)
                self._requests.pop(message_id, None)
            if not task.cancelled() and task.exception() is not None:
                peer = self._association.peer
                log.error("dimse.task_failed", peer=peer, exc_info=task.exception())
            self._on_change()

        task.add_done_callback(ended)
        self._on_change()
        return stream

    def cancel(self, message_id: int) -> None:
        """A C-CANCEL-RQ came; where it comes too late it means nothing (C15)."""
        request = self._requests.get(message_id)
        if request is not None:
            request.cancelled.set()

    def stop(self) -> None:
        """The association has ended: nobody wants an answer any more."""
        for task in self._tasks:
            task.cancel()

    async def ended(self) -> None:
        """Wait until nothing is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, request: IncomingRequest) -> None:
        context, command = request.context, request.command
        service = self._services.find(context.abstract_syntax)
        peer = self._association.peer
        try:
            # A notification goes the other way, to the SCU (PS3.7 10.1.1).
            is_ours = context.as_scp or isinstance(command, NEventReportRequest)
            if service is None or not is_ours:
                # Not ours to perform, or not in the role that was agreed (PS3.7 D.3.3.4).
                await request.respond(respond(command, status.SOP_CLASS_NOT_SUPPORTED))
                return
            await service.perform(request)
            if not request.is_answered:
                log.error("dimse.not_answered", peer=peer, service=type(service).__name__)
                await request.respond(respond(command, status.PROCESSING_FAILURE))
        except AssociationError as error:
            log.debug("dimse.unanswered", peer=peer, error=str(error))
        except LocalProtocolError as error:
            log.exception("dimse.not_sent", peer=peer, error=str(error))
            await self._last_word(request)
        except Exception as error:
            name = type(service).__name__
            log.exception("dimse.service_failed", peer=peer, service=name, error=repr(error))
            await self._last_word(request)

    async def _last_word(self, request: IncomingRequest) -> None:
        """Answer a request whose service could not."""
        if request.is_answered or not self._association.is_open:
            return
        answer = respond(
            request.command, status.PROCESSING_FAILURE, error_comment="the log tells why"
        )
        try:
            await request.respond(answer)
        except (AssociationError, LocalProtocolError) as error:
            log.debug("dimse.unanswered", peer=self._association.peer, error=str(error))

    async def _refuse(
        self, context: AcceptedContext, response: Response, stream: DataSetStream | None
    ) -> None:
        """Answer a request that is not performed, once all of it has come."""
        try:
            if stream is not None:
                await stream.skip()
            await self._association.send_response(context.context_id, response, None)
        except AssociationError as error:
            log.debug("dimse.unanswered", peer=self._association.peer, error=str(error))
