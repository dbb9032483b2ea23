"""`run proxy --workers N`: a proxy as several processes, and one that watches them.

Each is a whole proxy with an id of its own; the other side opens its streams at any of them (a NATS
queue group), as it does with replicas on several machines. Of one that dies the other side is told
by the process that watches, as by the guardian of a proxy that is alone.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from imaging_ingestion.association.tcp import listening_sockets
from imaging_ingestion.cli.supervisor import FAILED, Job, Line, Supervisor
from imaging_ingestion.http_server import listening_socket
from imaging_ingestion.nats_client.settings import SettingsError
from imaging_ingestion.tunnel.settings import ProxySettings
from imaging_ingestion.workers.colleagues import Colleague, Colleagues
from imaging_ingestion.workers.turns import Entrance, Turns

log = structlog.get_logger(__name__)

#: Seconds for telling the other side that a process died.
_OBITUARY: Final = 15.0

#: Serves a proxy in this process: its number, id, line, where it accepts, the pages' socket, the
#: others; gives the exit code.
Serve = Callable[[int, bytes, Line, Entrance, socket.socket, Colleague], int]


class ProxyWorkers:
    """The workers of one proxy, as jobs of a supervisor."""

    def __init__(self, files: Sequence[Path], serve: Serve) -> None:
        """`files` are those of the proxy."""
        self._files = files
        self._serve = serve
        self._ids: dict[int, bytes] = {}
        self._told = ""

    def supervise(
        self, settings: ProxySettings, http_host: str, http_port: int, number: int
    ) -> int:
        """Run so many until we are told to stop; the exit code. Raises SettingsError, OSError."""
        if settings.spool is not None:
            raise SettingsError(
                ["--workers: a proxy in mode spool is one process, for what it keeps has one owner"]
            )
        self._pages = listening_socket(http_host, http_port)
        self._sockets = asyncio.run(
            listening_sockets(settings.host, settings.port, reuse_port=False)
        )
        self._turns = Turns(number)
        self._colleagues = Colleagues(number)
        self._ids = {one: os.urandom(16) for one in range(1, number + 1)}
        jobs = [self._job(one) for one in self._ids]

        def ready() -> None:
            print(f"{self._told}\n  workers  {number}", flush=True)

        gc.freeze()  # what is here now is never collected, so its pages stay shared
        return Supervisor([jobs[:1], jobs[1:]], on_ready=ready, on_stop=self._close).run()

    def _close(self) -> None:
        for one in (self._pages, *self._sockets):
            one.close()

    def _job(self, number: int) -> Job:
        def is_ready(text: str) -> None:
            self._told = self._told or text

        return Job(
            f"worker {number}",
            partial(self._work, number),
            on_ready=is_ready,
            on_death=partial(self._died, number),
        )

    def _work(self, number: int, line: Line) -> int:
        """In a process of its own."""
        entrance = Entrance(self._sockets, self._turns.turn(number - 1))
        colleague = self._colleagues.at(number)
        return self._serve(number, self._ids[number], line, entrance, self._pages, colleague)

    def _died(self, number: int, code: int) -> None:
        """Tell the other side, if the process could not; the next one has another id."""
        self._turns.leave(number - 1)
        gone, self._ids[number] = self._ids[number], os.urandom(16)
        if code >= 0 and code != FAILED:
            return
        # By its name, for it imports what this process does without.
        command = [sys.executable, "-m", "imaging_ingestion.cli.obituary", gone.hex()]
        command += map(str, self._files)
        try:
            subprocess.run(command, timeout=_OBITUARY, check=True)  # noqa: S603 - it is ours
        except (subprocess.SubprocessError, OSError) as error:
            log.warning("worker.death_not_told", worker=number, error=type(error).__name__)
