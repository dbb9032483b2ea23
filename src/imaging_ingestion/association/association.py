"""An established association: requests go out, requests come in, until it ends.

What comes is read as fast as the services take it: beyond some bytes that wait for them, the peer
waits. Whatever is under way when the association ends is cancelled, and everybody who waits for
something from it gets the same AssociationError.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

import structlog

from imaging_ingestion.association.error import (
    AssociationAbortedError,
    AssociationError,
    AssociationReleasedError,
    PeerTimeoutError,
)
from imaging_ingestion.association.incoming import DataSetStream, Service
from imaging_ingestion.association.invoking import Answer, Invocations, Invoked
from imaging_ingestion.association.limits import AssociationLimits
from imaging_ingestion.association.outbox import Outbox
from imaging_ingestion.association.performing import Performances, Services
from imaging_ingestion.association.wire import Wire
from imaging_ingestion.dimse.command import (
    CCancelRequest,
    CFindRequest,
    CGetRequest,
    CMoveRequest,
    NEventReportRequest,
    RefusedRequest,
    Request,
    Response,
)
from imaging_ingestion.dimse.error import (
    AssociationOverError,
    LocalProtocolError,
    RemoteProtocolError,
    UnexpectedParameterError,
    UnexpectedPduError,
    WrongStateError,
)
from imaging_ingestion.dimse.event import (
    Aborted,
    ConnectionClosed,
    Event,
    ReleaseConfirmed,
    ReleaseRequested,
)
from imaging_ingestion.dimse.message import CommandReceived, MessageReader
from imaging_ingestion.dimse.negotiation import Agreement
from imaging_ingestion.dimse.p_data import PDataReceived
from imaging_ingestion.dimse.pdu import Abort, Buffer, ReleaseRequest, ReleaseResponse
from imaging_ingestion.dimse.status import StatusKind, kind_of

__all__ = ["Answer", "Association", "AssociationLimits"]

log = structlog.get_logger(__name__)

_CANCELLABLE = (CFindRequest, CGetRequest, CMoveRequest)


class Association:
    """One association. Raises AssociationError wherever it waits, once it has ended."""

    def __init__(
        self,
        wire: Wire,
        agreement: Agreement,
        services: Services | Mapping[str, Service],
        limits: AssociationLimits | None = None,
    ) -> None:
        """Take over a wire whose association has just been accepted."""
        self.agreement = agreement
        self.peer = wire.link.peer
        #: How it ended; None: it goes on.
        self.end: AssociationError | None = None
        self._wire = wire
        self._limits = limits or AssociationLimits()
        self._loop = asyncio.get_running_loop()
        self._reader = MessageReader(agreement.contexts)
        self._outbox = Outbox(
            wire,
            agreement.max_sent_pdu_length,
            self._limits,
            check=self._check,
            fail=self.fail,
        )
        self._performing = Performances(
            self,
            services if isinstance(services, Services) else Services(services),
            agreement.max_operations_performed,
            on_held=self._hold,
            on_change=self._changed,
        )
        self._invoking = Invocations(
            agreement.max_operations_invoked, self._limits, on_held=self._hold
        )
        self._stream: DataSetStream | None = None  # of the data set that is coming to a service
        self._held = 0  # bytes that were received and not taken yet
        self._is_paused = False
        self._release_wanted = False
        self._ended = asyncio.Event()
        self._activity = asyncio.Event()
        self._received = 0  # bytes since the last look at the clock
        self._completed = 0  # messages of the peer
        self._seen_incomplete = -1  # how many there were when one was seen that was not complete
        self._idle_since = self._loop.time()
        wire.sink = self._event
        self._clock = self._loop.call_later(self._limits.progress, self._look_at_clock)

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self.end is None

    @property
    def is_busy(self) -> bool:
        """Whether anything is under way on it."""
        return bool(
            len(self._performing)
            or len(self._invoking)
            or self._reader.in_message
            or self._outbox.is_busy
        )

    async def closed(self) -> None:
        """Wait for its end, and for what it had under way to end as well."""
        await self._ended.wait()
        await self._performing.ended()

    async def drained(self, pause: float) -> None:
        """Wait until nothing has been under way for `pause` seconds, or it has ended."""
        while self.end is None:
            self._activity.clear()
            try:
                async with asyncio.timeout(None if self.is_busy else pause):
                    await self._activity.wait()
            except TimeoutError:
                if not self.is_busy:
                    return

    async def request(
        self,
        context_id: int,
        request: Request,
        data_set: Buffer | AsyncIterator[Buffer] | None = None,
        *,
        cancelled: asyncio.Event | None = None,
    ) -> AsyncGenerator[Answer, None]:
        """Send a request; its responses, the final one last. The Message ID is ours to give.

        Closed before that, it cancels where the service can be cancelled; `cancelled`, when set,
        makes it do so too, and the responses go on to the final one. Raises AssociationError;
        LocalProtocolError where we are not the SCU of that context. An error of `data_set` itself
        ends the association and goes on to the caller.
        """
        context = self.agreement.contexts.get(context_id)
        # A notification goes the other way, from the SCP (PS3.7 10.1.1); peers that leave a role
        # selection unanswered take it nevertheless.
        is_notification = isinstance(request, NEventReportRequest)
        if context is None or not (context.as_scu or is_notification):
            raise LocalProtocolError(f"we are no SCU of presentation context {context_id}")
        invoked = await self._invoking.begin(request)
        cancelling = None
        if cancelled is not None and isinstance(request, _CANCELLABLE):
            waiting = self._cancel_when(cancelled, context_id, invoked)
            cancelling = self._loop.create_task(waiting)
        try:
            await self._outbox.send(context_id, invoked.command, data_set, on_begun=invoked.begun)
            while True:
                answer = await self._next(invoked)
                yield answer
                if kind_of(answer.response.status) is not StatusKind.PENDING:
                    return
        finally:
            if cancelling is not None:
                cancelling.cancel()
            invoked.abandon()
            if not invoked.is_sent:
                self._invoking.forget(invoked)
            elif self._invoking.is_outstanding(invoked) and isinstance(request, _CANCELLABLE):
                await self._cancel(context_id, invoked)
            self._changed()

    async def release(self, timeout: float = 10.0) -> None:
        """End it as is usual, when everything is answered that can be.

        Raises PeerTimeoutError after `timeout` seconds; it is aborted then. Harmless when it has
        ended.
        """
        try:
            async with asyncio.timeout(timeout):
                while self.end is None and self.is_busy:
                    self._activity.clear()
                    await self._activity.wait()
                if self.end is None:
                    self._ask_for_release()
                    await self._ended.wait()
        except TimeoutError:
            error = PeerTimeoutError("the peer did not agree to the release in time")
            self.fail(error)
            raise error from None
        await self.closed()

    async def abort(self) -> None:
        """End it at once. Harmless when it has ended."""
        self.fail(AssociationAbortedError("the association was aborted on our side"))
        await self.closed()

    def fail(self, error: AssociationError, abort: Abort | None = None) -> None:
        """End it at once by A-ABORT; `error` is what everybody gets. Harmless when it has ended."""
        if self.end is None:
            self._finish(error)
            try:
                self._wire.send(abort or Abort())
            except AssociationOverError:
                self._wire.link.abort()

    async def send_response(
        self, context_id: int, response: Response, data_set: Buffer | None
    ) -> None:
        """Send a response (`IncomingRequest.respond`). Raises AssociationError."""
        await self._outbox.send(context_id, response, data_set)
        self._idle_since = self._loop.time()

    @property
    def _is_in_use(self) -> bool:
        """Whether anybody waits for anything: for an answer that is never given nobody may."""
        return bool(
            len(self._performing)
            or self._invoking.are_wanted
            or self._reader.in_message
            or self._outbox.is_busy
        )

    # ---- sending

    def _ask_for_release(self) -> None:
        # Suppressed: the peer asked for it a moment ago, or it has just ended.
        with contextlib.suppress(WrongStateError):
            self._wire.send(ReleaseRequest())

    async def _cancel(self, context_id: int, invoked: Invoked) -> None:
        cancel = CCancelRequest(message_id_being_responded_to=invoked.command.message_id)
        try:
            await self._outbox.send(context_id, cancel)
        except AssociationError as error:
            log.debug("dimse.cancel_not_sent", peer=self.peer, error=str(error))

    async def _cancel_when(
        self, cancelled: asyncio.Event, context_id: int, invoked: Invoked
    ) -> None:
        await cancelled.wait()
        if invoked.is_sent and self._invoking.is_outstanding(invoked):
            await self._cancel(context_id, invoked)

    async def _next(self, invoked: Invoked) -> Answer:
        try:
            return await invoked.take(self._limits.response, self._check)
        except TimeoutError:
            error = PeerTimeoutError("the peer did not answer in time")
            self.fail(error)
            raise error from None

    # ---- receiving

    def _event(self, event: Event) -> None:
        match event:
            case PDataReceived():
                self._p_data(event)
            case ReleaseRequested():
                if self._reader.in_message:
                    self._broken(UnexpectedPduError("A-RELEASE-RQ in the middle of a message"))
                self._release_wanted = True
                self._release_if_done()
            case ReleaseConfirmed() | ConnectionClosed():
                self._finish(AssociationReleasedError("the association was released"))
            case Aborted():
                self._finish(AssociationAbortedError.of(event, self._wire.loss))
            case _:
                raise AssertionError(f"{type(event).__name__} on an established association")

    def _p_data(self, part: PDataReceived) -> None:
        if self.end is not None:
            return
        self._received += len(part.data)
        try:
            event = self._reader.receive(part)
            if event is None:
                return
            if not self._reader.in_message:
                self._completed += 1
            if isinstance(event, CommandReceived):
                self._command(event)
            elif self._stream is not None:
                self._stream.feed(event.data, is_last=event.is_last)
                if event.is_last:
                    self._stream = None
                    self._flow()
            else:
                self._invoking.data_set(event.data, is_last=event.is_last)
        except RemoteProtocolError as error:
            self._broken(error)

    def _broken(self, error: RemoteProtocolError) -> None:
        """The peer did what the upper layer allows, but DIMSE does not."""
        ended = AssociationAbortedError(f"the peer broke the protocol: {error}")
        self.fail(ended, Abort.because_of(error))

    def _command(self, event: CommandReceived) -> None:
        match event.command:
            case CCancelRequest(message_id_being_responded_to=message_id):
                if event.has_data_set:
                    raise UnexpectedParameterError("a C-CANCEL-RQ has no data set")
                self._performing.cancel(message_id)
            case Response() as response:
                self._invoking.response(response, has_data_set=event.has_data_set)
                self._changed()
            case Request() | RefusedRequest() as command:
                context = self.agreement.contexts[event.context_id]
                self._stream = self._performing.begin(
                    context, command, has_data_set=event.has_data_set
                )
                self._flow()
            case other:
                raise UnexpectedParameterError(f"a {type(other).__name__} has no meaning here")

    # ---- flow

    def _hold(self, size: int) -> None:
        """So many bytes more, or less, wait to be taken."""
        self._held += size
        if self._is_paused != (self._held > self._limits.held):
            self._flow()

    def _flow(self) -> None:
        """Read from the peer while there is room for what it sends, and for what it asks."""
        held = self._limits.held
        is_full = self._held > (held // 2 if self._is_paused else held)
        is_busy = self._stream is None and self._performing.are_too_many
        if self.end is not None or (is_full or is_busy) == self._is_paused:
            return
        self._is_paused = not self._is_paused
        if self._is_paused:
            self._wire.link.pause_reading()
        else:
            self._received += self._limits.least_progress  # it could not make any
            self._wire.link.resume_reading()

    def _changed(self) -> None:
        """Something began or ended."""
        self._idle_since = self._loop.time()
        self._activity.set()
        self._flow()
        self._release_if_done()

    # ---- the end

    def _check(self) -> None:
        if self.end is not None:
            raise self.end

    def _release_if_done(self) -> None:
        """Agree to a release once everything that was asked for is answered."""
        if self._release_wanted and not len(self._performing) and self.end is None:
            with contextlib.suppress(AssociationOverError):  # it ended a moment ago
                self._wire.send(ReleaseResponse())
            self._finish(AssociationReleasedError("the peer released the association"))

    def _finish(self, error: AssociationError) -> None:
        if self.end is not None:
            return
        self.end = error
        self._clock.cancel()
        if self._stream is not None:
            self._stream.fail(error)
        if self._is_paused:
            self._wire.link.resume_reading()  # to see the connection end
        self._wire.linger()
        self._invoking.end(error)
        self._performing.stop()
        self._activity.set()
        self._ended.set()

    def _look_at_clock(self) -> None:
        limits = self._limits
        is_waited_for = self._reader.in_message and not self._is_paused
        is_old = self._seen_incomplete == self._completed  # it is the same message as last time
        if is_waited_for and is_old and self._received < limits.least_progress:
            self.fail(PeerTimeoutError("the peer stopped in the middle of a message"))
            return
        if not self._is_in_use and self._loop.time() - self._idle_since > limits.idle:
            self.fail(PeerTimeoutError("the association was idle for too long"))
            return
        self._received = 0
        self._seen_incomplete = self._completed if self._reader.in_message else -1
        self._clock = self._loop.call_later(limits.progress, self._look_at_clock)
