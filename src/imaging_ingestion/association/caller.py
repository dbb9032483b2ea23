"""One connection to a listener: before, during and after its association."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.error import (
    AssociationAbortedError,
    AssociationReleasedError,
)
from imaging_ingestion.association.wire import Wire
from imaging_ingestion.dimse.error import AssociationOverError
from imaging_ingestion.dimse.event import Aborted, AssociateRequested, ConnectionClosed, Event
from imaging_ingestion.dimse.pdu import AssociateReject, AssociateRequest
from imaging_ingestion.dimse.rejection import describe_rejection
from imaging_ingestion.dimse.upper_layer import Role

if TYPE_CHECKING:
    from imaging_ingestion.association.listener import Listener

log = structlog.get_logger(__name__)

#: 128 contexts with 30 transfer syntaxes each and long UIDs take 270 KiB, a token 64 KiB.
MAX_ASSOCIATE_LENGTH: Final = 512 << 10


class Caller:
    """Whoever has connected, on a link of any kind: drive its `wire`."""

    def __init__(self, listener: Listener) -> None:
        self.association: Association | None = None
        self.is_ended = False  # on our side, perhaps before there was a link
        self.wire = Wire(
            Role.ACCEPTOR,
            artim=listener.settings.artim,
            max_associate_length=MAX_ASSOCIATE_LENGTH,
            on_lost=self._lost,
        )
        self.wire.sink = self._event
        self._listener = listener
        self._task: asyncio.Task[None] | None = None  # from the request to the association's end
        self._is_lost = False

    @property
    def peer(self) -> str:
        """Who is at the other end, for logs."""
        return self.wire.link.peer

    def end(self, why: str) -> None:
        """End it now, by A-ABORT where there is an association."""
        self.is_ended = True
        if self.association is not None and self.association.is_open:
            self.association.fail(AssociationAbortedError(why))
        elif self.wire.is_open:
            self.wire.link.abort()

    def _event(self, event: Event) -> None:
        match event:
            case AssociateRequested(request):
                # Nothing may follow before the answer; what does is read after it.
                self.wire.link.pause_reading()
                self._task = asyncio.get_running_loop().create_task(self._associate(request))
                self._task.add_done_callback(self._done)
            case Aborted(error=error):
                if error is not None:
                    log.warning("dimse.no_association", peer=self.peer, why=str(error))
            case ConnectionClosed():
                pass
            case _:
                raise AssertionError(f"{type(event).__name__} before there is an association")

    async def _associate(self, request: AssociateRequest) -> None:
        """Answer a request, and see the association to its end."""
        titles = {
            "peer": self.peer,
            "calling": request.calling_ae_title,
            "called": request.called_ae_title,
        }
        decision = await self._listener.decide(request, self.peer)
        try:
            if isinstance(decision, AssociateReject):
                log.warning("dimse.rejected", **titles, why=describe_rejection(decision))
                self.wire.send(decision)
                self.wire.link.resume_reading()  # to see it close
                return
            self.wire.send(decision.accept)
        except AssociationOverError:
            log.info("dimse.gone_before_the_answer", **titles)
            return
        # Before anything else is read: what comes next belongs to the association.
        self.association = self._listener.associate(self, decision)
        self.wire.link.resume_reading()
        log.info("dimse.accepted", **titles, contexts=len(decision.agreement.contexts))
        await self.association.closed()
        is_usual = isinstance(self.association.end, AssociationReleasedError)
        tell = log.info if is_usual else log.warning
        tell("dimse.ended", **titles, why=str(self.association.end))
        self._listener.released(self)

    def _lost(self) -> None:
        self._is_lost = True
        if self._task is None or self._task.done():
            self._listener.went(self)
        elif self.association is None:
            self._task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error("dimse.connection_failed", peer=self.peer, exc_info=task.exception())
            self.end("an error of this program")
        if self._is_lost:
            self._listener.went(self)
