"""An established association: requests go out, requests come in, until it ends.

What comes is read as fast as the services take it: beyond `HELD` bytes that wait for them, the
peer waits. Whatever is under way when the association ends is cancelled, and everybody who waits
for something from it gets the same AssociationError.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from imaging_ingestion.association.error import (
    AssociationAbortedError,
    AssociationError,
    AssociationReleasedError,
    PeerTimeoutError,
)
from imaging_ingestion.association.incoming import DataSetStream, IncomingRequest, Service
from imaging_ingestion.association.wire import Wire
from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.command import (
    CCancelRequest,
    CFindRequest,
    CGetRequest,
    CMoveRequest,
    Command,
    RefusedRequest,
    Request,
    Response,
    respond,
)
from imaging_ingestion.dimse.error import (
    AssociationOverError,
    LocalProtocolError,
    RemoteProtocolError,
    UnexpectedParameterError,
)
from imaging_ingestion.dimse.event import (
    Aborted,
    ConnectionClosed,
    Event,
    ReleaseConfirmed,
    ReleaseRequested,
)
from imaging_ingestion.dimse.message import CommandReceived, MessageReader, MessageWriter
from imaging_ingestion.dimse.negotiation import AcceptedContext, Agreement
from imaging_ingestion.dimse.operations import InvokedOperations, PerformedOperations
from imaging_ingestion.dimse.p_data import PDataReceived
from imaging_ingestion.dimse.pdu import Abort, Buffer, ReleaseRequest, ReleaseResponse
from imaging_ingestion.dimse.status import StatusKind, kind_of

log = structlog.get_logger(__name__)

#: Bytes of data sets that wait for their services before the peer waits.
HELD: Final = 2 << 20
#: Bytes of a data set that are laid into PDUs at once.
_CHUNK: Final = 1 << 20
#: Requests that are worked on at once where no window limits them, and how many more than a window
#: allows are read before a peer that does not keep to it has to wait.
_UNLIMITED: Final = 64
_SLACK: Final = 8
_CANCELLABLE = (CFindRequest, CGetRequest, CMoveRequest)


@dataclass(frozen=True, slots=True)
class AssociationLimits:
    """What a peer may cost. Times are in seconds.

    `response`: until the next response to a request of ours. `idle`: without anything to do.
    `progress`: in the middle of a message the peer sends `least_progress` bytes at least in each
    such time, and reads what is sent to it. `answer_data_set`: bytes of a response's data set.
    """

    response: float = 60.0
    idle: float = 600.0
    progress: float = 30.0
    least_progress: int = 1024
    answer_data_set: int = 16 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """A response to a request of ours, with its data set if it has one."""

    response: Response
    data_set: bytes | None


class _Invoked:
    """A request of ours whose final response is to come."""

    def __init__(self, command: Request) -> None:
        self.command = command
        self.abandoned = False
        self._answers: deque[Answer] = deque()
        self._arrived = asyncio.Event()

    def put(self, answer: Answer) -> None:
        if not self.abandoned:
            self._answers.append(answer)
            self._arrived.set()

    def wake(self) -> None:
        self._arrived.set()

    async def next(self, association: Association, timeout: float) -> Answer:
        while not self._answers:
            if association.end is not None:
                raise association.end
            self._arrived.clear()
            async with asyncio.timeout(timeout):
                await self._arrived.wait()
        return self._answers.popleft()


class Association:
    """One association. Raises AssociationError wherever it waits, once it has ended."""

    def __init__(
        self,
        wire: Wire,
        agreement: Agreement,
        services: Mapping[str, Service],
        limits: AssociationLimits | None = None,
    ) -> None:
        """Take over a wire whose association has just been accepted."""
        self.agreement = agreement
        self.peer = wire.link.peer
        self.end: AssociationError | None = None
        self._wire = wire
        self._services = services
        self._limits = limits or AssociationLimits()
        self._reader = MessageReader(agreement.contexts)
        self._writer = MessageWriter(agreement.max_sent_pdu_length)
        self._writing = asyncio.Lock()
        self._performed = PerformedOperations(agreement.max_operations_performed)
        self._performing: dict[int, IncomingRequest] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._most_tasks = (agreement.max_operations_performed or _UNLIMITED) + _SLACK
        self._invoked_ids = InvokedOperations(agreement.max_operations_invoked)
        self._invoked: dict[int, _Invoked] = {}
        most = agreement.max_operations_invoked
        self._turn = asyncio.Semaphore(most) if most else None
        self._stream: DataSetStream | None = None  # of the data set that is coming
        self._collected: _Collector | None = None
        self._held = 0
        self._paused = False
        self._release_wanted = False
        self._ended = asyncio.Event()
        self._received = 0  # bytes since the last look at the clock
        self._idle_since = 0.0
        self._loop = asyncio.get_running_loop()
        wire.sink = self._event
        self._clock = self._loop.call_later(self._limits.progress, self._look_at_clock)
        self._idle_since = self._loop.time()

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self.end is None

    async def quiet(self) -> None:
        """Wait until nothing that the peer asked for is under way, or it has ended."""
        while self._tasks and self.end is None:
            await asyncio.wait(self._tasks)

    async def closed(self) -> None:
        """Wait for its end, and for what it had under way to end as well."""
        await self._ended.wait()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def request(
        self,
        context_id: int,
        request: Request,
        data_set: Buffer | AsyncIterator[Buffer] | None = None,
    ) -> AsyncGenerator[Answer, None]:
        """Send a request; its responses, the final one last. The Message ID is ours to give.

        Closed before that, it cancels where the service can be cancelled. Raises AssociationError;
        an error of `data_set` itself ends the association and goes on to the caller.
        """
        await self._take_turn()
        message_id = self._invoked_ids.begin()
        command = msgspec.structs.replace(request, message_id=message_id)
        invoked = self._invoked[message_id] = _Invoked(command)
        try:
            try:
                await self._send(context_id, command, data_set)
            except LocalProtocolError:
                self._completed(message_id)  # nothing was sent
                raise
            while True:
                answer = await self._next(invoked)
                yield answer
                if kind_of(answer.response.status) is not StatusKind.PENDING:
                    return
        finally:
            if message_id in self._invoked:  # the final response has not come
                invoked.abandoned = True
                if isinstance(command, _CANCELLABLE) and self.is_open:
                    await self._cancel(context_id, message_id)

    async def release(self, timeout: float = 10.0) -> None:
        """End it as is usual. Raises PeerTimeoutError after `timeout` seconds (it is aborted)."""
        if self.end is None:
            self._wire.send(ReleaseRequest())
            try:
                async with asyncio.timeout(timeout):
                    await self._ended.wait()
            except TimeoutError:
                await self.abort()
                raise PeerTimeoutError("the peer did not agree to the release in time") from None
        await self.closed()

    async def abort(self) -> None:
        """End it at once. Harmless when it has ended."""
        self._abort(Abort(), AssociationAbortedError("the association was aborted on our side"))
        await self.closed()

    async def send_response(
        self, request: IncomingRequest, response: Response, data_set: Buffer | None
    ) -> None:
        """Send a response to a request (`IncomingRequest.respond`). Raises AssociationError."""
        await self._send(request.context.context_id, response, data_set)

    # ---- sending

    async def _send(
        self, context_id: int, command: Command, data_set: Buffer | AsyncIterator[Buffer] | None
    ) -> None:
        """Send one message, after those that are being sent."""
        async with self._writing:
            if self.end is not None:
                raise self.end
            try:
                self._wire.send(
                    self._writer.command(context_id, command, has_data_set=data_set is not None)
                )
                if isinstance(data_set, AsyncIterator):
                    await self._send_stream(data_set)
                elif data_set is not None:
                    await self._send_whole(memoryview(data_set))
                await self._room()
            except AssociationOverError:
                raise self._over() from None
            except BaseException:
                if self._writer.in_message:  # half a message: nothing can follow it
                    self._abort(Abort(), AssociationAbortedError("a message could not be finished"))
                raise
            finally:
                self._idle_since = self._loop.time()

    async def _send_whole(self, data: memoryview) -> None:
        for start in range(0, max(len(data), 1), _CHUNK):
            stop = start + _CHUNK
            piece = self._writer.data_set(data[start:stop], is_last=stop >= len(data))
            self._wire.send(piece)
            await self._room()

    async def _send_stream(self, pieces: AsyncIterator[Buffer]) -> None:
        """One piece is kept back, so that the last fragment is one with bytes in it."""
        kept: Buffer = b""
        async for piece in pieces:
            if kept:
                self._wire.send(self._writer.data_set(kept, is_last=False))
                await self._room()
            kept = piece
        self._wire.send(self._writer.data_set(kept, is_last=True))

    async def _room(self) -> None:
        """Wait for a peer that reads slowly, but not for one that does not read at all."""
        if self._wire.link.is_congested:
            try:
                async with asyncio.timeout(self._limits.progress):
                    await self._wire.link.drain()
            except TimeoutError:
                error = PeerTimeoutError("the peer does not read what is sent to it")
                self._abort(Abort(), error)
                raise error from None
        if self.end is not None:
            raise self.end

    async def _cancel(self, context_id: int, message_id: int) -> None:
        cancel = CCancelRequest(message_id_being_responded_to=message_id)
        try:
            await self._send(context_id, cancel, None)
        except AssociationError as error:
            log.debug("dimse.cancel_not_sent", peer=self.peer, error=str(error))

    async def _next(self, invoked: _Invoked) -> Answer:
        try:
            return await invoked.next(self, self._limits.response)
        except TimeoutError:
            error = PeerTimeoutError("the peer did not answer in time")
            self._abort(Abort(), error)
            raise error from None

    async def _take_turn(self) -> None:
        """Wait until the operations window has room. Raises AssociationError."""
        if self._turn is not None:
            await self._turn.acquire()
        if self.end is not None:
            if self._turn is not None:
                self._turn.release()  # the next one is to see the end, too
            raise self.end

    # ---- receiving

    def _event(self, event: Event) -> None:
        match event:
            case PDataReceived():
                self._received += len(event.data) + 1
                try:
                    self._p_data(event)
                except RemoteProtocolError as error:
                    log.warning("dimse.protocol_error", peer=self.peer, error=str(error))
                    ended = AssociationAbortedError(f"the peer broke the protocol: {error}")
                    self._abort(Abort.because_of(error), ended)
            case ReleaseRequested():
                self._release_wanted = True
                self._release_if_idle()
            case ReleaseConfirmed():
                self._finish(AssociationReleasedError("the association was released"))
            case Aborted():
                self._finish(AssociationAbortedError.of(event))
            case ConnectionClosed():
                self._finish(AssociationReleasedError("the association was released"))
            case _:
                raise AssertionError(f"{type(event).__name__} on an established association")

    def _p_data(self, part: PDataReceived) -> None:
        if self.end is not None:
            return
        event = self._reader.receive(part)
        if event is None:
            return
        if isinstance(event, CommandReceived):
            self._command(event)
        elif self._stream is not None:
            self._hold(self._stream.feed(event.data, is_last=event.is_last))
            if event.is_last:
                self._stream = None
        elif self._collected is not None and self._collected.feed(event.data, event.is_last):
            collected, self._collected = self._collected, None
            self._response(collected.response, bytes(collected.data))

    def _command(self, event: CommandReceived) -> None:
        context = self.agreement.contexts[event.context_id]
        match event.command:
            case CCancelRequest(message_id_being_responded_to=message_id):
                performing = self._performing.get(message_id)
                if performing is not None:  # else it comes too late, and means nothing (C15)
                    performing.cancelled.set()
            case Response() as response:
                if response.message_id_being_responded_to not in self._invoked:
                    raise UnexpectedParameterError(
                        f"a response to message {response.message_id_being_responded_to}, which "
                        "is not due"
                    )
                if event.has_data_set:
                    self._collected = _Collector(response, self._limits.answer_data_set)
                else:
                    self._response(response, None)
            case RefusedRequest() as refused:
                self._perform(context, _Unknown(refused), event.has_data_set, refused.message_id)
            case Request() as command:
                self._perform(context, command, event.has_data_set, command.message_id)
            case other:
                raise UnexpectedParameterError(f"a {type(other).__name__} has no meaning here")

    def _response(self, response: Response, data_set: bytes | None) -> None:
        message_id = response.message_id_being_responded_to
        is_final = kind_of(response.status) is not StatusKind.PENDING
        self._invoked[message_id].put(Answer(response, data_set))
        self._idle_since = self._loop.time()
        if is_final:
            self._completed(message_id)

    def _completed(self, message_id: int) -> None:
        """A request of ours has its final response, or was never sent."""
        self._invoked_ids.response(message_id, is_final=True)
        del self._invoked[message_id]
        if self._turn is not None:
            self._turn.release()

    def _perform(
        self,
        context: AcceptedContext,
        command: Request | _Unknown,
        has_data_set: bool,
        message_id: int,
    ) -> None:
        stream = DataSetStream(self._read) if has_data_set else None
        self._stream = stream
        duplicate = self._performed.begin(message_id)
        if isinstance(command, _Unknown):
            work = self._refuse(context, command.refused.response(), stream)
        elif duplicate is not None:
            work = self._refuse(context, respond(command, duplicate), stream)
        else:
            request = IncomingRequest(self, context, command, stream)
            self._performing[message_id] = request
            work = self._serve(request)
        task = self._loop.create_task(work)
        self._tasks.add(task)
        own = None if duplicate is not None else message_id

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if own is not None:
                self._performed.end(own)
                self._performing.pop(own, None)
            self._idle_since = self._loop.time()
            self._flow()
            self._release_if_idle()
            if not task.cancelled() and task.exception() is not None:
                log.error("dimse.task_failed", peer=self.peer, exc_info=task.exception())

        task.add_done_callback(done)
        self._flow()

    async def _serve(self, request: IncomingRequest) -> None:
        service = self._services.get(request.context.abstract_syntax)
        command = request.command
        try:
            if service is None:
                answer = respond(command, status.SOP_CLASS_NOT_SUPPORTED)
                await request.respond(answer)
                return
            await service.perform(request)
            if not request.is_answered:
                log.error("dimse.not_answered", service=type(service).__name__)
                await request.respond(respond(command, status.PROCESSING_FAILURE))
        except AssociationError as error:
            log.debug("dimse.unanswered", peer=self.peer, error=str(error))
        except LocalProtocolError as error:
            log.exception("dimse.not_sent", peer=self.peer, error=str(error))
        except Exception as error:
            log.exception(
                "dimse.service_failed",
                peer=self.peer,
                service=type(service).__name__,
                error=type(error).__name__,
            )
            if not request.is_answered and self.is_open:
                answer = respond(
                    command, status.PROCESSING_FAILURE, error_comment="the log tells why"
                )
                await self._last_word(request, answer)

    async def _last_word(self, request: IncomingRequest, answer: Response) -> None:
        try:
            await request.respond(answer)
        except AssociationError as error:
            log.debug("dimse.unanswered", peer=self.peer, error=str(error))

    async def _refuse(
        self, context: AcceptedContext, response: Response, stream: DataSetStream | None
    ) -> None:
        """Answer a request that is not performed."""
        try:
            if stream is not None:
                await stream.skip()
            await self._send(context.context_id, response, None)
        except AssociationError as error:
            log.debug("dimse.unanswered", peer=self.peer, error=str(error))

    # ---- flow

    def _hold(self, size: int) -> None:
        self._held += size
        if self._held > HELD:
            self._flow()

    def _read(self, size: int) -> None:
        self._held -= size
        if self._paused and self._held <= HELD // 2:
            self._flow()

    def _flow(self) -> None:
        """Read from the peer while there is room for what it sends, and for what it asks."""
        full = self._held > (HELD // 2 if self._paused else HELD)
        busy = self._stream is None and len(self._tasks) > self._most_tasks
        if self.end is None and (full or busy) != self._paused:
            self._paused = not self._paused
            link = self._wire.link
            if self._paused:
                link.pause_reading()
            else:
                self._received += self._limits.least_progress  # it could not make any
                link.resume_reading()

    # ---- the end

    def _release_if_idle(self) -> None:
        """Agree to a release once everything that was asked for is answered."""
        if self._release_wanted and not self._tasks and self.end is None:
            with contextlib.suppress(AssociationOverError):  # it ended a moment ago
                self._wire.send(ReleaseResponse())
            self._finish(AssociationReleasedError("the peer released the association"))

    def _abort(self, abort: Abort, error: AssociationError) -> None:
        if self.end is None:
            self._finish(error)
            try:
                self._wire.send(abort)
            except AssociationOverError:
                self._wire.link.abort()

    def _finish(self, error: AssociationError) -> None:
        if self.end is not None:
            return
        self.end = error
        self._clock.cancel()
        if self._stream is not None:
            self._stream.fail(error)
        if self._paused:
            self._paused = False
            self._wire.link.resume_reading()  # to see the connection end
        for invoked in self._invoked.values():
            invoked.wake()
        if self._turn is not None:
            self._turn.release()
        for task in self._tasks:
            task.cancel()
        self._ended.set()

    def _over(self) -> AssociationError:
        return self.end or AssociationReleasedError("the association has ended")

    def _look_at_clock(self) -> None:
        limits, now = self._limits, self._loop.time()
        in_message = self._reader.in_message and not self._paused
        if in_message and self._received < limits.least_progress:
            log.warning("dimse.too_slow", peer=self.peer)
            self._abort(Abort(), PeerTimeoutError("the peer stopped in the middle of a message"))
            return
        busy = self._tasks or self._invoked or self._reader.in_message or self._writing.locked()
        if not busy and now - self._idle_since > limits.idle:
            log.info("dimse.idle", peer=self.peer)
            self._abort(Abort(), PeerTimeoutError("the association was idle for too long"))
            return
        self._received = 0
        self._clock = self._loop.call_later(limits.progress, self._look_at_clock)


class _Collector:
    """The data set of a response, held whole."""

    def __init__(self, response: Response, limit: int) -> None:
        self.response = response
        self.data = bytearray()
        self._limit = limit

    def feed(self, data: memoryview, is_last: bool) -> bool:
        """Take the next bytes; whether that is all. Raises UnexpectedParameterError."""
        if len(self.data) + len(data) > self._limit:
            raise UnexpectedParameterError(f"a response's data set of over {self._limit} bytes")
        self.data += data
        return is_last


@dataclass(frozen=True, slots=True)
class _Unknown:
    """A request that nobody can perform."""

    refused: RefusedRequest
