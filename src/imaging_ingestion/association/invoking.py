"""What we asked the peer for on one association, and what it has answered so far."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from imaging_ingestion.association.error import AssociationError
from imaging_ingestion.association.limits import AssociationLimits
from imaging_ingestion.dimse.command import Request, Response
from imaging_ingestion.dimse.error import UnexpectedParameterError
from imaging_ingestion.dimse.operations import InvokedOperations
from imaging_ingestion.dimse.status import StatusKind, kind_of

#: What a response without a data set counts for when those that wait to be taken are counted.
_RESPONSE = 512


@dataclass(frozen=True, slots=True)
class Answer:
    """A response to a request of ours, with its data set if it has one."""

    response: Response
    data_set: bytes | None

    @property
    def size(self) -> int:
        """Bytes, about."""
        return _RESPONSE + (0 if self.data_set is None else len(self.data_set))


class Invoked:
    """A request of ours whose final response is to come, or to be taken."""

    def __init__(self, command: Request, on_held: Callable[[int], None]) -> None:
        self.command = command
        self.is_sent = False
        self.is_abandoned = False
        self._on_held = on_held
        self._answers: deque[Answer] = deque()
        self._arrived = asyncio.Event()

    def begun(self) -> None:
        """Its first bytes are sent."""
        self.is_sent = True

    def put(self, answer: Answer) -> None:
        """A response came."""
        if not self.is_abandoned:
            self._on_held(answer.size)
            self._answers.append(answer)
            self._arrived.set()

    def wake(self) -> None:
        """The association has ended: nothing more will come."""
        self._arrived.set()

    def abandon(self) -> None:
        """Nobody wants what else comes."""
        self.is_abandoned = True
        while self._answers:
            self._on_held(-self._answers.popleft().size)

    async def take(self, timeout: float, check: Callable[[], None]) -> Answer:
        """The next response. Raises TimeoutError, and AssociationError through `check`."""
        while not self._answers:
            check()
            self._arrived.clear()
            async with asyncio.timeout(timeout):
                await self._arrived.wait()
        answer = self._answers.popleft()
        self._on_held(-answer.size)
        return answer


class Invocations:
    """All of them. `limit` at a time; 0: any number. `on_held` counts bytes that wait to be taken.

    Nothing may be begun once `end` was called.
    """

    def __init__(
        self, limit: int, limits: AssociationLimits, *, on_held: Callable[[int], None]
    ) -> None:
        self._limits = limits
        self._on_held = on_held
        self._ids = InvokedOperations(limit)
        self._turn = asyncio.Semaphore(limit) if limit else None
        self._by_id: dict[int, Invoked] = {}
        self._collected: _Collected | None = None
        self._end: AssociationError | None = None

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def are_wanted(self) -> bool:
        """Whether anybody waits for one of them."""
        return not all(invoked.is_abandoned for invoked in self._by_id.values())

    async def begin(self, request: Request) -> Invoked:
        """Wait until one more may be outstanding; the request with a Message ID of its own.

        Raises AssociationError.
        """
        if self._turn is not None:
            await self._turn.acquire()
        if self._end is not None:
            if self._turn is not None:
                self._turn.release()  # the next one is to see the end, too
            raise self._end
        message_id = self._ids.begin()
        command = msgspec.structs.replace(request, message_id=message_id)
        invoked = self._by_id[message_id] = Invoked(command, self._on_held)
        return invoked

    def is_outstanding(self, invoked: Invoked) -> bool:
        """Whether its final response has not come."""
        return self._by_id.get(invoked.command.message_id) is invoked

    def forget(self, invoked: Invoked) -> None:
        """It was not sent after all."""
        self._complete(invoked.command.message_id)

    def response(self, response: Response, *, has_data_set: bool) -> None:
        """A response came. Raises UnexpectedParameterError where none is due."""
        message_id = response.message_id_being_responded_to
        if message_id not in self._by_id or not self._by_id[message_id].is_sent:
            raise UnexpectedParameterError(f"a response to message {message_id}, which is not due")
        if has_data_set:
            self._collected = _Collected(response, self._limits.answer_data_set)
        else:
            self._put(Answer(response, None))

    def data_set(self, data: memoryview, *, is_last: bool) -> None:
        """The next bytes of that response's data set. Raises UnexpectedParameterError."""
        assert self._collected is not None
        self._collected.feed(data)
        if is_last:
            whole, self._collected = self._collected, None
            self._put(Answer(whole.response, bytes(whole.data)))

    def end(self, error: AssociationError) -> None:
        """The association has ended; whoever waits here gets its error."""
        self._end = error
        for invoked in self._by_id.values():
            invoked.wake()
        if self._turn is not None:
            self._turn.release()

    def _put(self, answer: Answer) -> None:
        message_id = answer.response.message_id_being_responded_to
        self._by_id[message_id].put(answer)
        if kind_of(answer.response.status) is not StatusKind.PENDING:
            self._complete(message_id)

    def _complete(self, message_id: int) -> None:
        self._ids.response(message_id, is_final=True)
        del self._by_id[message_id]
        if self._turn is not None:
            self._turn.release()


class _Collected:
    """The data set of a response, held whole."""

    def __init__(self, response: Response, limit: int) -> None:
        self.response = response
        self.data = bytearray()
        self._limit = limit

    def feed(self, data: memoryview) -> None:
        if len(self.data) + len(data) > self._limit:
            raise UnexpectedParameterError(f"a response's data set of over {self._limit} bytes")
        self.data += data
