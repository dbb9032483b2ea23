"""A stream that the other side opened, until its A-ASSOCIATE-RQ is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from imaging_ingestion.dimse.error import RemoteProtocolError
from imaging_ingestion.tunnel.endpoint import TunnelStream
from imaging_ingestion.tunnel.error import TunnelError
from imaging_ingestion.tunnel.frame import Reason
from imaging_ingestion.tunnel.pdu_gate import REQUESTOR_BEGINS, PduGate

log = structlog.get_logger(__name__)

Take = Callable[["Arrival", bytes], None]


class Arrival:
    """Gathers the request and gives it to `take`; keeps what comes until `hand_over`.

    Without a request within `artim` seconds the stream is aborted (PS3.8 9.1.5).
    """

    def __init__(self, stream: TunnelStream, take: Take, artim: float) -> None:
        self.stream = stream
        self.failure: TunnelError | None = None
        self.is_ended = False
        self._take = take
        self._gate = PduGate(REQUESTOR_BEGINS)
        self._early: list[memoryview] = []  # no more than the window
        self._is_taken = False
        self._is_unwanted = False
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(artim, self._is_late)
        stream.attach(self)

    def hand_over(self) -> list[memoryview]:
        """What came behind the request; it is not consumed yet."""
        return self._early

    def drop(self) -> None:
        """Nobody wants what came, or comes."""
        self._is_unwanted = True
        self.stream.consumed(sum(map(len, self._early)))
        self._early.clear()

    def stream_data(self, data: memoryview) -> None:
        """See `StreamUser`."""
        if self._is_unwanted:
            self.stream.consumed(len(data))
        elif self._is_taken:
            self._early.append(data)
        else:
            self._gather(data)

    def stream_ended(self) -> None:
        """See `StreamUser`."""
        self.is_ended = True
        if not self._is_taken:
            self._timer.cancel()
            self.stream.close()

    def stream_failed(self, error: TunnelError) -> None:
        """See `StreamUser`."""
        self._timer.cancel()
        self.failure = error

    def stream_writable(self) -> None:
        """See `StreamUser`."""

    def _is_late(self) -> None:
        log.warning("tunnel.no_request", peer=self.stream.peer, why="it did not come in time")
        self.stream.abort(Reason.PROTOCOL, "no A-ASSOCIATE-RQ came in time")

    def _gather(self, data: memoryview) -> None:
        try:
            passed = self._gate.receive(data)
        except RemoteProtocolError as error:
            self._timer.cancel()
            log.warning("tunnel.no_request", peer=self.stream.peer, why=str(error))
            self.stream.abort(Reason.PROTOCOL, str(error))
            return
        if passed:
            self._timer.cancel()
            self._is_taken = True
            self._early += [part for _, part in passed[1:]]
            if self._gate.kept:
                self._early.append(self._gate.take_kept())
            self._take(self, bytes(passed[0][1]))
