"""Two wires joined in memory: a link without sockets, whose ends a test can stall and cut."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TypeVar

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.connect import Asking, ConnectSettings
from imaging_ingestion.association.incoming import Service
from imaging_ingestion.association.listener import Listener
from imaging_ingestion.association.wire import Wire
from imaging_ingestion.dimse.command import Command, Response
from imaging_ingestion.dimse.event import Aborted, AssociateAccepted, Event, ReleaseConfirmed
from imaging_ingestion.dimse.message import CommandReceived, MessageReader, MessageWriter
from imaging_ingestion.dimse.p_data import PDataReceived
from imaging_ingestion.dimse.pdu import Buffer, ReleaseRequest
from imaging_ingestion.dimse.requestor import Proposal, build_request, interpret
from imaging_ingestion.dimse.upper_layer import Role

T = TypeVar("T")

#: Bytes that are kept at one end before it says that it is congested.
CONGESTED = 4096
DEADLINE = 30.0  # seconds for whatever is waited for


class MemoryLink:
    """One end. What is written at it is received at the other end, a little later."""

    def __init__(self, wire: Wire, peer: str) -> None:
        self.peer = peer
        self.wire = wire
        self.is_paused = False
        self.pauses = 0  # how often reading was paused
        self.is_over = False
        self.taken = 0  # bytes received here
        self._other: MemoryLink | None = None
        self._unsent: deque[bytes] = deque()
        self._ends = False  # once all is sent
        self._writable = asyncio.Event()
        self._writable.set()
        self._is_scheduled = False

    @property
    def other(self) -> MemoryLink:
        """The other end."""
        assert self._other is not None
        return self._other

    @property
    def is_congested(self) -> bool:
        """See `Link.is_congested`."""
        return not self._writable.is_set()

    @property
    def unsent(self) -> int:
        """See `Link.unsent`."""
        return sum(map(len, self._unsent))

    def join(self, other: MemoryLink) -> None:
        """Make both ends one link."""
        self._other, other._other = other, self

    def write(self, buffers: Sequence[Buffer]) -> None:
        """See `Link.write`."""
        if buffers and not self._ends and not self.is_over:
            self._unsent.append(b"".join(map(bytes, buffers)))
            if self.unsent > CONGESTED:
                self._writable.clear()
            self._carry_soon()

    async def drain(self) -> None:
        """See `Link.drain`."""
        await self._writable.wait()

    def pause_reading(self) -> None:
        """See `Link.pause_reading`."""
        self.is_paused = True
        self.pauses += 1

    def resume_reading(self) -> None:
        """See `Link.resume_reading`."""
        self.is_paused = False
        self.other._carry_soon()

    def close(self) -> None:
        """See `Link.close`."""
        self._ends = True
        self._carry_soon()

    def abort(self) -> None:
        """See `Link.abort`."""
        self._unsent.clear()
        self.close()

    def _carry_soon(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._carry)

    def _carry(self) -> None:
        self._is_scheduled = False
        other = self.other
        while self._unsent and not other.is_paused and not other.is_over:
            data = self._unsent.popleft()
            other.taken += len(data)
            other.wire.receive(data)
        if self.unsent <= CONGESTED // 4:
            self._writable.set()
        if self._ends and (not self._unsent or other.is_over) and not self.is_over:
            for end in (self, other):
                if not end.is_over:
                    end.is_over = True
                    end._writable.set()
                    end.wire.lost()


def joined(one: Wire, other: Wire) -> tuple[MemoryLink, MemoryLink]:
    """Join two wires, which are not made yet."""
    ends = MemoryLink(one, "memory:1"), MemoryLink(other, "memory:2")
    ends[0].join(ends[1])
    for end in reversed(ends):
        end.wire.made(end)
    return ends


async def associated(
    listener: Listener,
    *proposals: Proposal,
    services: Mapping[str, Service] | None = None,
    settings: ConnectSettings | None = None,
) -> tuple[Association, MemoryLink]:
    """An association with a listener, as requestor, and our end of its link."""
    chosen = settings or ConnectSettings()
    request = build_request(
        proposals,
        called_ae_title="LISTENER",
        calling_ae_title="REQUESTOR",
        max_pdu_length=chosen.max_pdu_length,
        operations_window=chosen.operations_window,
    )
    asking = Asking(request, services or {}, chosen)
    ours, _ = joined(asking.wire, listener.accept())
    return await asking.association(), ours


class MemoryPeer:
    """A requestor that says what a test says, without an `Association` of its own."""

    def __init__(self) -> None:
        self.wire = Wire(Role.REQUESTOR, artim=5.0)
        self.wire.sink = self._event
        self.is_released = False
        self._writer = MessageWriter(16384)
        self._reader: MessageReader | None = None
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._answers: asyncio.Queue[Response] = asyncio.Queue()

    async def associate(self, listener: Listener, *proposals: Proposal) -> MemoryLink:
        """An association, which is to be accepted; our end of its link."""
        request = build_request(proposals, called_ae_title="LISTENER", calling_ae_title="RAW")
        self.wire.layer.send(request)
        end, _ = joined(self.wire, listener.accept())
        event = await self._next(self._events)
        assert isinstance(event, AssociateAccepted), event
        self._reader = MessageReader(interpret(request, event.accept).contexts)
        return end

    def send(self, context_id: int, command: Command, data: bytes | None = None) -> None:
        """Send a message."""
        self.wire.send(self._writer.command(context_id, command, has_data_set=data is not None))
        if data is not None:
            self.wire.send(self._writer.data_set(data, is_last=True))

    def release(self) -> None:
        """Ask for the release, whatever is under way."""
        self.wire.send(ReleaseRequest())

    async def answer(self) -> Response:
        """The next response."""
        return await self._next(self._answers)

    async def aborted(self) -> Aborted:
        """The A-ABORT that comes next."""
        event = await self._next(self._events)
        assert isinstance(event, Aborted), event
        return event

    @staticmethod
    async def _next(queue: asyncio.Queue[T]) -> T:
        async with asyncio.timeout(DEADLINE):
            return await queue.get()

    def _event(self, event: Event) -> None:
        if isinstance(event, PDataReceived):
            assert self._reader is not None
            received = self._reader.receive(event)
            if isinstance(received, CommandReceived):
                assert isinstance(received.command, Response)
                self._answers.put_nowait(received.command)
        elif isinstance(event, ReleaseConfirmed):
            self.is_released = True
        else:
            self._events.put_nowait(event)
