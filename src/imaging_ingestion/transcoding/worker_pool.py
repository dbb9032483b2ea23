"""Worker processes: started when there is work, a bounded number, replaced when one falls."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from imaging_ingestion.dicom.transcode import TranscodeError
from imaging_ingestion.transcoding.worker import LONGEST_LINE, Job, Result

#: Jobs after which a process is replaced: codecs leak.
_JOBS: Final = 500
#: What a worker gets of our environment: nothing secret.
_PASSED_ON: Final = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "LD_LIBRARY_PATH", "OPENBLAS_CORETYPE")


class WorkerError(RuntimeError):
    """No result came, for a reason that may pass: no process, or no room for its files."""


class _Worker:
    """One process, and the socket to it."""

    def __init__(self, process: asyncio.subprocess.Process, jobs: socket.socket) -> None:
        self._process = process
        self._socket = jobs
        self._jobs = 0

    @classmethod
    async def start(cls, memory: int, idle: float, folder: str) -> _Worker:
        """Start one. Raises WorkerError."""
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment |= {"TMPDIR": folder, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        ours, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as unless_started:
            unless_started.enter_context(ours)
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "imaging_ingestion.transcoding.worker",
                    str(memory),
                    str(idle),
                    stdin=theirs.fileno(),
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                    env=environment,
                )
            except OSError as error:
                raise WorkerError(f"no process can be started: {error.strerror}") from error
            unless_started.pop_all()
        ours.setblocking(False)
        return cls(process, ours)

    @property
    def is_fit(self) -> bool:
        """Whether it may be given another job."""
        return self._process.returncode is None and self._jobs < _JOBS

    async def work(self, job: Job, source: int, target: int) -> Result | None:
        """Have a job done; None if the process had gone to rest before it came."""
        self._jobs += 1
        line = b""
        with contextlib.suppress(ConnectionError):  # it is gone: its exit code says why
            socket.send_fds(self._socket, [msgspec.json.encode(job) + b"\n"], [source, target])
            loop = asyncio.get_running_loop()
            while not line.endswith(b"\n"):
                data = await loop.sock_recv(self._socket, LONGEST_LINE)
                if not data:
                    break
                line += data
        if line.endswith(b"\n"):
            return msgspec.json.decode(line, type=Result)
        if await self._process.wait() == 0:
            return None
        return Result("the codec crashed", is_refusal=True)

    async def end(self) -> None:
        """End it at once, and wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        self._socket.close()


class WorkerPool:
    """Up to `size` processes of `memory` bytes each, which end after `idle` seconds without work.

    `folder` is for files of their own.
    """

    def __init__(self, *, size: int, memory: int, idle: float, folder: str) -> None:
        self._memory = memory
        self._idle_time = idle
        self._folder = folder
        self._turns = asyncio.Semaphore(size)
        self._idle: list[_Worker] = []
        self._is_closed = False

    async def run(self, job: Job, source: int, target: int, timeout: float) -> None:
        """Have a job done with two open files, within `timeout` seconds from when it is its turn.

        Raises TranscodeError if it cannot be done, WorkerError if it may be another time.
        """
        async with self._turns:
            if self._is_closed:
                raise WorkerError("the transcoder is closed")
            result = None
            while result is None:
                async with self._worker() as worker:
                    try:
                        async with asyncio.timeout(timeout):
                            result = await worker.work(job, source, target)
                    except TimeoutError:
                        raise TranscodeError(f"it takes longer than {timeout:.0f} s") from None
        if result.reason is None:
            return
        if result.is_refusal:
            raise TranscodeError(result.reason)
        raise WorkerError(result.reason)

    async def close(self) -> None:
        """End all processes; one that has a job ends with it."""
        self._is_closed = True
        idle, self._idle = self._idle, []
        for worker in idle:
            await worker.end()

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[_Worker]:
        """A process for one job. One whose job is broken off is ended."""
        worker = None
        while self._idle and worker is None:
            found = self._idle.pop()
            worker = found if found.is_fit else None
            if worker is None:
                await found.end()
        worker = worker or await _Worker.start(self._memory, self._idle_time, self._folder)
        keep = False
        try:
            yield worker
            keep = worker.is_fit and not self._is_closed
        finally:
            if keep:
                self._idle.append(worker)
            else:
                await worker.end()
