"""Keeps some processes running: starts them, starts those again that die, and stops all in the end.

The processes are forked from this one, which has no thread and no event loop and does nothing
itself; so they share what it has imported, and the plan it has read is the one that a process gets
that comes in another's place later. They are started in stages: what one stage needs, the one
before has made ready, and of mistakes the first process tells, not all of them.

Each has a pipe that comes to its end when this process dies, by which it knows to stop, and one on
which it says that it is ready.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

log = structlog.get_logger(__name__)

#: Signals that stop everything.
_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
#: The exit code of a process that ended by a mistake of its own.
FAILED: Final = 1
#: Deaths one after the other, each sooner than `LONG` seconds, after which it is given up.
DEATHS: Final = 6
LONG: Final = 60.0
#: Seconds until a process is started again after the second such death; they double.
FIRST_PAUSE: Final = 0.5
_PIECE: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Line:
    """What a process has of the one that supervises it."""

    #: A file descriptor that comes to its end when that dies.
    alive: int
    _ready: int

    def ready(self, text: str = "") -> None:
        """Say that it is ready, and something about it. Once."""
        with open(self._ready, "w", encoding="utf-8") as pipe:
            pipe.write(f"{text}\n")


@dataclass(frozen=True, slots=True)
class Job:
    """What one process does: it works until it is told to stop, and gives its exit code.

    `on_ready` is called here with what it said when it became ready; `on_death` when it ended
    without being told to, before another one takes its place.
    """

    name: str
    work: Callable[[Line], int]
    on_ready: Callable[[str], None] = lambda _text: None
    on_death: Callable[[int], None] = lambda _code: None
    #: Whether the others need it as long as they work, so that it is stopped after them.
    is_needed: bool = False


@dataclass(slots=True)
class Restarts:
    """When a process that died is to be started again. Times are seconds of one clock."""

    deaths: int = 0

    def pause(self, started: float, died: float) -> float | None:
        """Seconds to wait after a death; None: it is of no use."""
        self.deaths = self.deaths + 1 if died - started < LONG else 1
        if self.deaths >= DEATHS:
            return None
        return 0.0 if self.deaths == 1 else FIRST_PAUSE * 2.0 ** (self.deaths - 2)


@dataclass(slots=True)
class _Child:
    """A job, and the process that does it now."""

    job: Job
    restarts: Restarts = field(default_factory=Restarts)
    pid: int | None = None
    started: float = 0.0
    start_at: float | None = None
    kept_open: int = -1
    said: int = -1
    words: bytes = b""
    is_ready: bool = False
    was_ready: bool = False


class Supervisor:
    """Runs jobs, stage by stage, until it is told to stop or one of them cannot go on."""

    def __init__(
        self,
        stages: Sequence[Sequence[Job]],
        *,
        on_ready: Callable[[], None],
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_ready` is called once all are ready, `on_stop` before they are told to stop."""
        self._stages = [[_Child(job) for job in jobs] for jobs in stages]
        self._on_ready = on_ready
        self._on_stop = on_stop
        self._begun: list[_Child] = []
        self._is_ready = False
        self._is_stopping = False
        self._told = 0  # how often we were told to stop
        self._code = 0
        self._events = selectors.DefaultSelector()

    def run(self) -> int:
        """Run them; the exit code: 0 after a signal, else that of the job that cannot go on."""
        self._woken, waker = socket.socketpair()
        for end in (self._woken, waker):
            end.setblocking(False)
        self._waker = waker
        self._events.register(self._woken, selectors.EVENT_READ)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        for number in _STOPPING:
            signal.signal(number, self._told_to_stop)
        self._next_stage()
        while not (self._is_stopping and all(child.pid is None for child in self._begun)):
            self._turn()
        return self._code

    def _told_to_stop(self, _number: int, _frame: object) -> None:
        self._told += 1  # and the loop wakes up

    def _turn(self) -> None:
        due = [one.start_at for one in self._begun if one.start_at is not None]
        wait = None if not due else max(0.0, min(due) - time.monotonic())
        for key, _ in self._events.select(wait):
            if key.data is None:
                self._drain()
            else:
                self._hear(key.data)
        while self._bury():  # telling of one death takes its time; others die meanwhile
            pass
        while self._told:
            self._told -= 1
            self._stop(0)
        now = time.monotonic()
        for child in self._begun:
            if child.start_at is not None and child.start_at <= now and not self._is_stopping:
                self._start(child)

    def _next_stage(self) -> None:
        if self._stages:
            stage = self._stages.pop(0)
            self._begun += stage
            for child in stage:
                self._start(child)
            if not stage:
                self._next_stage()
        elif not self._is_ready:
            self._is_ready = True
            self._on_ready()

    # ---- one process

    def _start(self, child: _Child) -> None:
        alive, child.kept_open = os.pipe()
        child.said, ready = os.pipe()
        child.start_at, child.words, child.is_ready = None, b"", False
        sys.stdout.flush()
        sys.stderr.flush()
        # Until the child has none of our handlers any more, a signal for it waits.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        child.started = time.monotonic()
        child.pid = os.fork()
        if child.pid == 0:
            self._be(child, Line(alive, ready))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
        os.close(alive)
        os.close(ready)
        self._events.register(child.said, selectors.EVENT_READ, child)

    def _be(self, child: _Child, line: Line) -> None:
        """In the new process: do the job, and end."""
        code = FAILED
        try:
            signal.set_wakeup_fd(-1)
            for number in (*_STOPPING, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            self._events.close()
            self._woken.close()
            self._waker.close()
            for other in self._begun:
                for descriptor in (other.kept_open, other.said):
                    if descriptor >= 0:
                        os.close(descriptor)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
            code = child.job.work(line)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else FAILED
        except BaseException as error:
            log.critical("worker.failed", job=child.job.name, exc_info=error)
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def _hear(self, child: _Child) -> None:
        """What a process says, which is all that it says once that ends."""
        piece = os.read(child.said, _PIECE)
        if piece:
            child.words += piece
            return
        self._events.unregister(child.said)
        os.close(child.said)
        child.said = -1
        if not child.words:
            return  # it died
        child.is_ready = child.was_ready = True
        child.job.on_ready(child.words.decode().removesuffix("\n"))
        if not self._is_stopping and all(one.is_ready for one in self._begun):
            self._next_stage()

    def _bury(self) -> bool:
        """See to those that have ended; whether there were any."""
        ended = False
        for child in self._begun:
            if child.pid is None:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                ended = True
                self._ended(child, os.waitstatus_to_exitcode(status))
        return ended

    def _ended(self, child: _Child, code: int) -> None:
        os.close(child.kept_open)
        child.pid, child.kept_open = None, -1
        while child.said >= 0:  # its last word may have been that it is ready
            self._hear(child)
        died = time.monotonic()
        if self._is_stopping:
            # Who was told to stop before it had begun ends by the signal itself.
            if code not in (0, -signal.SIGTERM, -signal.SIGINT):
                log.error("worker.stopped_badly", job=child.job.name, exit_code=code)
                child.job.on_death(code)
                self._code = self._code or FAILED
            if all(one.pid is None or one.job.is_needed for one in self._begun):
                self._tell([one for one in self._begun if one.job.is_needed])
            return
        child.job.on_death(code)
        if not child.was_ready:
            log.error("worker.not_started", job=child.job.name, exit_code=code)
            self._stop(code if code > 0 else FAILED)
            return
        pause = child.restarts.pause(child.started, died)
        if pause is None:
            log.critical(
                "worker.given_up",
                job=child.job.name,
                exit_code=code,
                help=f"it died {DEATHS} times, one soon after the other; all stop",
            )
            self._stop(FAILED)
            return
        log.error("worker.died", job=child.job.name, exit_code=code, again_after=pause)
        child.start_at = died + pause

    # ---- the end

    def _stop(self, code: int) -> None:
        """Tell all to stop. Harmless twice, and then tells them again."""
        if not self._is_stopping:
            self._is_stopping, self._code = True, code
            self._on_stop()
        for child in self._begun:
            child.start_at = None
        users = [one for one in self._begun if one.pid is not None and not one.job.is_needed]
        self._tell(users or self._begun)

    def _tell(self, children: Sequence[_Child]) -> None:
        for child in children:
            if child.pid is not None:
                os.kill(child.pid, signal.SIGTERM)

    def _drain(self) -> None:
        try:
            while self._woken.recv(_PIECE):
                pass
        except BlockingIOError:
            return
