"""Streams that this side wants, until a process of the other side answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from imaging_ingestion.nats_client.connection import NatsConnection
from imaging_ingestion.tunnel.error import TunnelError
from imaging_ingestion.tunnel.frame import (
    Frame,
    Kind,
    Reason,
    read_explanation,
    read_introduction,
)

#: Seconds: until it is asked again; for all of it.
_ASK_AGAIN: Final = 1.0
_OPENING: Final = 20.0
#: Seconds after a connection was made in which the other side may be about to connect, too: "nobody
#: listens" is asked again, after a while.
SETTLING: Final = 5.0
_SETTLE: Final = 0.2
#: Proxies that stop and are asked, until it is enough.
_REFUSALS: Final = 5


class Openings:
    """Asks at `subject`. `link`: set while there is a connection; `link_age`: of it, in seconds."""

    def __init__(
        self,
        connection: NatsConnection,
        subject: str,
        link: asyncio.Event,
        link_age: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._subject = subject
        self._link = link
        self._link_age = link_age
        self._waiting: dict[bytes, asyncio.Future[Frame]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    async def ask(self, half: bytes, frame: bytes, reply: str) -> Frame:
        """The ACCEPT that somebody answers to an OPEN. Raises TunnelError."""
        try:
            async with asyncio.timeout(_OPENING):
                return await self._ask(half, frame, reply)
        except TimeoutError:
            is_up = self._link.is_set()
            text = "no proxy of the other side answered" if is_up else "no connection to NATS"
            raise TunnelError(Reason.NO_ANSWER, text) from None
        finally:
            self._waiting.pop(half, None)

    def answered(self, half: bytes, frame: Frame) -> bool:
        """Whether a frame is an answer that is waited for. Raises FrameError if it cannot be."""
        waiting = self._waiting.get(half)
        if waiting is None or frame.kind not in (Kind.ACCEPT, Kind.REFUSE):
            return False
        if frame.kind is Kind.ACCEPT:
            read_introduction(frame.payload)
        else:
            read_explanation(frame.payload)
        if not waiting.done():
            waiting.set_result(frame)
            return True
        # It may be accepted twice, for we may have asked twice.
        is_same = waiting.exception() is None and waiting.result().stream_id == frame.stream_id
        return is_same or frame.kind is Kind.REFUSE

    def failed(self, half: bytes, error: TunnelError) -> bool:
        """Nobody will answer; whether it is waited for."""
        waiting = self._waiting.get(half)
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)
        return waiting is not None

    async def _ask(self, half: bytes, frame: bytes, reply: str) -> Frame:
        refusals = 0
        while True:
            await self._link.wait()
            answered: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
            self._waiting[half] = answered
            await self._connection.publish(self._subject, frame, reply)
            try:
                async with asyncio.timeout(_ASK_AGAIN):
                    answer = await answered
            except TimeoutError:
                continue
            except TunnelError as error:
                if error.reason is Reason.NOBODY_LISTENS and self._link_age() < SETTLING:
                    await asyncio.sleep(_SETTLE)
                    continue
                raise
            if answer.kind is Kind.ACCEPT:
                return answer
            reason, text = read_explanation(answer.payload)
            refusals += 1
            if reason is not Reason.STOPPING or refusals == _REFUSALS:
                raise TunnelError(reason, text)
