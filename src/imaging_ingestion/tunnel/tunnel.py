"""All streams of a process over its one connection to NATS.

Each process has a subject of its own, and each stream a subject below that. To open one, OPEN goes
to the other side's `open` subject, where NATS gives it to one of the processes that listen; from
then on the two talk to each other's own subjects.

Streams take turns in sending, one frame at a time, so that none of them starves; publishing waits
while the connection takes nothing, and they wait with it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import structlog

from imaging_ingestion.nats_client.connection import NO_RESPONDERS, Message, NatsConnection
from imaging_ingestion.tunnel.endpoint import TunnelStream
from imaging_ingestion.tunnel.error import TunnelError
from imaging_ingestion.tunnel.frame import (
    HALF,
    HEADER_LENGTH,
    NO_HALF,
    PROCESS_ID_LENGTH,
    Flag,
    Frame,
    FrameError,
    Kind,
    OtherVersionError,
    Reason,
    decode,
    encode,
    explain,
    introduce,
    read_introduction,
)
from imaging_ingestion.tunnel.metrics import TunnelMetrics
from imaging_ingestion.tunnel.opening import Openings
from imaging_ingestion.tunnel.settings import SMALLEST_WINDOW, TunnelSettings
from imaging_ingestion.tunnel.stream import Stream
from imaging_ingestion.tunnel.subjects import QUEUE, Subjects, stream_half

log = structlog.get_logger(__name__)

#: Seconds of one step of the streams' clocks.
_STEP: Final = 0.1
#: Answers to strangers that may wait to be sent.
_ANSWERS: Final = 1024
#: Seconds for the last words.
_PARTING: Final = 2.0
#: Seconds in which bad frames are told of once.
_TELL_AGAIN: Final = 10.0

Accept = Callable[[TunnelStream], None]


class Tunnel:
    """The streams of one side. `accept` takes those that the other side opens, where it may."""

    def __init__(
        self,
        connection: NatsConnection,
        subjects: Subjects,
        settings: TunnelSettings,
        metrics: TunnelMetrics,
        *,
        accept: Accept | None = None,
        process_id: bytes | None = None,
    ) -> None:
        self.process_id = process_id or secrets.token_bytes(PROCESS_ID_LENGTH)
        self.is_stopping = False
        self._connection = connection
        self._ours = subjects
        self._theirs = subjects.other
        self._settings = settings
        self._metrics = metrics
        self._accept = accept
        self._streams: dict[bytes, TunnelStream] = {}
        self._accepted: dict[bytes, TunnelStream] = {}  # by the opener's half of their id
        self._ready: deque[TunnelStream] = deque()
        self._answers: deque[tuple[str, bytes]] = deque(maxlen=_ANSWERS)
        self._wake = asyncio.Event()
        self._up = asyncio.Event()
        self._up_since = 0.0
        self._openings = Openings(connection, self._theirs.open, self._up, self._link_age)
        self._gone = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._bad = 0
        self._tell_bad = 0.0

    @property
    def is_up(self) -> bool:
        """Whether there is a connection to NATS."""
        return self._connection.is_up

    @property
    def streams(self) -> int:
        """How many there are."""
        return len(self._streams)

    def start(self) -> None:
        """Begin: connect, listen."""
        connection = self._connection
        connection.watcher = self
        connection.on(f"{self._ours.process(self.process_id)}.*", self._frame_came)
        connection.on(self._ours.gone, self._gone_came)
        if self._accept is not None:
            connection.on(self._ours.open, self._open_came, queue=QUEUE)
        connection.start()
        self._begin(self._clock())
        self._begin(self._pump())

    async def connected(self) -> None:
        """Wait until there is a connection to NATS."""
        await self._up.wait()

    async def open(self, *, for_spool: bool = False) -> TunnelStream:
        """A stream to the other side. Raises TunnelError."""
        if self.is_stopping:
            raise TunnelError(Reason.STOPPING, "this proxy stops")
        if self.streams + len(self._openings) >= self._settings.max_streams:
            raise TunnelError(Reason.TOO_MANY, f"{self._settings.max_streams} associations")
        half = secrets.token_bytes(HALF)
        settings = replace(self._settings.stream, window=self._window(for_spool, 1))
        frame = Frame(
            Kind.OPEN,
            half + NO_HALF,
            limit=settings.window,
            flags=Flag.SPOOL if for_spool else 0,
            payload=introduce(self.process_id, self._settings.name),
        )
        reply = f"{self._ours.process(self.process_id)}.{half.hex()}"
        try:
            answer = await self._openings.ask(half, encode(frame), reply)
        except TunnelError as error:
            self._metrics.refused.labels("peer", error.reason.word).inc()
            raise
        process, name = read_introduction(answer.payload)
        core = Stream(answer.stream_id, settings, self._now(), peer_limit=answer.limit)
        stream = self._add(core, process, name, is_spool=for_spool)
        self._metrics.opened.labels("us").inc()
        return stream

    async def stop_accepting(self) -> None:
        """Leave new streams to others; those that there are go on."""
        self.is_stopping = True
        await self._connection.leave(self._ours.open)

    async def all_gone(self) -> None:
        """Wait until there is no stream."""
        while self._streams:
            self._gone.clear()
            await self._gone.wait()

    async def stop(self, reason: Reason = Reason.STOPPING, text: str = "the proxy stops") -> None:
        """End all streams, and the connection."""
        self.is_stopping = True
        for stream in list(self._streams.values()):
            stream.fail(reason, text)
        with suppress(TimeoutError):
            async with asyncio.timeout(_PARTING):
                while self.is_up and (self._ready or self._answers):  # noqa: ASYNC110
                    await asyncio.sleep(0)  # the pump is at it, and nothing is added
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._connection.close()

    # ---- the connection tells

    def link_is_up(self) -> None:
        """See `Watcher`."""
        now = self._now()
        self._up_since = now
        self._metrics.links.inc()
        self._metrics.nats_up.set(1)
        for stream in list(self._streams.values()):
            stream.core.link_is_up(now)
            self._settle(stream)
        self._up.set()

    def link_is_down(self) -> None:
        """See `Watcher`."""
        self._up.clear()
        self._metrics.nats_up.set(0)

    def link_dropped(self) -> None:
        """See `Watcher`."""
        self._metrics.bad_frames.labels("dropped").inc()

    def _frame_came(self, message: Message) -> None:
        """Something for one of our streams."""
        half = stream_half(message.subject)
        if message.status == NO_RESPONDERS:
            self._nobody_there(half)
            return
        try:
            frame = decode(message.data)
            if frame.stream_id[:HALF] != half:
                raise FrameError("a frame of another stream than its subject's")
            self._dispatch(frame, half, message.reply)
        except FrameError as error:
            if isinstance(error, OtherVersionError):
                self._openings.failed(half, TunnelError(Reason.VERSION, str(error)))
            self._bad_frame(error.word, str(error), message.subject)

    def _dispatch(self, frame: Frame, half: bytes, reply: str) -> None:
        if self._openings.answered(half, frame):
            return
        stream = self._streams.get(frame.stream_id)
        if stream is not None:
            self._metrics.received.inc(len(frame.payload))
            stream.receive(frame, self._now())
        elif frame.kind not in (Kind.ABORT, Kind.REFUSE):
            # It may have ended here, and the peer does not know; or somebody makes it up.
            self._bad_frame("unknown_stream", f"{frame.kind.name} of a stream that is not", reply)
            self._answer(reply, Frame(Kind.ABORT, frame.stream_id), Reason.UNKNOWN_STREAM, "")

    def _open_came(self, message: Message) -> None:
        """The other side wants a stream."""
        try:
            frame = decode(message.data)
            if frame.kind is not Kind.OPEN or frame.stream_id[HALF:] != NO_HALF:
                raise FrameError(f"{frame.kind.name} where streams are opened")
            process, name = read_introduction(frame.payload)
        except FrameError as error:
            self._bad_frame(error.word, str(error), message.subject)
            if isinstance(error, OtherVersionError) and error.kind == Kind.OPEN:
                refusal = Frame(Kind.REFUSE, error.stream_id)
                self._answer(message.reply, refusal, Reason.VERSION, str(error))
                self._metrics.refused.labels("us", Reason.VERSION.word).inc()
            return
        half = frame.stream_id[:HALF]
        known = self._accepted.get(half)
        if known is not None:
            known.receive(frame, self._now())  # it is accepted again
            return
        refusal_reason = None
        if self.is_stopping or self._accept is None:
            refusal_reason = Reason.STOPPING
        elif self.streams >= self._settings.max_streams:
            refusal_reason = Reason.TOO_MANY
        if refusal_reason is not None:
            log.warning("tunnel.refused", peer=name, why=refusal_reason.word)
            self._metrics.refused.labels("us", refusal_reason.word).inc()
            self._answer(message.reply, Frame(Kind.REFUSE, frame.stream_id), refusal_reason, "")
            return
        assert self._accept is not None
        for_spool = bool(frame.flags & Flag.SPOOL)
        core = Stream(
            half + secrets.token_bytes(HALF),
            replace(self._settings.stream, window=self._window(for_spool, 1)),
            self._now(),
            greeting=introduce(self.process_id, self._settings.name),
            peer_limit=frame.limit,
        )
        stream = self._add(core, process, name, is_spool=for_spool)
        self._accepted[half] = stream
        self._metrics.opened.labels("peer").inc()
        self._accept(stream)
        self._settle(stream)

    def _gone_came(self, message: Message) -> None:
        """A process of the other side has ended, and somebody saw it."""
        try:
            frame = decode(message.data)
            if frame.kind is not Kind.GONE:
                raise FrameError(f"{frame.kind.name} where ends are told")
            process, _ = read_introduction(frame.payload)
        except FrameError as error:
            self._bad_frame(error.word, str(error), message.subject)
            return
        for stream in list(self._streams.values()):
            if stream.peer_process == process:
                stream.fail(Reason.PROCESS_ENDED, "the process of the peer proxy has ended")

    def _nobody_there(self, half: bytes) -> None:
        text = "no proxy of the other side is connected to NATS"
        if self._openings.failed(half, TunnelError(Reason.NOBODY_LISTENS, text)):
            return
        for stream in self._streams.values():
            if stream.core.stream_id[:HALF] == half and not stream.is_absent:
                stream.is_absent = True
                patience = self._settings.stream.patience
                log.warning("tunnel.peer_not_connected", peer=stream.peer, given_up_after=patience)

    def _add(self, core: Stream, process: bytes, name: str, *, is_spool: bool) -> TunnelStream:
        half = core.stream_id[:HALF].hex()
        subject = f"{self._theirs.process(process)}.{half}"
        stream = TunnelStream(core, subject, process, name, self._settle)
        stream.is_spool = is_spool
        stream.reply = f"{self._ours.process(self.process_id)}.{half}"
        self._streams[core.stream_id] = stream
        self._share()
        return stream

    def _settle(self, stream: TunnelStream) -> None:
        """After whatever happened to a stream: let it send, or forget it."""
        core = stream.core
        if core.is_over and not self.is_up:
            core.forget()  # there is nobody whom it could be told
        if core.wants_to_send and not stream.is_queued:
            stream.is_queued = True
            self._ready.append(stream)
            self._wake.set()
        elif core.is_done and self._streams.pop(core.stream_id, None) is not None:
            self._accepted.pop(core.stream_id[:HALF], None)
            self._metrics.resent.inc(core.sender.resent)
            if stream.failure is not None:
                self._metrics.failed.labels(stream.failure.reason.word).inc()
            self._share()
            self._gone.set()

    def _window(self, is_spool: bool, more: int = 0) -> int:
        """Bytes for a stream: all together have a budget, for NATS keeps what we do not read.

        One of a spool carries many instances at a time, where an association carries one.
        """
        wanted = self._settings.stream.window * (2 if is_spool else 1)
        share = self._settings.budget // max(1, self.streams + more)
        return max(SMALLEST_WINDOW, min(wanted, share))

    def _share(self) -> None:
        self._metrics.streams.set(self.streams)
        windows = {is_spool: self._window(is_spool) for is_spool in (False, True)}
        for stream in self._streams.values():
            stream.core.receiver.window = windows[stream.is_spool]

    # ---- sending

    async def _pump(self) -> None:
        """Send, one frame of each stream at a time."""
        publish = self._connection.publish
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._up.wait()
            while self.is_up and (self._ready or self._answers):
                if self._answers:
                    subject, answer = self._answers.popleft()
                    await publish(subject, answer)
                    continue
                stream = self._ready.popleft()
                stream.is_queued = False
                frame = stream.core.next_frame(self._chunk(), self._now())
                if frame is not None:
                    self._metrics.sent.inc(len(frame) - HEADER_LENGTH)
                    await publish(stream.subject, frame, stream.reply)
                self._settle(stream)
            if self._ready or self._answers:
                self._wake.set()
                await asyncio.sleep(0)

    def _chunk(self) -> int:
        return min(self._settings.chunk, self._connection.max_payload - HEADER_LENGTH)

    def _answer(self, reply: str, frame: Frame, reason: Reason, text: str) -> None:
        """Answer a stranger, if it is on the other side that it wants to be answered."""
        if self._theirs.owns(reply):
            payload = explain(reason, text)
            self._answers.append(
                (reply, encode(Frame(frame.kind, frame.stream_id, payload=payload)))
            )
            self._wake.set()

    # ---- the rest

    async def _clock(self) -> None:
        while True:
            await asyncio.sleep(_STEP)
            now = self._now()
            for stream in list(self._streams.values()):
                stream.tick(now)

    def _bad_frame(self, word: str, why: str, subject: str) -> None:
        self._metrics.bad_frames.labels(word).inc()
        self._bad += 1
        now = self._now()
        if now >= self._tell_bad:
            log.warning("tunnel.bad_frame", why=why, subject=subject, frames=self._bad)
            self._bad, self._tell_bad = 0, now + _TELL_AGAIN

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(_told)

    def _link_age(self) -> float:
        return self._now() - self._up_since

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _told(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("tunnel.stopped", exc_info=task.exception())
